"""Energy as a user meets it: with live sensors, without any, with a meter's log.

The fake engine sleeps through its steps, and the fake sensors count known watts: what must come out
is a product of the two. A machine that is busy makes steps longer than the script says, so joules
are held against the time that was really taken, which the record has.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sensor_trees

from benchmarks.sensor_tree import SensorTree, steady
from edge_runtime.basis import Unavailable
from edge_runtime.measurement import Measurement, read_record

Edge = Callable[..., tuple[int, str, str]]

CPU_W, DRAM_W = 15.0, 2.0
SCRIPT = json.dumps({"step_ns": 20_000_000, "prefill_ns_per_token": 2_000_000})
FAKE = ("--backend", "fake", "--warmups", "0")
NEVER = re.compile(r"(?<![\d.])0+(\.0*)? J\b")
"""What no output may hold: zero joules are never measured."""


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RUNTIME_FAKE", SCRIPT)


@pytest.fixture
def no_sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual machine, as it shows itself to its programs."""
    root = tmp_path / "guest"
    sensor_trees.guest(root)
    monkeypatch.setenv("EDGE_SENSOR_ROOT", str(root))
    return root


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[SensorTree]:
    """A laptop on mains whose package takes 15 W and whose memory takes 2 W, always."""
    # In memory where there is a folder for it: a disk that is busy would halt the counters.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        monkeypatch.setenv("EDGE_SENSOR_ROOT", folder)
        with SensorTree(Path(folder), steady(CPU_W, DRAM_W)) as tree:
            yield tree


def records_of(path: Path) -> list[Measurement]:
    found = [read_record(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    return [record for record in found if isinstance(record, Measurement)]


def decode_s(record: Measurement) -> float:
    """The seconds of all decode windows, from the stamps."""
    return sum(sum(run.step_ns) for run in record.runs) / 1e9


def save(path: Path, record: Measurement, **changes: object) -> Path:
    """The record as a results file, some of its JSON changed."""
    path.write_text(json.dumps({**record.to_json(), **changes}) + "\n", "utf-8")
    return path


def meter_log(record: Measurement, watts: float, *, late_s: float = 0.0) -> str:
    """What a meter of 20 readings a second would have written from before to after a record."""
    assert record.timeline is not None
    first, last = record.timeline.anchors[0], record.timeline.anchors[-1]
    begin, end = first.unix_ns / 1e9 - 1, last.unix_ns / 1e9 + 1
    count = int((end - begin) / 0.05)
    rows = [f"{begin + late_s + 0.05 * i:.3f},5.0,{watts / 5:.3f}" for i in range(count)]
    return "\n".join(("time_s,voltage_V,current_A", *rows)) + "\n"


# Without a sensor


@pytest.mark.usefixtures("children_here")
def test_without_a_sensor_the_run_is_whole_and_says_why(
    edge: Edge, random_gguf: Path, no_sensors: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "runs.jsonl"
    code, out, err = edge(
        "profile", random_gguf, "-p", "4", "-n", "4", "-r", "2", *FAKE, "--json", "--save", kept
    )
    assert code == 0, err
    for line in json.loads(out):
        assert line["energy"]["reason"] == "no powercap: virtual machine"
        assert line["energy"]["remedy"]
        assert all(r["why"]["reason"] and r["why"]["remedy"] for r in line["refusals"])
        assert {"rapl", "battery"} <= {r["name"] for r in line["refusals"]}
        # Nothing was waited for where nothing can be read.
        assert {w["name"] for w in line["timeline"]["windows"]} == {"load", "warm_up", "runs"}
    code, out, err = edge("energy", kept)
    assert code == 0, err
    assert "unavailable (no powercap: virtual machine)" in out
    assert not NEVER.search(out)


@pytest.mark.parametrize("form", ["text", "md", "csv", "sql"])
@pytest.mark.usefixtures("children_here")
def test_no_form_of_output_turns_a_missing_energy_into_a_number(
    edge: Edge, random_gguf: Path, no_sensors: Path, form: str
) -> None:
    code, out, err = edge(
        "profile", random_gguf, "-p", "0", "-n", "4", "-r", "2", *FAKE, "-o", form
    )
    assert code == 0, err
    assert "no powercap: virtual machine" in out + err
    assert not NEVER.search(out)
    if form == "csv":
        row = next(csv.DictReader(io.StringIO(out)))
        numbers = [k for k in row if re.search(r"joules|^j_per|energy_j|idle_w|per_wh", k)]
        assert len(numbers) >= 6
        assert {row[name] for name in numbers} == {""}


@pytest.mark.usefixtures("children_here")
def test_a_root_that_is_no_folder_is_a_reason_and_no_end(
    edge: Edge, random_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGE_SENSOR_ROOT", str(tmp_path / "nothing"))
    code, out, err = edge("profile", random_gguf, "-p", "0", "-n", "4", "-r", "2", *FAKE, "--json")
    assert code == 0, err
    assert "EDGE_SENSOR_ROOT" in json.loads(out)[0]["energy"]["reason"]


# With live sensors


def test_joules_are_what_a_hand_computes(
    edge: Edge, random_gguf: Path, live: SensorTree, tmp_path: Path
) -> None:
    kept = tmp_path / "runs.jsonl"
    code, out, err = edge(
        "profile", random_gguf, "-p", "0", "-n", "12", "--precision", "1", "--idle", "1200ms",
        *FAKE, "-o", "csv", "--save", kept,
    )  # fmt: skip
    assert code == 0, err
    row = next(csv.DictReader(io.StringIO(out)))
    record = records_of(kept)[0]
    seconds = decode_s(record)
    # Three repetitions take 0.72 s: they went on until the sensor's second was full.
    assert seconds >= 1.0
    assert len(record.runs) > 3
    joules = (CPU_W + DRAM_W) * seconds
    assert float(row["energy_j_decode_gross"]) == pytest.approx(joules, rel=0.05)
    per_token = joules / (12 * len(record.runs))
    assert float(row["j_per_token_gross"]) == pytest.approx(per_token, rel=0.05)
    assert float(row["j_per_token_gross_low"]) <= per_token <= float(row["j_per_token_gross_high"])
    assert row["energy_basis"] == "MEASURED"
    assert row["energy_scope"] == "chip"
    # It never idled: what the model adds to 17 W of 17 W cannot be told.
    assert row["j_per_token_net"] == ""
    assert row["energy_net_reason"]

    code, out, err = edge("energy", kept, "--json")
    assert code == 0, err
    report = json.loads(out)
    parts = {part["sensor"]: part for part in report["records"][0]["consumption"]["parts"]}
    decode = report["records"][0]["consumption"]["decode"]
    # The sum is package and memory; the cores lie inside the package and are not added.
    added = [p["decode_j"] for p in parts.values() if p["in_headline"]]
    assert len(added) == 2
    assert decode["gross_j"] == pytest.approx(sum(added))
    inside = [p["decode_j"] for p in parts.values() if not p["in_headline"]]
    assert inside == [pytest.approx(0.8 * CPU_W * seconds, rel=0.05)]
    use = report["models"][0]
    assert use["battery_wh"] == 50.0, "as it is today; new it had 60"
    percent = 100 * 1000 * per_token / (3600 * 50)
    assert use["battery_percent"]["value"] == pytest.approx(percent, rel=0.05)
    assert use["tokens_per_wh"]["value"] == pytest.approx(3600 / per_token, rel=0.05)
    assert use["partial"] is True

    code, out, err = edge("energy", kept, "--battery-wh", "25")
    assert code == 0, err
    assert "at least" in out
    assert "of 25 Wh" in out
    assert not NEVER.search(out)


@pytest.mark.usefixtures("children_here")
def test_a_record_says_which_sensors_were_read_and_below_which_root(
    edge: Edge, random_gguf: Path, live: SensorTree
) -> None:
    code, out, err = edge(
        "profile", random_gguf, "-p", "0", "-n", "4", "-r", "2", "--idle", "0", *FAKE, "--json"
    )
    assert code == 0, err
    energy = json.loads(out)[0]["energy"]
    assert len(energy["series"]) == 3
    assert len(energy["headline"]) == 2
    for series in energy["series"]:
        assert f"read below {live.folder}" in series["sensor"]["notes"]
        assert len(series["stamps_ns"]) == len(series["joules"]) > 1
    zone = json.loads(out)[0]["heat"]["zones"][0]
    assert zone["trip_celsius"] == 95.0
    assert all(20 < celsius < 95 for celsius in zone["celsius"]["values"])


# A meter's log


@pytest.fixture(scope="module")
def plain_run(random_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of 2.4 s of decoding on a machine without sensors."""
    folder = tmp_path_factory.mktemp("plain")
    kept = folder / "board.jsonl"
    sensor_trees.guest(folder / "guest")
    subprocess.run(
        [
            sys.executable, "-m", "edge_runtime", "profile", str(random_gguf), "-p", "0",
            "-n", "30", "-r", "4", *FAKE, "--save", str(kept),
        ],
        check=True, capture_output=True, timeout=60,
        env={
            **os.environ, "EDGE_RUNTIME_FAKE": SCRIPT, "EDGE_SENSOR_ROOT": str(folder / "guest"),
            "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
        },
    )  # fmt: skip
    return kept


def test_a_meter_log_is_laid_over_a_run_that_is_there_already(
    edge: Edge, plain_run: Path, tmp_path: Path
) -> None:
    record = records_of(plain_run)[0]
    log = tmp_path / "meter.csv"
    log.write_text(meter_log(record, 6.0), "utf-8")
    saved = tmp_path / "measured.jsonl"
    before = plain_run.read_bytes()
    code, out, err = edge("energy", plain_run, "--meter", log, "--json", "--save", saved)
    assert code == 0, err
    used = json.loads(out)["records"][0]["consumption"]
    assert used["basis"] == "MEASURED"
    assert used["scope"] == "device"
    assert used["decode"]["gross_j"] == pytest.approx(6.0 * decode_s(record), rel=0.02)
    assert plain_run.read_bytes() == before, "a results file is never changed"
    # The joined record needs the log no more.
    code, again, err = edge("energy", saved, "--json")
    assert code == 0, err
    assert json.loads(again)["records"][0]["consumption"] == used

    # A meter whose clock is 40 s behind, and is said to be.
    log.write_text(meter_log(record, 6.0, late_s=-40.0), "utf-8")
    code, out, err = edge("energy", plain_run, "--meter", log, "--meter-offset", "40", "--json")
    assert code == 0, err
    moved = json.loads(out)["records"][0]["consumption"]["decode"]["gross_j"]
    assert moved == pytest.approx(6.0 * decode_s(record), rel=0.02)


def test_a_log_that_does_not_overlap_gives_a_reason_and_exit_0(
    edge: Edge, plain_run: Path, tmp_path: Path
) -> None:
    log = tmp_path / "yesterday.csv"
    log.write_text(meter_log(records_of(plain_run)[0], 6.0, late_s=-86400.0), "utf-8")
    code, out, err = edge("energy", plain_run, "--meter", log, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert "no reading while the measurement ran" in report["records"][0]["consumption"]["reason"]
    assert "--meter-offset" in err
    code, out, err = edge("energy", plain_run, "--meter", log)
    assert code == 0, err
    assert "unavailable" in out
    assert not NEVER.search(out)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ""),
        ("hello\n", ""),
        ("time,humidity\n1,2\n", ""),
        ("time_s,power_W\n1795330000,five\n", "ine 2"),
        ("time_s,power_W\n1795330000\n1795330001,1,2,3\n", ""),
        ("\x00\x01\x02\n", ""),
    ],
)
def test_a_file_that_is_no_log_is_a_reason_and_never_joules(
    edge: Edge, plain_run: Path, tmp_path: Path, content: str, words: str
) -> None:
    log = tmp_path / "broken.csv"
    log.write_text(content, "utf-8")
    saved = tmp_path / "new.jsonl"
    code, out, err = edge("energy", plain_run, "--meter", log, "--save", saved, "--json")
    assert code == 0
    assert "meter log unavailable" in err
    assert "broken.csv" in err
    assert words in err
    assert "Traceback" not in err
    assert not NEVER.search(out)
    for record in records_of(saved):
        assert isinstance(record.energy, Unavailable)
        assert words in record.energy.reason
        assert record.refusals[0].name == "meter log"


def test_a_log_of_its_own_time_is_told_when_it_began(
    edge: Edge, plain_run: Path, tmp_path: Path
) -> None:
    record = records_of(plain_run)[0]
    lines = meter_log(record, 6.0).splitlines()
    first = float(lines[1].split(",")[0])
    rows = [line.split(",", 1) for line in lines[1:]]
    log = tmp_path / "own.csv"
    log.write_text(
        "\n".join([lines[0], *(f"{float(t) - first:.3f},{rest}" for t, rest in rows)]), "utf-8"
    )
    code, _, err = edge("energy", plain_run, "--meter", log)
    assert code == 0
    assert "--meter-start" in err
    code, out, err = edge("energy", plain_run, "--meter", log, "--meter-start", first, "--json")
    assert code == 0, err
    assert "MEASURED" in out
    code, out, err = edge("energy", plain_run, "--meter", log, "--meter-start", "teatime")
    assert code == 2
    assert "--meter-start" in err


# Estimates


@pytest.mark.usefixtures("children_here")
def test_an_estimate_is_a_formula_with_a_band_and_refused_in_a_virtual_machine(
    edge: Edge, random_gguf: Path, no_sensors: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "runs.jsonl"
    code, _, err = edge(
        "profile", random_gguf, "-p", "0", "-n", "8", "-r", "2", *FAKE, "--estimate-power", "12",
        "--save", kept,
    )  # fmt: skip
    assert code == 0, err
    record = records_of(kept)[0]
    assert record.stated_power_w == 12.0
    quiet = {**record.to_json()["noise"], "foreign_share": 0.0}  # type: ignore[dict-item]
    host = record.to_json()["host"]
    assert isinstance(host, dict)

    here = save(tmp_path / "pc.jsonl", record, noise=quiet, host={**host, "virtualization": None})
    code, out, err = edge("energy", here, "--json")
    assert code == 0, err
    used = json.loads(out)["records"][0]["consumption"]
    per_token = 12.0 * decode_s(record) / 16
    assert used["basis"] == "ESTIMATED"
    found = used["decode"]["gross_j_per_token"]
    assert found["value"] == pytest.approx(per_token)
    assert (found["low"], found["high"]) == pytest.approx((0.5 * per_token, 1.5 * per_token))
    assert "12 W / (" in used["formula"]
    assert "net_j" in used["decode"]
    assert used["decode"]["net_j"]["reason"]

    guest = save(tmp_path / "vm.jsonl", record, noise=quiet, host={**host, "virtualization": "KVM"})
    code, out, err = edge("energy", guest, "--json")
    assert code == 0, err
    assert (
        "no estimate in a virtual machine" in json.loads(out)["records"][0]["consumption"]["reason"]
    )

    busy = {**quiet, "foreign_share": 0.3}
    shared = save(tmp_path / "s.jsonl", record, noise=busy, host={**host, "virtualization": None})
    code, out, err = edge("energy", shared, "--json")
    assert code == 0, err
    assert "shared machine" in json.loads(out)["records"][0]["consumption"]["reason"]


# A smaller device, and heat


@pytest.mark.skipif(sys.platform != "linux", reason="memory and cores are limited on Linux")
def test_an_emulated_device_is_labelled_and_has_no_energy(
    edge: Edge, random_gguf: Path, live: SensorTree
) -> None:
    code, out, err = edge(
        "profile", random_gguf, "-p", "0", "-n", "4", "-r", "2", *FAKE, "--json",
        "--limit-memory", "1GiB", "--limit-cores", "1",
    )  # fmt: skip
    assert code == 0, err
    record = json.loads(out)[0]
    assert record["emulated"]["limits"] == {"memory_bytes": 2**30, "cores": 1}
    assert record["emulated"]["means"]
    assert "emulated" in record["energy"]["reason"]
    assert record["host"]["cores_usable"] == 1


@pytest.mark.usefixtures("children_here")
def test_a_sustained_run_is_kept_up_and_reported_as_one(
    edge: Edge, random_gguf: Path, live: SensorTree, tmp_path: Path
) -> None:
    kept = tmp_path / "hot.jsonl"
    code, out, err = edge(
        "profile", random_gguf, "-n", "4", *FAKE, "--idle", "0", "--sustain", "2s", "-o", "text",
        "--save", kept,
    )  # fmt: skip
    assert code == 0, err
    (record,) = records_of(kept)
    assert record.workload.name == "tg4"
    assert record.sustain_s == 2.0
    assert (record.runs[-1].token_ns[-1] - record.runs[0].started_ns) / 1e9 >= 1.8
    assert len(record.runs) > 10, "more than a plan's ten"
    for word in ("burst", "steady", "throttl"):
        assert word in out.lower()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--idle", "soon"), "duration"),
        (("--idle", "2h"), "--idle"),
        (("--estimate-power", "0"), "--estimate-power"),
        (("--estimate-power", "-5"), "--estimate-power"),
        (("--estimate-power", "nan"), "--estimate-power"),
        (("--limit-memory", "much"), "--limit-memory"),
        (("--limit-memory", "1KiB"), "memory"),
        (("--limit-cores", "0"), "--limit-cores"),
        (("--sustain", "0s"), "sustain"),
        (("--sustain", "never"), "duration"),
        (("--cool-down", "-1s"), "duration"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    edge: Edge, random_gguf: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = edge("profile", random_gguf, *FAKE, *arguments)
    assert code == 2, err
    assert out == ""
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("missing.jsonl",), 4, "missing.jsonl"),
        (("{}", "--meter", "missing.csv"), 4, "missing.csv"),
        (("{}", "--meter-offset", "5"), 2, "--meter"),
        (("{}", "--scope", "planet", "--meter", "missing.csv"), 2, "planet"),
        (("{}", "--scenario", "1,2"), 2, "--scenario"),
        (("{}", "--scenario", "0,0,60s"), 2, "nothing happens"),
        (("{}", "--battery-wh", "0"), 2, "--battery-wh"),
        (("{}", "--battery-wh", "inf"), 2, "--battery-wh"),
        (("{}", "--save", "{}"), 2, "is there already"),
    ],
)
def test_mistakes_about_saved_runs(
    edge: Edge, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    old = Path(__file__).parent.parent / "data" / "measurement_schema_1.jsonl"
    kept = tmp_path / "runs.jsonl"
    kept.write_bytes(old.read_bytes())
    found, out, err = edge("energy", *(a.format(kept) for a in arguments))
    assert found == code, err
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]


def test_runs_of_an_earlier_version_are_shown_with_the_reason_they_were_saved_with(
    edge: Edge,
) -> None:
    old = Path(__file__).parent.parent / "data" / "measurement_schema_1.jsonl"
    code, out, err = edge("energy", old)
    assert code == 0, err
    assert "unavailable (no powercap: virtual machine)" in out
    assert "1 failed cells" in err
