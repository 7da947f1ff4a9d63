"""Special tokens of a tokenizer: their ids, and which of them every text begins and ends with.

The order in which files count is llama.cpp's converter's, odd corners included, so that a file says
the same whoever converted it: texts of `tokenizer_config.json`, replaced by what the
post-processor of `tokenizer.json` puts around a text, then ids of `config.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_runtime.errors import FormatError

from ..writers.gguf import Value
from .files import TokenizerFiles, added_entries, content, objects

_TYPES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ID_KEYS = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "mask": "mask",
    "sep": "seperator",  # spelled so in the format
    "eot": "eot", "eom": "eom",
}  # fmt: skip
_ADDED = ("bos", "eos", "sep")


def special_metadata(files: TokenizerFiles, *, limit: int | None = None) -> dict[str, Value]:
    """Returns the keys of special tokens, and those a normalizer of lower-case text makes.

    `limit`: ids from there on are left out; None when the reference would not look.
    """
    found = _Special(files)
    ids = found.ids(limit)
    return {
        **{
            f"tokenizer.ggml.{key}_token_id": ids[name]
            for name, key in _ID_KEYS.items()
            if name in ids
        },
        **{
            f"tokenizer.ggml.add_{name}_token": found.adds[name]
            for name in _ADDED
            if name in found.adds
        },
        **_normalizer_metadata(files),
    }


class _Special:
    """What the files say of special tokens, worked out step by step."""

    def __init__(self, files: TokenizerFiles) -> None:
        self.files = files
        self.types = list(_TYPES)
        self.texts: dict[str, object] = {
            name: files.settings.get(f"{name}_token") for name in (*_TYPES, "eot", "eom")
        }
        self.adds: dict[str, bool] = {}
        if files.described:
            if files.settings:
                self.texts["bos"] = self.texts["bos"] or self.texts["cls"]
                self.texts["eos"] = self.texts["eos"] or self.texts["sep"]
            # Without a tokenizer_config.json the post-processor's own tokens count as known.
            self.known = dict(self.texts)
            for processor in _processors(files.described):
                self._processor(processor)
        for name in self.types:
            stated = files.settings.get(f"add_{name}_token")
            if isinstance(stated, bool):
                self.adds.setdefault(name, stated)

    def ids(self, limit: int | None) -> dict[str, int]:
        """Ids by name: of the texts first, then those config.json counts."""
        by_text: dict[str, int] = {}
        for number, entry in added_entries(self.files.described or {}):
            by_text.setdefault(str(entry["content"]), number)
        found: dict[str, int] = {}
        config = self.files.config
        inner = config.get("text_config")
        for name in self.types if self.files.settings else ():
            _keep(found, name, by_text.get(content(self.texts[name]) or ""), limit)
        for name in self.types:
            stated = config.get(f"{name}_token_id")
            if stated is None and isinstance(inner, dict):
                stated = inner.get(f"{name}_token_id")
            _keep(found, name, stated, limit)
        return found

    def _processor(self, processor: Mapping[str, object]) -> None:
        kind = processor.get("type")
        if kind == "ByteLevel":
            self.adds.setdefault("bos", False)
            self.adds.setdefault("eos", False)
        elif kind == "RobertaProcessing":
            self.adds.update(bos=True, eos=True, sep=True)
            for name in ("cls", "sep"):
                if not self.known[name] and self.files.settings:
                    pair = processor.get(name)
                    stated = pair[0] if isinstance(pair, list) and pair else None
                    other = self.known["bos" if name == "cls" else "eos"]
                    self.known[name] = self.texts[name] = stated if pair is not None else other
        elif kind == "TemplateProcessing":
            single = _pieces(processor, "single")
            first = last = None
            if len(single) > 1:
                first, last = single[0].special, single[-1].special
                self._first(first)
                self._last(last)
            self._pair(_pieces(processor, "pair"), first, last)

    def _first(self, text: str | None) -> None:
        if not text:
            return
        known = self.known
        if not self.files.settings:
            known["bos"] = text
        elif text not in (known["bos"], known["cls"]):
            for name in ("bos", "cls"):
                if not known[name]:
                    known[name] = self.texts[name] = text
        self.adds["bos"] = text in (known["bos"], known["cls"])

    def _last(self, text: str | None) -> None:
        if not text:
            return
        known = self.known
        if not self.files.settings:
            known["eos"] = text
        elif text != known["eos"]:
            # What ended a text by its own account goes on to end a turn.
            for name in ("eot", "eom"):
                if name not in self.types:
                    self.types.append(name)
                    self.texts[name] = known["eos"]
                    break
            known["eos"] = self.texts["eos"] = text
        self.adds["eos"] = True

    def _pair(self, pieces: list[_Piece], first: str | None, last: str | None) -> None:
        """Whether a token stands between two texts: `[bos] A [sep] [eos] B [eos]`."""
        if pieces and first and pieces[0].special == first:
            pieces = pieces[1:]
            if not pieces:
                return
        if pieces and last and pieces[-1].special == last:
            pieces = pieces[:-1]
        if not pieces or pieces[0].sequence != "A" or pieces[-1].sequence != "B":
            return
        between = pieces[1:-1]
        if not between:
            return
        enders = (self.known["sep"], self.known["eos"])
        adds = bool(between[0].special) and between[0].special in enders and not last
        if len(between) == 2 and between[1].special and between[1].special in enders:
            adds = True
        self.adds["sep"] = adds
        if adds and not self.known["sep"] and self.files.settings:
            self.texts["sep"] = self.known["eos"]


class _Piece:
    """One piece of a template: a special token or a place for a text."""

    def __init__(self, described: Mapping[str, object]) -> None:
        self.special = _name(described.get("SpecialToken"))
        self.sequence = _name(described.get("Sequence"))


def _name(piece: object) -> str | None:
    if piece is None:
        return None
    name = piece.get("id") if isinstance(piece, dict) else None
    if not isinstance(name, str):
        raise FormatError("tokenizer.json has a post-processing template that is none.")
    return name


def _pieces(processor: Mapping[str, object], key: str) -> list[_Piece]:
    return [_Piece(piece) for piece in objects(processor, key, of="tokenizer.json")]


def _processors(described: Mapping[str, object]) -> list[dict[str, object]]:
    found = described.get("post_processor")
    if found is None:
        return []
    if not isinstance(found, dict):
        raise FormatError("tokenizer.json has a post_processor that is no object.")
    return objects(found, "processors", of="tokenizer.json") if "processors" in found else [found]


def _keep(found: dict[str, int], name: str, number: object, limit: int | None) -> None:
    # Configs state an absent token as null, as -1, or as a list of several ids.
    if type(number) is int and 0 <= number < (2**32 if limit is None else limit):
        found.setdefault(name, number)


def _normalizer_metadata(files: TokenizerFiles) -> dict[str, Value]:
    flags: dict[str, bool] = {}
    for normalizer in _normalizers((files.described or {}).get("normalizer")):
        kind = normalizer.get("type")
        if kind == "Lowercase":
            flags["lowercase"] = True
        elif kind == "StripAccents":
            flags["strip_accents"] = True
        elif kind == "BertNormalizer":
            for key in ("lowercase", "strip_accents"):
                value = normalizer.get(key)
                if isinstance(value, bool):
                    flags[key] = value
                elif key in normalizer:
                    flags.pop(key, None)
    return {f"tokenizer.ggml.normalizer.{key}": value for key, value in flags.items()}


def _normalizers(normalizer: object, depth: int = 0) -> Iterator[Mapping[str, object]]:
    if isinstance(normalizer, dict) and depth < 16:
        if normalizer.get("type") == "Sequence":
            for item in objects(normalizer, "normalizers", of="tokenizer.json"):
                yield from _normalizers(item, depth + 1)
        else:
            yield normalizer
