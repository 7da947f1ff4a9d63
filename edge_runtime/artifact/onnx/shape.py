"""An ONNX graph and the configs beside it -> `ModelShape`, whichever of them there is.

The graph is what runs, so it has the last word on what its inputs show; a config that contradicts
it is refused. A family that is not known here has a shape all the same, from the graph's own sizes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ...errors import FormatError, UnsupportedError
from ..config import ARCHITECTURE_OF
from ..config_values import ConfigValues
from ..shape import ModelShape
from .graph import OnnxGraph
from .ports import ValueInfo
from .refusals import EXPORT_AGAIN, refuse_foreign
from .types import ELEMENT_TYPES
from .weights import Weights

UNKNOWN_CONTEXT_TOKENS = 4096
"""The context of a model when neither graph nor config says one."""

_BITS = {kind.name: kind.bits for kind in ELEMENT_TYPES.values()}
_PAST = re.compile(r"(?:^|[._/])(?:past|cache|key_cache|value_cache|kv)", re.IGNORECASE)
_ROLE = re.compile(r"(?:^|[._/])(?P<role>keys?|values?|k|v)(?:$|[._/])", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_MOST = 2**31 - 1
_WINDOWED = ("mistral", "mixtral", "starcoder2")
_COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet")
"""Families whose first token has the position after that of padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInput:
    """An input that holds the keys or the values of a layer's past tokens."""

    name: str
    layer: int
    role: str
    """`key` or `value`."""
    type: str
    heads: int | None
    head_dim: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What lies beside a graph: parsed configs, None where there is none."""

    model: Path
    config: Mapping[str, object] | None
    genai: Mapping[str, object] | None

    @property
    def decoder(self) -> ConfigValues:
        """The decoder's part of genai's config, empty without one."""
        model = (self.genai or {}).get("model")
        decoder = model.get("decoder") if isinstance(model, Mapping) else None
        return ConfigValues(decoder if isinstance(decoder, Mapping) else {}, of="genai_config")

    @property
    def genai_model(self) -> ConfigValues:
        """The model's part of genai's config, empty without one."""
        model = (self.genai or {}).get("model")
        return ConfigValues(model if isinstance(model, Mapping) else {}, of="genai_config")

    @property
    def family(self) -> str:
        """The family by whichever config says it, as GGUF calls it; empty where none does."""
        stated = (_text_part(self.config).get("model_type"), self.genai_model.get("type"))
        found = next((name for name in stated if isinstance(name, str) and name), "")
        return ARCHITECTURE_OF.get(found, found[:60])


def token_input(graph: OnnxGraph, stated: Stated) -> str | None:
    """The input that takes token ids, None when the model takes none."""
    named = stated.decoder.section("inputs")
    wanted = named.get("input_ids") if named is not None else None
    whole = [v for v in graph.inputs if v.type in ("INT64", "INT32") and len(v.dims) in (1, 2)]
    names = [value.name for value in whole]
    for name in (wanted, "input_ids", "tokens", "token_ids", "ids"):
        if isinstance(name, str) and name in names:
            return name
    return next((name for name in names if name.endswith("input_ids")), None)


def cache_inputs(graph: OnnxGraph, stated: Stated) -> tuple[CacheInput, ...]:
    """The inputs of a KV cache, by layer; () for a model that keeps none.

    Names are those of genai's config, or hold a layer's number and say `key` or `value`.
    """
    patterns = _genai_patterns(stated)
    found = []
    for value in graph.inputs:
        if len(value.dims) != 4 or value.type not in ("FP32", "FP16", "BFLOAT16", "INT8", "UINT8"):
            continue
        matched = _matched(value.name, patterns)
        if matched is not None:
            layer, role = matched
            found.append(_cache_input(value, layer, role))
    return tuple(sorted(found, key=lambda cache: (cache.layer, cache.role)))


def cache_bytes_per_token(caches: tuple[CacheInput, ...], shape: ModelShape) -> int | None:
    """What one more token adds to a cache of one sequence; None where there is no cache."""
    if not caches:
        return None
    return sum(
        (cache.heads or shape.kv_heads) * (cache.head_dim or shape.head_dim) * _BITS[cache.type]
        for cache in caches
    ) // 8  # fmt: skip


def shape_of(
    graph: OnnxGraph,
    weights: Weights,
    caches: tuple[CacheInput, ...],
    stated: Stated,
    *,
    name: str,
    layers_of_model: int | None,
) -> ModelShape:
    """The shape of the language model in a graph.

    Raises UnsupportedError for a graph that neither continues a text with a cache nor embeds one,
    FormatError for a config that contradicts the graph.
    """
    refuse_foreign(graph)
    found = _Found(graph, weights, caches, stated)
    shape = _known(stated, name)
    if shape is None:
        shape = found.amended(found.generic(name))
    else:
        if shape.layers == layers_of_model and 0 < found.layers < shape.layers:
            shape = shape.truncated(found.layers)  # cut in depth, and says so
        found.check(shape)
        shape = found.amended(shape)
    if not caches and not shape.encoder:
        if found.makes_logits:
            raise UnsupportedError(
                f"{stated.model.name} keeps no cache of past tokens.",
                cause="It would compute the whole text again for every token.",
                way_out=EXPORT_AGAIN,
            )
        shape = dataclasses.replace(shape, embeds=True)
    if layers_of_model is not None and layers_of_model >= shape.layers:
        shape = dataclasses.replace(shape, layers_of_model=layers_of_model)
    return shape


def _known(stated: Stated, name: str) -> ModelShape | None:
    """The shape a config of a known family says; None for others, whose graph has to."""
    if stated.config is None:
        return None
    try:
        return ModelShape.from_config(stated.config, name=name)
    except UnsupportedError:
        return None  # what llama.cpp cannot run may well be a graph
    except FormatError as error:
        raise FormatError(
            f"{stated.model.name}: {error.fact}", cause=error.cause, way_out=error.way_out
        ) from None


class _Found:
    """The sizes a graph shows, next to those stated beside it."""

    def __init__(
        self,
        graph: OnnxGraph,
        weights: Weights,
        caches: tuple[CacheInput, ...],
        stated: Stated,
    ) -> None:
        self._weights = weights
        self._caches = caches
        self._stated = stated
        self._config = ConfigValues(_text_part(stated.config))
        outputs = {value.name: value for value in graph.outputs}
        named = stated.decoder.section("outputs")
        name = named.get("logits") if named is not None else None
        self._logits = outputs.get(name if isinstance(name, str) else "logits")
        self._attention = [n for n in graph.nodes if n.op == "GroupQueryAttention"]
        self._multi_head = [n for n in graph.nodes if "num_heads" in n.ints]
        self.layers = len({cache.layer for cache in caches})

    @property
    def makes_logits(self) -> bool:
        """Whether it scores the next token for every place."""
        return self._logits is not None and len(self._logits.dims) == 3

    @property
    def _vocabulary(self) -> int | None:
        # What an encoder scores may be labels.
        last = self._logits.dims[-1] if self._logits is not None and self._logits.dims else None
        return last if self._caches and isinstance(last, int) and last > 1 else None

    @property
    def _kv_heads(self) -> int | None:
        sizes = {cache.heads for cache in self._caches}
        return next(iter(sizes)) if len(sizes) == 1 else None

    @property
    def _head_dim(self) -> int | None:
        sizes = {cache.head_dim for cache in self._caches}
        return next(iter(sizes)) if len(sizes) == 1 else None

    def check(self, shape: ModelShape) -> None:
        """Raises FormatError when the config describes another model than the graph is."""
        table = self._weights.embedding
        for what, says, has in (
            ("num_hidden_layers", shape.layers, self.layers or None),
            ("num_key_value_heads", shape.kv_heads, self._kv_heads),
            ("head_dim", shape.head_dim, self._head_dim),
            ("hidden_size", shape.hidden, None if table is None else table[0]),
        ):
            if has is not None and has != says:
                self._contradicts("config.json", what, says, has)
        rows = [n for n in (self._vocabulary, None if table is None else table[1]) if n is not None]
        if rows and shape.vocabulary_tokens not in rows:
            self._contradicts("config.json", "vocab_size", shape.vocabulary_tokens, rows[0])
        self._check_genai()

    def _check_genai(self) -> None:
        decoder = self._stated.decoder
        for key, has in (
            ("num_hidden_layers", self.layers or None),
            ("num_key_value_heads", self._kv_heads),
            ("head_size", self._head_dim),
        ):
            says = decoder.count(key, default=0, least=0, most=_MOST)
            if says and has is not None and has != says:
                self._contradicts("genai_config.json", key, says, has)

    def _contradicts(self, where: str, what: str, says: int, has: int) -> NoReturn:
        raise FormatError(
            f"{where} contradicts {self._stated.model.name}.",
            cause=f"It says {what} {says}; the graph has {has}.",
            way_out="Put the files of one model into a folder of their own.",
        )

    def amended(self, shape: ModelShape) -> ModelShape:
        """A config's shape with what only the graph decides: shared tables, windows."""
        if self._weights.tied is not None and not shape.encoder:
            shape = dataclasses.replace(shape, tied_embeddings=self._weights.tied)
        if len(self._attention) != shape.layers:
            return shape
        windows = [node.ints.get("local_window_size", -1) for node in self._attention]
        windowed = tuple(window > 0 for window in windows)
        if not any(windowed):
            # A graph that lost the window computes the same only as far as the window reaches.
            reach = min(
                shape.context_tokens, shape.sliding_window or self._stated_window() or _MOST
            )
            return dataclasses.replace(
                shape, sliding_window=None, sliding_layers=(), context_tokens=reach
            )
        return dataclasses.replace(
            shape, sliding_window=min(max(windows), _MOST), sliding_layers=windowed
        )

    def _stated_window(self) -> int:
        """The window a config states for all layers, which a GGUF file of the family drops."""
        section = self._stated.decoder.section("sliding_window")
        if section is not None:
            return section.count("window_size", default=0, least=0, most=_MOST)
        windowed = self._config.get("model_type") in _WINDOWED
        return self._number("sliding_window", most=_MOST) if windowed else 0

    def generic(self, name: str) -> ModelShape:
        """A shape from sizes alone, of a family that is not known here."""
        self._check_genai()
        table = self._weights.embedding
        head_dim = self._head_dim or self._number("head_size", "head_dim", most=2**14)
        hidden = self._number("hidden_size", "n_embd", "d_model", "dim", most=2**18) or (
            table[0] if table is not None else 0
        )
        heads = self._number("num_attention_heads", "n_head", "num_heads", "n_heads", most=2**12)
        heads = heads or max((n.ints["num_heads"] for n in self._multi_head), default=0)
        heads = heads if 0 < heads <= 2**12 else (hidden // head_dim if head_dim else 0)
        layers = self._number("num_hidden_layers", "n_layer", "num_layers", "n_layers", most=4096)
        layers = layers or self.layers
        vocabulary = self._vocabulary or (table[1] if table is not None else 0)
        vocabulary = vocabulary or self._number("vocab_size", most=2**24)
        for what, size in (("hidden_size", hidden), ("vocab_size", vocabulary)):
            if not size:
                self._says_too_little(what)
        if self._caches and not (heads and head_dim and layers):
            self._says_too_little("num_attention_heads")
        return ModelShape(
            name=name,
            architecture=self._stated.family or "unknown",
            layers=layers,
            layers_of_model=layers,
            hidden=hidden,
            intermediate=self._number(
                "intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "d_ff", most=2**22
            )
            or self._weights.widest_into(hidden),
            heads=heads,
            kv_heads=self._kv_heads
            or self._number("num_key_value_heads", "num_kv_heads", most=2**12)
            or heads,
            head_dim=head_dim or (hidden // heads if heads else 0),
            vocabulary_tokens=vocabulary,
            context_tokens=self._context(),
            tied_embeddings=bool(self._weights.tied),
            norm_epsilon=1e-05,
            embeds=not self._caches and (not self.makes_logits or self._scores_masks()),
        )

    def _says_too_little(self, what: str) -> NoReturn:
        raise UnsupportedError(
            f"{self._stated.model.name} does not show its {what}.",
            cause="No config lies beside it that says it.",
            way_out="Put the model's config.json beside it.",
        )

    def _number(self, *keys: str, most: int) -> int:
        """A whole number of genai's config or of the model's own, 0 when neither has it."""
        return self._stated.decoder.count(
            *keys, default=0, least=0, most=most
        ) or self._config.count(*keys, default=0, least=0, most=most)

    def _context(self) -> int:
        keys = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
        stated = self._config.count(*keys, default=0, least=0, most=_MOST)
        if self._config.get("model_type") in _COUNTED_FROM_PADDING:
            stated -= self._config.count("pad_token_id", default=1, least=0, most=_MOST) + 1
        return (
            max(stated, 0)
            or self._stated.genai_model.count("context_length", default=0, least=0, most=_MOST)
            or self._weights.angle_rows
            or self._weights.position_rows
            or UNKNOWN_CONTEXT_TOKENS
        )

    def _scores_masks(self) -> bool:
        """Whether it is an encoder with a head on it, which fills gaps or sorts texts."""
        classes = self._config.get("architectures")
        first = classes[0] if isinstance(classes, list) and classes else ""
        return (
            not self._caches
            and isinstance(first, str)
            and first.endswith(
                ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
            )
        )


def _text_part(config: Mapping[str, object] | None) -> Mapping[str, object]:
    """A config, with what it says of the text model on top where it has several parts."""
    text = (config or {}).get("text_config")
    return {**(config or {}), **(text if isinstance(text, Mapping) else {})}


def _genai_patterns(stated: Stated) -> tuple[tuple[re.Pattern[str], str], ...]:
    named = stated.decoder.section("inputs")
    found = []
    for key, role in (("past_key_names", "key"), ("past_value_names", "value")):
        pattern = named.get(key) if named is not None else None
        if isinstance(pattern, str) and pattern.count("%d") == 1:
            before, after = pattern.split("%d")
            words = f"{re.escape(before)}(\\d{{1,4}}){re.escape(after)}"
            found.append((re.compile(words), role))
    return tuple(found)


def _matched(
    name: str, patterns: tuple[tuple[re.Pattern[str], str], ...]
) -> tuple[int, str] | None:
    for pattern, role in patterns:
        match = pattern.fullmatch(name)
        if match is not None:
            return int(match[1]), role
    number = _NUMBER.search(name)
    role_match = _ROLE.search(_NUMBER.sub(".", name).replace("key_values", "kv"))
    if number is None or len(number[0]) > 4 or _PAST.search(name) is None or role_match is None:
        return None
    return int(number[0]), "key" if role_match["role"].lower().startswith("k") else "value"


def _cache_input(value: ValueInfo, layer: int, role: str) -> CacheInput:
    heads, width = value.dims[1], value.dims[3]
    return CacheInput(
        name=value.name,
        layer=layer,
        role=role,
        type=value.type,
        heads=heads if isinstance(heads, int) and heads > 0 else None,
        head_dim=width if isinstance(width, int) and width > 0 else None,
    )
