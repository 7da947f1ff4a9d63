"""What `edge doctor` says of heat, on trees of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.cli import diagnosis


def found(root: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> dict[str, object]:
    for name, text in files.items():
        path = root / "sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setenv("EDGE_SENSOR_ROOT", str(root))
    return {finding.name: finding.found for finding in diagnosis._heat()}


def test_what_can_be_read_is_shown_with_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = found(
        tmp_path,
        monkeypatch,
        class__thermal__thermal_zone0__type="cpu-thermal",
        class__thermal__thermal_zone0__temp="48312",
        class__thermal__thermal_zone0__trip_point_0_type="passive",
        class__thermal__thermal_zone0__trip_point_0_temp="80000",
        class__thermal__cooling_device0__type="thermal-cpufreq-0",
        class__thermal__cooling_device0__cur_state="3",
        devices__system__cpu__cpu0__cpufreq__scaling_cur_freq="1500000",
        devices__system__cpu__cpu0__cpufreq__cpuinfo_max_freq="2400000",
    )
    assert said == {
        "temperatures": "cpu-thermal 48.3 °C (slows down from 80 °C)",
        "CPU frequency": "1.50 of 2.40 GHz now",
        "throttling": "observable; now: at work to cool: thermal-cpufreq-0 (cooling_device0)",
    }


def test_what_cannot_be_read_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = found(tmp_path, monkeypatch)
    assert all(isinstance(value, Unavailable) for value in said.values())
    throttling = said["throttling"]
    assert isinstance(throttling, Unavailable)
    assert throttling.reason.startswith("not observable")
