"""From saved measurements to rows of a device: which count, which do not, and whose they all are.

A row needs a model whose shape is known, on one part of the device. What was measured on an
emulated smaller device, while its weights came back from the disk, or on a processor and a card
together says nothing of the device itself; each such measurement is left out with its reason, and
measurements of two machines are no calibration at all.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, cast

import profiles

from ..artifact import ModelShape
from ..errors import EdgeError, UsageError
from ..measurement import ArtifactRecord, Host, Measurement
from ..memory import HOST_DEVICES, MAPPED, Memory
from ..paging import paging_of
from ..statistics import Interval
from ..units import GIB
from .own import LLAMA_CPP, ONNX_RUNTIME, PersonalRow, Plan, bytes_read, whole_or_cut

BACKENDS: Mapping[str, str] = MappingProxyType(
    {"llama.cpp": LLAMA_CPP, "onnxruntime": ONNX_RUNTIME}
)
"""Engines as their records call them, and as projections do."""

APIS: Mapping[str, str] = MappingProxyType(
    {
        "cuda": "cuda", "vulkan": "vulkan", "metal": "metal", "mtl": "metal", "rocm": "rocm",
        "hip": "rocm", "sycl": "sycl", "gpuopencl": "opencl", "opencl": "opencl", "htp": "hexagon",
        "hexagon": "hexagon", "cann": "cann", "musa": "musa",
    }
)  # fmt: skip
"""How llama.cpp calls its devices, without their number, and the API that reaches them."""

_PROVIDERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cpu": ("cpu", ""), "xnnpack": ("cpu", ""), "dnnl": ("cpu", ""),
        "cuda": ("gpu", "cuda"), "tensorrt": ("gpu", "tensorrt"), "rocm": ("gpu", "rocm"),
        "migraphx": ("gpu", "rocm"), "dml": ("gpu", "directml"), "webgpu": ("gpu", "webgpu"),
        "qnn": ("npu", "qnn"), "coreml": ("npu", "coreml"), "vitisai": ("npu", "xdna"),
    }
)  # fmt: skip
"""What ONNX Runtime's providers compute on, and the API they are."""

MOST_OF_IT = 0.9
"""From this share of a graph's nodes on, a provider is said to run the model."""

_SAME_RAM, _SAME_BYTES = 0.02, 0.03
"""The memory of one machine differs by this from kernel to kernel; a file from its plan by this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A measurement that is no row, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRows:
    """What some measurements come to: rows, the shapes they name, and what was left out."""

    rows: tuple[PersonalRow, ...]
    models: tuple[ModelShape, ...]
    left_out: tuple[LeftOut, ...]


def one_host(measurements: Sequence[Measurement]) -> Host:
    """The machine that all measurements were made on.

    Raises UsageError when they are of several, naming them, and when there are none.
    """
    if not measurements:
        raise UsageError(
            "No measurement is in it.", way_out="edge check --save device.json makes some."
        )
    # An emulated device is the same machine, and shows less of it.
    real = [one for one in measurements if one.emulated is None] or list(measurements)
    hosts: list[Host] = []
    for one in real:
        if not any(is_same_machine(one.host, host) for host in hosts):
            hosts.append(one.host)
    if len(hosts) > 1:
        named = " and ".join(_words(host) for host in hosts[:3])
        raise UsageError(
            f"It holds measurements of {len(hosts)} machines.",
            cause=f"{named}.",
            way_out="Calibrate each from a file of its own.",
        )
    gpus = next((one.host.gpus for one in real if one.host.gpus), ())
    return replace(real[-1].host, gpus=gpus)


def own_rows(measurements: Sequence[Measurement], plan: Plan) -> OwnRows:
    """The rows of some measurements of one machine; `plan` gives a shape's file at a level."""
    rows: list[PersonalRow] = []
    models: dict[str, ModelShape] = {}
    left_out: list[LeftOut] = []
    for one in measurements:
        what = f"{one.artifact.name} {one.artifact.level}, {one.workload.name}"
        try:
            shape, row = _row(one, plan)
        except _UnfitError as error:
            left_out.append(LeftOut(what=what, reason=str(error)))
        else:
            models.setdefault(shape.name, shape)
            rows.append(row)
    return OwnRows(rows=tuple(rows), models=tuple(models.values()), left_out=tuple(left_out))


class _UnfitError(Exception):
    """Why a measurement is no row."""


def _row(one: Measurement, plan: Plan) -> tuple[ModelShape, PersonalRow]:
    """The whole model's shape and the row of a measurement. Raises _UnfitError."""
    if one.emulated is not None:
        raise _UnfitError(
            "it emulates a smaller device with the caches and bandwidth of a larger one"
        )
    if one.engine.name not in BACKENDS:
        raise _UnfitError(f"the engine {one.engine.name} measures no device")
    if paging := paging_of(one):
        raise _UnfitError(paging.words)
    accelerator, api = _route(one)
    decode, prefill = _positive(one.decode_tokens_per_s), _positive(one.prefill_tokens_per_s)
    if one.workload.depth_tokens:
        prefill = None  # behind a context a prompt takes longer than one that begins it
    if decode is None and prefill is None:
        raise _UnfitError("it has no rate")
    level = one.artifact.level
    level = f"onnx:{level}" if one.artifact.format == "onnx" else level
    shape = _shape_of(one.artifact)
    try:
        reads = bytes_read(plan(whole_or_cut(shape, one.artifact.layers), level))
    except EdgeError as error:
        raise _UnfitError(error.fact.rstrip(".")) from None
    expected = sum(part.bytes for part in reads)
    if abs(one.artifact.decode_bytes - expected) > _SAME_BYTES * expected:
        raise _UnfitError(f"its tensor types are not those that {level} usually has")
    workload = one.workload
    return shape, PersonalRow(
        model=shape.name,
        layers=one.artifact.layers,
        level=level,
        reads=reads,
        synthetic=one.artifact.synthetic,
        backend=BACKENDS[one.engine.name],
        engine_version=one.engine.version,
        tool_version=one.tool_version,
        accelerator=accelerator,
        api=api,
        threads=one.options.threads if accelerator == "cpu" else None,
        depth_tokens=workload.depth_tokens + workload.prompt_tokens + workload.generate_tokens // 2,
        prompt_tokens=workload.prompt_tokens,
        decode_tokens_per_s=decode,
        prefill_tokens_per_s=prefill,
        disturbed=one.noise.flags,
        taken_share=_taken_share(one) if accelerator == "cpu" else 0.0,
        measured_on=one.created[:10],
    )


def _taken_share(one: Measurement) -> float:
    """The share of the processor time of the measurement's threads that others took.

    Others take what the threads leave free first: one thread of two cores has a core for itself.
    """
    taken = (one.noise.foreign_share or 0.0) + (one.noise.steal_share or 0.0)
    cores = max(one.host.cores_logical, 1)
    used = min((one.options.threads or cores) / cores, 1.0)
    return min(max(0.0, taken - (1 - used)) / used, 1.0)


def _positive(rate: Interval | None) -> Interval | None:
    return rate if rate is not None and rate.low > 0 else None


def _route(one: Measurement) -> tuple[Literal["cpu", "gpu", "npu"], str]:
    """What computed and the API that reached it. Raises _UnfitError where several shared it."""
    if one.engine.name == "onnxruntime":
        return _provider(one)
    on_gpu = one.options.gpu_layers or 0
    if not on_gpu:
        return "cpu", ""
    layers = one.artifact.layers + 1  # llama.cpp counts the output matrix as one more
    if on_gpu < layers:
        raise _UnfitError(f"only {on_gpu} of {layers} layers, the output's too, ran on the GPU")
    names = [gpu.name for gpu in one.host.gpus]
    if isinstance(one.memory, Memory):
        found = {buffer.device.removesuffix(MAPPED) for buffer in one.memory.buffers}
        names = [name for name in found if not name.startswith(HOST_DEVICES)] or names
    kinds = {re.sub(r"[\d_].*$", "", name).lower() for name in names}
    apis = {api for kind in kinds if (api := APIS.get(kind.removesuffix("host"))) is not None}
    if len(apis) != 1:
        raise _UnfitError("the record does not say by which API the GPU was reached")
    api = apis.pop()
    return ("npu" if api == "hexagon" else "gpu"), api


def _provider(one: Measurement) -> tuple[Literal["cpu", "gpu", "npu"], str]:
    placed = one.engine.placement
    names = [place.provider for place in placed] or list(one.options.providers[:1])
    if placed and placed[0].share and placed[0].share < MOST_OF_IT:
        raise _UnfitError("several execution providers shared the model")
    first = names[0].removesuffix("ExecutionProvider").lower() if names else "cpu"
    if first not in _PROVIDERS:
        raise _UnfitError(f"what the execution provider {first} computes on is not known")
    kind, api = _PROVIDERS[first]
    return cast(Literal["cpu", "gpu", "npu"], kind), api


def _shape_of(record: ArtifactRecord) -> ModelShape:
    """The catalogue's shape of a measured file: the same counts of layers and of parameters.

    Raises _UnfitError for a model that is not catalogued.
    """
    fitting = [
        (shape, parameters)
        for shape, parameters in _catalogue()
        if shape.layers == record.layers_of_model and record.layers <= shape.layers
    ]
    if record.layers != record.layers_of_model:
        fitting = [(s, s.truncated(record.layers).parameters) for s, _ in fitting]
    same = [s for s, parameters in fitting if parameters == record.parameters]
    named = [s for s in same if s.name == record.name.lower()]
    if not same:
        raise _UnfitError("its shape is not in the catalogue")
    return (named or same)[0]


@functools.cache
def _catalogue() -> tuple[tuple[ModelShape, int], ...]:
    shapes = [ModelShape.from_config(e.config, name=e.id) for e in profiles.models().values()]
    return tuple((shape, shape.parameters) for shape in shapes)


def is_same_machine(one: Host, other: Host) -> bool:
    """Whether two records are of one machine; its system may have been updated in between."""
    facts = ("system", "machine", "cpu", "cores_physical", "cores_logical")
    alike = all(getattr(one, fact) == getattr(other, fact) for fact in facts)
    return alike and abs(one.ram_bytes - other.ram_bytes) <= _SAME_RAM * other.ram_bytes


def _words(host: Host) -> str:
    return f"{host.cpu} with {host.cores_logical} cores and {host.ram_bytes / GIB:.1f} GiB"
