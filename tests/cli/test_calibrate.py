"""`edge calibrate` as its user runs it: what is kept, what is refused, and who uses it then."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_records
import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.cli.calibrate import calibrate, complete_personal
from edge_runtime.cli.engines import planned_model
from edge_runtime.cli.options import complete_device
from edge_runtime.cli.personal import find_personal, personal_profiles, read_personal
from edge_runtime.codec import to_jsonable
from edge_runtime.errors import DiskError, EdgeError, FormatError, UsageError
from edge_runtime.feasibility import Phase
from edge_runtime.measurement import Emulation, Limits
from edge_runtime.projection import project
from edge_runtime.statistics import Interval

Edge = Callable[..., tuple[int, str, str]]
Made = Callable[..., dict[str, Any]]

CELLS = own_records.bench_cells()
PI = dataclasses.replace(
    own_records.HOST, cpu="Raspberry Pi 5 Model B Rev 1.0 (4x Cortex-A76)", machine="aarch64",
    isa=("neon", "dotprod"), ram_bytes=int(7.87 * own_records.GIB), cores_physical=4,
    cores_logical=4, cores_usable=4,
)  # fmt: skip
PI_CELLS = own_records.bench_cells(host=PI)[:3]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "config"


def write(path: Path, cells=CELLS, **changes) -> Path:
    report = own_records.check_report(cells, **changes)
    path.write_text(json.dumps(to_jsonable(report)))
    return path


@pytest.fixture
def made(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Calls the verb itself, without the command line around it; gives its document."""

    def call(*files: Path, **asked: object) -> dict[str, Any]:
        calibrate(list(files), json_output=True, **asked)
        return json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return write(tmp_path / "device.json", CELLS[:4])


def test_a_saved_check_becomes_a_device_that_is_listed_and_removed(
    edge: Edge, tmp_path: Path, config: Path
) -> None:
    code, out, err = edge("calibrate", write(tmp_path / "device.json"))
    assert code == 0
    assert "my-amd-epyc-9b14" in out
    assert "tensor types Q4_0, Q4_K, Q5_0, Q6_K, Q8_0" in out
    kept = config / "devices" / "my-amd-epyc-9b14.json"
    assert str(kept) in err
    assert [file.name for file in kept.parent.iterdir()] == [kept.name]
    listed = json.loads(edge("calibrate", "--list", "--json")[1])
    assert [(one["id"], one["rows"], one["class"]) for one in listed] == [
        ("my-amd-epyc-9b14", 12, "server")
    ]
    assert "AMD EPYC 9B14" in edge("calibrate", "--list")[1]
    assert edge("calibrate", "--remove", "my-amd-epyc-9b14")[0] == 0
    assert json.loads(edge("calibrate", "--list", "--json")[1]) == []
    assert edge("calibrate", "--remove", "my-amd-epyc-9b14")[0] == 2
    assert "no device of your own" in edge("calibrate", "--list")[1]


def test_the_document_says_what_was_kept_and_what_was_not(made: Made, tmp_path: Path) -> None:
    odd = dataclasses.replace(
        CELLS[0], emulated=Emulation(limits=Limits(cores=1), means="affinity")
    )
    document = made(write(tmp_path / "a", (*CELLS, odd)))
    assert (document["schema"], document["kind"]) == (1, "personal device")
    assert document["host"]["cpu"] == "AMD EPYC 9B14"
    assert document["bandwidth"]["bytes_per_s"]["value"] == 20e9
    assert len(document["rows"]) == 12
    assert "emulates" in document["left_out"][0]["reason"]
    assert document["replaced"] is False
    assert Path(document["file"]).is_file()


def test_the_log_of_a_profile_does_beside_a_check_or_for_a_known_device(
    made: Made, tmp_path: Path, saved: Path
) -> None:
    log = tmp_path / "log.jsonl"
    more = own_records.measured("gemma-3-1b", "Q4_0")
    log.write_text("".join(json.dumps(one.to_json()) + "\n" for one in (more, CELLS[0])))
    both = made(saved, log)
    assert len(both["rows"]) == 5  # the cell that is in both counts once
    with pytest.raises(UsageError, match=r"bandwidth.*--device"):
        made(log, name="other")
    log.write_text(json.dumps(PI_CELLS[0].to_json()) + "\n")
    known = made(log, device="raspberry-pi-5-8gb")
    assert (known["base"], known["id"]) == ("raspberry-pi-5-8gb", "my-raspberry-pi-5-8gb")
    assert known["device_class"] == "sbc"


def test_calibrating_again_replaces_only_the_same_machine(
    made: Made, tmp_path: Path, saved: Path
) -> None:
    made(saved, name="mine")
    before = find_personal("mine")
    assert before is find_personal("mine")  # read once
    assert made(write(tmp_path / "b", CELLS[:2]), name="mine")["replaced"] is True
    after = find_personal("mine")
    assert before
    assert after
    assert (len(before.calibration.rows), len(after.calibration.rows)) == (4, 2)
    with pytest.raises(UsageError, match=r"another device of yours.*--remove mine"):
        made(write(tmp_path / "c", PI_CELLS), name="mine")
    kept = read_personal("mine")
    assert (kept.host.cpu, len(kept.rows)) == ("AMD EPYC 9B14", 2)


@pytest.mark.parametrize("name", ["raspberry-pi-5", "rpi5", "RPI5", "pixel-9-pro"])
def test_a_known_devices_name_is_not_taken(made: Made, saved: Path, name: str) -> None:
    with pytest.raises(UsageError, match="known device already"):
        made(saved, name=name)


@pytest.mark.parametrize(
    "name", ["../x", "a b", "", "ä", "x.toml", "-x", "x" * 70, "NUL", "con", "com1.old"]
)
def test_what_is_no_id_is_refused(made: Made, saved: Path, name: str, config: Path) -> None:
    with pytest.raises(UsageError, match="is no id"):
        made(saved, name=name)
    assert not config.exists()


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("raspberry-pi-5-8gb", "x86_64, and Raspberry Pi 5"),
        ("pixel-99", "no device"),
        ("core-ultra-7-155h", "900.0 GiB, and"),
        ("intel-n100", "2048 cores, and"),
        ("mine.toml", "cannot be the base"),
    ],
)
def test_a_base_that_it_cannot_be_is_refused(
    made: Made, tmp_path: Path, base: str, words: str
) -> None:
    ram = (4 if base == "intel-n100" else 900) * own_records.GIB
    host = dataclasses.replace(own_records.HOST, ram_bytes=ram, cores_physical=2048)
    cells = tuple(dataclasses.replace(one, host=host) for one in CELLS[:1])
    with pytest.raises(UsageError, match=words):
        made(write(tmp_path / "a", cells), device=base)


def test_a_class_is_asked_for_where_the_processor_does_not_say_it(
    made: Made, tmp_path: Path
) -> None:
    host = dataclasses.replace(own_records.HOST, cpu="Intel(R) Core(TM) i7-1165G7 @ 2.80GHz")
    cells = tuple(dataclasses.replace(one, host=host) for one in CELLS[:2])
    saved = write(tmp_path / "a", cells)
    with pytest.raises(UsageError, match=r"not certain.*--class with one of .*laptop"):
        made(saved)
    with pytest.raises(UsageError, match="no class of devices"):
        made(saved, device_class="phone")
    document = made(saved, device_class="laptop")
    assert (document["id"], document["device_class"]) == ("my-intel-core-i7-1165g7", "laptop")


def several_hosts(tmp_path: Path) -> Path:
    return write(tmp_path / "two", (CELLS[0], PI_CELLS[0]))


def limited(tmp_path: Path) -> Path:
    return write(tmp_path / "limited", limits=Limits(memory_bytes=1 << 30))


def cut_off(tmp_path: Path) -> Path:
    text = json.dumps(to_jsonable(own_records.check_report(CELLS)), indent=1)
    (tmp_path / "cut").write_text(text[: len(text) // 2])
    return tmp_path / "cut"


def document(tmp_path: Path, value: object) -> Path:
    (tmp_path / "odd").write_text(json.dumps(value))
    return tmp_path / "odd"


def empty(tmp_path: Path) -> Path:
    report = to_jsonable(own_records.check_report(CELLS))
    assert isinstance(report, dict)
    return document(tmp_path, {**report, "measurements": []})


def impossible(tmp_path: Path) -> Path:
    run = dataclasses.replace(CELLS[0].runs[0], prefilled_ns=None, token_ns=(1001, 1002, 1003))
    return write(tmp_path / "fast", (dataclasses.replace(CELLS[0], runs=(run,) * 3),))


def other_schema(tmp_path: Path) -> Path:
    report = to_jsonable(own_records.check_report(CELLS))
    assert isinstance(report, dict)
    return document(tmp_path, {**report, "schema": 9})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (several_hosts, "2 machines"),
        (limited, "as if on a smaller device"),
        (cut_off, "cut off"),
        (impossible, "no sound personal device: row 1 has an interval"),
        (other_schema, "schema"),
        (empty, "no measurement"),
        (lambda folder: document(folder, {"basis": "PROJECTED", "rows": []}), "projections"),
        (lambda folder: document(folder, {"kind": "personal device"}), "already"),
        (lambda folder: document(folder, [1, 2]), "no"),
        (lambda folder: document(folder, []), "no measurement"),
        (lambda folder: document(folder, {"measurements": 1, "host": 2, "bandwidth": 3}), "schema"),
        (lambda folder: document(folder, "\x1b[31m"), "no records"),
        (lambda folder: folder, "cannot be read"),
        (lambda folder: folder / "absent", "cannot be read"),
    ],
)
def test_a_file_that_is_no_calibration_gets_one_clear_answer(
    made: Made, tmp_path: Path, make: Callable[[Path], Path], words: str, config: Path
) -> None:
    with pytest.raises(EdgeError, match=words) as error:
        made(make(tmp_path))
    assert error.value.way_out or words == "cannot be read"
    assert not config.exists()


def test_exactly_one_thing_is_asked(made: Made, saved: Path) -> None:
    for files, asked in (((), {}), ((saved,), {"listed": True}), ((saved,), {"remove": "x"})):
        with pytest.raises(UsageError, match="One of"):
            made(*files, **asked)


def test_a_folder_that_cannot_be_made_is_said(made: Made, saved: Path, config: Path) -> None:
    config.mkdir()
    (config / "devices").write_text("a file where the folder should be")
    with pytest.raises(DiskError, match="EDGE_CONFIG_DIR"):
        made(saved)


def test_the_device_is_found_by_all_who_name_devices(
    made: Made, edge: Edge, tmp_path: Path
) -> None:
    saved = write(tmp_path / "pi", PI_CELLS, bandwidth=Unavailable(reason="not read"))
    made(saved, name="pi-at-home", device="raspberry-pi-5-8gb")
    assert "pi-at-home" in dict(complete_personal("pi"))
    assert list(dict(complete_device("rpi5,pi-at"))) == ["rpi5,pi-at-home"]
    listed = json.loads(edge("devices", "--class", "sbc", "--json")[1])
    assert listed[0]["id"] == "pi-at-home"
    shown = json.loads(edge("devices", "show", "pi-at-home", "--json")[1])
    assert (shown["id"], shown["product"]["id"]) == ("raspberry-pi-5", "pi-at-home")
    assert shown["ram_bytes"] == [8 * own_records.GIB]


def test_projections_for_the_device_rest_on_what_was_measured_on_it(
    made: Made, edge: Edge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Three times slower than the tests' machine usually is: no published row says so.
    slow = own_records.bench_cells(slower=3.0)
    made(write(tmp_path / "a", slow), name="mine")
    planned = planned_model(own_records.shape_of("qwen2.5-1.5b"), "Q4_0")
    true_rate = 1 / (3 * own_records.true_seconds(planned, Phase.DECODE, 256))
    _, out, _ = edge("check", "qwen2.5-1.5b", "--device", "mine", "--level", "Q4_0", "--json")
    row = json.loads(out)["rows"][0]
    assert row["basis"] == "PROJECTED"
    assert row["decode_tokens_per_s"]["value"] == pytest.approx(true_rate, rel=0.15)
    assert row["decode_tokens_per_s"]["low"] < true_rate < row["decode_tokens_per_s"]["high"]
    assert row["evidence"]["own_rows"] == 12
    assert any("12 measurements of this device" in one for one in row["assumptions"])
    _, out, _ = edge("fit", "--device", "mine", "--target", f"{true_rate:.3f}", "--json")
    found = json.loads(out)["rows"] + json.loads(out)["misses"]
    assert {one["evidence"]["own_rows"] > 0 for one in found} == {True}


def test_a_few_own_rows_correct_the_published_ones(made: Made, tmp_path: Path) -> None:
    one_each = [own_records.measured("qwen3-0.6b", lv, slower=3.0) for lv in own_records.LEVELS]
    made(write(tmp_path / "a", tuple(one_each)), name="mine")
    personal = find_personal("mine")
    assert personal is not None
    planned = planned_model(own_records.shape_of("qwen2.5-1.5b"), "Q4_0")
    true_rate = 1 / (3 * own_records.true_seconds(planned, Phase.DECODE, 256))
    found = []
    for own in (None, personal.calibration):
        rate = project(planned, personal.profile, own=own).decode_tokens_per_s
        assert isinstance(rate, Interval)
        found.append(abs(rate.value / true_rate - 1))
    before, after = found
    assert after < 0.25 < before


def test_a_damaged_file_of_ones_own_is_named_and_keeps_nobody_from_the_rest(
    made: Made, saved: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(saved, name="mine")
    made(saved, name="sound")
    file = config / "devices" / "mine.json"
    text = file.read_text()
    another = text.replace('"id": "mine"', '"id": "theirs"')
    for damaged in (text[:100], text.replace('"layers": 28', '"layers": -1'), "[]", "", another):
        file.write_text(damaged)
        with pytest.raises(FormatError, match="edge calibrate FILE") as error:
            find_personal("mine")
        assert str(file) in error.value.fact
        assert list(dict(complete_personal(""))) == ["sound"]
        assert [profile.id for profile in personal_profiles()] == ["sound"]
        assert str(file) in capsys.readouterr().err
    file.write_text(newer := text.replace('"schema": 1', '"schema": 2'))
    assert made(saved, name="mine")["replaced"] is True
    assert find_personal("mine") is not None
    # Another version's measurements are not lost to this one's.
    assert file.with_name("mine.json.unread").read_text() == newer != text
    assert [profile.id for profile in personal_profiles()] == ["mine", "sound"]
