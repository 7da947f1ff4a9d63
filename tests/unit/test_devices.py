"""Device files: what they say is read exactly, and each fault of a stranger's is one sentence."""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from pathlib import Path

import pytest
from device_texts import CARD, GOOD
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiles import devices as catalogue
from profiles.contradictions import repeated_names
from profiles.device_files import MOST_BYTES, DeviceFileError, parse_device
from profiles.devices import device, device_names, read_device
from profiles.figures import BANDWIDTH, ENERGY, FLOATING, MEMORY, Figure, parse_quantity


def parse(text: str, file: str = "board.toml"):
    return parse_device(text.encode(), file)


def faults(text: str, file: str = "board.toml") -> tuple[str, ...]:
    with pytest.raises(DeviceFileError) as caught:
        parse(text, file)
    return caught.value.faults


def test_every_fact_is_read_in_si_units():
    board = parse(GOOD)
    assert board.ram_bytes == (4 << 30, 8 << 30)
    assert [(c.name, c.count, c.max_hz) for c in board.clusters] == [
        ("Cortex-A76", 4, 2.4e9),
        ("A55", 2, None),
    ]
    assert board.cores == 6
    assert board.memory_bandwidth_bytes_per_s == Figure(
        low=16e9,
        high=17e9,
        kind="stated",
        source="https://example.org/sheet",
        as_of=dt.date(2026, 11, 22),
    )
    gpu = board.accelerators["gpu"]
    assert gpu.bandwidth_bytes_per_s.exact
    assert gpu.bandwidth_bytes_per_s.as_of == dt.date(2026, 10, 1)
    assert gpu.fp16_flop_per_s.value == pytest.approx(150e9)
    assert (gpu.fp32_flop_per_s, gpu.int8_op_per_s) == (None, None)
    assert board.accelerators["cpu"].name == "XY1"
    assert board.tdp_w.value == 12
    assert board.power_modes[0].limit_w.value == 5
    assert board.products[0].battery_j.value == 36_000


def test_a_source_may_stand_where_it_is_used():
    address = "https://example.org/here"
    board = parse(
        GOOD.replace(
            'kind = "measured", source = "run"', f'kind = "measured", source = "{address}"'
        )
    )
    assert board.accelerators["gpu"].bandwidth_bytes_per_s.source == address
    assert "which [sources] lacks." in faults(GOOD.split("[sources]", maxsplit=1)[0])[0]


def test_a_range_has_its_geometric_mean_as_value():
    figure = parse(GOOD).memory_bandwidth_bytes_per_s
    assert figure.value == pytest.approx((16e9 * 17e9) ** 0.5)
    assert not figure.exact


def test_the_roof_is_the_accelerators_own_then_the_memorys():
    board = parse(GOOD)
    assert board.roof("gpu").value == 9e9
    assert board.roof("cpu") is board.memory_bandwidth_bytes_per_s
    assert board.roof("npu") is None
    card = parse(CARD, "card.toml")
    assert card.roof("gpu").value == 1e12
    assert card.roof("cpu") is None
    unknown = CARD.replace(
        'bandwidth = { value = "1 TB/s", kind = "stated", source = "sheet" }', ""
    )
    assert parse(unknown, "card.toml").roof("gpu") is None
    system = '[memory]\nbandwidth = { value = "50 GB/s", kind = "stated", source = "sheet" }\n'
    beside = parse(unknown + system, "card.toml")
    assert beside.roof("gpu") is None, "a card does not read the system's memory"


def test_a_product_has_the_device_with_its_own_memory_battery_and_system():
    board = parse(GOOD)
    sold = board.as_product(board.products[0])
    assert (sold.label, sold.ram_bytes, sold.os) == ("A Board, 8 GB", (8 << 30,), ("Android 15",))
    assert sold.battery_j.value == 36_000
    assert sold.ram_source == "https://example.org/run"
    assert (board.label, board.product, board.battery_j) == ("A Board", None, None)
    own = '[power]\nbattery = { value = "500 mWh", kind = "stated", source = "sheet" }'
    both = parse(GOOD.replace("[power]", own))
    assert both.battery_j.value == 1800
    assert both.as_product(both.products[0]).battery_j.value == 36_000


def test_a_range_of_clocks_is_its_end_and_several_memories_are_bounded_by_the_slowest():
    board = parse(GOOD.replace('"2.4 GHz"', '"2 to 2.4 GHz"'))
    assert board.clusters[0].max_hz == 2.4e9
    # 17 GB/s are two thirds of 25.6 and half of 34.1.
    parse(GOOD.replace("LPDDR4X-4267 32-bit", "LPDDR4X-3200 or LPDDR4X-4267 64-bit"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"16 to 17 GB/s"', '"17 to 16 GB/s"', "from the low end to the high one"),
        ('"16 to 17 GB/s"', '"136 Gbit/s"', "counts bits: divide by 8"),
        ('"16 to 17 GB/s"', '"16 gb/s"', "the unit is written GB/s"),
        ('"16 to 17 GB/s"', '"4267 MT/s"', "multiply by the bus width"),
        ('"16 to 17 GB/s"', '"16"', "no number with a unit"),
        ('"16 to 17 GB/s"', '"-16 GB/s"', "no number with a unit"),
        ('"16 to 17 GB/s"', '"nan GB/s"', "no number with a unit"),
        ('"16 to 17 GB/s"', '"16 MB/s"', "lies between 0.1 and 100000 GB/s"),
        ('"16 to 17 GB/s"', "16.5", "value must be a text in quotes, not 16.5"),
        ('"10 Wh"', '"4700 mAh"', "multiply by the cell's voltage"),
        ('"150 GFLOP/s"', '"4 TOPS"', "counts integer operations"),
        ('"12 W"', '"12 V"', "V is no unit of power"),
        ('"2.4 GHz"', '"24 GHz"', "a frequency lies between 0.1 and 10 GHz"),
        ('"8 GB", "4 GB"', '"8 to 16 GB"', "list the sizes one by one"),
        ('"8 GB", "4 GB"', '"8 GB", "8 GB"', 'names "8 GB" twice'),
        ('kind = "measured", source = "run"', 'kind = "measured"', "source is missing"),
        ('"measured", source = "run"', '"measured", source = "rum"', 'is "run" meant?'),
        ('kind = "measured"', 'kind = "guessed"', "one of stated, measured, derived, estimated"),
        (', note = "4 x 2 x 1 GHz"', "", "derived says from what"),
        ('"derived", source = "sheet", note = "4 x 2 x 1 GHz"', '"estimated", source = "sheet"',
         "estimated says from what"),
        ('source = "sheet"\n[memory]', "[memory]", "cpu.source is missing"),
        ('run = "https://example.org/run"', 'run = ""', "sources.run is empty"),
        ('"neon", "dotprod"', '"neon", "dotproduct"', 'is "dotprod" meant?'),
        ('apis = ["vulkan"]', 'apis = ["Vulkan"]', 'is "vulkan" meant?'),
        ('os = ["Linux"]', 'os = ["Lynux"]', "begins with one of Android"),
        ('os = ["Linux"]', 'os = [" "]', "none of them empty"),
        ('os = ["Linux"]', 'os = ["Linux\\u001b[2J"]', "printable texts"),
        ('os = ["Linux"]', 'os = "Linux"', 'os must be a list of texts, not "Linux"'),
        ('class = "sbc"', 'class = "board"', "one of mobile, sbc"),
        ('maker = "Somebody"', 'makers = "Somebody"', "makers is no key"),
        ("count = 4", "count = 0", "count is 0"),
        ("count = 4", "count = true", "count must be a whole number"),
        ('as_of = "2026-11-22"', 'as_of = "22.11.2026"', 'a day is written "2026-11-22"'),
        ('as_of = "2026-11-22"\n', "", "as_of is missing"),
        ('id = "board"', 'id = "Board"', "an id is lower case"),
        ('id = "board"', 'id = "other"', "a file is named after its id"),
        ('aliases = ["brd"]', 'aliases = ["board-8gb"]', "is a name of 2 things in this file"),
        ("default = true", 'default = "yes"', "must be true or false"),
        ("default = true", 'default = true\n[[power.modes]]\nname = "high"\ndefault = true',
         "several power modes are the default"),
        ('value = "9 GB/s"', 'value = "18 GB/s"', "physically impossible"),
        ('value = "9 GB/s"', 'value = "9 to 18 GB/s"', "nothing reads faster than the memory"),
        ("LPDDR4X-4267 32-bit", "LPDDR4X-4267 16-bit", "moves at most 4267 MT/s x 16 bit / 8"),
        ("LPDDR4X-4267 32-bit", "LPDDR4X-4267 or LPDDR5-8400 64-bit", "or less of 4267 MT/s x 64"),
        ('sizes = ["8 GB"]\n', 'sizes = ["16 GB"]\n', "which memory.sizes (4 GB, 8 GB) lacks"),
        ("default = true", 'bandwidth = { value = "20 GB/s", kind = "stated", source = "run" }',
         "a power mode adds no bandwidth"),
        ('class = "sbc"', 'class = "server"\nnote = "a\\u001bb"', "printable line"),
    ],
)  # fmt: skip
def test_each_fault_is_one_sentence_with_its_place(old, new, said):
    assert old in GOOD
    found = faults(GOOD.replace(old, new, 1))
    assert len(found) == 1, found
    assert said in found[0]
    assert found[0].endswith((".", "?"))


def test_all_faults_of_a_file_are_told_at_once(tmp_path):
    text = GOOD.replace('"12 W"', '"12 V"').replace('"9 GB/s"', '"9"').replace("sbc", "sbb")
    assert len(faults(text)) == 3
    file = tmp_path / "board.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"^board\.toml: .*\(2 more faults in this file\.\)$"):
        read_device(file)


def test_a_card_without_a_gpu_and_a_device_that_computes_nothing():
    assert any("there is no [accelerators.gpu]" in f for f in faults(GOOD.replace('"sbc"', '"gpu"')
               .replace("[accelerators.gpu]", "[accelerators.npu]")))  # fmt: skip
    nothing = 'id = "x"\nname = "X"\nclass = "sbc"\nas_of = "2026-11-22"\n[sources]\n'
    assert faults(nothing, "x.toml") == (
        "it has neither [cpu] nor an accelerator: nothing in it computes.",
    )
    cpu = GOOD.replace("[accelerators.gpu]", '[accelerators.cpu]\nmemory = ["8 GB"]')
    assert "what the processor uses stands in [memory]" in faults(cpu)[0]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe",
        b"id = ",
        b"x = " + b"[" * 100_000,
        b"a" + b".a" * 20_000 + b" = 1",
        b"[a" + b".a" * 20_000 + b"]",
        b"x = { y = 'z', \"a\"" + b' . "a"' * 8_000 + b" = 1 }",
        b'x = [ """\n\' """, { a' + b".a" * 20_000 + b" = 'z' } ]",
        b"x = " + b"9" * 5000,
        b'"\\' * 30_000,
        b"[[power.modes]]\nlimit = { source = 'ab' }\nbandwidth = { source = 'ac' }\n" * 190
        + b"[sources]\n"
        + b"".join(b"source-of-%d = 'b'\n" % n for n in range(1900)),
        b"as_of = 0x" + b"f" * 10_000,
        b"[sources]\n" * 2,
        b" " * (MOST_BYTES + 1),
        b"id = { a = 1 }\nname = [1]\n[cpu]\nclusters = [1]\n[sources]\nx = 1",
        b"products = {}\npower = []\naccelerators = 3\nmemory = 1979-05-27T07:32:00Z\ncpu = 'x'",
    ],
)
def test_hostile_bytes_are_faults_and_no_traceback_and_no_wait(raw):
    start = time.process_time()
    with pytest.raises(DeviceFileError):
        parse_device(raw, "x.toml")
    assert time.process_time() - start < 3


def test_a_file_of_a_book_is_not_parsed():
    assert "it has over 65536 bytes" in faults(GOOD + "#" * MOST_BYTES)[0]


@given(st.text(max_size=30))
@example("1" * 400 + " GB/s")
@example("999999999999 GB/s")
@example("٣ GB/s")
def test_a_quantity_is_read_within_its_bounds_or_refused(text):
    try:
        low, high = parse_quantity(text, BANDWIDTH)
    except ValueError:
        return
    assert BANDWIDTH.lowest <= low <= high <= BANDWIDTH.highest


@given(st.binary(max_size=200))
def test_any_bytes_are_a_device_or_faults(raw):
    with pytest.raises(DeviceFileError) as caught:
        parse_device(raw, "x.toml")
    assert caught.value.faults


@settings(max_examples=80)
@given(
    st.integers(0, len(GOOD)),
    st.integers(0, 12),
    st.one_of(
        st.text(max_size=4),
        st.sampled_from(
            ["[]", "{}", "[[", "0x1", "1e400", "true", '" "', '"', "1979-05-27", "[{}]"]
        ),
    ),
)
def test_a_damaged_file_is_a_device_or_faults(at, removed, put):
    text = GOOD[:at] + put + GOOD[at + removed :]
    found: tuple[str, ...] = ()
    try:
        parse_device(text.encode("utf-8", "surrogatepass"), "board.toml")
    except DeviceFileError as error:
        found = error.faults
    assert all(fault.endswith((".", "?")) and "\n" not in fault for fault in found)


@given(st.integers(1, 10**6), st.sampled_from(sorted(MEMORY.units)))
def test_memory_is_binary_however_it_is_written(count, unit):
    size = count * MEMORY.units[unit]
    if MEMORY.lowest <= size <= MEMORY.highest:
        assert parse_quantity(f"{count} {unit}", MEMORY) == (size, size)
    assert parse_quantity("8 GB", MEMORY) == parse_quantity("8 GiB", MEMORY)
    assert parse_quantity("1 TB", MEMORY) == (2**40, 2**40)
    assert parse_quantity("1 Wh", ENERGY) == (3600, 3600)
    assert parse_quantity("3.2 TFLOPS", FLOATING) == (3.2e12, 3.2e12)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The catalogue, made of a board and a card."""
    for cached in (catalogue.devices, catalogue._shipped):
        cached.cache_clear()
    folder = tmp_path / "devices"
    folder.mkdir()
    (folder / "board.toml").write_text(GOOD)
    (folder / "card.toml").write_text(CARD)
    monkeypatch.setattr(catalogue, "files", lambda _: tmp_path)
    yield folder
    for cached in (catalogue.devices, catalogue._shipped):
        cached.cache_clear()


def test_a_device_is_found_by_each_of_its_names_however_they_are_typed(shelf):
    assert list(catalogue.devices()) == ["board", "card"]
    assert device("board").product is None
    assert device(" Brd ").id == "board"
    assert device("Board 8GB").product.name == "A Board, 8 GB"
    assert device("A Board, 8 GB").product.id == "board-8gb", "what it is called in full"
    assert device("a card").id == "card"
    assert dict(device_names()) == {
        "board": "A Board",
        "board-8gb": "A Board, 8 GB",
        "brd": "A Board",
        "card": "A Card",
    }


def test_a_source_may_have_many_dots():
    address = "https://a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r/s.t?u='v'&w=\\\"x.y.z"
    text = f"# ' {'.' * 80}\n{GOOD.replace('https://example.org/run', address)}"
    assert parse(text).sources["run"].startswith("https://a.b.c")


def test_one_device_costs_no_other_file(shelf):
    (shelf / "a-broken.toml").write_text("id = ")
    assert device("board-8gb").id == "board"
    with pytest.raises(ValueError, match=r"a-broken\.toml: it is no TOML file"):
        catalogue.devices()
    assert catalogue.shipped_names()["board-8gb"] == "board.toml", "whatever else is faulty"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("bord", r"no device 'bord'. Did you mean 'brd', 'board' or 'card'\?|'board'"),
        ("boa", "Did you mean 'board' or 'board-8gb'"),
        ("a", r"^There is no device 'a'\.$"),
        ("zzzzzz", r"^There is no device 'zzzzzz'\.$"),
        ("../card", "no device"),
        ("", "no device ''"),
        ("x" * 5000, "no device 'x{59}"),
        ("sheet", "no device 'sheet'"),
        ("a\0.toml", "no null character"),
        (f"{'x' * 300}.toml", "it cannot be read: File name too long"),
        ("nowhere/own.toml", r"nowhere/own\.toml: it cannot be read: No such file"),
    ],
)
def test_an_unknown_device_gets_the_nearest_names(shelf, asked, said):
    with pytest.raises(ValueError, match=said) as caught:
        device(asked)
    assert len(str(caught.value)) < 400


def test_a_file_of_ones_own_is_a_device_too(shelf, tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text(GOOD.replace('"board"', '"mine"'))
    assert device(str(own)).id == "mine"
    own.write_text(GOOD.replace('"board"', '"mine"').replace("A Board", "Another"))
    assert device(str(own)).name == "Another", "a file may change, so it is read anew"


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
def test_a_folder_or_a_pipe_is_no_file(tmp_path):
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    (tmp_path / "folder.toml").mkdir()
    for name in ("pipe.toml", "folder.toml"):
        with pytest.raises(ValueError, match=rf"{name}: it is no file\."):
            device(str(tmp_path / name))


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"own\.toml: it cannot be read: Permission denied\.$"):
        device(str(tmp_path / "own.toml"))


def test_names_of_several_files_are_compared(shelf):
    card = parse(CARD, "card.toml")
    other = parse(CARD.replace('"card"', '"brd"'), "brd.toml")
    board = parse(GOOD)
    found = list(repeated_names({Path("board.toml"): board, Path("brd.toml"): other}))
    assert found == [
        (Path("brd.toml"), '"brd" is a name in board.toml too; a name is one device\'s.')
    ]
    assert list(repeated_names({Path("a/card.toml"): card}, {"board": "board.toml"})) == []
    assert list(repeated_names({Path("a/card.toml"): card}, {"card": "other.toml"}))
