"""`edge profile --sustain` and `--cool-down` as typed, on the backend without an engine."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.cli.app import main
from edge_runtime.cli.sustaining import read_cool_down, read_sustain
from edge_runtime.errors import UsageError
from edge_runtime.measurement import Measurement, read_record
from edge_runtime.sustained import Sustained, sustained

STEP = {"step_ns": 2_000_000}
FAKE = ("--backend", "fake", "--warmups", "0", "-n", "16")


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "EDGE_RUNTIME_FAKE": json.dumps(STEP),
        "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
    }


Edge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edge:
    """Runs the command in this process."""

    def call(*arguments: str, root: Path | None = None) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps(STEP))
        if root is not None:
            monkeypatch.setenv("EDGE_SENSOR_ROOT", str(root))
        monkeypatch.setattr(sys, "argv", ["edge", "profile", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out, err)

    return call


def board(root: Path) -> Path:
    """A board of one thermal zone, far below its limit, and one cooling device at rest."""
    for name, text in (
        ("thermal_zone0/type", "cpu-thermal"), ("thermal_zone0/temp", "41500"),
        ("thermal_zone0/trip_point_0_type", "passive"),
        ("thermal_zone0/trip_point_0_temp", "85000"),
        ("cooling_device0/type", "thermal-cpufreq-0"), ("cooling_device0/cur_state", "0"),
    ):  # fmt: skip
        path = root / "sys/class/thermal" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def measured(text: str) -> list[Measurement]:
    records = [read_record(json.loads(line)) for line in text.splitlines()]
    assert all(isinstance(record, Measurement) for record in records)
    return [record for record in records if isinstance(record, Measurement)]


def test_only_generating_is_sustained_and_for_as_long_as_asked(
    edge: Edge, random_gguf: Path, tmp_path: Path
) -> None:
    done = edge(str(random_gguf), *FAKE, "--sustain", "2s", "-o", "jsonl", root=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = measured(done.stdout)
    assert record.workload.name == "tg16"
    assert record.sustain_s == 2.0
    assert "kept up for 2.00 s" in record.stopped
    last = record.runs[-1].token_ns[-1]
    assert 1.9 < (last - record.runs[0].started_ns) / 1e9 < 3.5
    result = sustained(record)
    assert isinstance(result, Sustained)
    assert result.burst_tokens_per_s <= 500
    # What this machine cannot tell is said to be so.
    assert record.heat is not None
    assert record.heat.zones == ()
    assert record.heat.start.kind == "unknown"
    assert isinstance(record.heat.throttle, Unavailable)
    assert record.heat.throttle.reason.startswith("not observable")


@pytest.mark.usefixtures("children_here")
def test_the_table_says_what_was_held_and_what_could_be_seen(
    edge: Edge, random_gguf: Path, tmp_path: Path
) -> None:
    done = edge(
        str(random_gguf), *FAKE, "-p", "8", "--sustain", "1s", "-o", "text", root=board(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    # A prompt is sustained where one is asked for.
    assert "pp8" in done.stdout
    assert "tg16" in done.stdout
    assert "steady " in done.stdout
    assert "cpu-thermal: 41.5 -> 41.5 °C (slows down from 85 °C)" in done.stdout
    assert "throttle: observable, none seen" in done.stdout
    assert "start: cool, cpu-thermal at 41.5 °C" in done.stdout


@pytest.mark.usefixtures("children_here")
def test_any_measurement_records_how_warm_it_began(
    edge: Edge, random_gguf: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "runs.jsonl"
    done = edge(
        str(random_gguf), *FAKE, "-p", "0", "-r", "2", "-o", "csv", "--save", str(kept),
        root=board(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = measured(kept.read_text("utf-8"))
    assert record.heat is not None
    assert record.heat.start.kind == "cool"
    assert record.heat.throttle == ()
    assert record.heat.zones[0].trip_celsius == 85.0
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["temperature_start_c"], row["throttled"]) == ("41.5", "False")
    assert row["steady_tokens_per_s"] == row["time_to_throttle_s"] == ""


def test_two_answers_to_when_to_stop_are_refused(edge: Edge, random_gguf: Path) -> None:
    done = edge(str(random_gguf), *FAKE, "--sustain", "2s", "--budget", "10s", "-r", "3")
    assert done.returncode == 2
    assert "--sustain and --budget, -r both say when to stop" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [("0", "too short"), ("0.5s", "too short"), ("30h", "too long"), ("long", "not a duration")],
)
def test_a_time_nobody_can_mean_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_sustain(text, lambda _name: False)


def test_cooling_has_an_end() -> None:
    assert read_cool_down("2m") == 120.0
    with pytest.raises(UsageError, match="longer than an hour"):
        read_cool_down("3h")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_a_sustained_cell_early_and_keeps_it(random_gguf: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    arguments = [str(random_gguf), *FAKE, "--sustain", "10m", "-o", "jsonl", "--save", str(results)]
    with subprocess.Popen(
        [sys.executable, "-m", "edge_runtime", "profile", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment(),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        process.stderr.readline()  # the cell has begun
        time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted after 1 of 1 cells" in err
    assert "--resume" in err
    (record,) = measured(out)
    assert "ended early on request" in record.stopped
    assert record.sustain_s is not None
    assert 0.5 < record.sustain_s < 60
    assert len(record.runs) > 5
    assert measured(results.read_text()) == [record]


@pytest.mark.engine
def test_the_shipped_model_is_sustained_for_real(
    edge: Edge,
) -> None:
    done = edge("--sustain", "2s", "-t", "1", "-n", "32", "--warmups", "1", "-o", "jsonl")
    assert done.returncode == 0, done.stderr
    (record,) = measured(done.stdout)
    assert record.workload.name == "tg32"
    result = sustained(record)
    assert isinstance(result, Sustained)
    assert len(result.series) == 60
    assert result.duration_s > 1.5
    assert result.steady_tokens_per_s.value > 0
    assert 0.5 < result.steady_s < 1.25
