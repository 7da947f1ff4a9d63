"""How fast tokens must come for a person: reading and speaking rates, and tokens per language.

A preset is a pace in English words per minute. Another language takes more tokens for the same
content while people take in the content at about the same pace, so a language is a factor on the
tokens: needed tokens/s = words/min / 60 * tokens per word * premium. Every number and its source is
in `reading.toml`; this module knows nothing of models, machines or verdicts.
"""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")

DEFAULT_TOKENIZER = "qwen"
"""The vocabulary of Qwen2.5 and Qwen3, the most numerous in the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A pace at which people take text in, in English words per minute, with its source."""

    name: str
    words_per_minute: float
    meaning: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """How many tokens one tokenizer takes for the same sentences in each language, by its code."""

    name: str
    description: str
    tokens: Mapping[str, int]
    source: str

    def premium(self, language: str) -> float:
        """Tokens for some content over the tokens for the same content in English."""
        return self.tokens[language] / self.tokens["en"]


def presets() -> Mapping[str, Preset]:
    """The paces by name; the first is the product's own threshold."""
    return MappingProxyType(
        {name: Preset(name=name, **fields) for name, fields in _data()["presets"].items()}
    )


def languages() -> Mapping[str, str]:
    """The languages whose token counts are known: ISO 639-1 code to English name."""
    return MappingProxyType(_data()["languages"])


def tokenizers() -> Mapping[str, TokenCounts]:
    """The tokenizers whose counts are known, by a short name."""
    return MappingProxyType(
        {
            name: TokenCounts(
                name=name,
                description=fields["name"],
                tokens=MappingProxyType(fields["tokens"]),
                source=fields["source"],
            )
            for name, fields in _data()["tokenizers"].items()
        }
    )


def english_tokens_per_word() -> float:
    """Tokens per word of English text by the usual rule, 100 tokens to 75 words."""
    english = _data()["english"]
    return float(english["tokens"] / english["words"])


def needed_tokens_per_s(
    preset: str,
    language: str = "en",
    tokens_per_word: float | None = None,
    *,
    tokenizer: str = DEFAULT_TOKENIZER,
) -> tuple[float, str]:
    """The decode rate, tokens/s, that keeps up with a pace in a language, and its source in a line.

    `tokens_per_word` is that of the model's tokenizer on English, when it is known better than by
    the usual rule. Raises ValueError, listing what is known, for an unknown name, and for a
    `tokens_per_word` that is not a positive number.
    """
    pace = _known(presets(), preset, "reading preset")
    name = _known(languages(), language.lower(), "language")
    counts = _known(tokenizers(), tokenizer, "tokenizer")
    if tokens_per_word is None:
        per_word, rule = english_tokens_per_word(), "100 tokens to 75 English words (OpenAI)"
    elif math.isfinite(tokens_per_word) and tokens_per_word > 0:
        per_word, rule = tokens_per_word, f"{tokens_per_word:g} tokens per English word as given"
    else:
        raise ValueError(f"Tokens per word must be a positive number, not {tokens_per_word!r}.")
    rate = pace.words_per_minute / 60 * per_word
    source = f"{pace.words_per_minute:g} words/min ({pace.source}); {rule}"
    if language.lower() == "en":
        return rate, source
    premium = counts.premium(language.lower())
    return rate * premium, (
        f"{source}; {name} takes {premium:.2f} times the English tokens ({counts.source})"
    )


def _known(table: Mapping[str, T], name: str, what: str) -> T:
    if name in table:
        return table[name]
    raise ValueError(_unknown(table, name, what))


def _unknown(table: Iterable[str], name: str, what: str) -> str:
    near = difflib.get_close_matches(name, list(table), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"There is no {what} {name!r}.{hint} Known: {', '.join(table)}."


@functools.cache
def _data() -> dict[str, Any]:
    text = importlib.resources.files(__package__).joinpath("reading.toml").read_text("utf-8")
    return tomllib.loads(text)
