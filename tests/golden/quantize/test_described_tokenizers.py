"""The tokenizer.json made of a SentencePiece model cuts texts as SentencePiece itself does.

tests/data has a trained model and the ids SentencePiece gave for nasty texts
(scripts/tiny_sentencepiece.py wrote both).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import pytest
from golden.quantize.made_up_tokenizers import NORMAL, USER, message, sentencepiece_pieces

from quantize.checkpoint import Checkpoint
from quantize.tokenizers.described import described_by
from quantize.tokenizers.files import TokenizerFiles

tokenizers = pytest.importorskip("tokenizers")
DATA = Path(__file__).parents[2] / "data"


def tokenizer_of(folder: Path, model: bytes) -> object:
    (folder / "tokenizer.model").write_bytes(model)
    checkpoint = Checkpoint(path=folder, config={}, tensors=MappingProxyType({}))
    made = described_by(TokenizerFiles.read(checkpoint))
    return tokenizers.Tokenizer.from_str(made.decode())


def test_ids_and_texts_are_those_of_sentencepiece(tmp_path: Path) -> None:
    ours = tokenizer_of(tmp_path, (DATA / "tiny_sentencepiece.model").read_bytes())
    rows = json.loads((DATA / "tiny_sentencepiece.json").read_text("utf-8"))
    assert len(rows) > 50
    for text, ids in rows:
        assert ours.encode(text, add_special_tokens=False).ids == ids
        assert ours.decode(ids) == text


def test_runs_of_spaces_that_are_pieces_of_their_own_come_first(tmp_path: Path) -> None:
    """As in Gemma's vocabulary: the longest run at a place, before any letters are joined."""
    runs = [("▁▁", 0.0, USER), ("▁▁▁", 0.0, USER), ("\t", 0.0, USER)]
    pieces = [*sentencepiece_pieces(("<unk>", "<s>", "</s>")), *runs]
    assert ("▁the", NORMAL) in [(text, kind) for text, _, kind in pieces]
    model = message(
        *((1, message((1, text), (2, score), (3, kind))) for text, score, kind in pieces),
        (2, message((3, 2), (4, len(pieces)), (35, 1), (40, 0))),
        (3, message((1, "identity"), (3, 0), (4, 0), (5, 1))),
    )
    ours = tokenizer_of(tmp_path, model)

    def cut(text: str) -> list[str]:
        return ours.encode(text, add_special_tokens=False).tokens

    assert cut("the the") == [*cut("the"), "▁the"]
    assert cut("the  the") == [*cut("the"), "▁▁", *cut("the")]
    assert cut("    ") == ["▁▁▁", "▁"]
    assert cut("     ") == ["▁▁▁", "▁▁"]
    assert cut(" \t  ") == ["▁", "\t", "▁▁"]
    for text in ("    the", "the  the", " \t  the   "):
        assert ours.decode(ours.encode(text).ids) == text
