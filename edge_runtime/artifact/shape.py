"""The shape of a model: every number that decides how large it is and how much work a token takes.

A `ModelShape` comes from a GGUF header, from a Hugging Face `config.json` or from a catalogue
entry, and says the same whichever it was. It knows sizes and counts; it holds no weights, reads no
file and knows nothing of speed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import UsageError
from .ggml import GGMLType, tensor_type

KV_CELLS_MULTIPLE = 256
"""llama.cpp rounds the cells of a KV cache up to a multiple of this."""
DEFAULT_MICRO_BATCH_TOKENS = 512
"""llama.cpp's default for the tokens computed at once, which a windowed cache must hold as well."""


class NamedDims(Protocol):
    """Anything that is a tensor by name and dims, row length first."""

    @property
    def name(self) -> str:
        """Its GGUF name."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Its dims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorShape:
    """One tensor's GGUF name and dims in ggml's order: the row length first."""

    name: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary positions are stretched beyond the context a model was first trained on.

    `kind` is `linear`, `yarn`, `longrope` or `llama3`. The factor lists are weights-like data that
    a GGUF header does not hold: empty when unknown, and left out of comparisons.
    """

    kind: str
    factor: float | None = None
    attention_factor: float | None = None
    extrapolation_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    factors: tuple[float, ...] = field(default=(), compare=False)
    """`llama3`: what each rotary frequency is divided by."""
    long_factors: tuple[float, ...] = field(default=(), compare=False)
    short_factors: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The dimensions of a transformer, a decoder or an encoder, as llama.cpp would hold and run it.

    `architecture` is the GGUF name (`llama`, `qwen2`, ...); of an ONNX model it may be another one,
    for which `tensors` raises UnsupportedError. `intermediate` is the width of the dense
    feed-forward block; experts have their own. `sliding_layers` says per layer whether its
    attention is windowed, and is empty when none is. Fields that do not apply are None, 0 or False.
    """

    name: str
    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_tokens: int
    context_tokens: int
    tied_embeddings: bool
    norm_epsilon: float
    layers_of_model: int
    """Layers of the whole model: more than `layers` only after `truncated`."""
    rope_theta: float | None = None
    rope_theta_sliding: float | None = None
    rope_dimensions: int = 0
    rope_scaling: RopeScaling | None = None
    original_context_tokens: int | None = None
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] = ()
    experts: int = 0
    experts_used: int = 0
    expert_intermediate: int = 0
    shared_expert_intermediate: int = 0
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    parallel_residual: bool = False
    attention_softcap: float | None = None
    final_softcap: float | None = None
    attention_scale: float | None = None
    embedding_scale: float | None = None
    residual_scale: float | None = None
    logit_scale: float | None = None
    token_types: int = 0
    """Rows of an encoder's table that tells the parts of an input from each other."""
    embeds: bool = False
    """Whether it makes embeddings, whatever models of its architecture do otherwise."""

    @classmethod
    def from_config(cls, config: Mapping[str, object], *, name: str) -> ModelShape:
        """The shape a Hugging Face `config.json` describes, as a parsed JSON object.

        Both spellings are read, that of transformers 4 and of 5; absent keys take the model class's
        defaults. Raises UnsupportedError for an architecture that is not known, FormatError for a
        value that cannot be.
        """
        from .config import shape_of_config

        return shape_of_config(config, name=name)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object], tensors: Iterable[NamedDims]) -> ModelShape:
        """The shape a GGUF header describes, by its metadata and tensor table.

        Raises UnsupportedError for an architecture that is not known, FormatError for a header that
        contradicts itself.
        """
        from .keys import shape_of_metadata

        return shape_of_metadata(metadata, tensors)

    @property
    def encoder(self) -> bool:
        """Whether it makes embeddings and generates nothing."""
        from .layout import FAMILIES

        kind = FAMILIES.get(self.architecture)
        return self.embeds or (kind is not None and kind.encoder)

    @property
    def position_rows(self) -> int | None:
        """How many positions there are when a table holds them, None when they are computed."""
        from .layout import family

        return self.context_tokens if family(self.architecture).position_table else None

    @property
    def tensors(self) -> tuple[TensorShape, ...]:
        """Every tensor of the model's GGUF file, in the quantizer's order."""
        from .layout import tensors_of

        return tensors_of(self)

    @property
    def parameters(self) -> int:
        """Trained parameters, a tied embedding counted once: the number model cards publish."""
        return sum(t.elements for t in self.tensors if not is_rope_table(t.name))

    @property
    def active_parameters(self) -> int:
        """Parameters that take part in one token: all but the experts it is not routed to."""
        return sum(
            t.elements * self.experts_used // self.experts
            if is_expert_stack(t.name)
            else t.elements
            for t in self.tensors
            if not is_rope_table(t.name)
        )

    def weight_bytes(self, level_name: str) -> int:
        """The bytes of all tensor data at a level; no header, no alignment padding."""
        types = self._types(level_name)
        return sum(types[t.name].size_bytes(t.dims) for t in self.tensors)

    def decode_bytes(self, level_name: str) -> int:
        """The weight bytes that decoding one token reads at a level; see `bytes_read`.

        0 for an encoder, which decodes nothing.
        """
        if self.encoder:
            return 0
        types = self._types(level_name)
        return sum(
            self.bytes_read(t.name, types[t.name].size_bytes(t.dims), t.dims) for t in self.tensors
        )

    def bytes_read(self, name: str, size_bytes: int, dims: tuple[int, ...]) -> int:
        """How much of one tensor's `size_bytes` decoding a token reads.

        One row of a table that is only looked up, the routed share of a stack of experts, else all.
        """
        looked_up = (
            name == "position_embd.weight"
            or name.startswith("rope_cache.")
            or (name == "token_embd.weight" and not self.tied_embeddings)
        )
        if looked_up:
            return size_bytes // max(math.prod(dims[1:]), 1)
        if self.experts and is_expert_stack(name):
            return size_bytes * self.experts_used // self.experts
        return size_bytes

    def kv_bytes_per_token(self, kv_type_k: str = "f16", kv_type_v: str = "f16") -> int:
        """The KV-cache bytes that one more token takes over all layers, windows not yet full.

        0 for an encoder, which keeps none.
        """
        return self.layers * self._kv_cell_bytes(kv_type_k, kv_type_v)

    def kv_bytes(
        self,
        context_tokens: int,
        kv_type_k: str = "f16",
        kv_type_v: str = "f16",
        *,
        micro_batch_tokens: int = DEFAULT_MICRO_BATCH_TOKENS,
        swa_full: bool = False,
    ) -> int:
        """The KV cache llama.cpp allocates for a context of one sequence, bytes.

        Cells are padded to a multiple of 256. A windowed layer holds its window and one micro-batch
        of cells, unless `swa_full`. An encoder has no cache. Raises UsageError when the context is
        not positive, or when the blocks of a type do not divide the heads.
        """
        if context_tokens < 1:
            raise UsageError(f"A context of {context_tokens} tokens holds nothing.")
        cells = _padded(context_tokens)
        windowed = sum(self.sliding_layers)
        windowed_cells = cells
        if self.sliding_window is not None and not swa_full:
            windowed_cells = _padded(min(cells, self.sliding_window + micro_batch_tokens))
        total_cells = (self.layers - windowed) * cells + windowed * windowed_cells
        return total_cells * self._kv_cell_bytes(kv_type_k, kv_type_v)

    def truncated(self, layers: int) -> ModelShape:
        """The model's first `layers` layers, with embeddings and output as they are.

        Raises UsageError when it does not have that many.
        """
        if not 1 <= layers <= self.layers:
            raise UsageError(
                f"{self.name} cannot be cut to {layers} layers.", cause=f"It has {self.layers}."
            )
        return dataclasses.replace(self, layers=layers, sliding_layers=self.sliding_layers[:layers])

    def _kv_cell_bytes(self, kv_type_k: str, kv_type_v: str) -> int:
        total = 0
        if self.encoder:
            return total
        for kind in (tensor_type(kv_type_k), tensor_type(kv_type_v)):
            if self.head_dim % kind.block_elements:
                raise UsageError(
                    f"{self.name} cannot keep its KV cache as {kind.name.lower()}.",
                    cause=f"Its heads are {self.head_dim} wide, no multiple of"
                    f" {kind.block_elements}.",
                    way_out="Use f16.",
                )
            total += kind.row_bytes(self.kv_heads * self.head_dim)
        return total

    def _types(self, level_name: str) -> Mapping[str, GGMLType]:
        from .levels import level
        from .recipe import types_for

        return types_for(self, level(level_name))


def is_rope_table(name: str) -> bool:
    """Whether a tensor holds rotary factors computed from the config, which nobody trained."""
    return name.startswith("rope_cache.") or name in (
        "rope_freqs.weight",
        "rope_factors_long.weight",
        "rope_factors_short.weight",
    )


def is_expert_stack(name: str) -> bool:
    """Whether a tensor stacks the matrices of all routed experts of a layer."""
    return name.endswith("_exps.weight")


def _padded(cells: int) -> int:
    return -(-cells // KV_CELLS_MULTIPLE) * KV_CELLS_MULTIPLE
