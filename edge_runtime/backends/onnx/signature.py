"""What a graph takes and gives, read from the session's own inputs and outputs.

Three layouts are told apart by what they declare, not by whose tool wrote them: decoders with a
cache in pairs of past and present, decoders without one, and encoders. Names of a
`genai_config.json` come first where they are real; a graph with an input nobody here can fill is
refused by that input's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UnsupportedError

ELEMENT_TYPES = {
    "tensor(float)": (1, 4, "f32"),
    "tensor(float16)": (10, 2, "f16"),
    "tensor(bfloat16)": (16, 2, "bf16"),
    "tensor(uint8)": (2, 1, "q8_0"),
    "tensor(int8)": (3, 1, "q8_0"),
}
"""ONNX's number (onnx.proto, TensorProto.DataType), bytes, and our name of a cache's type."""

_INTEGERS = {"tensor(int64)": 7, "tensor(int32)": 6}
_NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<layer>\d{1,4})(?P<tail>\D*)$")
_KEY = re.compile(r"(^|[._])(keys?|k)([._]|$)")
_VALUE = re.compile(r"(^|[._])(values?|v)([._]|$)")
_STEMS = re.compile(r"past_key_values?|present_key_values?|past|present|cache|key_values?")
_KEEP = ("num_logits_to_keep", "logits_to_keep")
_WHOLE = "rotary_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePart:
    """The keys or the values of one layer: names, and dims with None where the length stands."""

    past: str
    present: str
    dims: tuple[int | None, ...]
    element_type: int
    element_bytes: int
    kv_type: str

    def shape(self, tokens: int) -> list[int]:
        """The dims with that many tokens."""
        return [tokens if dim is None else dim for dim in self.dims]

    @property
    def length_axis(self) -> int:
        """Which axis counts tokens."""
        return self.dims.index(None)

    def size_bytes(self, tokens: int) -> int:
        """What that many tokens take."""
        size = self.element_bytes
        for dim in self.shape(tokens):
            size *= dim
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The names of a graph's inputs and outputs by their roles; "" where it has none.

    `integer_type` is ONNX's number of the type of token ids, the same for masks and positions.
    `keep` says of how many positions at the end logits are wanted. `whole` says how long a context
    will become, which decides how its positions are turned (long RoPE); 0 leaves it to the mask.
    """

    token_ids: str
    mask: str
    positions: str
    token_types: str
    keep: str
    keep_dims: tuple[int, ...]
    whole: str
    branch: str
    cache_positions: str
    caches: tuple[CachePart, ...]
    logits: str
    hidden: str
    pooled: str
    integer_type: int
    vocabulary_tokens: int | None
    """None when the graph does not declare it."""

    @property
    def generates(self) -> bool:
        """Whether it is a decoder with a cache."""
        return bool(self.logits and self.caches)


def read_signature(
    session: Any, *, file: str, names: Mapping[str, str], kv_dims: tuple[int, int]
) -> Signature:
    """The signature of a session's graph.

    `names` are roles by a `genai_config.json`; `kv_dims` are the heads and the width of a cache
    whose graph leaves them open. Raises UnsupportedError for what is no language model.
    """
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = {item.name: item for item in session.get_outputs()}
    # Inputs with a default stand among all the weights that may be replaced.
    optional = {
        item.name: item
        for item in session.get_overridable_initializers()
        if item.name in (*_KEEP, _WHOLE) and item.type == "tensor(int64)" and len(item.shape) < 2
    }
    taken = _Roles(inputs, optional, names)
    ids = taken.role("input_ids")
    if not ids:
        raise UnsupportedError(
            f"{file} is no language model.",
            cause=f"It takes {_listed(inputs)}, and no token ids (input_ids).",
            way_out="Its speed can be measured: edge profile " + file,
        )
    mask, positions = taken.role("attention_mask"), taken.role("position_ids")
    keep, whole = next((name for name in map(taken.role, _KEEP) if name), ""), taken.role(_WHOLE)
    token_types, branch = taken.role("token_type_ids"), taken.role("use_cache_branch")
    cache_positions = taken.role("cache_position")
    caches = _caches(taken.left(), outputs, kv_dims)
    unknown = taken.unfilled(cache.past for cache in caches)
    if unknown:
        raise UnsupportedError(
            f"{file} has an input that cannot be filled: {unknown[0][:80]}.",
            cause=f"It takes {_listed(inputs)}.",
            way_out="Convert the model again, or export it as a decoder with past and present.",
        )
    texts = [inputs[n] for n in (ids, mask, positions, token_types) if n]
    _check_types(file, texts)
    _check_dims(file, texts, [(inputs[part.past], part.length_axis) for part in caches])
    logits = _output(outputs, (names.get("logits", ""), "logits"), rank=3)
    hidden = _output(outputs, ("last_hidden_state", "hidden_states", "token_embeddings"), rank=3)
    pooled = _output(outputs, ("sentence_embedding", "pooler_output"), rank=2)
    if not (logits or hidden or pooled):
        raise UnsupportedError(
            f"{file} is no language model.",
            cause=f"It gives {_listed(outputs)}: neither logits nor hidden states.",
        )
    last = outputs[logits].shape[-1] if logits and outputs[logits].shape else None
    return Signature(
        token_ids=ids,
        mask=mask,
        positions=positions,
        token_types=token_types,
        keep=keep,
        keep_dims=tuple(1 for _ in taken.shape(keep)),
        whole=whole,
        branch=branch,
        cache_positions=cache_positions,
        caches=caches,
        logits=logits,
        hidden=hidden,
        pooled=pooled,
        integer_type=_INTEGERS.get(inputs[ids].type, 7),
        vocabulary_tokens=last if isinstance(last, int) else None,
    )


def _check_types(file: str, texts: Sequence[Any]) -> None:
    """Refuses a graph that does not count in one type of whole numbers."""
    for item in texts:
        if item.type not in _INTEGERS or item.type != texts[0].type:
            raise UnsupportedError(
                f"{file} takes {item.name} as {item.type}, and its token ids as {texts[0].type}.",
                cause="Whole numbers of one type, int64 or int32, are given here.",
                way_out="Export it again with one of them for all inputs.",
            )


def _check_dims(file: str, texts: Sequence[Any], caches: Sequence[tuple[Any, int]]) -> None:
    """Refuses a graph made for texts of one length only, or for several texts at once."""
    lengths = [(item, 1) for item in texts if len(item.shape) == 2] + list(caches)
    for item, axis in lengths:
        batch, length = item.shape[0], item.shape[axis]
        if isinstance(batch, int) and batch > 1:
            raise UnsupportedError(
                f"{file} is made for {batch} texts at once.",
                cause=f"So its input {item.name} says.",
                way_out="Export it again with a batch of any size, or of 1.",
            )
        if isinstance(length, int) and length > 0:
            raise UnsupportedError(
                f"{file} is made for one length of text only.",
                cause=f"Its input {item.name} takes exactly {length} tokens.",
                way_out="Export it again with a length that may vary.",
            )


class _Roles:
    """Hands out a graph's inputs by role and remembers which are left, of those without default."""

    def __init__(
        self, inputs: Mapping[str, Any], optional: Mapping[str, Any], names: Mapping[str, str]
    ) -> None:
        self._inputs = inputs
        self._all = {**optional, **inputs}
        self._names = names
        self._taken: set[str] = set()

    def role(self, role: str) -> str:
        for name in (self._names.get(role, ""), role):
            if name in self._all and name not in self._taken:
                self._taken.add(name)
                return name
        return ""

    def shape(self, name: str) -> Sequence[Any]:
        return self._all[name].shape if name else ()

    def left(self) -> dict[str, Any]:
        return {name: item for name, item in self._inputs.items() if name not in self._taken}

    def unfilled(self, filled: Any) -> list[str]:
        known = set(filled)
        return [name for name in self.left() if name not in known]


def _listed(items: Mapping[str, Any]) -> str:
    names = [name[:80] for name in items]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _output(outputs: Mapping[str, Any], candidates: Sequence[str], *, rank: int) -> str:
    for name in candidates:
        if name in outputs and len(outputs[name].shape) in (rank, 0):
            return name
    return ""


def _caches(
    inputs: Mapping[str, Any], outputs: Mapping[str, Any], kv_dims: tuple[int, int]
) -> tuple[CachePart, ...]:
    """The pairs of past and present, by layer and by keys or values, whatever they are called."""
    presents = {place: name for name in outputs if (place := _place(name)) is not None}
    found: list[tuple[tuple[int, bool], CachePart]] = []
    for name, item in inputs.items():
        place = _place(name)
        if place is None or place not in presents or item.type not in ELEMENT_TYPES:
            continue
        dims = _cache_dims(item.shape, kv_dims)
        if dims is None:
            continue
        number, size_bytes, kind = ELEMENT_TYPES[item.type]
        part = CachePart(
            past=name, present=presents[place], dims=dims, element_type=number,
            element_bytes=size_bytes, kv_type=kind,
        )  # fmt: skip
        found.append((place, part))
    return tuple(part for _, part in sorted(found, key=lambda pair: pair[0]))


def _place(name: str) -> tuple[int, bool] | None:
    """The layer a cache's name counts, and whether it is for values; None for other names."""
    match = _NUMBERED.match(name)
    if match is None:
        return None
    # "past_key_values.3.value" says key and value: what the stem calls the pair does not count.
    rest = _STEMS.sub("", match["stem"], count=1) + "." + match["tail"]
    is_key, is_value = _KEY.search(rest) is not None, _VALUE.search(rest) is not None
    if not (is_key or is_value):
        is_key, is_value = "key" in match["stem"], "value" in match["stem"]
    if is_key == is_value:
        return None
    return int(match["layer"]), is_value


def _cache_dims(shape: Sequence[Any], kv_dims: tuple[int, int]) -> tuple[int | None, ...] | None:
    """Batch 1, heads, length, width, with None for the length; None when it is something else."""
    if len(shape) != 4:
        return None
    heads, width = kv_dims
    fixed = [dim if isinstance(dim, int) and dim > 0 else None for dim in shape]
    if fixed[1] is None and fixed[2] is not None:
        return (1, None, fixed[2], fixed[3] or width)
    return (1, fixed[1] or heads, None, fixed[3] or width)
