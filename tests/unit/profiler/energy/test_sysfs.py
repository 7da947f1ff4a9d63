"""Small files of the kernel: whole numbers or a reason, below whatever root is given."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import sensor_trees as trees

from edge_runtime.profiler.energy import SensorGapError
from edge_runtime.profiler.energy.sysfs import Tree


@pytest.mark.parametrize(("text", "number"), [("17\n", 17), (" -3 \n", -3), ("+0", 0)])
def test_a_whole_number_is_read_without_the_space_around_it(
    tmp_path: Path, text: str, number: int
) -> None:
    (tmp_path / "x").write_text(text)
    assert Tree(tmp_path).number("x") == number


@pytest.mark.parametrize(
    "text", ["", "\n", "1.5", "1_000", "0x10", "١٢", "nan", "12 34", "9" * 5000, "\x00"]
)
def test_what_is_no_whole_number_is_told_with_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(SensorGapError, match=r"/x holds .* which is no number") as caught:
        Tree(tmp_path).number("x")
    assert len(str(caught.value)) < len(str(tmp_path)) + 100


def test_bytes_that_are_no_text_are_no_number(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe1")
    with pytest.raises(SensorGapError):
        Tree(tmp_path).number("x")


def test_a_failure_is_told_in_the_systems_words_with_the_path_to_type(tmp_path: Path) -> None:
    reader = trees.Reader()
    reader.faults["sys/x"] = errno.EIO
    tree = Tree(tmp_path, reader)
    with pytest.raises(SensorGapError) as caught:
        tree.number("sys/x")
    assert str(caught.value) == f"{tmp_path}/sys/x: Input/output error"
    assert isinstance(caught.value.__cause__, OSError)
    assert Tree(Path("/"), reader).shown("sys/x") == "/sys/x"


def test_a_folder_in_place_of_a_file_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(SensorGapError, match="directory"):
        Tree(tmp_path).number("x")


def test_no_more_of_a_file_is_read_than_a_kernel_writes(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1" * 1_000_000)
    assert len(Tree(tmp_path).text("x")) == 64 * 1024


def test_what_may_not_or_cannot_be_looked_at_is_not_there(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    assert not tree.exists("x" * 300)
    assert tree.glob("no/such/*") == ()
    assert tree.word("no", "default") == "default"


def test_matches_come_in_one_order_and_dangling_links_among_them(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).symlink_to("nowhere")
    tree = Tree(tmp_path)
    assert tree.glob("?") == ("a", "b", "c")
    assert not tree.exists("a")


def test_a_hypervisor_shows_in_the_processors_flags(tmp_path: Path) -> None:
    assert not Tree(tmp_path).is_virtual()
    trees.cpuinfo(tmp_path)
    assert not Tree(tmp_path).is_virtual()
    trees.cpuinfo(tmp_path, guest=True)
    assert Tree(tmp_path).is_virtual()
