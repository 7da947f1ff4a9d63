"""Which engine runs what: a level or a file says its format, and a format has its engine.

An engine that was asked for by name is taken at its word: it runs the model or the cell says why
not. It refuses to know how anything is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from ..errors import UsageError
from ..measurement import SessionOptions

if TYPE_CHECKING:
    from ..artifact import Artifact, ModelShape
    from ..memory_needs import PlannedModel

Format = Literal["gguf", "onnx"]
ENGINES: Mapping[Format, str] = MappingProxyType({"gguf": "llama_cpp", "onnx": "onnx"})
"""The backend that runs a format unless another is asked for."""


def format_of_level(level: str) -> Format:
    """The format that a level as typed is one of."""
    from quantize import is_onnx_level

    return "onnx" if is_onnx_level(level) else "gguf"


def level_of(artifact: Artifact) -> str:
    """An artifact's level as a command line names it: `Q4_K_M`, `onnx:int4`."""
    return f"onnx:{artifact.level}" if artifact.format == "onnx" else artifact.level


def options_for(format_: Format, options: SessionOptions, asked: str | None) -> SessionOptions:
    """The options with the engine of a format, or with the one asked for by name.

    Raises UsageError when that one does not run the format, or there is none of that name, and for
    execution providers that the format's engine does not have.
    """
    from ..backends import backend

    refuse_providers(options.providers, format_)
    if asked is None:
        return dataclasses.replace(options, backend=ENGINES[format_])
    if format_ not in backend(asked).formats:
        raise UsageError(
            f"The engine {asked} runs no {format_.upper()} models.",
            way_out=f"Leave --backend out, or give --backend {ENGINES[format_]}.",
        )
    return dataclasses.replace(options, backend=asked)


def refuse_providers(names: Sequence[str], format_: Format) -> None:
    """Raises UsageError when execution providers are named for a format whose engine has none."""
    if names and format_ != "onnx":
        raise UsageError(
            f"--provider is for ONNX models, and {format_.upper()} is asked for.",
            cause="Execution providers are ONNX Runtime's.",
            way_out="Leave it out, or give ONNX models and levels only.",
        )


def planned_model(shape: ModelShape, level: str) -> PlannedModel:
    """The file of a shape at a level, of either format, as it would be made.

    For an ONNX level also of a family whose graph is not written here: its size is known anyway.
    """
    from ..memory_needs import PlannedModel, planned_gguf

    if format_of_level(level) == "gguf":
        return planned_gguf(shape, level)
    from quantize.onnx.plan import cache_bytes_per_token, planned_tensors

    return PlannedModel(
        shape=shape,
        level=level,
        format="onnx",
        tensors=planned_tensors(shape, level),
        cache_bytes_per_token=cache_bytes_per_token(shape, level),
    )


def planned_of(artifact: Artifact) -> PlannedModel:
    """A file that is there, as a plan of itself."""
    from ..memory_needs import PlannedModel

    return PlannedModel(
        shape=artifact.shape,
        level=level_of(artifact),
        format=artifact.format,
        tensors=artifact.tensors,
        cache_bytes_per_token=artifact.cache_bytes_per_token,
    )


def require_writable(shape: ModelShape, level: str) -> None:
    """Raises UnsupportedError when a family's file at a level cannot be made here."""
    if format_of_level(level) == "onnx":
        from quantize.onnx.details import require_known

        require_known(shape)
