"""The file of a reference: what comes back, what is refused, and what is left behind (nothing)."""

import hashlib
import json
import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.codec import to_jsonable
from edge_runtime.errors import BackendError, DiskError, FormatError, ModelNotFoundError
from edge_runtime.measurement import SessionOptions
from edge_runtime.quality import reference as subject
from edge_runtime.quality import unfinished
from edge_runtime.quality.kept import pack, row_type, unpack
from edge_runtime.quality.logprobs import log_normalizers
from edge_runtime.quality.reference import (
    Reference,
    ReferenceHeader,
    ReferenceWriter,
    scored_tokens,
)
from edge_runtime.quality.text import Passage, tokens_sha256
from tests import score_records

VOCABULARY = 900
PASSAGES = (
    Passage(tokens=(1, 5, 899, 7, 8, 9), first=2),
    Passage(tokens=(1, 2), first=0),
    Passage(tokens=tuple(range(20)), first=9),
)
ROWS = 3 + 1 + 10
HEADER_AT = 40 + 32
"""Where the header begins: behind magic, digest and four counts."""


def header(*, top: int = 8, drawn: int = 4, passages: tuple = PASSAGES) -> ReferenceHeader:
    text = score_records.text(ROWS, tokens_sha256=tokens_sha256(passages))
    return ReferenceHeader(
        created=score_records.CREATED, tool_version="1", engine=score_records.ENGINE,
        artifact=score_records.artifact("F16"), options=SessionOptions(context_tokens=512),
        text=text, vocabulary_tokens=VOCABULARY, top=top, drawn=drawn,
    )  # fmt: skip


def logits(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((rows, VOCABULARY)).astype(np.float32)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


TARGETS = np.array([t for p in PASSAGES for t in p.tokens[p.first + 1 :]])


def write(path: Path, of: ReferenceHeader, *, block_rows: int = ROWS) -> None:
    block = logits()
    with ReferenceWriter(path, of, PASSAGES) as writer:
        for start in range(0, ROWS, block_rows):
            part = slice(start, start + block_rows)
            writer.add(block[part], log_normalizers(block[part]), TARGETS[part])
        record = writer.finish()
    assert record.size_bytes == path.stat().st_size


@pytest.mark.parametrize(("top", "drawn"), [(8, 4), (8, 0), (VOCABULARY, 0)])
def test_what_was_written_comes_back(tmp_path: Path, top: int, drawn: int) -> None:
    path = tmp_path / "f16.reference"
    write(path, header(top=top, drawn=drawn))
    block = logits()
    with Reference.open(path) as found:
        assert found.header == header(top=top, drawn=drawn)
        assert found.passages == PASSAGES
        assert len(found.nll()) == scored_tokens(PASSAGES) == ROWS
        assert found.record.exact == (top == VOCABULARY)
        assert found.record.size_bytes == path.stat().st_size
        at = np.random.default_rng(0).random(ROWS)
        kind = row_type(VOCABULARY, top, drawn)
        wanted = unpack(pack(block, log_normalizers(block), TARGETS, kind, draw_at=at))
        rows = found.rows(2, 9)
        for name in ("best", "target_log_p", "log_p", "ids", "rest_log_p", "drawn_ids"):
            mine, theirs = getattr(rows, name), getattr(wanted, name)
            assert (mine is None and theirs is None) or (mine == theirs[2:11]).all()
        with pytest.raises(ValueError, match="rows from"):
            found.rows(10, 5)


def test_the_file_does_not_depend_on_how_the_logits_came(tmp_path: Path) -> None:
    write(tmp_path / "whole", header())
    write(tmp_path / "ones", header(), block_rows=1)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "ones").read_bytes()
    assert names(tmp_path) == ["ones", "whole"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_byte_changed_or_missing_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path, broken = tmp_path / "whole", tmp_path / "broken"
    if not path.exists():
        write(path, header())
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        content = content[:at]
    broken.write_bytes(content)
    with pytest.raises(FormatError):
        Reference.open(broken)


def forge(path: Path, *, counts: dict[int, int] | None = None, **changes: object) -> Path:
    """The same file with other numbers in it, and the checksum that belongs to those."""
    content = path.read_bytes()
    length = struct.unpack_from("<Q", content, 40)[0]
    said = json.loads(content[HEADER_AT : HEADER_AT + length])
    said.update(changes)
    new = json.dumps(said).encode()
    numbers = list(struct.unpack_from("<4Q", content, 40))
    numbers[0] = len(new)
    for place, number in (counts or {}).items():
        numbers[place] = number
    rest = struct.pack("<4Q", *numbers) + new + content[HEADER_AT + length :]
    forged = path.with_name("forged")
    forged.write_bytes(content[:8] + hashlib.sha256(rest).digest() + rest)
    return forged


@pytest.mark.parametrize(
    "changes",
    [
        {"vocabulary_tokens": 10},
        {"vocabulary_tokens": 1 << 60},
        {"top": 0},
        {"top": 9},
        {"top": -1},
        {"drawn": 1 << 40},
        {"drawn": 5},
        {"seed": -1},
        {"schema": 2},
        {"artifact": None},
        {"unheard": 1},
    ],
    ids=str,
)
def test_a_header_that_contradicts_the_file_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    write(tmp_path / "whole", header())
    assert len(Reference.open(forge(tmp_path / "whole")).nll()) == ROWS
    with pytest.raises(FormatError, match="damaged"):
        Reference.open(forge(tmp_path / "whole", **changes))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("number", [0, 5, 1 << 40, (1 << 64) - 1])
def test_counts_are_held_against_the_file_before_memory_is_taken(
    tmp_path: Path, place: int, number: int
) -> None:
    write(tmp_path / "whole", header())
    with pytest.raises(FormatError):
        Reference.open(forge(tmp_path / "whole", counts={place: number}))


def test_no_memory_is_taken_for_more_passages_than_the_tokens_could_be_of(tmp_path: Path) -> None:
    write(tmp_path / "whole", header())
    rows_bytes = ROWS * row_type(VOCABULARY, 8, 4).itemsize
    # As many bytes as before, all of them a table of passages.
    counts = {1: len(PASSAGES) + rows_bytes // 8, 3: 0}
    with pytest.raises(FormatError, match="shorter than it says"):
        Reference.open(forge(tmp_path / "whole", counts=counts))


@pytest.mark.parametrize("changes", [{"tokens_sha256": "0" * 64}, {"scored_tokens": ROWS + 1}])
def test_passages_other_than_the_text_named_are_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    write(tmp_path / "whole", header())
    named = to_jsonable(replace(header().text, **changes))
    with pytest.raises(FormatError, match="not those of the text"):
        Reference.open(forge(tmp_path / "whole", text=named))


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1.0])
def test_the_references_own_likelihoods_are_numbers(tmp_path: Path, value: float) -> None:
    write(tmp_path / "whole", header())
    with Reference.open(tmp_path / "whole") as found:
        assert found.nll() == pytest.approx(-found.rows(0, ROWS).target_log_p)
    kind = row_type(VOCABULARY, 8, 4)
    content = (tmp_path / "whole").read_bytes()
    rows = np.frombuffer(content[-ROWS * kind.itemsize :], kind).copy()
    rows["target_log_p"][-1] = value
    (tmp_path / "other").write_bytes(content[: -ROWS * kind.itemsize] + rows.tobytes())
    with (
        Reference.open(forge(tmp_path / "other")) as found,
        pytest.raises(FormatError, match="none"),
    ):
        found.nll()


def test_rows_with_tokens_or_probabilities_that_are_none_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "whole", header())
    kind = row_type(VOCABULARY, 8, 4)
    content = (tmp_path / "whole").read_bytes()
    for name, value in (
        ("ids", VOCABULARY), ("drawn_ids", 0xFFFF), ("best", VOCABULARY), ("target_log_p", np.nan),
        ("high", 1.0), ("step", -1.0), ("rest_log_p", np.inf), ("drawn_log_p", np.nan),
    ):  # fmt: skip
        rows = np.frombuffer(content[-ROWS * kind.itemsize :], kind).copy()
        rows[name][3] = value
        (tmp_path / "other").write_bytes(content[: -ROWS * kind.itemsize] + rows.tobytes())
        with Reference.open(forge(tmp_path / "other")) as found:
            found.rows(0, 3)
            with pytest.raises(FormatError, match="none"):
                found.rows(0, 4)


def test_what_is_no_reference_is_told_from_one_that_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        Reference.open(tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError):
        Reference.open(tmp_path)
    for content in (b"", b"GGUF", b"x" * 4096):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(FormatError, match="no reference"):
            Reference.open(tmp_path / "other")
    (tmp_path / "other").write_bytes(b"edge-ref")
    with pytest.raises(FormatError, match="cut off"):
        Reference.open(tmp_path / "other")


def test_left_before_its_end_it_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "f16.reference"
    path.write_bytes(b"before")
    block = logits(4)
    with ReferenceWriter(path, header(), PASSAGES) as writer:
        writer.add(block, log_normalizers(block), TARGETS[:4])
        with pytest.raises(ValueError, match="10 scored positions"):
            writer.finish()
    with pytest.raises(KeyboardInterrupt), ReferenceWriter(path, header(), PASSAGES) as writer:
        raise KeyboardInterrupt
    with (
        pytest.raises(BackendError, match="no numbers"),
        ReferenceWriter(path, header(), PASSAGES) as writer,
    ):
        writer.add(block, np.full(4, np.nan), TARGETS[:4])
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == [path.name]


def test_more_positions_or_another_vocabulary_are_no_part_of_it(tmp_path: Path) -> None:
    block = logits(ROWS + 1)
    with ReferenceWriter(tmp_path / "x", header(), PASSAGES) as writer:
        with pytest.raises(ValueError, match="positions"):
            writer.add(block, log_normalizers(block), np.zeros(ROWS + 1, int))
        with pytest.raises(ValueError, match="positions"):
            writer.add(block[:1, :800], log_normalizers(block[:1]), TARGETS[:1])
    with pytest.raises(ValueError, match="nothing to score"):
        ReferenceWriter(tmp_path / "x", header(), (Passage(tokens=(1, 2), first=1),))


def test_a_disk_without_room_is_refused_before_anything_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject.shutil, "disk_usage", lambda _: SimpleNamespace(free=33 * 2**20))
    write(tmp_path / "small", header())
    few = SimpleNamespace(free=32 * 2**20)
    monkeypatch.setattr(subject.shutil, "disk_usage", lambda _: few)
    with (
        pytest.raises(DiskError, match="no room"),
        ReferenceWriter(tmp_path / "x", header(), PASSAGES),
    ):
        raise AssertionError("not reached")
    assert names(tmp_path) == ["small"]


def test_a_directory_that_is_not_there_is_a_disk_error(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskError, match="cannot be written"),
        ReferenceWriter(tmp_path / "none" / "x", header(), PASSAGES),
    ):
        raise AssertionError("not reached")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_disk_that_fills_leaves_nothing(tmp_path: Path) -> None:
    block = logits()
    with ReferenceWriter(tmp_path / "x", header(), PASSAGES) as writer:
        assert writer._file is not None
        writer._file.close()
        writer._file = Path("/dev/full").open("wb")  # noqa: SIM115 - closed by the writer
        writer.add(block, log_normalizers(block), TARGETS)
        with pytest.raises(DiskError, match="cannot be written"):
            writer.finish()
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="locks of another kind")
def test_a_file_taken_for_one_left_behind_before_it_was_locked_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[int] = []

    def lock(descriptor: int, _how: int) -> None:
        if not locked:  # another process was faster
            [taken] = tmp_path.iterdir()
            taken.unlink()
        locked.append(descriptor)

    monkeypatch.setattr(unfinished.fcntl, "flock", lock)
    path, file = unfinished.begin_file(tmp_path)
    file.close()
    assert len(locked) == 2
    assert names(tmp_path) == [path.name]


def test_what_a_killed_writer_left_goes_and_what_another_writes_stays(tmp_path: Path) -> None:
    (tmp_path / ".edge-reference-0123456789abcdef.part").write_bytes(b"left")
    with ReferenceWriter(tmp_path / "a", header(), PASSAGES):
        [in_use] = names(tmp_path)
        write(tmp_path / "b", header())
        assert names(tmp_path) == [in_use, "b"]
    assert names(tmp_path) == ["b"]
