"""What an inspected model is, as a record: `inspect` words it, `--json` writes it.

Texts are as the file has them; whoever shows them makes them safe. Nothing here reads a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..artifact import ModelShape
from ..artifact.shape import is_rope_table
from ..basis import Unavailable
from ..codec import to_jsonable

Kind = Literal["model", "checkpoint", "vocabulary", "imatrix", "adapter", "projector"]
"""What lies there. Only the first two can be run, the second after a conversion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFact:
    """One file of the model, and its SHA-256 where that was asked for."""

    name: str
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFact:
    """One tensor: GGUF dims with the row length first, others as stored, rows first."""

    name: str
    type: str
    dims: tuple[int, ...]
    elements: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MixRow:
    """All tensors of one type."""

    type: str
    tensors: int
    elements: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAt:
    """What a context of one sequence takes: weights and the cache, no compute buffers."""

    context_tokens: int
    weight_bytes: int
    kv_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialToken:
    """A token with a role: `eos`, `pad`, ... `text` is None where the vocabulary has no such id."""

    role: str
    id: int
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """How a model reads text; None where the file says nothing."""

    model: str
    pre: str | None
    tokens: int
    merges: int | None
    add_bos: bool | None
    add_eos: bool | None
    special: tuple[SpecialToken, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What a checkpoint would become: family, and the weight bytes at the usual levels."""

    family: str
    sizes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFact:
    """An input or output of a graph; dims that vary are named, or None without a name."""

    name: str
    type: str
    dims: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What an ONNX graph is made of. `operators` are (name, how often), most frequent first."""

    producer: str
    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    inputs: tuple[PortFact, ...]
    outputs: tuple[PortFact, ...]
    operators: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything that can be known of a model without running it.

    `conversion` is None for what can run already. `cache_type` is the type of the KV cache in
    `memory`; `graph` is None but for ONNX. `origin` holds what the file says of where
    it comes from, as (label, text). `metadata` holds JSON values, a long array as its type and
    length.
    """

    kind: Kind
    path: str
    name: str
    format: Literal["GGUF", "ONNX", "safetensors", "imatrix"]
    architecture: str
    shape: ModelShape | Unavailable
    level: str
    files: tuple[FileFact, ...]
    tensors: tuple[TensorFact, ...]
    parameters: int
    memory: tuple[MemoryAt, ...] = ()
    cache_type: str = "f16"
    tokenizer: TokenizerFacts | Unavailable
    chat_template: str | None = None
    conversion: Conversion | Unavailable | None = None
    graph: GraphFacts | None = None
    origin: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    schema: int = 1

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def weight_bytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight, scales included; tables of rotary angles are none."""
        weights = [tensor for tensor in self.tensors if not is_rope_table(tensor.name)]
        elements = sum(tensor.elements for tensor in weights)
        return 8 * sum(tensor.size_bytes for tensor in weights) / elements if elements else 0.0

    @property
    def active_parameters(self) -> int | None:
        """What takes part in one token of a mixture of experts; None for other models."""
        if isinstance(self.shape, Unavailable) or not self.shape.experts:
            return None
        return self.shape.active_parameters

    @property
    def mix(self) -> tuple[MixRow, ...]:
        """Tensors by type, most bytes first; tables of rotary angles are a type of their own."""
        return mix_of(
            ("rotary" if is_rope_table(t.name) else t.type, t.elements, t.size_bytes)
            for t in self.tensors
        )

    def to_json(self, *, tensors: bool = True) -> dict[str, object]:
        """The record and its derived figures as one JSON object; `tensors` may be left out."""
        fields = to_jsonable(self)
        document = {"schema": self.schema, **(fields if isinstance(fields, dict) else {})}
        document |= {
            "size_bytes": self.size_bytes,
            "weight_bytes": self.weight_bytes,
            "bits_per_weight": self.bits_per_weight,
            "active_parameters": self.active_parameters,
            "mix": to_jsonable(self.mix),
        }
        if not tensors:
            del document["tensors"]
        return document


def mix_of(tensors: Iterable[tuple[str, int, int]]) -> tuple[MixRow, ...]:
    """Sums (type, elements, bytes) by type, most bytes first."""
    counts: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for kind, count, size in tensors:
        counts[kind] += 1
        elements[kind] += count
        sizes[kind] += size
    return tuple(
        MixRow(type=kind, tensors=counts[kind], elements=elements[kind], size_bytes=size)
        for kind, size in sizes.most_common()
    )
