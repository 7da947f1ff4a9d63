"""Where a comparison keeps what it made: the oldest goes first, what is in use stays."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from edge_runtime.cli import shelf as shelves
from edge_runtime.cli.making import Making, Workshop, make_rows
from edge_runtime.cli.model_source import Source, Wanted, find_source
from edge_runtime.cli.shelf import KeptFolder, Shelf, digest_of, key_of
from edge_runtime.errors import DiskError, UsageError

MIB = 1 << 20


def put(folder: Path, *names: str, limit_bytes: int = 100 * MIB, size: int = MIB) -> None:
    """Things of a size each, the first used longest ago."""
    for age, name in enumerate(reversed(names)):
        with Shelf(folder, limit_bytes) as shelf:
            path = shelf.place(key_of(name), name)
            path.write_bytes(bytes(size))
            used = path.parent / ".used"
            os.utime(used, (1_000_000 - age, 1_000_000 - age))


def there(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/*") if not path.name.startswith(".")}


def test_what_was_used_longest_ago_goes_until_the_rest_fits(tmp_path: Path) -> None:
    put(tmp_path, "old", "middle", "new")
    with Shelf(tmp_path, 2 * MIB):
        assert there(tmp_path) == {"old", "middle", "new"}
    assert there(tmp_path) == {"middle", "new"}


def test_using_a_thing_makes_it_the_newest(tmp_path: Path) -> None:
    put(tmp_path, "old", "middle", "new")
    with Shelf(tmp_path, 2 * MIB) as shelf:
        assert shelf.place(key_of("old"), "old").exists()
    assert there(tmp_path) == {"old", "new"}


def test_a_clock_that_was_wrong_keeps_nothing_for_ever(tmp_path: Path) -> None:
    put(tmp_path, "old", "of 2100", "new")
    os.utime(tmp_path / key_of("of 2100") / ".used", (4_102_444_800, 4_102_444_800))
    with Shelf(tmp_path, 2 * MIB):
        pass
    assert there(tmp_path) == {"old", "new"}


def test_what_a_killed_program_was_removing_goes(tmp_path: Path) -> None:
    for name in (f"{key_of('half')}.removed", "mine.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
    with Shelf(tmp_path, MIB):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine.removed"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_what_was_removed_and_made_again_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "old")
    folder, flock = tmp_path / key_of("old"), shelves.fcntl.flock

    def late(descriptor: int, kind: int) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "another program's").touch()
        flock(descriptor, kind)

    monkeypatch.setattr(shelves.fcntl, "flock", late)
    with Shelf(tmp_path, 0):
        pass
    assert there(tmp_path) == {"another program's"}


def test_a_place_that_is_removed_while_it_is_taken_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gone = shelves._locked, []

    def late(path: Path, *, shared: bool = False) -> int | None:
        if not gone:
            gone.append(path)
            shutil.rmtree(path.parent.parent)  # the whole cache, as users do
            raise FileNotFoundError(path)
        return real(path, shared=shared)

    with Shelf(tmp_path / "shelf", MIB) as shelf:
        monkeypatch.setattr(shelves, "_locked", late)
        assert shelf.place(key_of("thing"), "thing").parent.is_dir()


@pytest.mark.parametrize(("number", "kept"), [(errno.ENOSPC, False), (errno.EACCES, True)])
def test_only_a_full_disk_empties_the_shelf(
    tmp_path: Path, random_gguf: Path, monkeypatch: pytest.MonkeyPatch, number: int, kept: bool
) -> None:
    def fails(*_given: object, **_options: object) -> None:
        raise DiskError("It was not written.") from OSError(number, "the reason")

    monkeypatch.setattr("quantize.requantize", fails)
    put(tmp_path, "old")
    source = find_source(str(random_gguf), None)
    assert isinstance(source, Source)
    with Shelf(tmp_path, 100 * MIB) as shelf:
        Workshop(source=source, place=shelf, shelf=shelf).make([Wanted(level="Q8_0")])
    assert there(tmp_path) == ({"old"} if kept else set())


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_what_another_program_uses_stays(tmp_path: Path) -> None:
    put(tmp_path, "old", "new")
    with Shelf(tmp_path, 100 * MIB) as other:
        other.place(key_of("old"), "old")
        with Shelf(tmp_path, 0) as shelf:
            assert shelf.make_room()
            assert there(tmp_path) == {"old"}
            assert not shelf.make_room()
        assert there(tmp_path) == {"old"}
    assert there(tmp_path) == {"old"}  # that one had room enough


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "holiday pictures"
    own.mkdir()
    (own / "sea.jpg").write_bytes(bytes(MIB))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"1")
    shelf_folder = tmp_path / "shelf"
    put(shelf_folder, "thing")
    (shelf_folder / key_of("link")).symlink_to(outside)
    with Shelf(shelf_folder, 0):
        pass
    assert there(shelf_folder) == {"kept"}
    with Shelf(tmp_path, 0):
        pass
    assert (own / "sea.jpg").exists()


def test_what_came_to_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with Shelf(tmp_path, MIB) as shelf:
        shelf.place(key_of("never made"), "x.gguf")
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="EDGE_CACHE_DIR"), Shelf(tmp_path / "file" / "x", MIB):
        pass


def test_the_same_files_have_the_same_digest_and_changed_ones_another(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(5 * MIB))
    before = digest_of([file])
    assert digest_of([file]) == before
    with file.open("r+b") as changed:
        changed.seek(-1, os.SEEK_END)
        changed.write(b"1")
    assert digest_of([file]) != before
    os.utime(file, (1, 1))
    touched = digest_of([file])
    file.write_bytes(bytes(6 * MIB))
    os.utime(file, (1, 1))
    assert digest_of([file]) != touched


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of("mod\udce8le") != key_of("modele")  # of a name that is no Unicode


def test_a_kept_folder_uses_again_only_what_was_made_of_the_same(tmp_path: Path) -> None:
    folder = KeptFolder(tmp_path / "new" / "models")
    path = folder.place("key 1", "m-Q8_0.gguf")
    path.write_text("weights")
    folder.made(path)
    again = KeptFolder(tmp_path / "new" / "models")
    assert again.place("key 1", "m-Q8_0.gguf") == path
    with pytest.raises(UsageError, match="was not made of this model"):
        again.place("key 2", "m-Q8_0.gguf")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kept_folder_leaves_alone_what_was_changed_since(tmp_path: Path, kind: str) -> None:
    folder = KeptFolder(tmp_path)
    path = folder.place("key", "made")
    if kind == "folder":
        path.mkdir()
    changed = path / "my notes" if kind == "folder" else path
    if kind == "file":
        path.write_text("weights")
    folder.made(path)
    assert KeptFolder(tmp_path).place("key", "made") == path
    changed.write_text("the user's own")
    with pytest.raises(UsageError, match="changed since"):
        KeptFolder(tmp_path).place("key", "made")


def test_a_checkpoint_is_no_folder_to_keep_its_levels_in(tmp_path: Path) -> None:
    source = Source(
        kind="checkpoint", path=tmp_path, stem="m", reference="F16", key="key", size_bytes=1
    )
    making = Making(
        sources=("m",), levels=None, reference=None, imatrix=None, calibrate=None,
        keep=tmp_path / "." / "", cache_limit_bytes=0,
    )  # fmt: skip
    with pytest.raises(UsageError, match="model itself"):
        make_rows(making, source, Shelf(tmp_path / "shelf", 0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("notes", ["", "[]", '{"m.gguf": 7}', "[" * 100_000])
def test_notes_that_are_none_count_as_none(tmp_path: Path, notes: str) -> None:
    (tmp_path / ".edge-compare.json").write_text(notes)
    (tmp_path / "m.gguf").write_text("somebody's own")
    with pytest.raises(UsageError, match="is there already"):
        KeptFolder(tmp_path).place("key", "m.gguf")
