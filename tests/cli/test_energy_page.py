"""The `edge` commands of docs/energy.md run, in the order of the page, sensors or not.

All but `edge doctor`, which takes seconds and has tests of its own.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_runtime.measurement import Measurement, read_record

PAGE = Path(__file__).parents[2] / "docs" / "energy.md"
PACE = {"step_ns": 20_000_000, "prefill_ns_per_token": 5_000_000}
"""A few runs fill what a meter resolves; without these it would be a hundred thousand."""
SHORT = {"--idle": "300ms", "--sustain": "1s", "--cool-down": "200ms"}

Edge = Callable[..., tuple[int, str, str]]

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(sys.platform != "linux", reason="memory and cores are limited on Linux"),
]


def commands() -> list[list[str]]:
    """The commands of the page, their waits cut short, with an engine that takes no time."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    found = []
    for line in "".join(blocks).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["edge"] and words[1] != "doctor":
            for option, short in SHORT.items():
                if option in words:
                    words[words.index(option) + 1] = short
            if words[1] == "profile":
                words += ["--backend", "fake", "--warmups", "0", "-n", "16"]
                words += ["-p", "64" if "--idle" in words else "0"]
                words += [] if "--sustain" in words else ["-r", "1"]
            if words[1] == "check":
                words += ["--backend", "fake", "--budget", "2s"]
            found.append(words[1:])
    return found


def meter_log(results: Path, log: Path, watts: float) -> None:
    """What a meter would have written all through the measurements of a file: always 5 V."""
    measured = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    anchors = [anchor for record in measured for anchor in record["timeline"]["anchors"]]
    moment = datetime.fromtimestamp(min(a["unix_ns"] for a in anchors) / 1e9 - 2, UTC)
    end = datetime.fromtimestamp(max(a["unix_ns"] for a in anchors) / 1e9 + 2, UTC)
    lines = ["time,volts,amps"]
    while moment < end:
        lines.append(f"{moment.isoformat(timespec='milliseconds')},5.000,{watts / 5:.3f}")
        moment += timedelta(seconds=0.05)
    log.write_text("\n".join(lines) + "\n", "utf-8")


def test_the_commands_run_one_after_another(
    edge: Edge, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps(PACE))
    (tmp_path / "model.gguf").symlink_to(tiny_gguf)
    typed = commands()
    assert {words[0] for words in typed} == {"profile", "energy", "check"}
    for words in typed:
        if "--meter" in words:
            meter_log(tmp_path / words[1], tmp_path / words[words.index("--meter") + 1], 5.0)
        code, out, err = edge(*words)
        assert code in ((0, 1, 3) if words[0] == "check" else (0,)), (words, err)
        assert "Traceback" not in err
        assert out
        assert not re.search(r"(?<![\d.])0+(\.0*)? J\b", out), words
    lines = (tmp_path / "measured.jsonl").read_text("utf-8").splitlines()
    measured = [read_record(json.loads(line)) for line in lines]
    assert measured
    assert all(isinstance(record, Measurement) for record in measured)
