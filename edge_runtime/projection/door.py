"""Projection by name, for programs: a catalogue's model and device go in, a record comes out.

    import edge_runtime as edge

    edge.project("qwen2.5-1.5b", "Q4_K_M", "raspberry-pi-5-8gb").decode_tokens_per_s

Whatever is given may also be the thing itself: a `ModelShape` of a file or a checkpoint, a device
profile. Every mistake is a UsageError. Nothing is run, and nothing here computes.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import profiles
from profiles.devices import DeviceFileError, DeviceProfile, device, devices

from .. import __version__
from ..artifact import ModelShape
from ..errors import UnsupportedError, UsageError
from ..measurement import SessionOptions
from ..memory_needs import PlannedModel, planned_gguf
from ..verdict import Target
from . import Calibration, Projection
from . import project as project_planned
from .device_fit import FIT_LEVELS, FitReport, fit_shapes
from .hardware import HardwarePlan, plan_among
from .rows import Asked


def project(
    model: str | ModelShape,
    level: str,
    device: str | DeviceProfile,
    backend: str = "llama.cpp",
    context_tokens: int = 4096,
    *,
    accelerator: str | None = None,
    target: Target | None = None,
    options: SessionOptions | None = None,
    own: Calibration | None = None,
) -> Projection:
    """Projects a model at a level onto a device that it was not run on.

    Rates are tokens/s and hold behind the target's prompt; the memory fit is for `context_tokens`,
    unless a `target` says otherwise. Without an `accelerator` the best that the device has for the
    backend counts. `own` are measurements made on the device itself. Raises UsageError for an
    unknown name, and for a backend or an accelerator that the device has not.
    """
    return project_planned(
        _planned(_shape(model), level),
        named_device(device),
        backend=backend,
        accelerator=accelerator,
        target=target or Target(context_tokens=context_tokens),
        options=options,
        own=own,
    )


def fit_device(
    device: str | DeviceProfile,
    target: Target | None = None,
    *,
    models: Sequence[str | ModelShape] = (),
    levels: Sequence[str] = FIT_LEVELS,
    backend: str = "llama.cpp",
    accelerator: str | None = None,
) -> FitReport:
    """Says which models read on a device, the largest first, each at its best level.

    Without `models` the whole catalogue is asked. Raises UsageError as `project` does.
    """
    shapes = [_shape(one) for one in models or profiles.models()]
    asked = Asked(target=target or Target(), backend=backend, accelerator=accelerator)
    return fit_shapes(
        shapes,
        named_device(device),
        asked,
        levels=_levels(levels),
        tool_version=__version__,
    )


def plan_hardware(
    model: str | ModelShape,
    target: Target | None = None,
    *,
    levels: Sequence[str] = ("Q4_K_M",),
    backend: str = "llama.cpp",
    accelerator: str | None = None,
) -> HardwarePlan:
    """Says what bandwidth and memory a model needs, and which known devices have them.

    Raises UsageError as `project` does.
    """
    shape = _shape(model)
    asked = Asked(target=target or Target(), backend=backend, accelerator=accelerator)
    plans = [_planned(shape, level) for level in _levels(levels)]
    return plan_among(plans, tuple(devices().values()), asked, tool_version=__version__)


def named_device(name: str | DeviceProfile) -> DeviceProfile:
    """The device of an id, an alias, a product's id or a .toml file; a profile is itself.

    Raises UsageError with the nearest names, and for a malformed file with its faults.
    """
    if isinstance(name, DeviceProfile):
        return name
    try:
        return device(name)
    except DeviceFileError as error:
        way_out = "edge devices check FILE names each fault."
        raise UsageError(str(error), way_out=way_out) from None
    except ValueError as error:
        raise UsageError(
            str(error), way_out="edge devices lists them, edge devices --search WORD finds one."
        ) from None


def _shape(model: str | ModelShape) -> ModelShape:
    if isinstance(model, ModelShape):
        return model
    catalogue = profiles.models()
    entry = catalogue.get(model.lower())
    if entry is None:
        near = difflib.get_close_matches(model.lower(), list(catalogue), n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(
            f"There is no model {model!r} in the catalogue.{hint}",
            way_out="A file's shape serves as well: Artifact.open(path).shape.",
        )
    return ModelShape.from_config(entry.config, name=entry.id)


def _planned(shape: ModelShape, level: str) -> PlannedModel:
    try:
        return planned_gguf(shape, level)
    except UnsupportedError as error:
        raise UsageError(error.fact, cause=error.cause, way_out=error.way_out) from None


def _levels(names: Sequence[str]) -> tuple[str, ...]:
    """The levels as they are written. Raises UsageError for an unknown one, and for none."""
    from ..artifact import level

    if not names:
        raise UsageError("No level is named.", way_out="Name one, such as Q4_K_M.")
    try:
        return tuple(dict.fromkeys(level(name).name for name in names))
    except UnsupportedError as error:
        raise UsageError(error.fact, cause=error.cause, way_out=error.way_out) from None
