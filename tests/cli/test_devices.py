"""`edge devices`: the table, one device, and what a contributor hears about a file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from edge_runtime.cli.options import complete_device
from edge_runtime.report.devices import render_devices
from profiles.devices import devices

Edge = Callable[..., tuple[int, str, str]]

FILE = """
id = "my-board"
name = "My Board"
class = "sbc"
os = ["Linux"]
as_of = "2026-11-22"
[cpu]
[memory]
sizes = ["8 GB"]
sizes_source = "shop"
bandwidth = { value = "17 GB/s", kind = "stated", source = "shop" }
[accelerators.gpu]
bandwidth = { value = "8 to 9 GB/s", kind = "measured", source = "shop", note = "mine" }
[sources]
shop = "https://example.org/[red]shop"
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "my-board.toml"
    path.write_text(FILE)
    return path


def test_the_table_filters_by_class_and_words(edge: Edge) -> None:
    code, out, err = edge("devices", "--class", "mobile,sbc", "--search", "Pixel Google")
    assert (code, err) == (0, "")
    ids = [line.split()[0] for line in out.splitlines() if " mobile " in line]
    assert "tensor-g4" in ids
    assert not any(name in out for name in ("raspberry", "apple-m", "rtx"))
    assert "<63.5" in next(line for line in out.splitlines() if line.startswith("tensor-g4"))


def test_json_has_si_units_and_null_for_unknown(edge: Edge) -> None:
    code, out, _ = edge("devices", "--search", "rtx4090", "--json")
    card = next(row for row in json.loads(out) if row["id"] == "rtx4090")
    assert code == 0
    assert " 1008 " in edge("devices", "--search", "rtx4090")[1], "its own, so no <"
    assert card["roof_bytes_per_s"]["gpu"]["low"] == pytest.approx(1008e9)
    assert card["roof_bytes_per_s"]["cpu"] is None
    assert card["card_memory_bytes"] == [24 << 30]
    assert card["published_measurements"] > 0


def test_a_search_names_the_products_that_can_be_asked_for(edge: Edge) -> None:
    page = edge("devices", "--search", "pixel 9")[1]
    assert "tensor-g4 is in pixel-9, pixel-9-pro" in page
    assert "pixel-8" not in page
    assert " is in " not in edge("devices", "--search", "tensor")[1]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_keeps_every_figure_at_any_width(columns: int) -> None:
    stream = io.StringIO()
    catalogue = tuple(devices().values())
    Console(file=stream, width=columns).print(render_devices(catalogue, {}))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    rows = lines[1 : len(catalogue) + 1]
    assert [row.split()[0] for row in rows] == [device.id for device in catalogue]
    ends = {row.rindex(f" {d.device_class} ") for row, d in zip(rows, catalogue, strict=True)}
    assert len(ends) == 1, "the columns stand below one another"
    assert all("…" not in row[row.index(f" {device.device_class} ") :] for row, device in
               zip(rows, catalogue, strict=True))  # fmt: skip


def test_a_device_is_shown_with_sources_and_what_is_unknown(edge: Edge, board: Path) -> None:
    code, out, err = edge("devices", "show", board)
    assert (code, err) == (0, "")
    assert "My Board (my-board)" in out
    rows = {name: cells for name, *cells in (re.split(" {2,}", x) for x in out.splitlines())}
    assert rows["memory bandwidth"] == ["17 GB/s", "stated", "2026-11-22", "[1]"]
    assert rows["cpu bandwidth"][0] == "unknown, at most 17 GB/s"
    assert rows["gpu bandwidth"][0] == "8 to 9 GB/s"
    for blank in ("cores", "instructions", "memory type", "npu", "TDP", "gpu fp16"):
        assert rows[blank][0] == "unknown"
    assert "[1] https://example.org/[red]shop" in out
    assert "gpu bandwidth: mine" in out


def test_a_product_is_shown_as_it_is_sold(edge: Edge) -> None:
    code, out, _ = edge("devices", "show", "Raspberry Pi 5 8GB", "--json")
    record = json.loads(out)
    assert (code, record["id"]) == (0, "raspberry-pi-5")
    assert re.search(r"^battery +18.* Wh", edge("devices", "show", "pixel-9-pro")[1], re.M)
    assert record["product"]["id"] == "raspberry-pi-5-8gb"
    assert record["ram_bytes"] == [8 << 30]
    usable = next(u for u in record["usable"] if u["accelerator"] == "cpu")["usable_bytes"]
    assert 6 << 30 < usable["low"] <= usable["high"] < 8 << 30
    assert usable["source"].startswith("https://")


def test_wrong_names_get_a_way_out(edge: Edge, board: Path) -> None:
    code, out, err = edge("devices", "show", "pixel-99")
    assert (code, out) == (2, "")
    assert "Did you mean 'pixel-9'" in err
    code, _, err = edge("devices", "pixel-9")
    assert code == 2
    assert "edge devices show pixel-9" in err
    code, _, err = edge("devices", "--class", "phone")
    assert (code, "Known: mobile, sbc" in err) == (2, True)
    code, _, err = edge("devices", "--search", "nothing is called so")
    assert (code, "No known device fits" in err) == (2, True)
    board.write_text(FILE.replace("17 GB/s", "17 GB"))
    code, _, err = edge("devices", "show", board)
    assert code == 2
    assert 'memory.bandwidth.value is "17 GB": GB is a size: write GB/s' in err
    assert "edge devices check" in err


def test_checking_names_each_fault_of_each_file(edge: Edge, board: Path, tmp_path: Path) -> None:
    code, out, err = edge("devices", "check", board)
    assert (code, out, err) == (0, "1 file: 1 sound.\n", "")
    second = tmp_path / "second.toml"
    second.write_text(FILE.replace('"my-board"', '"second"\naliases = ["my-board", "rpi5"]'))
    third = tmp_path / "third.toml"
    third.write_text(FILE.replace("my-board", "third").replace("8 to 9 GB/s", "18 GB/s"))
    code, out, _ = edge("devices", "check", board, second, third, tmp_path / "none.toml")
    assert code == 4
    lines = out.splitlines()
    assert lines[-1] == "4 files: 1 sound, 3 with faults."
    assert f'{second}: "my-board" is a name in {board} too' in lines[0]
    assert '"rpi5" is a name in raspberry-pi-5.toml too' in lines[1]
    assert "accelerators.gpu.bandwidth is 18 GB/s, above the 17 GB/s" in lines[2]
    assert "physically impossible" in lines[2]
    assert "cannot be read: No such file" in lines[3]
    assert "it is no file" in edge("devices", "check", tmp_path)[1]
    code, out, _ = edge("devices", "check", board, third, "--json")
    assert code == 4
    assert [len(entry["faults"]) for entry in json.loads(out)] == [0, 1]


def test_a_faulty_file_among_the_shipped_ones_hides_no_fault_of_its_own(
    edge: Edge, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contributor checks the file where it will stand, in the catalogue itself."""
    folder = board.parent / "devices"
    folder.mkdir()
    faulty = folder / "new.toml"
    faulty.write_text('id = "new"\nname = "New"\n')
    monkeypatch.setattr("profiles.devices.files", lambda _: board.parent)
    code, out, err = edge("devices", "check", faulty, board)
    assert (code, err) == (4, "")
    assert f"{faulty}: as_of is missing" in out
    assert f"{faulty}: class is missing" in out
    assert out.endswith("2 files: 1 sound, 1 with faults.\n")


def test_a_shipped_file_is_no_duplicate_of_itself(edge: Edge, tmp_path: Path) -> None:
    from importlib.resources import files

    text = (files("profiles") / "devices" / "raspberry-pi-5.toml").read_text("utf-8")
    copy = tmp_path / "raspberry-pi-5.toml"
    copy.write_text(text, "utf-8")
    assert edge("devices", "check", copy)[0] == 0


def test_the_shell_completes_names_also_behind_a_comma() -> None:
    names = [name for name, _ in complete_device("raspberry-pi-5")]
    assert {"raspberry-pi-5", "raspberry-pi-5-8gb"} <= set(names)
    assert ("rtx4090,apple-m1", "Apple M1") in complete_device("rtx4090,apple-m1")
    assert complete_device("nothing-begins-so") == []
