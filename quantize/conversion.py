"""A Hugging Face checkpoint becomes a GGUF artifact, in slabs of rows: memory stays small.

Every source tensor is mapped or dropped by name, every tensor the architecture has is found with
its right dims, before the first byte is written. Knows no family by name and no tensor type.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.artifact import Artifact, Level, ModelShape, TensorShape, levels
from edge_runtime.artifact.config import class_values
from edge_runtime.artifact.keys import rope_table
from edge_runtime.artifact.recipe import types_for
from edge_runtime.artifact.shape import is_rope_table
from edge_runtime.errors import UsageError

from . import architectures, imatrix, verification
from .architectures import Architecture
from .assembly import Assembly, assemble
from .checkpoint import Checkpoint
from .encoding import ENCODERS
from .matching import Names, assign
from .metadata import general_metadata
from .options import QuantizeOptions
from .planning import check_wishes
from .requantization import needs_importance, requantize
from .splitting import split
from .tokenizers import vocabulary_metadata, vocabulary_size
from .writers import gguf
from .writers.whole_file import check_destination, disk_error, scratch_file

THREADS = 2
"""Reading and encoding overlap with writing; more threads than this wait for the disk."""

_DIRECT_SHARE = 0.3
"""What part of the work writing the intermediate file is, when a quantizer follows it."""


def convert(
    checkpoint: Path,
    out: Path,
    *,
    level: str = "F16",
    pre: str | None = None,
    options: QuantizeOptions | None = None,
    split_bytes: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
    threads: int | None = None,
    progress: gguf.Progress | None = None,
) -> Artifact:
    """Converts a checkpoint directory to a GGUF file at a level and opens it.

    F32, F16, BF16 and Q8_0 are written directly; others, and whatever `options` ask for, by
    llama.cpp's quantizer from an intermediate file beside `out` that loses nothing and is removed.
    `pre` names llama.cpp's pre-tokenizer where it cannot be told from the tokenizer's files.
    `split_bytes` is the most tensor data one file holds; more of it goes to parts named
    `NAME-00001-of-00003.gguf`, and the first is opened. `verify` reads all values again and lets
    llama.cpp decode one token. `threads` read and encode, 2 when None, never more than there are
    processors. `progress` is told the part of the whole job that is done, from 0 to 1; what it
    raises stops the work.

    Nothing is left under the final name unless the file is whole. Raises UsageError for a file that
    is there unless `overwrite`, UnsupportedError for an architecture, tokenizer or level that
    cannot be converted, FormatError for a checkpoint that is damaged or contradicts itself,
    ModelNotFoundError for one that is none or incomplete, DiskError when the output cannot be
    written, and what `requantize` and `verification.verify` raise.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    recipe = levels.level(level)
    _check_request(recipe, options, split_bytes, threads)
    check_destination(out, overwrite=overwrite)
    _require_apart(checkpoint, out)
    job = _Job(
        model=_Model.open(checkpoint, pre),
        out=out,
        split_bytes=split_bytes,
        overwrite=overwrite,
        verify=verify,
        wanted_threads=threads,
        progress=progress,
    )
    if recipe.name in ENCODERS and not _departs(options):
        return Artifact.open(job.write(recipe))
    return Artifact.open(job.quantize(recipe, options))


def examine(
    checkpoint: Path, *, pre: str | None = None
) -> tuple[ModelShape, dict[str, gguf.Value]]:
    """The shape and the metadata that converting a checkpoint to F16 would write; writes nothing.

    Names, dims and tokenizer are checked as `convert` checks them, no weights are read. Raises what
    `convert` raises before its first byte.
    """
    model = _Model.open(Path(checkpoint), pre)
    return model.shape, model.metadata(levels.level("F16"))


def _check_request(
    recipe: Level, options: QuantizeOptions | None, split_bytes: int | None, threads: int | None
) -> None:
    if recipe.needs_imatrix and (options is None or options.imatrix is None):
        raise needs_importance(recipe)
    if options is not None:  # refused now, not after the checkpoint has been read
        check_wishes(recipe, options)
        if options.imatrix is not None:
            imatrix.read(options.imatrix)
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot convert.", way_out="Give 1 or more.")
    if split_bytes is not None and split_bytes < 1:
        raise UsageError(f"Files of {split_bytes} bytes hold no tensor.", way_out="Give a size.")


def _require_apart(checkpoint: Path, out: Path) -> None:
    """Refuses to overwrite what is being converted."""
    if out.suffix != ".gguf" and out.exists() and out.parent.resolve() == checkpoint.resolve():
        raise UsageError(
            f"{out} is a file of the checkpoint itself.",
            way_out=f"Name another, such as {out.with_suffix('.gguf')}.",
        )


def _departs(options: QuantizeOptions | None) -> bool:
    """Whether options ask for what only the quantizer does."""
    return options is not None and (
        options.imatrix is not None
        or bool(options.tensor_types)
        or options.output_tensor_type is not None
        or options.token_embedding_type is not None
        or options.leave_output_tensor
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A checkpoint understood: its family, its shape, where every tensor comes from."""

    checkpoint: Checkpoint
    family: Architecture
    shape: ModelShape
    assemblies: tuple[Assembly | None, ...]
    """One for each tensor of the shape, None for tables computed from the config."""
    pre: str | None

    @classmethod
    def open(cls, path: Path, pre: str | None) -> _Model:
        checkpoint = Checkpoint.open(path)
        family = architectures.find(checkpoint.config)
        shape = shape_of(checkpoint, family)
        wanted = [t for t in shape.tensors if not is_rope_table(t.name)]
        sources = assign(checkpoint, family, (tensor.name for tensor in wanted))
        assemblies = tuple(
            None
            if is_rope_table(tensor.name)
            else assemble(tensor, sources[tensor.name], family.change(tensor.name, shape))
            for tensor in shape.tensors
        )
        return cls(
            checkpoint=checkpoint, family=family, shape=shape, assemblies=assemblies, pre=pre
        )

    def metadata(self, recipe: Level) -> dict[str, gguf.Value]:
        _, config = class_values(self.checkpoint.config)
        own = dict(self.family.metadata(self.checkpoint, config))
        vocabulary = vocabulary_metadata(
            self.checkpoint,
            config,
            self.family.vocabulary,
            vocabulary_tokens=self.shape.vocabulary_tokens,
            pre=self.pre,
        )
        # What a family says of its tokenizer stands, whatever the files say.
        return {**general_metadata(self.shape, recipe), **vocabulary, **own}

    @property
    def lossless(self) -> Level:
        """The smallest level that holds every matrix as the checkpoint has it."""
        types = types_for(self.shape, levels.level("F16"))
        dtypes = {
            span.source.dtype
            for assembly in self.assemblies
            if assembly is not None and types[assembly.name].name != "F32"
            for span in assembly.spans
        }
        name = dtypes.pop() if len(dtypes) == 1 else "F32"
        return levels.level(name if name in ("F16", "BF16") else "F32")

    def tensors(self, recipe: Level) -> list[gguf.PlannedTensor]:
        types = types_for(self.shape, recipe)
        return [
            gguf.PlannedTensor(
                name=tensor.name,
                dims=tensor.dims,
                type=types[tensor.name],
                slabs=functools.partial(_slabs, assembly, types[tensor.name].name)
                if assembly is not None
                else functools.partial(_rope_slabs, self.shape, tensor),
            )
            for tensor, assembly in zip(self.shape.tensors, self.assemblies, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    model: _Model
    out: Path
    split_bytes: int | None
    overwrite: bool
    verify: bool
    wanted_threads: int | None
    progress: gguf.Progress | None

    @property
    def threads(self) -> int:
        """Those that read and encode."""
        if self.wanted_threads is None:
            return THREADS
        return min(self.wanted_threads, os.cpu_count() or 1)

    @property
    def check(self) -> gguf.Check | None:
        """What is done with the files before they get their names."""
        return verification.verify if self.verify else None

    def write(self, recipe: Level) -> Path:
        """Writes the output itself; returns the path to open."""
        return gguf.write(
            self.out,
            self.model.metadata(recipe),
            self.model.tensors(recipe),
            threads=self.threads,
            split_bytes=self.split_bytes,
            overwrite=self.overwrite,
            check=self.check,
            progress=self.progress,
        )

    def quantize(self, recipe: Level, options: QuantizeOptions | None) -> Path:
        """Writes an intermediate that loses nothing, and lets llama.cpp's quantizer do the rest."""
        shape, lossless = self.model.shape, self.model.lossless
        needed = shape.weight_bytes(lossless.name) + shape.weight_bytes(recipe.name)
        check_destination(self.out, needed)
        try:
            with scratch_file(self.out) as between:
                gguf.write_into(
                    between,
                    self.model.metadata(lossless),
                    self.model.tensors(lossless),
                    threads=self.threads,
                    progress=gguf.part_of(self.progress, 0.0, _DIRECT_SHARE),
                )
                return self._quantized(between, recipe, options or QuantizeOptions())
        except OSError as error:
            raise disk_error(self.out, needed, error) from error

    def _quantized(self, between: Path, recipe: Level, options: QuantizeOptions) -> Path:
        options = dataclasses.replace(options, threads=options.threads or self.wanted_threads)
        progress = gguf.part_of(self.progress, _DIRECT_SHARE, 1.0)
        if self.split_bytes is None:
            return requantize(
                between,
                self.out,
                recipe.name,
                options=options,
                overwrite=self.overwrite,
                verify=self.verify,
                progress=progress,
            ).path
        # Locked and removed with the intermediate, whose name its own begins with.
        whole = between.with_name(f"{between.name}.gguf")
        requantize(
            between, whole, recipe.name, options=options, progress=gguf.part_of(progress, 0.0, 0.9)
        )
        os.truncate(between, 0)  # the room is needed for the parts
        return split(
            whole,
            self.out,
            self.split_bytes,
            overwrite=self.overwrite,
            check=self.check,
            progress=gguf.part_of(progress, 0.9, 1.0),
        )


def shape_of(
    checkpoint: Checkpoint, family: Architecture, *, whole_vocabulary: bool = False
) -> ModelShape:
    """The shape of what a checkpoint ships: a head of its own counts, whatever its config says.

    Rows of the embedding that no token has are counted with `whole_vocabulary`, even where files of
    the family leave them out.
    """
    name = checkpoint.name
    names = Names(family)
    config = checkpoint.config
    ships_head = any(
        names.targets(source)[0] == ("output.weight",) and not names.drops(source)
        for source in checkpoint.tensors
    )
    if ships_head:
        # A head that is shipped is written, and then used, whatever the config says of it.
        config = {**config, "tie_word_embeddings": False}
    shape = ModelShape.from_config(config, name=name)
    if ships_head and shape.tied_embeddings:  # said of the text part of a model that also sees
        shape = dataclasses.replace(shape, tied_embeddings=False)
    if architectures.cuts_vocabulary(family) and not whole_vocabulary:
        tokens = vocabulary_size(checkpoint, family.vocabulary)
        if tokens is not None and tokens < shape.vocabulary_tokens:
            shape = dataclasses.replace(shape, vocabulary_tokens=tokens)
    return shape


def _slabs(assembly: Assembly, type_name: str) -> Iterator[Callable[[], memoryview]]:
    for rows in assembly.slabs:
        yield functools.partial(_slab, assembly, rows, type_name)


def _slab(assembly: Assembly, rows: range, type_name: str) -> memoryview:
    return assembly.encoded(rows, type_name).data.cast("B")


def _rope_slabs(shape: ModelShape, tensor: TensorShape) -> Iterable[bytes]:
    yield np.array(rope_table(shape, tensor.name), "<f4").tobytes()
