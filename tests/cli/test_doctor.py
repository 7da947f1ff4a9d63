"""`edge doctor`: both engines are tried and not just looked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sensor_trees import guest, intel_laptop, put

from edge_runtime import backends
from edge_runtime.basis import Unavailable
from edge_runtime.cli import trial
from edge_runtime.cli.diagnosis import energy_findings
from edge_runtime.errors import EngineMissingError, UnsupportedError, WorkerError
from edge_runtime.measurement import Gpu
from edge_runtime.profiler.energy.discovery import ROOT_VARIABLE
from edge_runtime.report.doctor import Diagnosis, Finding

Edge = Callable[..., tuple[int, str, str]]


def test_each_engine_is_tried_with_a_toy(edge: Edge) -> None:
    code, out, _ = edge("doctor", "--json")
    assert code == 0
    found = {finding["name"]: finding["found"] for finding in json.loads(out)["findings"]}
    for name in ("llama.cpp engine", "ONNX Runtime engine"):
        assert isinstance(found[name], str), found[name]
        assert found[name].endswith("a toy model runs")
    assert "CPU" in found["ONNX Runtime engine"]
    assert found["text of ONNX models"].startswith("tokenizers ")
    if not backends.backend("onnx").gpus():
        lacks = found["ONNX accelerators"]
        assert "CPU only" in lacks["reason"]
        assert "onnxruntime-ep-webgpu" in lacks["remedy"]


def test_a_trial_says_why_an_engine_does_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: object, **__: object) -> None:
        raise WorkerError("The child died.", cause="Illegal instruction.", way_out="Reinstall.")

    monkeypatch.setattr("edge_runtime.profiler.measure", died)
    for name in trial.LEVELS:
        assert trial.try_engine(name) == Unavailable(
            reason="The child died. Illegal instruction.", remedy="Reinstall."
        )


@pytest.mark.parametrize(
    ("broken", "can_run"), [((), True), (("a",), True), (("b",), True), (("a", "b"), False)]
)
def test_one_engine_is_enough(broken: tuple[str, ...], can_run: bool) -> None:
    no = Unavailable(reason="not installed")
    engines = tuple(
        Finding(name=name, found=no if name in broken else "1.0", needed=True) for name in "ab"
    )
    more = Finding(name="energy", found=no)
    diagnosis = Diagnosis(host=None, bandwidth=no, findings=(*engines, more))  # type: ignore[arg-type]
    assert diagnosis.can_run == can_run


def test_the_gpus_of_both_engines_are_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_runtime.cli.machine import usable_gpus

    class Engine:
        def __init__(self, *names: str) -> None:
            self.names = names

        def gpus(self) -> tuple[Gpu, ...]:
            if not self.names:
                raise EngineMissingError("Not installed.")
            return tuple(Gpu(name=n, description="", memory_bytes=None) for n in self.names)

    engines = {"llama_cpp": Engine("CUDA0"), "onnx": Engine("CUDA"), "fake": Engine("Toy")}
    monkeypatch.setattr(backends, "backend", engines.__getitem__)
    assert [gpu.name for gpu in usable_gpus("llama_cpp")] == ["CUDA0", "CUDA"]
    assert [gpu.name for gpu in usable_gpus("onnx")] == ["CUDA", "CUDA0"]
    assert [gpu.name for gpu in usable_gpus("fake")] == ["Toy"]
    engines["onnx"] = Engine()
    assert [gpu.name for gpu in usable_gpus("llama_cpp")] == ["CUDA0"]
    with pytest.raises(EngineMissingError):
        usable_gpus("onnx")


def test_a_toy_that_cannot_be_made_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedError("No kernel.")

    monkeypatch.setattr("quantize.synthesize", refuse)
    assert trial.try_engine("onnx") == Unavailable(reason="No kernel.", remedy="")


def test_each_energy_sensor_says_what_it_counts_and_whether_it_is_in_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(intel_laptop(tmp_path)))
    put(tmp_path, "sys/class/power_supply/BAT0/type", "Battery")
    put(tmp_path, "sys/class/power_supply/BAT0/status", "Full")
    put(tmp_path, "sys/class/power_supply/BAT0/energy_full", 41_000_000)
    put(tmp_path, "sys/class/power_supply/BAT0/energy_full_design", 50_000_000)
    findings = list(energy_findings())
    found = {finding.name: finding.found for finding in findings}
    psys, package = found["energy: rapl:psys"], found["energy: rapl:package-0"]
    assert isinstance(psys, str)
    assert "scope board, resolves 1.00 s, counts in the figure" in psys
    assert f"read below {tmp_path}" in psys
    assert isinstance(package, str)
    assert "scope chip, resolves 1.00 s, shown beside the figure, never added to it" in package
    assert found["battery"] == "BAT0 holds 41.0 Wh of 50.0 Wh when new (Full)"
    refusals = [finding.found for finding in findings if isinstance(finding.found, Unavailable)]
    assert refusals
    assert all(why.reason and why.remedy for why in refusals)


def test_without_a_sensor_the_first_refusal_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(guest(tmp_path)))
    first = next(energy_findings())
    assert isinstance(first.found, Unavailable)
    assert first.name == "energy: rapl"
    assert first.found.reason == "no powercap: virtual machine"
    assert first.found.remedy
