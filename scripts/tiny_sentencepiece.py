"""Trains the small SentencePiece model the tests read, and writes the ids it gives for texts.

    pip install sentencepiece
    python scripts/tiny_sentencepiece.py

writes tests/data/tiny_sentencepiece.model (BPE with bytes to fall back on, trained on the project's
own held-out text) and tests/data/tiny_sentencepiece.json (each text of
tests/golden/quantize/nasty_texts.py and its ids). Training gives the same model every time.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import sentencepiece

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
TEXTS = ROOT / "tests" / "golden" / "quantize" / "nasty_texts.py"


def main() -> None:
    """Trains the model and writes both files."""
    prefix = DATA / "tiny_sentencepiece"
    sentencepiece.SentencePieceTrainer.train(
        input=str(ROOT / "edge_runtime" / "tiny_model" / "heldout.txt"),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=600,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    prefix.with_suffix(".vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(model_file=str(prefix.with_suffix(".model")))
    texts = runpy.run_path(str(TEXTS))["TEXTS"]
    ids = [[text, model.encode(text)] for text in texts]
    prefix.with_suffix(".json").write_text(
        "[\n" + ",\n".join(json.dumps(row) for row in ids) + "\n]\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
