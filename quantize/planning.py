"""What quantizing a file would make of it: every tensor's type, and the bytes, without the work.

The types are llama.cpp's own answer, from a dry run of its quantizer; this module reads the answer
and adds up. It knows what a level would ask for that a request does not give, and refuses nothing:
that is for whoever does the work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.artifact import GGML_TYPES, Artifact, GGMLType, Level, levels
from edge_runtime.artifact.gguf import DEFAULT_ALIGNMENT
from edge_runtime.errors import BackendError, UsageError

from . import imatrix
from .imatrix import Imatrix
from .options import QuantizeOptions
from .quantizer import Job, Quantizer
from .splitting import metadata_pairs
from .writers.gguf import padded

LOSSLESS = frozenset({"F32", "F16", "BF16"})
"""Types that hold what a model was published with; the others have lost some of it."""

_EXEMPT = frozenset({"token_embd.weight", "per_layer_token_embd.weight", "output.weight"})
_MEASURED_ONLY = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})
_MEASURED_EVERYWHERE = frozenset({"IQ2_XXS", "IQ2_XS", "IQ1_S"})

# The name is padded with spaces to 36 characters: "[  3/ 50] NAME - [64, 32, 1, 1], type = f16, ".
_TENSOR = re.compile(
    r"\[\s*\d+/\s*\d+\] (?P<name>.+?) +- \[[\d, ]+\], type = +(?P<source>\w+), "
    r"size = .*?MiB(?: -> .*MiB \((?P<type>\w+)\))?"
)
_FALLBACK = re.compile(
    r"warning: (?P<name>.+?) +- ncols +\d+ not divisible by +\d+ "
    r"\(required for type +(?P<type>\w+)\)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """What becomes of one tensor. `dims` have the row length first.

    `wanted` is the type the level or the request asked for when its blocks do not divide the rows,
    so that `type` had to stand in; None when it fits.
    """

    name: str
    dims: tuple[int, ...]
    source: GGMLType
    type: GGMLType
    wanted: GGMLType | None = None

    @property
    def source_bytes(self) -> int:
        """Its bytes as it is."""
        return self.source.size_bytes(self.dims)

    @property
    def size_bytes(self) -> int:
        """Its bytes as it will be."""
        return self.type.size_bytes(self.dims)

    @property
    def loses_twice(self) -> bool:
        """Whether what is quantized already would be quantized again."""
        return self.type is not self.source and self.source.name not in LOSSLESS

    @property
    def why(self) -> str:
        """Why it gets another type than wanted, as a sentence; empty when it does not."""
        if self.wanted is None:
            return ""
        return (
            f"Rows of {self.dims[0]} are no multiple of the {self.wanted.block_elements} elements"
            f" of a {self.wanted.name} block."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizePlan:
    """What a file would become at a level, tensor by tensor in the order of the new file.

    `metadata_bytes` are all the bytes before the first tensor. `unmeasured` names the tensors that
    cannot be quantized without an importance matrix and have none; `unused_entries` the entries of
    the matrix given that no tensor has the name of; `unused_patterns` the tensor-type patterns
    that are in no tensor's name, as far as Python's regular expressions can tell.
    """

    source: Path
    level: str
    tensors: tuple[TensorPlan, ...]
    source_bytes: int
    metadata_bytes: int
    unmeasured: tuple[str, ...]
    unused_entries: tuple[str, ...]
    unused_patterns: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def total_bytes(self) -> int:
        """The size of the new file: metadata, tensors, and the padding between them."""
        return self.metadata_bytes + sum(padded(tensor.size_bytes) for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of storage for each number of the model, over all tensors."""
        elements = sum(math.prod(tensor.dims) for tensor in self.tensors)
        return 8 * self.weight_bytes / elements

    @property
    def fallbacks(self) -> tuple[TensorPlan, ...]:
        """The tensors that get another type than wanted."""
        return tuple(tensor for tensor in self.tensors if tensor.wanted is not None)

    @property
    def loses_twice(self) -> bool:
        """Whether any tensor was quantized already and would be quantized again."""
        return any(tensor.loses_twice for tensor in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A file, a level and options, checked against each other."""

    artifact: Artifact
    level: Level
    options: QuantizeOptions
    imatrix: Imatrix | None

    @property
    def pairs(self) -> tuple[tuple[str, str | int], ...]:
        """The metadata to set: what `llama-quantize` notes of an importance matrix.

        And the alignment, which the quantizer copies but does not keep to when it is not its own.
        """
        pairs: list[tuple[str, str | int]] = []
        if self.artifact.metadata.get("general.alignment", DEFAULT_ALIGNMENT) != DEFAULT_ALIGNMENT:
            pairs.append(("general.alignment", DEFAULT_ALIGNMENT))
        if self.imatrix is None:
            return tuple(pairs)
        pairs.append(("quantize.imatrix.file", _cut(str(self.options.imatrix))))
        if self.imatrix.datasets:
            pairs.append(("quantize.imatrix.dataset", _cut(self.imatrix.datasets[0])))
        pairs.append(("quantize.imatrix.entries_count", len(self.imatrix.entries)))
        if self.imatrix.chunks:
            pairs.append(("quantize.imatrix.chunks_count", self.imatrix.chunks))
        return tuple(pairs)

    def job(self) -> Job:
        """The call of the quantizer that plans this; given an `out`, it does it."""
        output, embedding = self.options.output_tensor_type, self.options.token_embedding_type
        return Job(
            source=self.artifact.path,
            out=None,
            ftype=self.level.ftype,
            threads=self.options.threads,
            allow_requantize=self.options.allow_requantize,
            pure=self.options.pure,
            leave_output_tensor=self.options.leave_output_tensor,
            output_tensor_type=None if output is None else GGML_TYPES[output.upper()].id,
            token_embedding_type=None if embedding is None else GGML_TYPES[embedding.upper()].id,
            tensor_types=tuple((p, kind.id) for p, kind in self.options.overrides),
            pairs=self.pairs,
            imatrix=self.options.imatrix,
        )


def plan(source: Path, level: str, *, options: QuantizeOptions | None = None) -> QuantizePlan:
    """Says what `requantize` would make of a file, by a dry run of llama.cpp's quantizer.

    Nothing is written. A level that needs an importance matrix can be planned without one, a
    quantized source without leave. Raises what `requantize` raises for a source, a level or an
    importance matrix that cannot be used.
    """
    asked = request(Path(source), level, options)
    with Quantizer() as quantizer:
        return answer(asked, quantizer)


def check_wishes(recipe: Level, options: QuantizeOptions) -> None:
    """Raises UsageError for options that a level has no use for."""
    if options.tensor_types and recipe.default.name in LOSSLESS:
        raise UsageError(
            f"Tensor types have no effect at {recipe.name}.",
            cause="llama.cpp applies them to the quantized levels only.",
            way_out="Choose another level, such as Q8_0, or leave them out.",
        )


def request(source: Path, level: str, options: QuantizeOptions | None) -> Request:
    """Opens what a request names and checks that its parts go together.

    Raises UsageError, UnsupportedError, ModelNotFoundError and FormatError.
    """
    options = options or QuantizeOptions()
    recipe = levels.level(level)
    artifact = Artifact.open(source)
    check_wishes(recipe, options)
    found = None if options.imatrix is None else imatrix.read(options.imatrix)
    asked = Request(artifact=artifact, level=recipe, options=options, imatrix=found)
    _check_direct_types(asked)
    if found is not None:
        names = {tensor.name for tensor in artifact.tensors}
        if not any(entry.name in names for entry in found.entries):
            raise UsageError(
                f"{options.imatrix} is not of this model.",
                cause=f"None of its {len(found.entries)} entries has the name of a tensor in"
                f" {source}; its first is {found.entries[0].name}.",
                way_out="Give the importance matrix that was made with this model.",
            )
    return asked


def answer(asked: Request, quantizer: Quantizer) -> QuantizePlan:
    """The plan of a request, from a dry run in a quantizer that goes on running."""
    artifact = asked.artifact
    tensors = read_log(quantizer.run(asked.job()), artifact)
    entries = {} if asked.imatrix is None else {e.name: e for e in asked.imatrix.entries}
    return QuantizePlan(
        source=artifact.path,
        level=asked.level.name,
        tensors=tensors,
        source_bytes=artifact.size_bytes,
        metadata_bytes=_metadata_bytes(asked, tensors),
        unmeasured=tuple(
            tensor.name
            for tensor in tensors
            if _must_be_measured(tensor, asked.level) and not _measured(tensor, entries)
        ),
        unused_entries=tuple(sorted(entries.keys() - {t.name for t in tensors})),
        unused_patterns=tuple(
            pattern
            for (pattern, _), (lower, _) in zip(
                asked.options.tensor_types, asked.options.overrides, strict=True
            )
            if not _in_any(lower, tensors)
        ),
    )


def read_log(log: tuple[str, ...], artifact: Artifact) -> tuple[TensorPlan, ...]:
    """What a dry run's log says of each tensor, checked against the file it is about.

    Raises BackendError when the log speaks of other tensors than the file holds.
    """
    known = {tensor.name: tensor for tensor in artifact.tensors}
    wanted: dict[str, GGMLType] = {}
    planned: dict[str, TensorPlan] = {}
    for line in log:
        if found := _FALLBACK.search(line):
            wanted[found["name"]] = _type(found["type"])
        elif found := _TENSOR.match(line):
            name, source = found["name"], _type(found["source"])
            if name not in known or known[name].type is not source:
                raise _misunderstood(f"it speaks of {name} as {source.name}")
            planned[name] = TensorPlan(
                name=name,
                dims=_counted(known[name].dims),
                source=source,
                type=source if found["type"] is None else _type(found["type"]),
                wanted=wanted.get(name),
            )
    if planned.keys() != known.keys():
        raise _misunderstood(f"it speaks of {len(planned)} tensors of {len(known)}")
    return tuple(planned.values())


def _type(name: str) -> GGMLType:
    kind = GGML_TYPES.get(name.upper())
    if kind is None:
        raise _misunderstood(f"it speaks of the type {name}")
    return kind


def _misunderstood(cause: str) -> BackendError:
    return BackendError(
        "The quantizer's plan is not understood.",
        cause=f"Of this file {cause}.",
        way_out="Install the tested version: pip install llama-cpp-python==0.3.36",
    )


def _check_direct_types(asked: Request) -> None:
    """Refuses types given by name for the two tensors where the quantizer looks for no other."""
    given = {
        "output.weight": asked.options.output_tensor_type,
        "token_embd.weight": asked.options.token_embedding_type,
    }
    for tensor in asked.artifact.tensors:
        name = given.get(tensor.name)
        if name is None:
            continue
        kind = GGML_TYPES[name.upper()]
        if tensor.dims[0] % kind.block_elements:
            raise UsageError(
                f"The tensor {tensor.name} cannot be {kind.name}.",
                cause=f"Its rows of {tensor.dims[0]} are no multiple of the"
                f" {kind.block_elements} elements of a block.",
                way_out="Choose a type with blocks of 32, such as Q8_0 or Q4_0."
                if tensor.dims[0] % 32 == 0
                else "Choose F16, BF16 or F32.",
            )


def _must_be_measured(tensor: TensorPlan, level: Level) -> bool:
    """Whether the quantizer demands importance for a tensor (its own rule, and ggml's)."""
    if tensor.name in _EXEMPT:
        return tensor.type is not tensor.source and tensor.type.name in _MEASURED_EVERYWHERE
    if len(tensor.dims) < 2:
        return False
    return tensor.type.name in _MEASURED_ONLY or (
        level.name == "Q2_K_S" and tensor.type.name == "Q2_K"
    )


def _measured(tensor: TensorPlan, entries: Mapping[str, imatrix.ImportanceEntry]) -> bool:
    entry = entries.get(tensor.name)
    return entry is not None and entry.sums.size == columns(tensor)


def columns(tensor: TensorPlan) -> int:
    """How many values of importance a tensor takes: one a column, of each expert."""
    return tensor.dims[0] * (tensor.dims[2] if len(tensor.dims) > 2 else 1)


def _in_any(pattern: str, tensors: tuple[TensorPlan, ...]) -> bool:
    try:
        found = re.compile(pattern)
    except re.error:  # a pattern of the C++ dialect alone
        return True
    return "[[:" in pattern or any(found.search(tensor.name) for tensor in tensors)


def _cut(text: str) -> str:
    """The text as far as the quantizer's 127 bytes for a value hold it, in whole characters."""
    return text.encode("utf-8", "replace")[:127].decode("utf-8", "ignore")


def _counted(dims: tuple[int, ...]) -> tuple[int, ...]:
    """The dims as ggml counts and writes them: without those of 1 at the end."""
    count = max((i + 1 for i, size in enumerate(dims) if size > 1), default=1)
    return dims[:count]


def _metadata_bytes(asked: Request, tensors: tuple[TensorPlan, ...]) -> int:
    """The header of the new file: the old one's metadata with what the quantizer changes in it."""
    sizes = {key: len(data) for key, data in metadata_pairs(asked.artifact.path)}
    for key in ("split.no", "split.count", "split.tensors.count"):
        sizes.pop(key, None)
    for key in ("general.quantization_version", "general.file_type"):
        sizes[key] = 8 + len(key) + 4 + 4
    for key, value in asked.pairs:
        size = 8 + len(value.encode()) if isinstance(value, str) else 4
        sizes[key] = 8 + len(key) + 4 + size
    table = 0
    for tensor in tensors:
        table += 8 + len(tensor.name.encode()) + 4 + 8 * len(tensor.dims) + 4 + 8
    return padded(24 + sum(sizes.values()) + table)
