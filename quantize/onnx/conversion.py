"""A Hugging Face checkpoint becomes an ONNX folder, in slabs of rows: memory stays small.

The checkpoint is read, matched and checked as for GGUF; the graph is written directly, without a
framework. Knows no family by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.artifact import Artifact, ModelShape
from edge_runtime.artifact.shape import is_rope_table
from edge_runtime.errors import FormatError, UnsupportedError, UsageError

from .. import architectures
from ..assembly import Assembly, assemble
from ..checkpoint import Checkpoint
from ..conversion import THREADS, shape_of
from ..matching import assign
from ..rows import Change
from ..tokenizers.described import described_by
from ..tokenizers.files import TokenizerFiles
from ..writers.folder import check_folder
from ..writers.gguf import part_of
from ..writers.onnx import Element
from ..writers.onnx_folder import MODEL_NAME, Plan, Progress, write_folder
from . import verification
from .blocks import BlockFormat
from .decoder import decoder
from .details import Details, details_of_config, require_known
from .interface import inputs_of, outputs_of
from .levels import OnnxLevel, onnx_level
from .settings import genai_config
from .weights import Rows, Stacked, Storage, Weights

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "config.json",
    "generation_config.json",
)
"""Files of a checkpoint that go along, where it has them."""

_WRITING_SHARE = 0.5
"""What part of the work writing is, when everything is made once more to compare with it."""

_ROTATED = ("attn_q", "attn_k")


def convert_onnx(
    checkpoint: Path,
    out: Path,
    *,
    level: str | OnnxLevel = "int4",
    overwrite: bool = False,
    verify: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Converts a checkpoint directory to an ONNX folder at a level and opens it.

    The folder holds `model.onnx`, its data file, `genai_config.json`, and the checkpoint's config
    and tokenizer files. `verify` makes all weights again, compares them with the bytes that were
    written, and lets ONNX Runtime compute one token. `threads` read and quantize, 2 when None,
    never more than there are processors. `progress` is told the part that is done, from 0 to 1;
    what it raises stops the work. Nothing is left under the final name unless the folder is whole.

    Raises UsageError for a folder that is there unless `overwrite`, UnsupportedError for an
    architecture or level that cannot be written, FormatError for a checkpoint that is damaged or
    contradicts itself, ModelNotFoundError for one that is none or incomplete, DiskError when the
    output cannot be written, and what `verification.verify` raises.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    chosen = level if isinstance(level, OnnxLevel) else onnx_level(level)
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot convert.", way_out="Give 1 or more.")
    refuse_around(checkpoint, out)
    check_folder(out, 0, holds=MODEL_NAME, overwrite=overwrite)
    model = _Model.open(checkpoint, chosen)
    plan = plan_of(model.shape, model.details, model.weights, chosen, {})
    at_once = min(threads, os.cpu_count() or 1) if threads else THREADS
    write_folder(
        out,
        plan,
        model.files(),
        threads=at_once,
        overwrite=overwrite,
        check=Artifact.open,
        verify=(
            functools.partial(
                verification.verify,
                weights=plan.weights,
                threads=at_once,
                progress=part_of(progress, _WRITING_SHARE, 1.0),
            )
            if verify
            else None
        ),
        progress=part_of(progress, 0.0, _WRITING_SHARE) if verify else progress,
    )
    return Artifact.open(out)


def refuse_around(source: Path, out: Path) -> None:
    """Raises UsageError for an output folder that is the source's folder, or around it."""
    if source.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            f"{out} holds what it would be made from.",
            cause="A model's folder is replaced as a whole.",
            way_out="Name a folder of its own.",
        )


def plan_of(
    shape: ModelShape,
    details: Details,
    weights: Weights,
    level: OnnxLevel,
    metadata: Mapping[str, str],
) -> Plan:
    """A model of some weights at a level, ready to be written."""
    element = Element.FLOAT16 if level.bits == 16 else Element.FLOAT
    storage = Storage(
        element=element,
        blocks=lambda name: blocks_of(name, shape, level),
        accuracy_level=level.accuracy_level,
    )
    graph = decoder(shape, details, weights, storage)
    return Plan(
        name=shape.architecture,
        nodes=graph.nodes,
        constants=tuple(graph.constants.values()),
        weights=graph.weights,
        inputs=inputs_of(shape, element),
        outputs=outputs_of(shape, element),
        metadata={**said_of(shape, level), **metadata},
        version=_version(),
    )


def blocks_of(name: str, shape: ModelShape, level: OnnxLevel) -> BlockFormat | None:
    """What a matrix of a model is stored as at a level; None for floats."""
    if not level.quantized:
        return None
    bits = level.bits
    if name == "output.weight":
        bits = level.head_bits or bits
    elif name == "token_embd.weight":
        head = level.head_bits or bits
        # A table of its own is only looked up: more bits cost room, not time.
        own = 8 if level.bits == 4 else 16
        bits = level.embedding_bits or (head if shape.tied_embeddings else own)
        if bits == 16:
            return None
    elif level.sensitive_bits is not None and _is_sensitive(name, shape):
        bits = level.sensitive_bits
    return BlockFormat(
        bits=bits,
        block_size=level.block_size,
        symmetric=level.symmetric,
        algorithm=level.algorithm,
    )


def _is_sensitive(name: str, shape: ModelShape) -> bool:
    """Whether a matrix is among those that lose most, by the layers llama.cpp's Q4_K_M chooses.

    It gives more bits to values and to what leaves a feed-forward block, in the first and the last
    eighth of the layers and in every third of the others. Values share a matrix with queries here.
    """
    _, layer, part, _ = name.split(".")
    if part not in ("attn_qkv", "ffn_down"):
        return False
    # Not rounded down as there: else a model of few layers has none among its first and last.
    at, eighth = int(layer), shape.layers_of_model / 8
    return at < eighth or at >= 7 * eighth or (at - round(eighth)) % 3 == 2


def said_of(shape: ModelShape, level: OnnxLevel) -> dict[str, str]:
    """What a model file says of itself."""
    said = {
        "edge_runtime.version": _version(),
        "edge_runtime.level": level.name,
        "edge_runtime.architecture": shape.architecture,
        "edge_runtime.model": shape.name,
    }
    if level.quantized:
        said |= {
            f"edge_runtime.{field.name}": str(getattr(level, field.name))
            for field in dataclasses.fields(level)
            if field.name not in ("name", "bits") and getattr(level, field.name) is not None
        }
    return said


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("edge-runtime")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """A checkpoint's tensors by their GGUF names."""

    assemblies: Mapping[str, Assembly]

    def rows(self, *names: str, factor: float = 1.0) -> Rows:
        return Stacked(parts=tuple(self.assemblies[name] for name in names), factor=factor)

    def __contains__(self, name: str) -> bool:
        return name in self.assemblies


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    checkpoint: Checkpoint
    shape: ModelShape
    details: Details
    weights: _Weights

    @classmethod
    def open(cls, path: Path, level: OnnxLevel) -> _Model:
        checkpoint = Checkpoint.open(path)
        with _builder_offered(checkpoint, level):
            family = architectures.find(checkpoint.config)
        # The config goes along and must not contradict the graph.
        shape = shape_of(checkpoint, family, whole_vocabulary=True)
        with _builder_offered(checkpoint, level):
            require_known(shape)
        wanted = [tensor for tensor in shape.tensors if not is_rope_table(tensor.name)]
        sources = assign(checkpoint, family, (tensor.name for tensor in wanted))
        return cls(
            checkpoint=checkpoint,
            shape=shape,
            details=details_of_config(checkpoint.config, shape),
            weights=_Weights(
                assemblies={
                    tensor.name: assemble(
                        tensor,
                        sources[tensor.name],
                        _unturned(tensor.name, family.change(tensor.name, shape)),
                    )
                    for tensor in wanted
                }
            ),
        )

    def files(self) -> dict[str, bytes]:
        """What lies beside the model: the checkpoint's small files, and genai's settings."""
        found = {name: self.checkpoint.data(name) for name in COPIED}
        generation = self.checkpoint.json("generation_config.json") or {}
        files = TokenizerFiles.read(self.checkpoint)  # also where it is not used: it must be sound
        if files.described is None:
            found["tokenizer.json"] = described_by(files)
        elif not isinstance(files.described.get("model"), dict):
            raise FormatError(
                f"{self.checkpoint.path / 'tokenizer.json'} describes no tokenizer.",
                cause="It has no model.",
                way_out="Download it again.",
            )
        return {
            **{name: data for name, data in found.items() if data is not None},
            "genai_config.json": genai_config(self.shape, self.checkpoint.config, generation),
        }


@contextlib.contextmanager
def _builder_offered(checkpoint: Checkpoint, level: OnnxLevel) -> Iterator[None]:
    """Has the refusal of a family say who may know it."""
    try:
        yield
    except UnsupportedError as error:
        from .genai_builder import offer

        way_out = offer(checkpoint.path, checkpoint.config, level)
        raise UnsupportedError(error.fact, cause=error.cause, way_out=way_out) from None


def _unturned(name: str, change: Change | None) -> Change | None:
    """A change without the order llama.cpp's rotation wants: ours turns halves, as the source."""
    if change is None or change.order is None or name.rsplit(".", 2)[-2] not in _ROTATED:
        return change
    return dataclasses.replace(change, order=None, group_rows=1)
