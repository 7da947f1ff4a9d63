"""The grammar of sweeps, the cells they make, and running them with failures and resumption."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.artifact import Artifact
from edge_runtime.errors import DiskError, EngineMissingError, FormatError, UsageError
from edge_runtime.measurement import (
    CellFailure,
    Measurement,
    SessionOptions,
    decode_workload,
    read_record,
)
from edge_runtime.profiler import Cell, Plan, run_cells, sweep
from edge_runtime.profiler.autotune import choose_threads, thread_candidates, tune_threads
from edge_runtime.profiler.results import append_result, create_results, read_results

FAKE = SessionOptions(backend="fake")
QUICK = Plan(min_runs=2, max_runs=2, warmups=0)
MS = 1_000_000
Script = Callable[..., None]

pytestmark = pytest.mark.usefixtures("children_here")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("512", (512,)),
        ("128,512", (128, 512)),
        ("1-4", (1, 2, 3, 4)),
        ("0-4096+1024", (0, 1024, 2048, 3072, 4096)),
        ("1-64*2", (1, 2, 4, 8, 16, 32, 64)),
        ("4-1000*10", (4, 40, 400)),
        ("8, 2,8,1-3", (8, 2, 1, 3)),
        ("7-7", (7,)),
    ],
)
def test_the_grammar_is_llama_benchs(text: str, values: tuple[int, ...]) -> None:
    assert sweep.parse_numbers(text, "-t") == values


@pytest.mark.parametrize(
    "text",
    ["", ",", "a", "1-", "-1", "4-1", "1-4+0", "1-4*1", "0-8*2", "1.5", "1-4+", "99999999999",
     "0-1000000000", "²", "1--4", "1-2-3"],
)  # fmt: skip
def test_nonsense_names_the_option(text: str) -> None:
    with pytest.raises(UsageError, match=r"^-p: "):
        sweep.parse_numbers(text, "-p")


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_a_comma_list_is_read_back_in_order_and_once(values: list[int]) -> None:
    text = ",".join(map(str, values))
    assert sweep.parse_numbers(text, "-p") == tuple(dict.fromkeys(values))


@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(0, 100), st.integers(0, 49))
def test_a_stepped_range_is_pythons_range(first: int, step: int, count: int, rest: int) -> None:
    last = first + step * count + min(rest, step - 1)
    found = sweep.parse_numbers(f"{first}-{last}+{step}", "-d")
    assert found == tuple(range(first, last + 1, step))


@given(st.integers(1, 1000), st.integers(2, 10), st.integers(0, 6))
def test_a_multiplied_range_grows_by_its_factor(first: int, factor: int, count: int) -> None:
    found = sweep.parse_numbers(f"{first}-{first * factor**count}*{factor}", "-d")
    assert found == tuple(first * factor**i for i in range(count + 1))


@given(st.text(alphabet="0123456789-+*, ", max_size=12))
def test_any_text_gives_numbers_or_a_usage_error(text: str) -> None:
    try:
        values = sweep.parse_numbers(text, "-n")
    except UsageError:
        return
    assert values
    assert all(0 <= v <= 10**9 for v in values)


def test_workloads_come_depth_by_depth_under_llama_benchs_names() -> None:
    made = sweep.bench_workloads((512,), (128,), (0, 2048), ((64, 16),))
    assert [w.name for w in made] == [
        "pp512", "tg128", "pp64+tg16", "pp512 @ d2048", "tg128 @ d2048", "pp64+tg16 @ d2048",
    ]  # fmt: skip
    assert sweep.bench_workloads((0,), (128,)) == (decode_workload(128),)


def test_chat_workloads_are_found_by_name() -> None:
    assert [w.name for w in sweep.chat_workloads(("write", "chat"))] == ["write", "chat"]
    with pytest.raises(UsageError, match="'essay'"):
        sweep.chat_workloads(("essay",))


def test_pairs_are_read() -> None:
    assert sweep.parse_pairs("512,128; 64,16", "-pg") == ((512, 128), (64, 16))
    with pytest.raises(UsageError, match="-pg"):
        sweep.parse_pairs("512", "-pg")


def test_the_grid_is_every_combination() -> None:
    grid = sweep.option_grid(FAKE, {"threads": (1, 2), "kv_type_k": ("f16", "q8_0")})
    assert [(o.threads, o.kv_type_k) for o in grid] == [
        (1, "f16"), (1, "q8_0"), (2, "f16"), (2, "q8_0"),
    ]  # fmt: skip
    assert all(o.backend == "fake" for o in grid)


def cells(artifact: Artifact, *options: SessionOptions) -> list[Cell]:
    return [Cell(artifact=artifact, options=o, workload=decode_workload(4)) for o in options]


def test_a_failed_cell_keeps_its_reason_and_the_sweep_goes_on(
    artifact: Artifact, script: Script
) -> None:
    script(step_ns=MS)
    too_small = replace(FAKE, context_tokens=2)
    found = [r for _, r, _ in run_cells(cells(artifact, too_small, FAKE), plan=QUICK)]
    assert isinstance(found[0], CellFailure)
    assert found[0].error == "UsageError"
    assert "the context has 2" in found[0].fact
    assert isinstance(found[1], Measurement)
    assert [read_record(r.to_json()) for r in found] == found


def test_a_missing_engine_fails_the_sweep_at_once(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> Measurement:
        raise EngineMissingError("There is no engine.")

    monkeypatch.setattr(sweep, "measure", missing)
    with pytest.raises(EngineMissingError):
        list(run_cells(cells(artifact, FAKE, FAKE), plan=QUICK))


def test_finished_cells_are_not_run_again(artifact: Artifact, script: Script) -> None:
    script(step_ns=MS)
    both = cells(artifact, FAKE, replace(FAKE, threads=2))
    (first,) = [r for _, r, _ in run_cells(both[:1], plan=QUICK)]
    again = list(run_cells(both, plan=QUICK, earlier=(first,)))
    assert [is_new for _, _, is_new in again] == [False, True]
    assert again[0][1] is first


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, artifact=replace(m.artifact, fingerprint="f" * 16)),
        lambda m: replace(m, requested=replace(m.requested, kv_type_k="q8_0")),
        lambda m: replace(m, workload=decode_workload(5)),
        lambda m: replace(m, round=0),
        lambda m: replace(m, host=replace(m.host, cpu="Another CPU")),
        lambda m: replace(m, requested=None),
    ],
)
def test_another_model_option_workload_or_machine_is_another_cell(
    artifact: Artifact, script: Script, change: Callable[[Measurement], Measurement]
) -> None:
    script(step_ns=0)
    only = cells(artifact, FAKE)
    ((_, record, _),) = run_cells(only, plan=QUICK)
    assert isinstance(record, Measurement)
    ((_, _, is_new),) = run_cells(only, plan=QUICK, earlier=(change(record),))
    assert is_new


def test_a_stated_power_is_kept_and_stated_for_finished_cells_too(
    artifact: Artifact, script: Script
) -> None:
    script(step_ns=MS)
    only = cells(artifact, FAKE)
    ((_, record, _),) = run_cells(only, plan=QUICK)
    ((_, stated, _),) = run_cells(only, plan=QUICK, stated_power_w=9.0)
    ((_, again, is_new),) = run_cells(only, plan=QUICK, earlier=(record,), stated_power_w=9.0)
    assert isinstance(stated, Measurement)
    assert stated.stated_power_w == 9.0
    assert not is_new
    assert again == replace(record, stated_power_w=9.0)  # type: ignore[type-var]


def test_failed_cells_are_tried_again_unless_told_otherwise(
    artifact: Artifact, script: Script
) -> None:
    script(crash="error", crash_after=0)
    only = cells(artifact, FAKE)
    ((_, failure, _),) = run_cells(only, plan=QUICK)
    assert isinstance(failure, CellFailure)
    script(step_ns=0)
    ((_, kept, is_new),) = run_cells(only, plan=QUICK, earlier=(failure,), retry_failed=False)
    assert (kept, is_new) == (failure, False)
    ((_, retried, _),) = run_cells(only, plan=QUICK, earlier=(failure,))
    assert isinstance(retried, Measurement)


def test_results_are_kept_line_by_line(artifact: Artifact, script: Script, tmp_path: Path) -> None:
    script(step_ns=0)
    path = tmp_path / "results.jsonl"
    create_results(path)
    with pytest.raises(UsageError, match="already"):
        create_results(path)
    records = []
    for _, record, _ in run_cells(
        cells(artifact, FAKE, replace(FAKE, context_tokens=1)), plan=QUICK
    ):
        append_result(path, record)
        records.append(record)
        assert read_results(path) == tuple(records)
    # Each line alone is a whole record.
    assert Measurement.from_json(json.loads(path.read_text().splitlines()[0])) == records[0]


def test_a_line_cut_off_by_a_crash_is_dropped(
    artifact: Artifact, script: Script, tmp_path: Path
) -> None:
    script(step_ns=0)
    path = tmp_path / "results.jsonl"
    ((_, record, _),) = run_cells(cells(artifact, FAKE), plan=QUICK)
    append_result(path, record)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    assert read_results(path) == (record,)
    append_result(path, record)
    assert read_results(path) == (record, record)


def test_who_only_reads_leaves_a_cut_off_line_where_it_is(
    artifact: Artifact, script: Script, tmp_path: Path
) -> None:
    script(step_ns=MS)
    path = tmp_path / "r.jsonl"
    create_results(path)
    ((_, record, _),) = run_cells(cells(artifact, FAKE), plan=QUICK)
    append_result(path, record)
    with path.open("ab") as file:
        file.write(b'{"half')
    before = path.read_bytes()
    assert read_results(path, repair=False) == (record,)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_nothing_behind(
    artifact: Artifact, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(step_ns=0)
    path = tmp_path / "results.jsonl"
    ((_, record, _),) = run_cells(cells(artifact, FAKE), plan=QUICK)
    append_result(path, record)
    before = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError, match="cannot be written"):
        append_result(path, record)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line", ["{}", "nonsense", "[1]", '{"schema": 99}', '{"fact": 1}', "[" * 9999]
)
def test_a_file_that_holds_no_records_is_refused_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(FormatError, match="Line 1"):
        read_results(path)


def test_a_missing_results_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot be read"):
        read_results(tmp_path / "none.jsonl")
    with pytest.raises(DiskError, match="cannot be written"):
        create_results(tmp_path / "no" / "such" / "folder.jsonl")


def test_threads_worth_trying_are_few_and_possible(artifact: Artifact, script: Script) -> None:
    script(step_ns=0)
    ((_, record, _),) = run_cells(cells(artifact, FAKE), plan=QUICK)
    assert isinstance(record, Measurement)
    host = record.host
    assert thread_candidates(replace(host, cores_usable=1, cores_physical=1)) == (1,)
    assert thread_candidates(replace(host, cores_usable=8, cores_physical=4)) == (1, 2, 4, 7, 8)
    assert thread_candidates(replace(host, cores_usable=2, cores_physical=16)) == (1, 2)


def test_the_default_stays_unless_beaten_beyond_the_noise() -> None:
    from types import SimpleNamespace
    from typing import cast

    from edge_runtime.statistics import Interval

    def rate(low: float, value: float, high: float) -> Measurement:
        interval = Interval(low=low, value=value, high=high)
        return cast(Measurement, SimpleNamespace(decode_tokens_per_s=interval))

    within = {2: rate(9, 10, 11), 1: rate(10.5, 11.5, 12.5)}
    assert choose_threads(2, within) == 2
    beyond = within | {4: rate(11.5, 12, 12.5), 3: rate(11.2, 11.4, 11.6)}
    assert choose_threads(2, beyond) == 4


def test_tuning_measures_the_default_and_every_candidate(
    artifact: Artifact, script: Script
) -> None:
    script(step_ns=0)
    tuning = tune_threads(artifact, FAKE, plan=QUICK)
    assert tuning.default_threads == 1  # the fake backend's own choice
    assert tuning.best_threads in [n for n, _ in tuning.trials]
    assert all(tuning.rate(n) > 0 for n, _ in tuning.trials)
