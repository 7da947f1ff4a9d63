"""Added tokens of a checkpoint from all the files that list some, with the ids they really have.

`tokenizer.json` counts first, then `tokenizer_config.json` (or, in older checkpoints,
`special_tokens_map.json` and `added_tokens.json`), then the special tokens by name. A token that
is not in the vocabulary takes the next free id, whatever id a file states: that is how transformers
loads it, and so how the model was trained. Flags of a later file replace those of an earlier one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from edge_runtime.errors import FormatError, UnsupportedError

from .files import TokenizerFiles, added_entries, content, section
from .tokens import AddedToken

_TEXT_END = "<|endoftext|>"
_CLASS_TOKENS: Mapping[str, Mapping[str, str]] = {
    "GPT2Tokenizer": {"bos": _TEXT_END, "eos": _TEXT_END, "unk": _TEXT_END},
    "CodeGenTokenizer": {"bos": _TEXT_END, "eos": _TEXT_END, "unk": _TEXT_END},
    "GPTNeoXTokenizer": {"bos": _TEXT_END, "eos": _TEXT_END, "unk": _TEXT_END},
    "Qwen2Tokenizer": {"eos": _TEXT_END, "unk": _TEXT_END, "pad": _TEXT_END},
    "LlamaTokenizer": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "GemmaTokenizer": {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>"},
    "BertTokenizer": {
        "unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]",
    },
}  # fmt: skip
"""Special tokens a transformers 4.57 tokenizer class has unless the files say otherwise."""

_CLASS_OF_MODEL: Mapping[str, str] = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "phi3"), "LlamaTokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "GemmaTokenizer"),
    **dict.fromkeys(("stablelm", "olmo2", "olmoe", "gpt_neox"), "GPTNeoXTokenizer"),
    **dict.fromkeys(("granite", "starcoder2", "gpt2"), "GPT2Tokenizer"),
    "phi": "CodeGenTokenizer",
    "bert": "BertTokenizer",
}
"""Tokenizer classes by `model_type`, for checkpoints that name none."""

_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def tokenizer_class(files: TokenizerFiles) -> str:
    """The transformers class that would load the tokenizer, without the ending `Fast`."""
    stated = files.tokenizer_class
    return (
        _CLASS_OF_MODEL.get(str(files.config.get("model_type")), "") if stated is None else stated
    )


def added_tokens(
    files: TokenizerFiles, vocabulary: Mapping[str, int], limit: int
) -> dict[int, AddedToken]:
    """Returns the added tokens by id; ids under `limit` have a row in the model.

    Tokens that no file but only the tokenizer's class brings are left out where they do not fit.
    Whether a token takes the spaces beside it is nobody's business here: llama.cpp knows the
    published models whose tokens do. Raises FormatError for entries that are none, UnsupportedError
    for a token that counts only as a word of its own.
    """
    numbered = _Numbered(vocabulary)
    for _, entry in added_entries(files.described or {}):
        numbered.add(_token(entry))
    listed = _listed(files)
    by_text = {token.text: token for token in listed.values()}
    named = _named(files, by_text)
    special = {token.text for token, _ in named}
    more = [(token, False) for _, token in sorted(listed.items(), key=lambda item: item[0])]
    known = {*numbered.tokens, *(token.text for token, _ in more)}
    more += [(token, of_class) for token, of_class in named if token.text not in known]
    for token, of_class in more:
        if of_class and numbered.number(token.text) >= limit:
            continue
        named_special = token.text in special
        numbered.add(dataclasses.replace(token, special=True) if named_special else token)
    for token in numbered.tokens.values():
        if token.whole_word:
            raise UnsupportedError(
                f"The added token {token.text[:40]!r} counts only as a word of its own.",
                cause="llama.cpp would find it inside of words too (single_word is true).",
            )
    return {numbered.ids[text]: token for text, token in numbered.tokens.items()}


class _Numbered:
    """Added tokens in the order they came, and the id each takes."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._last = -1
        self.ids: dict[str, int] = {}
        self.tokens: dict[str, AddedToken] = {}

    def number(self, text: str) -> int:
        """The id the token has or would get: one more than the last, after the vocabulary."""
        known = self.ids.get(text, self._vocabulary.get(text))
        size = len(self._vocabulary)
        return known if known is not None else self._last + 1 if self._last >= size else size

    def add(self, token: AddedToken) -> None:
        """Adds a token, or gives one that is there other flags; an empty text is none."""
        if not token.text:
            return
        number = self.number(token.text)
        self._last = max(self._last, number)
        self.ids[token.text] = number
        self.tokens[token.text] = token


def _listed(files: TokenizerFiles) -> dict[int, AddedToken]:
    """What the files beside tokenizer.json list, by the id they state."""
    name = "tokenizer_config.json"
    found: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in files.settings:
        for key, entry in section(files.settings, "added_tokens_decoder", of=name).items():
            if not key.isascii() or not key.isdigit() or not isinstance(entry, dict):
                raise FormatError(f"{name} lists an added token under {key[:20]!r}.")
            if len(key) < 10:
                found[int(key)] = _token(entry)
        return found
    special = {text for _, text, _ in _special_texts(files)}
    for text, number in (files.checkpoint.json("added_tokens.json") or {}).items():
        if type(number) is not int:
            raise FormatError(f"added_tokens.json has no id for {text[:40]!r}.")
        found[number] = AddedToken(
            text=text, special=text in special, normalized=text not in special
        )
    for number, entry in added_entries(files.described or {}):
        found[number] = _token(entry)
    return found


def _named(
    files: TokenizerFiles, by_text: Mapping[str, AddedToken]
) -> list[tuple[AddedToken, bool]]:
    """The special tokens by name, and whether it is only the tokenizer's class that has one."""
    found: dict[str, tuple[AddedToken, bool]] = {}
    for entry, text, of_class in _special_texts(files):
        token = by_text.get(text)
        if token is None and isinstance(entry, dict):
            token = _token({"special": True, **entry})
        if token is None:
            token = AddedToken(text=text, special=True, normalized=False)
        found.setdefault(text, (token, of_class))
    return list(found.values())


def _special_texts(files: TokenizerFiles) -> Iterator[tuple[object, str, bool]]:
    by_class = _CLASS_TOKENS.get(tokenizer_class(files), {})
    # The older file counts only where the newer list is missing.
    newer = "added_tokens_decoder" in files.settings
    older = {} if newer else files.checkpoint.json("special_tokens_map.json") or {}
    for name in _SPECIAL:
        key = f"{name}_token"
        of_class = key not in files.settings and key not in older
        entry = by_class.get(name) if of_class else older.get(key, files.settings.get(key))
        text = content(entry)
        if text:
            yield entry, text, of_class
    for values in (files.settings, older):
        more = values.get("additional_special_tokens")
        for entry in more if isinstance(more, list) else ():
            text = content(entry)
            if text:
                yield entry, text, False


def _token(entry: Mapping[str, object]) -> AddedToken:
    text = entry.get("content")
    if not isinstance(text, str):
        raise FormatError("The tokenizer has an added token without a text.")
    special = entry.get("special") is True
    return AddedToken(
        text=text,
        special=special,
        normalized=entry.get("normalized", not special) is True,
        whole_word=entry.get("single_word") is True,
        strips=(entry.get("lstrip") is True, entry.get("rstrip") is True),
    )
