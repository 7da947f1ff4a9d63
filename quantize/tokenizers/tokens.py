"""The tokens of a vocabulary as a GGUF file lists them: text, type and score by id.

Knows llama.cpp's token types and what its loader dies of. Reads no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from edge_runtime.artifact.ggml import ValueType
from edge_runtime.errors import FormatError

from ..writers.gguf import Array, Value

MAX_TOKENS = 4_000_000
"""More tokens than any published vocabulary, few enough to hold."""

SPACE_MARK = "\u2581"
"""What SentencePiece writes where a space was."""

_LOOK_SPECIAL = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_LOOK_SPECIAL_ENDS = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))


class Kind(IntEnum):
    """Token types, by llama.cpp's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """A token matched in the text as it stands, before the model cuts what lies between."""

    text: str
    special: bool
    normalized: bool = True
    whole_word: bool = False
    strips: tuple[bool, bool] = (False, False)
    """Whether it takes the spaces before it, and those after it."""

    @property
    def kind(self) -> Kind:
        """CONTROL when it is special or only looks so: published models forget the flag."""
        return Kind.CONTROL if self.special or looks_special(self.text) else Kind.USER_DEFINED

    @property
    def written(self) -> str:
        """The text a GGUF file holds: tokens of text carry plain spaces."""
        if self.kind is Kind.CONTROL:
            return self.text
        return self.text.replace(SPACE_MARK, " ")


def looks_special(text: str) -> bool:
    """Whether llama.cpp's converter takes the text of an added token for a control token's."""
    return text in _LOOK_SPECIAL or any(
        text.startswith(start) and text.endswith(end) for start, end in _LOOK_SPECIAL_ENDS
    )


class TokenTable:
    """Texts, types and scores by id; ids that nothing is written to stay `[PAD<id>]`, unused."""

    def __init__(self, size: int, *, score: float = 0.0) -> None:
        if not 0 < size <= MAX_TOKENS:
            raise FormatError(f"A vocabulary of {size} tokens cannot be.")
        self.texts = [f"[PAD{i}]" for i in range(size)]
        self.kinds = [int(Kind.UNUSED)] * size
        self.scores = [score] * size

    def put(self, number: int, text: str, kind: Kind, score: float = 0.0) -> None:
        """Writes one token over what was there; its id has been checked."""
        self.texts[number] = text
        self.kinds[number] = int(kind)
        self.scores[number] = score

    def metadata(self, *, model: str, pre: str, scores: bool) -> dict[str, Value]:
        """The keys of the list of tokens.

        Raises FormatError when two ids share a text: llama.cpp would end the process on loading.
        """
        require_distinct(self.texts)
        found: dict[str, Value] = {
            "tokenizer.ggml.model": model,
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": Array(kind=ValueType.STRING, items=self.texts),
            "tokenizer.ggml.token_type": Array(kind=ValueType.INT32, items=self.kinds),
        }
        if scores:
            found["tokenizer.ggml.scores"] = Array(kind=ValueType.FLOAT32, items=self.scores)
        return found


def require_distinct(texts: list[str]) -> None:
    """Raises FormatError naming the first text that two ids share."""
    if len(set(texts)) == len(texts):
        return
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        other = first.setdefault(text, number)
        if other != number:
            raise FormatError(
                f"The tokens {other} and {number} are both {text[:40]!r}.",
                cause="llama.cpp ends the process on a vocabulary with one text under two ids.",
                way_out="Give one of them another text in the tokenizer's files.",
            )


def require_ids(numbers: Iterable[int], vocabulary_tokens: int) -> None:
    """Raises FormatError unless every id has a row in the embedding."""
    low, high = 0, -1
    for number in numbers:
        low, high = min(low, number), max(high, number)
    if high < 0 or low < 0 or high >= vocabulary_tokens:
        raise FormatError(
            f"The tokenizer's ids do not fit the model's {vocabulary_tokens} tokens.",
            cause=f"They run from {low} to {high}." if high >= 0 else "It has no tokens.",
            way_out="Check that the tokenizer's files and config.json belong together.",
        )


def whole_number(value: object) -> int | None:
    """An id of a JSON file; None for anything that is none."""
    return value if type(value) is int and -1 < value < 2**31 else None


def require_vocabulary(model: Mapping[str, object]) -> dict[str, int]:
    """The `vocab` of a tokenizer.json's model: ids by text, each id once."""
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not 0 < len(vocabulary) <= MAX_TOKENS:
        raise FormatError("tokenizer.json has no vocabulary of a plausible size.")
    for text, number in vocabulary.items():
        if whole_number(number) is None:
            raise FormatError(f"The token {text[:40]!r} has no id in tokenizer.json.")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise FormatError("tokenizer.json gives one id to two tokens.")
    return vocabulary
