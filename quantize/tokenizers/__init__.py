"""Tokenizer files become the vocabulary keys of a GGUF file, one module per kind of tokenizer.

The files themselves are read, never through a class that rebuilds a tokenizer from its name: what
counts is what they say. A tokenizer llama.cpp would run otherwise is refused with what differs.
Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from edge_runtime.artifact.config_values import ConfigValues
from edge_runtime.errors import FormatError, ModelNotFoundError, UnsupportedError

from ..checkpoint import Checkpoint
from ..writers.gguf import Array, Value
from .byte_fallback import byte_fallback_metadata
from .byte_level import byte_level_metadata
from .files import TokenizerFiles, added_entries, section
from .pretokenizer import require_name
from .sentencepiece import sentencepiece_metadata
from .tokens import require_vocabulary
from .wordpiece import wordpiece_metadata

_BYTE_FALLBACK = "BPE with bytes to fall back on"


class Vocabulary(Enum):
    """Which of a checkpoint's tokenizer files count, and how they are read."""

    BYTE_LEVEL = "tokenizer.json, byte-level BPE"
    SENTENCEPIECE_FIRST = "tokenizer.model where there is one, else tokenizer.json of either kind"
    PHI3 = "as SENTENCEPIECE_FIRST, with added tokens from every file that lists some"
    WORDPIECE = "tokenizer.json or vocab.txt, WordPiece"


def vocabulary_metadata(
    checkpoint: Checkpoint,
    config: ConfigValues,
    rules: Vocabulary,
    *,
    vocabulary_tokens: int,
    pre: str | None = None,
) -> dict[str, Value]:
    """Returns the `tokenizer.*` keys of a checkpoint whose embedding has `vocabulary_tokens` rows.

    Rows no token has are filled with unused ones. `pre` names the pre-tokenizer instead of finding
    it. Raises UnsupportedError for a tokenizer llama.cpp cannot reproduce, FormatError for one that
    contradicts itself, ModelNotFoundError when there is none, UsageError for an unknown `pre`.
    """
    files = TokenizerFiles.read(checkpoint)
    if pre is not None:
        require_name(pre, wordpiece=rules is Vocabulary.WORDPIECE)
    found = _metadata(files, rules, vocabulary_tokens=vocabulary_tokens, pre=pre)
    _require_text(found)
    return found


def _metadata(
    files: TokenizerFiles, rules: Vocabulary, *, vocabulary_tokens: int, pre: str | None
) -> dict[str, Value]:
    if _is_sentencepiece(files, rules):
        return sentencepiece_metadata(
            files,
            vocabulary_tokens=vocabulary_tokens,
            every_file=rules is Vocabulary.PHI3,
            forced=pre is not None,
        )
    kind = _kind(files)
    if kind == "WordPiece" and rules is Vocabulary.WORDPIECE:
        return wordpiece_metadata(files, vocabulary_tokens=vocabulary_tokens, pre=pre)
    if kind == "BPE" and rules is not Vocabulary.WORDPIECE:
        return byte_level_metadata(files, vocabulary_tokens=vocabulary_tokens, pre=pre)
    if kind == _BYTE_FALLBACK and rules is not Vocabulary.WORDPIECE:
        return byte_fallback_metadata(files, vocabulary_tokens=vocabulary_tokens)
    raise UnsupportedError(
        f"The tokenizer is {kind}.",
        cause=f"Models of this kind run with {rules.value}.",
    )


def _require_text(metadata: Mapping[str, Value]) -> None:
    """Raises FormatError for half a surrogate pair: JSON can spell it, UTF-8 cannot."""
    for key, value in metadata.items():
        texts = value.items if isinstance(value, Array) else (value,)
        try:
            for text in texts:
                if isinstance(text, str):
                    text.encode()
        except UnicodeEncodeError as error:
            raise FormatError(
                f"The tokenizer's files hold a text that is none, for {key}.",
                cause=f"{error.reason}.",
            ) from error


def vocabulary_size(checkpoint: Checkpoint, rules: Vocabulary) -> int | None:
    """Returns how many tokens `tokenizer.json` can have: embedding rows from there on are none's.

    None where config.json alone counts them: for a `tokenizer.model`, or without any tokenizer.
    """
    files = TokenizerFiles.read(checkpoint)
    described = files.described
    if described is None or _is_sentencepiece(files, rules):
        return None
    vocabulary = require_vocabulary(section(described, "model", of="tokenizer.json"))
    ids = [number for number, _ in added_entries(described)]
    return max(len(vocabulary) + len(ids), *vocabulary.values(), *(n + 1 for n in ids))


def _is_sentencepiece(files: TokenizerFiles, rules: Vocabulary) -> bool:
    if rules is Vocabulary.PHI3 and files.settings.get("tokenizer_class") == "GPT2Tokenizer":
        return False
    wants = rules in (Vocabulary.SENTENCEPIECE_FIRST, Vocabulary.PHI3)
    return files.has("tokenizer.model") and (wants or files.described is None)


def _kind(files: TokenizerFiles) -> str:
    """The kind of model in tokenizer.json, BPE told apart by whether it falls back on bytes."""
    if files.described is None:
        if files.has("vocab.json") and files.has("merges.txt"):
            return "BPE"
        if files.has("vocab.txt"):
            return "WordPiece"
        near = [name for name in ("tekken.json", "vocab.json") if files.has(name)]
        raise ModelNotFoundError(
            f"{files.path} holds no tokenizer that can be converted.",
            cause=f"There is {near[0]}, but neither tokenizer.json nor tokenizer.model."
            if near
            else "There is neither tokenizer.json nor tokenizer.model.",
            way_out="Download the tokenizer's files, or save them with transformers: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(directory)",
        )
    model = section(files.described, "model", of="tokenizer.json")
    kind = model.get("type")
    if kind is None:  # files of old have no type
        kind = "BPE" if "merges" in model else "WordPiece"
    if not isinstance(kind, str):
        raise FormatError("tokenizer.json has a model of no kind.")
    if kind == "BPE" and model.get("byte_fallback") is True:
        return _BYTE_FALLBACK
    return kind[:40]
