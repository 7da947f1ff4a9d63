"""Byte-level BPE (GPT-2's kind) becomes the vocabulary keys of a GGUF file.

Reads `tokenizer.json`, or `vocab.json` with `merges.txt`. Tokens stand as the file spells them, one
letter for each byte. An added token keeps its own text, even where decoding it byte by byte would
make another one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from edge_runtime.artifact.ggml import ValueType
from edge_runtime.errors import FormatError, UnsupportedError

from ..writers.gguf import Array, Value
from . import pretokenizer
from .added import added_tokens, tokenizer_class
from .files import TokenizerFiles, content, objects
from .special import special_metadata
from .templates import chat_template_metadata
from .tokens import MAX_TOKENS, AddedToken, Kind, TokenTable, require_ids, require_vocabulary

_FIRST_TOKEN_CLASSES = frozenset({"LlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"})
_OWN_TEMPLATE_CLASSES = _FIRST_TOKEN_CLASSES | {"GPTNeoXTokenizer"}
"""Classes of transformers 4.57 that replace the file's post-processor by their own two flags."""


def byte_level_metadata(
    files: TokenizerFiles, *, vocabulary_tokens: int, pre: str | None
) -> dict[str, Value]:
    """Returns the keys of a byte-level BPE vocabulary filled up to `vocabulary_tokens`.

    `pre` names the pre-tokenizer, one llama.cpp knows, instead of finding it. Raises
    UnsupportedError for a tokenizer llama.cpp cannot reproduce, FormatError for files that
    contradict themselves.
    """
    described = files.described or _of_older_files(files)
    model = bpe_model(described)
    vocabulary = require_vocabulary(model)
    added = added_tokens(files, vocabulary, vocabulary_tokens)
    require_ids((*vocabulary.values(), *added), vocabulary_tokens)
    _require_simple_ends(files, described, {token.text: i for i, token in added.items()})
    merges = _merges(model, files, vocabulary)
    special = special_metadata(files)
    if pre is None:
        pre, proved = _pre_tokenizer(files, described, model, vocabulary, merges, added)
        if not proved and pre in pretokenizer.facts().adds_bos:
            # llama.cpp's own default for the name, which nothing in these files asks for.
            special.setdefault("tokenizer.ggml.add_bos_token", False)
    return {
        **token_table(vocabulary, added, vocabulary_tokens).metadata(
            model="gpt2", pre=pre, scores=False
        ),
        "tokenizer.ggml.merges": Array(kind=ValueType.STRING, items=merges),
        **special,
        **chat_template_metadata(files),
    }


def _of_older_files(files: TokenizerFiles) -> Mapping[str, object]:
    """What a tokenizer.json would say, from `vocab.json` and the tokenizer's class."""
    splits: list[dict[str, object]] = []
    if tokenizer_class(files) == "Qwen2Tokenizer":
        expression = pretokenizer.splitter("qwen2").splits[0]
        splits = [{"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated",
                   "invert": False}]  # fmt: skip
    bytes_of_text = {
        "type": "ByteLevel", "add_prefix_space": files.settings.get("add_prefix_space") is True,
        "trim_offsets": True, "use_regex": not splits,
    }  # fmt: skip
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, bytes_of_text]},
        "model": {"type": "BPE", "vocab": files.checkpoint.json("vocab.json")},
    }


def bpe_model(described: Mapping[str, object]) -> Mapping[str, object]:
    """The BPE model of a tokenizer.json; UnsupportedError for what llama.cpp's BPE cannot do."""
    model = described.get("model")
    if not isinstance(model, dict):
        raise FormatError("tokenizer.json has no model.")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise UnsupportedError(
                f"The tokenizer sets {key}.", cause="llama.cpp's BPE has nothing of the kind."
            )
    return model


def token_table(
    vocabulary: Mapping[str, int], added: Mapping[int, AddedToken], vocabulary_tokens: int
) -> TokenTable:
    """The list of tokens: those of the vocabulary, over them the added ones."""
    table = TokenTable(vocabulary_tokens)
    for text, number in vocabulary.items():
        table.put(number, text, Kind.NORMAL)
    for number, token in added.items():
        table.put(number, token.written, token.kind)
    return table


def _merges(
    model: Mapping[str, object], files: TokenizerFiles, vocabulary: Mapping[str, int]
) -> list[str]:
    merges = model.get("merges")
    if not merges:
        text = files.checkpoint.text("merges.txt")
        merges = [] if text is None else _merge_lines(text)
    if not isinstance(merges, list) or not 0 < len(merges) <= MAX_TOKENS:
        raise FormatError("The tokenizer has no list of merges of a plausible size.")
    for i, merge in enumerate(merges):
        left, right = merge_parts(merge)
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise FormatError(f"The merge {str(merge)[:60]!r} makes or takes no known token.")
        if not isinstance(merge, str):
            # In place: one list of merges is enough to hold. A space within a part is spelled as
            # the byte it is, since the one between them ends the first part.
            merges[i] = f"{left.replace(' ', _SPACE)} {right.replace(' ', _SPACE)}"
    return merges


_SPACE = "\u0120"


def merge_parts(merge: object) -> Sequence[str]:
    """The two parts of a merge, spelled as one text or as a pair."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or not isinstance(pair[0], str)
        or not isinstance(pair[1], str)
        or not pair[0]
        or not pair[1]
    ):
        raise FormatError(f"The merge {str(merge)[:60]!r} is no pair of tokens.")
    return pair


def _merge_lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[0].strip().startswith("#"):
        lines = lines[1:]
    pairs = (line.split() for line in lines)
    return [f"{pair[0]} {pair[1]}" for pair in pairs if len(pair) == 2]


def _pre_tokenizer(
    files: TokenizerFiles,
    described: Mapping[str, object],
    model: Mapping[str, object],
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    added: Mapping[int, AddedToken],
) -> tuple[str, bool]:
    """The pre-tokenizer's name, and whether it is a published tokenizer's by its ids."""
    ignores_merges = model.get("ignore_merges") is True
    pipeline = pretokenizer.Pipeline(
        described.get("normalizer"), _as_loaded(files, described.get("pre_tokenizer"))
    )
    numbers = {token.text: number for number, token in added.items()}
    ids = _probe_ids(pipeline, vocabulary, merges, numbers, ignores_merges=ignores_merges)
    for before, after in _ends(files, described, {**vocabulary, **numbers}):
        name = pretokenizer.name_of_ids([*before, *ids, *after])
        if name in pretokenizer.facts().names:
            return str(name), True
    _require_known_normalizer(described.get("normalizer"))
    return pretokenizer.name_of_behaviour(pipeline, ignores_merges=ignores_merges), False


def _as_loaded(files: TokenizerFiles, described: object) -> object:
    """A pre-tokenizer that stands alone takes add_prefix_space from the tokenizer's settings."""
    if isinstance(described, dict) and described.get("type") == "ByteLevel":
        return {**described, "add_prefix_space": files.settings.get("add_prefix_space") is True}
    return described


def _probe_ids(
    pipeline: pretokenizer.Pipeline,
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    added: Mapping[str, int],
    *,
    ignores_merges: bool,
) -> list[int]:
    """The ids of llama.cpp's probe: added tokens as they stand in it, BPE's between them."""
    probe = pretokenizer.facts().probe
    found = sorted((text for text in added if text in probe), key=len, reverse=True)
    pattern = "|".join(map(re.escape, found)) or r"(?!)"
    chunks = [chunk for chunk in re.split(f"({pattern})", probe) if chunk]
    pieces = [
        [] if chunk in added else pipeline.pieces(pipeline.normalized(chunk)) for chunk in chunks
    ]
    ids = piece_ids(pieces, vocabulary, merges, ignores_merges=ignores_merges)
    return [
        number
        for chunk, between in zip(chunks, ids, strict=True)
        for number in ([added[chunk]] if chunk in added else between)
    ]


def piece_ids(
    chunks: Sequence[Sequence[str]],
    vocabulary: Mapping[str, int],
    merges: Iterable[str],
    *,
    ignores_merges: bool,
) -> list[list[int]]:
    """The ids BPE gives for chunks of pieces; letters without a token give none."""
    parts = {
        piece[i:j]
        for piece in {piece for pieces in chunks for piece in pieces}
        for i in range(len(piece))
        for j in range(i + 2, min(len(piece), i + 64) + 1)
    }
    # Only merges that can occur in the text: a table of all of them would be many megabytes.
    ranks: dict[tuple[str, str], int] = {}
    for rank, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left + right in parts:
            ranks[left, right] = rank
    return [
        [
            number
            for piece in pieces
            for number in _ids_of(piece, vocabulary, ranks, whole=ignores_merges)
        ]
        for pieces in chunks
    ]


def _ids_of(
    piece: str,
    vocabulary: Mapping[str, int],
    ranks: Mapping[tuple[str, str], int],
    *,
    whole: bool,
) -> list[int]:
    if whole and piece in vocabulary:
        return [vocabulary[piece]]
    symbols = list(piece)
    while len(symbols) > 1:
        rank, at = min(
            (ranks.get(pair, MAX_TOKENS), i) for i, pair in enumerate(itertools.pairwise(symbols))
        )
        if rank == MAX_TOKENS:
            break
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return [vocabulary[symbol] for symbol in symbols if symbol in vocabulary]


def _ends(
    files: TokenizerFiles, described: Mapping[str, object], ids: Mapping[str, int]
) -> list[tuple[list[int], list[int]]]:
    """Tokens around a text: as the tokenizer's class would have them, and as the file says."""
    settings = files.settings
    ends = []
    kind = tokenizer_class(files)
    if kind in _OWN_TEMPLATE_CLASSES:
        first = settings.get("add_bos_token", kind in _FIRST_TOKEN_CLASSES)
        default = "<s>" if kind == "LlamaTokenizer" else "<|endoftext|>"
        bos = ids.get(content(settings.get("bos_token", default)) or "")
        eos = ids.get(content(settings.get("eos_token")) or "")
        last = settings.get("add_eos_token")
        ends.append(
            ([bos] if first and bos is not None else [], [eos] if last and eos is not None else [])
        )
    ends.append(_template_ends(described.get("post_processor"), ids))
    return ends


def _template_ends(
    post_processor: object, ids: Mapping[str, int], depth: int = 0
) -> tuple[list[int], list[int]]:
    before: list[int] = []
    after: list[int] = []
    if not isinstance(post_processor, dict) or depth > 8:
        return before, after
    kind = post_processor.get("type")
    if kind == "Sequence":
        for item in objects(post_processor, "processors", of="tokenizer.json"):
            first, last = _template_ends(item, ids, depth + 1)
            before, after = first + before, after + last
    elif kind == "TemplateProcessing":
        ends = before
        for piece in objects(post_processor, "single", of="tokenizer.json"):
            special = piece.get("SpecialToken")
            name = special.get("id") if isinstance(special, dict) else None
            if name is None:
                ends = after
            elif isinstance(name, str) and name in ids:
                ends.append(ids[name])
    elif kind in ("BertProcessing", "RobertaProcessing"):
        for key, ends in (("cls", before), ("sep", after)):
            pair = post_processor.get(key)
            if isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int:
                ends.append(pair[1])
    return before, after


def _require_simple_ends(
    files: TokenizerFiles, described: Mapping[str, object], ids: Mapping[str, int]
) -> None:
    if tokenizer_class(files) in _OWN_TEMPLATE_CLASSES:
        return
    for end, numbers in zip(
        ("first", "last"), _template_ends(described.get("post_processor"), ids), strict=True
    ):
        if len(numbers) > 1:
            raise UnsupportedError(
                f"The tokenizer puts {len(numbers)} special tokens {end} in every text.",
                cause="llama.cpp can put one there.",
            )


def _require_known_normalizer(normalizer: object, depth: int = 0) -> None:
    # llama.cpp normalizes nothing. NFC leaves composed text as it is, which nearly all text is; any
    # other normalizer would change every text.
    kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
    if kind == "Sequence" and isinstance(normalizer, dict) and depth < 16:
        for item in objects(normalizer, "normalizers", of="tokenizer.json"):
            _require_known_normalizer(item, depth + 1)
    elif kind not in (None, "NFC"):
        raise UnsupportedError(
            f"The tokenizer normalizes text ({str(kind)[:40]}).",
            cause="llama.cpp's BPE applies no normalizer.",
        )
