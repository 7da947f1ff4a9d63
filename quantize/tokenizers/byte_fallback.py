"""BPE over characters with bytes to fall back on: SentencePiece's kind, saved as `tokenizer.json`.

llama.cpp joins the neighbours whose joint token has the highest score, so a token's score is the
rank of the first merge that makes it, negated: the order of merges is all a BPE model is. Its own
converter gives every token one score and makes other tokens of many texts; what is written here is
judged by the tokens that come out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from edge_runtime.errors import FormatError, UnsupportedError

from ..writers.gguf import Value
from .added import added_tokens
from .byte_level import bpe_model, merge_parts
from .files import TokenizerFiles, objects
from .special import special_metadata
from .templates import chat_template_metadata
from .tokens import SPACE_MARK, Kind, TokenTable, require_ids, require_vocabulary

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_UNUSED_SCORE = -10_000.0


def byte_fallback_metadata(files: TokenizerFiles, *, vocabulary_tokens: int) -> dict[str, Value]:
    """Returns the keys of a BPE vocabulary with byte tokens filled up to `vocabulary_tokens`.

    Raises UnsupportedError where spaces are not written as SentencePiece writes them, FormatError
    for a file that contradicts itself.
    """
    described = files.described or {}
    model = bpe_model(described)
    if model.get("ignore_merges") is True:
        raise UnsupportedError(
            "The tokenizer falls back on bytes and sets ignore_merges.",
            cause="llama.cpp joins pieces of such a vocabulary by merges alone.",
        )
    vocabulary = require_vocabulary(model)
    added = added_tokens(files, vocabulary, vocabulary_tokens)
    require_ids((*vocabulary.values(), *added), vocabulary_tokens)
    leading_space = _leading_space(described)
    ranks = _ranks(model, vocabulary)
    table = TokenTable(vocabulary_tokens, score=_UNUSED_SCORE)
    unknown = model.get("unk_token")
    for text, number in vocabulary.items():
        kind = Kind.NORMAL
        if _BYTE.fullmatch(text):
            kind = Kind.BYTE
        elif text == unknown:
            kind = Kind.UNKNOWN
        # A token no merge makes comes last of all.
        table.put(number, text, kind, -float(ranks.get(text, len(ranks))))
    for number, token in added.items():
        rank = ranks.get(token.text, len(ranks))
        table.put(number, token.written, token.kind, -float(rank))
    metadata = table.metadata(model="llama", pre="default", scores=True)
    if not leading_space:
        metadata["tokenizer.ggml.add_space_prefix"] = False
    return {
        **metadata,
        **special_metadata(files, limit=vocabulary_tokens),
        **chat_template_metadata(files),
    }


def _ranks(model: Mapping[str, object], vocabulary: Mapping[str, int]) -> dict[str, int]:
    """The rank of the first merge that makes a token, for each that one makes."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise FormatError("tokenizer.json has no list of merges.")
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        left, right = merge_parts(merge)
        joint = left + right
        if left not in vocabulary or right not in vocabulary or joint not in vocabulary:
            raise FormatError(f"The merge {str(merge)[:60]!r} makes or takes no known token.")
        ranks.setdefault(joint, rank)
    return ranks


def _leading_space(described: Mapping[str, object]) -> bool:
    """Whether a text is taken as if a space came before it.

    Raises UnsupportedError when spaces are not written as U+2581, or text is changed otherwise.
    """
    marked = leading = False
    for normalizer in _parts(described.get("normalizer"), "normalizers"):
        kind = normalizer.get("type")
        if kind == "Prepend" and normalizer.get("prepend") == SPACE_MARK:
            leading = True
        elif kind == "Replace" and _replaces_space(normalizer):
            marked = True
        elif kind not in ("NFC", "NFKC"):
            raise _unlike("normalizer", kind)
    for splitter in _parts(described.get("pre_tokenizer"), "pretokenizers"):
        kind = splitter.get("type")
        if kind == "Metaspace":
            marked = True
            scheme = splitter.get("prepend_scheme")
            if scheme is None:
                scheme = "never" if splitter.get("add_prefix_space") is False else "always"
            leading = leading or scheme != "never"
        elif kind != "Split":  # cuts between words, which no token crosses anyway
            raise _unlike("pre_tokenizer", kind)
    if not marked:
        raise _unlike("normalizer", "none that marks spaces")
    return leading


def _replaces_space(normalizer: Mapping[str, object]) -> bool:
    return normalizer.get("pattern") == {"String": " "} and normalizer.get("content") == SPACE_MARK


def _parts(described: object, key: str, depth: int = 0) -> Iterator[Mapping[str, object]]:
    if isinstance(described, dict) and depth < 16:
        if described.get("type") == "Sequence":
            for part in objects(described, key, of="tokenizer.json"):
                yield from _parts(part, key, depth + 1)
        else:
            yield described
    elif described is not None:
        raise FormatError("tokenizer.json has a normalizer or pre_tokenizer that is none.")


def _unlike(what: str, kind: object) -> UnsupportedError:
    return UnsupportedError(
        f"The tokenizer's {what} ({str(kind)[:40]}) is not SentencePiece's.",
        cause="llama.cpp changes and cuts text as SentencePiece does in such a vocabulary.",
        way_out="If the model has a tokenizer.model, put it beside the config.json.",
    )
