"""Which of llama.cpp's pre-tokenizers cuts text as a tokenizer.json does.

Two proofs count: the ids the tokenizer gives for llama.cpp's own probe are those of a published one
(a table of hashes), or its pre-tokenizer and llama.cpp's regular expressions cut every one of a set
of nasty texts into the same pieces. Nothing is guessed from a name or from how a file looks.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.errors import FormatError, UnsupportedError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitter:
    """How one of llama.cpp's pre-tokenizers works; `names` are its names, the usual one first."""

    names: tuple[str, ...]
    ignore_merges: bool
    splits: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What `pretokenizers.json` holds; see there for what each part is."""

    probe: str
    texts: tuple[str, ...]
    names: tuple[str, ...]
    adds_bos: frozenset[str]
    hashes: Mapping[str, str]
    published: frozenset[str]
    splitters: tuple[Splitter, ...]


@functools.cache
def facts() -> Facts:
    """Reads the table that comes with this package."""
    text = importlib.resources.files(__package__).joinpath("pretokenizers.json").read_text("utf-8")
    table = json.loads(text)
    return Facts(
        probe=table["probe"],
        texts=tuple(table["texts"]),
        names=tuple(table["names"]),
        adds_bos=frozenset(table["adds_bos"]),
        hashes=dict(table["hashes"]),  # the last of two names for one hash stays
        published=frozenset(name for _, name in table["hashes"]),
        splitters=tuple(
            Splitter(
                names=(row["name"], *row["same"]),
                ignore_merges=row["ignore_merges"],
                splits=tuple(row["splits"]),
            )
            for row in table["splits"]
        ),
    )


def splitter(name: str) -> Splitter:
    """How the pre-tokenizer of that name works, one of those the table describes."""
    return next(row for row in facts().splitters if name in row.names)


def require_name(name: str, *, wordpiece: bool = False) -> str:
    """Returns a name llama.cpp knows; UsageError with near ones for another.

    For WordPiece it reads none, and published files have names it knows for nothing else.
    """
    known = facts().names
    if wordpiece:
        known = tuple(sorted({*known, *facts().published}))
    if name in known:
        return name
    near = difflib.get_close_matches(name[:60], known, n=3, cutoff=0.4)
    raise UsageError(
        f"llama.cpp knows no pre-tokenizer {name[:60]!r}.",
        cause=f"Nearest: {', '.join(near)}." if near else "",
        way_out=f"Known: {', '.join(known)}.",
    )


def name_of_ids(ids: Sequence[int]) -> str | None:
    """The name for the ids a tokenizer gives for the probe; None when they are nobody's."""
    digest = hashlib.sha256(str(list(ids)).encode()).hexdigest()
    return facts().hashes.get(digest)


class Pipeline:
    """A tokenizer.json's normalizer and pre-tokenizer, run by the tokenizers library."""

    def __init__(self, normalizer: object, pre_tokenizer: object) -> None:
        self._tokenizer = _build(normalizer, pre_tokenizer)

    def normalized(self, text: str) -> str:
        """The text as the model sees it."""
        normalizer = self._tokenizer.normalizer
        if normalizer is None:
            return text
        with _refusal():
            return str(normalizer.normalize_str(text))

    def pieces(self, text: str) -> tuple[str, ...]:
        """The pieces the model gets, in the letters it gets them in; nothing is normalized."""
        pre_tokenizer = self._tokenizer.pre_tokenizer
        if pre_tokenizer is None:
            return (text,)
        with _refusal():
            return tuple(piece for piece, _ in pre_tokenizer.pre_tokenize_str(text))


def name_of_behaviour(pipeline: Pipeline, *, ignores_merges: bool) -> str:
    """The name of what cuts every probe into the same pieces.

    Raises UnsupportedError naming the nearest and the first text it cuts otherwise.
    """
    texts = facts().texts
    wanted = [pipeline.pieces(text) for text in texts]
    nearest: tuple[int, Splitter, int] | None = None
    other_merges: Splitter | None = None
    for row in facts().splitters:
        known = _of_splits(row.splits)
        same = [known.pieces(text) == pieces for text, pieces in zip(texts, wanted, strict=True)]
        if all(same):
            if row.ignore_merges == ignores_merges:
                return row.names[0]
            other_merges = other_merges or row
        elif nearest is None or sum(same) > nearest[0]:
            nearest = (sum(same), row, same.index(False))
    if other_merges is not None:
        raise UnsupportedError(
            f"The tokenizer cuts text as {other_merges.names[0]} does, but sets ignore_merges to "
            f"{str(ignores_merges).lower()}.",
            cause=f"llama.cpp always takes it for {str(not ignores_merges).lower()} there.",
            way_out=_FORCED,
        )
    if nearest is None:
        raise UnsupportedError("The tokenizer cuts text as no known pre-tokenizer does.")
    _, row, at = nearest
    differing = _differing(_of_splits(row.splits).pieces(texts[at]), wanted[at])
    raise UnsupportedError(
        "The tokenizer cuts text as none of llama.cpp's pre-tokenizers does.",
        cause=f"The nearest is {row.names[0]}, but in {texts[at][:20]!r}... it makes {differing}.",
        way_out=f"{_FORCED} Names: {', '.join(facts().names)}.",
    )


_FORCED = "If you know that llama.cpp runs the model under some name, give it: --pre NAME."


def _differing(known: tuple[str, ...], found: tuple[str, ...]) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(known, found, strict=False)) if a != b),
        min(len(known), len(found)),
    )
    left, right = (" ".join(map(repr, pieces[at : at + 4])) for pieces in (known, found))
    return f"{left or 'nothing'} where the file makes {right or 'nothing'}"


@functools.lru_cache(maxsize=32)
def _of_splits(splits: tuple[str, ...]) -> Pipeline:
    parts: list[dict[str, object]] = [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
        for split in splits
    ]
    parts.append(
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    )
    return Pipeline(None, {"type": "Sequence", "pretokenizers": parts})


def _build(normalizer: object, pre_tokenizer: object) -> Any:
    from tokenizers import Tokenizer

    described = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None,
        "decoder": None, "model": {"type": "BPE", "vocab": {}, "merges": []},
    }  # fmt: skip
    with _refusal():
        return Tokenizer.from_str(json.dumps(described))


@contextlib.contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit, SystemExit):
        raise
    except BaseException as error:  # nothing narrower: a failed check in its Rust is no Exception
        raise FormatError(
            "tokenizer.json has a normalizer or pre_tokenizer that is none.",
            cause=f"{str(error)[:160]}.",
        ) from error
