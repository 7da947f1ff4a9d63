"""A byte-level BPE `tokenizer.json` becomes the vocabulary keys of a GGUF file.

Reads the files themselves, through no tokenizer library: those rebuild parts of a tokenizer from
its class name, and what counts is what the file says. Whatever llama.cpp would split differently
from the file is refused, naming the difference. Knows nothing of tensors.
"""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.artifact.ggml import ValueType
from edge_runtime.errors import FormatError, ModelNotFoundError, UnsupportedError

from .checkpoint import Checkpoint
from .writers.gguf import Array, Value

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types, by llama.cpp's numbers."""

MAX_TOKENS = 4_000_000

_SPECIAL_KEYS = (
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
    ("sep", "tokenizer.ggml.seperator_token_id"),  # spelled so in the format
    ("mask", "tokenizer.ggml.mask_token_id"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    text: str
    kind: int


def vocabulary_metadata(checkpoint: Checkpoint, vocabulary_tokens: int) -> dict[str, Value]:
    """Returns the `tokenizer.*` keys of a checkpoint whose embedding has `vocabulary_tokens` rows.

    Rows no token has are filled with unused ones. Raises UnsupportedError for a tokenizer llama.cpp
    cannot reproduce and FormatError for one that contradicts itself.
    """
    described = checkpoint.json("tokenizer.json")
    if described is None:
        raise ModelNotFoundError(
            f"{checkpoint.path} holds no tokenizer.json.",
            cause="Only byte-level BPE tokenizers in that file are converted.",
            way_out="Save it with the tokenizers library: tokenizer.save('tokenizer.json')",
        )
    model = described.get("model")
    if not isinstance(model, dict):
        raise FormatError("tokenizer.json has no model.")
    _require_byte_level_bpe(model)
    pre_name = _pre_tokenizer_name(described, bool(model.get("ignore_merges")))
    tokens = _tokens(described, model, vocabulary_tokens)
    ids = {token.text: number for number, token in enumerate(tokens)}
    merges = [f"{left} {right}" for left, right in _merges(model, ids)]
    settings = checkpoint.json("tokenizer_config.json") or {}
    special = _special_ids(settings, checkpoint.config, ids)
    if "eos" not in special:
        raise FormatError(
            "The tokenizer names no end-of-text token.",
            cause="llama.cpp would take token 11 for it.",
            way_out="Set eos_token in tokenizer_config.json.",
        )
    adds_bos, adds_eos = _added_ends(described, settings, special, ids)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_name,
        "tokenizer.ggml.tokens": Array(kind=ValueType.STRING, items=[t.text for t in tokens]),
        "tokenizer.ggml.token_type": Array(kind=ValueType.INT32, items=[t.kind for t in tokens]),
        "tokenizer.ggml.merges": Array(kind=ValueType.STRING, items=merges),
        **{key: special[name] for name, key in _SPECIAL_KEYS if name in special},
        "tokenizer.ggml.add_bos_token": adds_bos,
        "tokenizer.ggml.add_eos_token": adds_eos,
        **_chat_templates(checkpoint, settings),
    }


def _require_byte_level_bpe(model: Mapping[str, object]) -> None:
    kind = model.get("type", "BPE")
    if kind != "BPE" or model.get("byte_fallback"):
        what = "BPE with byte fallback (SentencePiece)" if kind == "BPE" else str(kind)[:40]
        raise UnsupportedError(
            f"The tokenizer is {what}.", cause="Only byte-level BPE is converted so far."
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise UnsupportedError(
                f"The tokenizer sets {key}.", cause="llama.cpp's BPE has nothing of the kind."
            )


def _tokens(
    described: Mapping[str, object], model: Mapping[str, object], vocabulary_tokens: int
) -> list[_Token]:
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or len(vocabulary) > MAX_TOKENS:
        raise FormatError("tokenizer.json has no vocabulary of a plausible size.")
    by_id: dict[int, _Token] = {}
    for text, number in vocabulary.items():
        if type(number) is not int or number in by_id:
            raise FormatError(f"The token {text[:40]!r} has no id of its own.")
        by_id[number] = _Token(text=text, kind=NORMAL)
    by_id.update(_added_tokens(described))
    last = max(by_id, default=-1)
    if not by_id or min(by_id) < 0 or last >= vocabulary_tokens:
        raise FormatError(
            f"The tokenizer's ids do not fit the embedding of {vocabulary_tokens} rows.",
            cause=f"They run from {min(by_id, default=0)} to {last}.",
        )
    used = {token.text for token in by_id.values()}
    if len(used) != len(by_id):
        raise FormatError(
            "The tokenizer has one text under two ids.",
            cause="llama.cpp ends the process on such a vocabulary.",
        )
    unused = (text for i in range(2 * MAX_TOKENS) if (text := f"[PAD{i}]") not in used)
    return [
        by_id.get(i) or _Token(text=next(unused), kind=UNUSED) for i in range(vocabulary_tokens)
    ]


def _added_tokens(described: Mapping[str, object]) -> Iterator[tuple[int, _Token]]:
    added = described.get("added_tokens") or []
    if not isinstance(added, list):
        raise FormatError("tokenizer.json has added_tokens that are no list.")
    for entry in added:
        number, text = (
            (entry.get("id"), entry.get("content")) if isinstance(entry, dict) else (0, 0)
        )
        if type(number) is not int or not isinstance(text, str) or not text:
            raise FormatError("tokenizer.json has an added token without id or text.")
        for flag in ("lstrip", "rstrip", "single_word"):
            if entry.get(flag):
                raise UnsupportedError(
                    f"The added token {text[:40]!r} sets {flag}.",
                    cause="llama.cpp would tokenize the text around it differently.",
                )
        yield number, _Token(text=text, kind=CONTROL if entry.get("special") else USER_DEFINED)


def _merges(model: Mapping[str, object], ids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    merges = model.get("merges")
    if not isinstance(merges, list) or len(merges) > MAX_TOKENS:
        raise FormatError("tokenizer.json has no list of merges of a plausible size.")
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(part, str) and part and " " not in part for part in pair)
        ):
            raise FormatError(f"The merge {str(merge)[:60]!r} is no pair of tokens.")
        if not (pair[0] in ids and pair[1] in ids and pair[0] + pair[1] in ids):
            raise FormatError(f"The merge {str(merge)[:60]!r} makes or takes no known token.")
        yield pair[0], pair[1]


def _special_ids(
    settings: Mapping[str, object], config: Mapping[str, object], ids: Mapping[str, int]
) -> dict[str, int]:
    """Ids of special tokens: as tokenizer_config.json spells them, else as config.json counts."""
    found = {}
    for name, _ in _SPECIAL_KEYS:
        text = settings.get(f"{name}_token")
        if isinstance(text, dict):
            text = text.get("content")
        number: object = ids.get(text) if isinstance(text, str) else None
        if number is None:
            number = config.get(f"{name}_token_id")
            if isinstance(number, list) and number:
                number = number[0]
        if type(number) is int and 0 <= number < len(ids):
            found[name] = number
    return found


def _added_ends(
    described: Mapping[str, object],
    settings: Mapping[str, object],
    special: Mapping[str, int],
    ids: Mapping[str, int],
) -> tuple[bool, bool]:
    """Whether a text gets the first and the last special token, by the post-processor if any."""
    template = _template(described.get("post_processor"))
    if described.get("post_processor") is None:
        return settings.get("add_bos_token") is True, settings.get("add_eos_token") is True
    if template is None:
        return False, False
    names = [piece["SpecialToken"]["id"] if "SpecialToken" in piece else None for piece in template]
    before, after = names[: names.index(None)], names[names.index(None) + 1 :]
    for end, texts in (("bos", before), ("eos", after)):
        if texts and [ids.get(str(text)) for text in texts] != [special.get(end)]:
            raise UnsupportedError(
                f"The tokenizer puts {' '.join(map(str, texts))[:60]!r} around every text.",
                cause=f"llama.cpp can add only the {end} token there.",
            )
    return bool(before), bool(after)


def _template(post_processor: object) -> list[dict[str, dict[str, str]]] | None:
    """The template for a single text; None when nothing is added to it."""
    if post_processor is None:
        return None
    kind = post_processor.get("type") if isinstance(post_processor, dict) else None
    if not isinstance(post_processor, dict) or kind not in (
        "ByteLevel",
        "Sequence",
        "TemplateProcessing",
    ):
        raise UnsupportedError(f"The post-processor {str(kind)[:40]!r} is not known.")
    if kind == "ByteLevel":
        return None
    if kind == "Sequence":
        inner = [_template(item) for item in post_processor.get("processors") or []]
        templates = [template for template in inner if template is not None]
        if len(templates) > 1:
            raise UnsupportedError("The tokenizer has two post-processing templates.")
        return templates[0] if templates else None
    single: Any = post_processor.get("single")
    try:
        sequences = [piece for piece in single if "Sequence" in piece]
        specials = [piece["SpecialToken"]["id"] for piece in single if "SpecialToken" in piece]
        if len(sequences) != 1 or len(specials) != len(single) - 1:
            raise KeyError("Sequence")
    except (TypeError, KeyError) as error:
        raise FormatError("The post-processor's template is none.") from error
    return list(single)


def _chat_templates(checkpoint: Checkpoint, settings: Mapping[str, object]) -> dict[str, Value]:
    """Chat templates: those of tokenizer_config.json, else chat_template.jinja, else .json."""
    found = settings.get("chat_template")
    if found is None:
        found = checkpoint.text("chat_template.jinja")
    if found is None:
        found = (checkpoint.json("chat_template.json") or {}).get("chat_template")
    if isinstance(found, str):
        return {"tokenizer.chat_template": found}
    templates: dict[str, Value] = {}
    for entry in found if isinstance(found, list) else ():
        name, text = (
            (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (0, 0)
        )
        if not isinstance(name, str) or not isinstance(text, str):
            raise FormatError("tokenizer_config.json has a chat template without name or text.")
        suffix = "" if name == "default" else f".{name}"
        templates[f"tokenizer.chat_template{suffix}"] = text
    return templates


def _pre_tokenizer_name(described: Mapping[str, object], ignores_merges: bool) -> str:
    """llama.cpp's name for what splits text as this file does, found by structure alone."""
    _require_known_normalizer(described.get("normalizer"))
    found = _canonical(described.get("pre_tokenizer"))
    for name, ignores, known in _known_pre_tokenizers():
        if found != known:
            continue
        if ignores != ignores_merges:
            raise UnsupportedError(
                f"The tokenizer splits text as {name} does, but sets ignore_merges to "
                f"{str(ignores_merges).lower()}.",
                cause=f"llama.cpp always takes it for {str(ignores).lower()} there.",
            )
        return name
    text = json.dumps(found, sort_keys=True)
    name, nearest = max(
        ((name, known) for name, _, known in _known_pre_tokenizers()),
        key=lambda row: difflib.SequenceMatcher(
            None, json.dumps(row[1], sort_keys=True)[:2000], text[:2000], autojunk=False
        ).ratio(),
    )
    known_names = ", ".join(name for name, _, _ in _known_pre_tokenizers())
    raise UnsupportedError(
        "The tokenizer's pre_tokenizer is not one that llama.cpp is known to reproduce.",
        cause=f"The nearest is {name}; {_difference(found, nearest, 'pre_tokenizer')}.",
        way_out=f"Known: {known_names}.",
    )


def _require_known_normalizer(normalizer: object) -> None:
    # llama.cpp normalizes nothing. NFC leaves composed text as it is, which nearly all text is; any
    # other normalizer would change every text.
    kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
    if kind == "Sequence" and isinstance(normalizer, dict):
        for item in normalizer.get("normalizers") or []:
            _require_known_normalizer(item)
    elif kind not in (None, "NFC"):
        raise UnsupportedError(
            f"The tokenizer normalizes text ({str(kind)[:40]}).",
            cause="llama.cpp's BPE applies no normalizer.",
        )


@functools.cache
def _known_pre_tokenizers() -> tuple[tuple[str, bool, object], ...]:
    text = importlib.resources.files(__package__).joinpath("pretokenizers.json").read_text("utf-8")
    return tuple(
        (row["name"], row["ignore_merges"], _canonical(row["pre_tokenizer"]))
        for row in json.loads(text)["known"]
    )


def _canonical(described: object) -> object:
    """A pre-tokenizer with defaults filled in, and without what does not change the tokens."""
    if not isinstance(described, dict):
        return described
    kind = described.get("type")
    if kind == "Sequence":
        inner = described.get("pretokenizers")
        parts = [_canonical(part) for part in inner] if isinstance(inner, list) else []
        return parts[0] if len(parts) == 1 else {"type": kind, "pretokenizers": parts}
    defaults: dict[str, object] = {}
    if kind == "ByteLevel":
        defaults = {"add_prefix_space": True, "use_regex": True}
    elif kind == "Split":
        defaults = {"invert": False}
    elif kind == "Digits":
        defaults = {"individual_digits": False}
    kept = {key: value for key, value in described.items() if key != "trim_offsets"}
    return {**defaults, **kept}


def _difference(found: object, known: object, where: str) -> str:
    """Words the first place where two JSON values differ."""
    if isinstance(found, dict) and isinstance(known, dict):
        for key in sorted({*found, *known}):
            if found.get(key) != known.get(key):
                return _difference(found.get(key), known.get(key), f"{where}.{key}")
    if isinstance(found, list) and isinstance(known, list):
        for i, (left, right) in enumerate(zip(found, known, strict=False)):
            if left != right:
                return _difference(left, right, f"{where}[{i}]")
        return f"{where} has {len(found)} parts there and {len(known)} here"
    if isinstance(found, str) and isinstance(known, str):
        at = next(
            (i for i, (a, b) in enumerate(zip(found, known, strict=False)) if a != b),
            min(len(found), len(known)),
        )
        left, right = found[at : at + 30], known[at : at + 30]
        return f"{where} is {left!r} from character {at} on, not {right!r}"
    return f"{where} is {json.dumps(found)[:60]}, not {json.dumps(known)[:60]}"
