"""`--limit-memory` and `--limit-cores`: what is refused, what is labelled, what is resumed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from vision_model import write_vision_model

from edge_runtime.basis import Unavailable
from edge_runtime.measurement import Limits, Measurement, read_record
from edge_runtime.profiler import ceiling
from edge_runtime.report.emulated import emulated_words

Edge = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="affinity and ceilings of Linux")

QUICK = ("-n", "4", "-p", "0", "-r", "1", "--warmups", "0", "--backend", "fake")
MIB = 1024**2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit-memory", "6bananas"), "--limit-memory: '6bananas' is not a size"),
        (("--limit-memory", "-2GiB"), "is not a size"),
        (("--limit-memory", "9" * 500), "is not a size"),
        (("--limit-memory", "6"), "The measuring process itself takes"),
        (("--limit-memory", "1MiB"), "No model can be measured in 1.00 MiB"),
        (("--limit-memory", "9000TiB"), "cannot be emulated here"),
        (("--limit-cores", "100000"), "100000 cores cannot be emulated here"),
        (("--limit-cores", "0"), "--limit-cores"),
    ],
)
@pytest.mark.parametrize("verb", ["profile", "check"])
def test_an_impossible_device_is_a_usage_error_before_anything_runs(
    edge: Edge, random_gguf: Path, verb: str, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = edge(verb, random_gguf, *arguments)
    assert code == 2, err
    assert words in " ".join(err.split())
    assert out == ""


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (None, ""),
        (Limits(memory_bytes=2 << 30, cores=1), "emulated: 2 GiB ceiling, 1 core of A CPU"),
        (Limits(memory_bytes=3 << 29), "emulated: 1.5 GiB ceiling on A CPU"),
        (Limits(memory_bytes=100 * MIB, cores=4), "emulated: 100 MiB ceiling, 4 cores of A CPU"),
    ],
)
def test_the_label_says_what_was_taken_away(limits: Limits | None, words: str) -> None:
    assert emulated_words(limits, "A CPU") == words


def test_an_emulated_device_is_labelled_in_every_format(
    edge: Edge, random_gguf: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "all.jsonl"
    limit = ("--limit-cores", "1")
    code, out, err = edge("profile", random_gguf, *QUICK, *limit, "-o", "text", "--save", saved)
    assert code == 0, err
    record = read_record(json.loads(saved.read_text()))
    assert isinstance(record, Measurement)
    assert record.emulated is not None
    assert record.emulated.limits == Limits(cores=1)
    label = f"emulated: 1 core of {record.host.cpu}"
    assert label in out
    assert "energy of an emulated device" in out
    code, out, err = edge("profile", random_gguf, *QUICK, *limit, "-o", "md", "--resume", saved)
    assert (code, label in out) == (0, True), err
    code, out, err = edge("profile", random_gguf, *QUICK, *limit, "-o", "csv", "--resume", saved)
    assert (code, label in out, "processor affinity" in out) == (0, True, True), err
    # All three came from the one measurement; without the limit it is another cell.
    assert len(saved.read_text().splitlines()) == 1
    code, out, err = edge("profile", random_gguf, *QUICK, "-o", "text", "--resume", saved)
    assert (code, "emulated" in out) == (0, False), err
    assert len(saved.read_text().splitlines()) == 2


def test_a_ceiling_is_in_the_record_with_its_means(edge: Edge, random_gguf: Path) -> None:
    if isinstance(ceiling.best_means(), Unavailable):
        pytest.skip("no memory ceiling can be held here")
    limit = ("--limit-memory", "512MiB")
    code, out, err = edge("profile", random_gguf, *QUICK, *limit, "-o", "json")
    assert code == 0, err
    (record,) = json.loads(out)
    assert record["emulated"]["limits"] == {"memory_bytes": 512 * MIB, "cores": None}
    assert record["emulated"]["means"]
    assert record["host"]["ram_bytes"] == 512 * MIB
    assert record["host"]["ram_available_bytes"] <= 512 * MIB
    assert "emulated" in record["energy"]["reason"]


def test_a_cell_that_does_not_fit_fails_with_its_limit_and_the_sweep_goes_on(
    edge: Edge, random_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(ceiling.best_means(), Unavailable):
        pytest.skip("no memory ceiling can be held here")
    script = {"crash": "memory", "crash_after": 6}
    monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps(script))
    code, out, err = edge(
        "profile", random_gguf, *QUICK, "-n", "8,4", "--limit-memory", "512MiB", "-o", "json"
    )
    assert code == 4, err
    failed, measured = map(read_record, json.loads(out))
    assert isinstance(measured, Measurement)
    assert not isinstance(failed, Measurement)
    assert failed.limits == Limits(memory_bytes=512 * MIB)
    assert failed.error == "MemoryLimitError"
    assert "ceiling of 512 MiB" in failed.fact


@pytest.mark.parametrize(("ceiling_mib", "code_expected"), [(64, 1), (1024, 4)])
def test_a_check_of_one_file_that_met_the_ceiling_is_a_verdict_where_its_sizes_agree(
    edge: Edge,
    random_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    ceiling_mib: int,
    code_expected: int,
) -> None:
    if isinstance(ceiling.best_means(), Unavailable):
        pytest.skip("no memory ceiling can be held here")
    monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps({"crash": "memory", "crash_after": 1}))
    code, out, err = edge(
        "check", random_gguf, "--backend", "fake", "-c", "256", "-p", "64", "--budget", "4s",
        "--limit-memory", f"{ceiling_mib}MiB", "--json",
    )  # fmt: skip
    assert code == code_expected, err
    report = json.loads(out)
    assert f"ceiling of {ceiling_mib}" in report["failures"][0] or ceiling_mib == 1024
    assert report["recommendation"].startswith("Nothing")


def test_a_check_judges_the_small_device(edge: Edge, random_gguf: Path) -> None:
    before = os.sched_getaffinity(0)
    code, out, err = edge(
        "check", random_gguf, "--limit-cores", "1", "--backend", "fake", "-c", "256", "-p", "64",
        "--budget", "4s", "--json",
    )  # fmt: skip
    assert code in (0, 1, 3), err
    report = json.loads(out)
    assert report["limits"] == {"memory_bytes": None, "cores": 1}
    assert report["host"]["cores_usable"] == 1
    assert report["measurements"]
    assert all(m["emulated"]["limits"]["cores"] == 1 for m in report["measurements"])
    assert os.sched_getaffinity(0) == before


def test_models_that_generate_no_text_refuse_the_limits(edge: Edge, tmp_path: Path) -> None:
    vision = write_vision_model(tmp_path / "vision.onnx", width=0.25)
    code, _, err = edge("profile", vision, "--limit-cores", "1", "--limit-memory", "1GiB")
    assert code == 2
    assert "--limit-memory, --limit-cores: not for" in " ".join(err.split())


def test_the_doctor_says_which_means_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_runtime.cli import diagnosis

    class Works:
        name, words, counts_page_cache = "RLIMIT_DATA", "weights in it", False

    refused = Unavailable(reason="no such hierarchy", remedy="Run as root.")
    found = (("control group v2", refused), ("RLIMIT_DATA", Works()))
    monkeypatch.setattr(ceiling, "find_means", lambda: found)
    findings = {finding.name: finding.found for finding in diagnosis._limits()}
    assert findings["memory ceiling"] == "RLIMIT_DATA (weights in it)"
    assert findings["memory ceiling: control group v2"] == refused
    assert findings["core limit"] == "processor affinity"
