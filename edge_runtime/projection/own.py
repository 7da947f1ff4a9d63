"""What was measured on a device of one's own, as it is kept: the host, the models, and the rates.

A file of these records is all that later projections need: no measurement is kept whole, and no
model. Any of it may have been edited, so every number is checked as it is read. Which measurements
become rows `own_rows` says, and what rows are worth `own_costs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from profiles.devices import CLASSES

from ..artifact import ModelShape
from ..basis import Unavailable
from ..codec import from_jsonable, to_jsonable
from ..errors import EdgeError, FormatError
from ..feasibility import Phase, planned_work
from ..measurement import BandwidthReading, Host
from ..memory_needs import PlannedModel
from ..statistics import Interval
from .calibration import Calibration, OwnRow

SCHEMA = 1
"""The number of the layout of a personal device's file; a reader refuses one it does not know."""

ANSWERS = "edge calibrate FILE makes it again."
LLAMA_CPP, ONNX_RUNTIME = "llama.cpp", "ONNX Runtime"

SPOILT_SHARE = 0.15
"""From this share of its threads' processor time on that others took, a rate says nothing of the
device: engines wait for their slowest thread. With a third taken, rates of half the quiet ones were
seen, with half taken 1/2 to 1/30 of them, no two alike."""

MOST_ROWS, MOST_MODELS = 2000, 200
_LARGEST_RATE = 1e7
_LARGEST_BYTES = 1e15
_LARGEST_LAYERS, _LARGEST_WIDTH, _LARGEST_VOCABULARY, _MOST_EXPERTS = 1024, 1 << 20, 1 << 24, 4096
_SAME_BYTES = 0.02
"""By how much the bytes of a type may differ from a plan of the same file: paddings of a converter,
not another recipe."""

Plan = Callable[[ModelShape, str], PlannedModel]
"""Gives the file of a shape at a level, as it would be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeBytes:
    """The bytes of one tensor type that a decode step reads."""

    type: str
    bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalRow:
    """One measured workload: what ran, on which part of the device, and the rates it had.

    `model` names one of the device's models, of which the first `layers` ran. `depth_tokens` is the
    mean context of the decode steps, `prompt_tokens` the length of the prompt that was evaluated.
    Rates are tokens/s with their 95 % interval over repetitions, None where that phase did not run.
    `disturbed` says what else went on, `taken_share` which share of its threads' processor time
    other processes and a hypervisor took, 0 where the system does not tell.
    """

    model: str
    layers: int
    level: str
    reads: tuple[TypeBytes, ...]
    synthetic: bool
    backend: str
    engine_version: str
    tool_version: str
    accelerator: Literal["cpu", "gpu", "npu"]
    api: str
    threads: int | None
    depth_tokens: int
    prompt_tokens: int
    decode_tokens_per_s: Interval | None
    prefill_tokens_per_s: Interval | None
    disturbed: tuple[str, ...]
    taken_share: float
    measured_on: str

    @property
    def counts(self) -> bool:
        """Whether the rate is the device's, and not what others left of it."""
        return self.taken_share < SPOILT_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalDevice:
    """A device of one's own: the host it is, the profile its facts are taken from, and its rows.

    `base` is the id of a catalogued device, empty where the host's own facts are all there is.
    `clock_hz` is the highest clock that was seen while measuring. `models` are the shapes that the
    rows name.
    """

    id: str
    name: str
    base: str
    device_class: str
    created: str
    tool_version: str
    host: Host
    bandwidth: BandwidthReading | Unavailable
    clock_hz: float | None
    models: tuple[ModelShape, ...]
    rows: tuple[PersonalRow, ...]
    kind: Literal["personal device"] = "personal device"
    schema: int = field(default=SCHEMA)

    def to_json(self) -> dict[str, object]:
        """The record as plain JSON values, including the schema number."""
        value = to_jsonable(self)
        assert isinstance(value, dict)
        return value

    @classmethod
    def from_json(cls, data: object) -> PersonalDevice:
        """Reads back what `to_json` wrote. Raises FormatError for anything that cannot be."""
        found = from_jsonable(cls, data, schema=SCHEMA)
        _check(found)
        return found

    def calibration(self, plan: Plan) -> Calibration:
        """The rows that count, as what a projection is conditioned on.

        `plan` gives a shape's file at a level. Raises FormatError when a level's file is no longer
        what was measured, by another version's recipe.
        """
        shapes = {shape.name: shape for shape in self.models}
        plans: dict[tuple[str, int, str], PlannedModel] = {}
        rows = []
        for number, row in enumerate(self.rows, start=1):
            if not row.counts:
                continue
            key = (row.model, row.layers, row.level)
            if key not in plans:
                plans[key] = _planned(shapes[row.model], row, number, plan)
            rows.append(
                OwnRow(
                    planned=plans[key],
                    accelerator=row.accelerator,
                    api=row.api,
                    backend=row.backend,
                    threads=row.threads,
                    depth_tokens=row.depth_tokens,
                    prompt_tokens=row.prompt_tokens,
                    decode=row.decode_tokens_per_s,
                    prefill=row.prefill_tokens_per_s,
                    measured_on=row.measured_on,
                    disturbed=bool(row.disturbed),
                )
            )
        return Calibration(device=self.id, rows=tuple(rows))


def bytes_read(planned: PlannedModel) -> tuple[TypeBytes, ...]:
    """What a decode step of a planned file reads, by tensor type."""
    amounts = planned_work(planned, Phase.DECODE).bytes_by_type
    return tuple(TypeBytes(type=name, bytes=float(amounts[name])) for name in sorted(amounts))


def whole_or_cut(shape: ModelShape, layers: int) -> ModelShape:
    """The shape with so many of its layers."""
    return shape if layers == shape.layers else shape.truncated(layers)


def _planned(shape: ModelShape, row: PersonalRow, number: int, plan: Plan) -> PlannedModel:
    try:
        planned = plan(whole_or_cut(shape, row.layers), row.level)
        expected = {one.type: one.bytes for one in bytes_read(planned)}
    except EdgeError as error:
        raise FormatError(
            f"Row {number} is of a file that cannot be planned: {error.fact}", way_out=ANSWERS
        ) from None
    if not same_bytes({one.type: one.bytes for one in row.reads}, expected):
        raise FormatError(
            f"Row {number} reads other tensor types than {row.model} at {row.level} has.",
            cause="Another version's recipe made the file that was measured, or it was edited.",
            way_out=ANSWERS,
        )
    return planned


def same_bytes(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether two files read the same tensor types, and of each about the same bytes."""
    total = math.fsum(other.values())
    return all(
        abs(one.get(name, 0.0) - other.get(name, 0.0)) <= _SAME_BYTES * total
        for name in {*one, *other}
    )


def _check(found: PersonalDevice) -> None:
    """Raises FormatError for the first number that no device and no model can have."""
    if len(found.rows) > MOST_ROWS or len(found.models) > MOST_MODELS:
        raise _impossible(f"{len(found.rows)} rows of {len(found.models)} models are too many")
    if not found.rows:
        raise _impossible("it has no rows")
    if not 0 < found.host.ram_bytes < _LARGEST_BYTES or not 0 < found.host.cores_usable < 1 << 16:
        raise _impossible("the host's memory or cores are none that a machine has")
    if found.device_class not in CLASSES:
        raise _impossible(f"{found.device_class[:40]!r} is no class of devices")
    if found.clock_hz is not None and not 1e7 < found.clock_hz < 1e11:
        raise _impossible("its clock is none that a processor has")
    if isinstance(found.bandwidth, BandwidthReading):
        _check_interval(found.bandwidth.bytes_per_s, _LARGEST_BYTES, "bandwidth")
    for shape in found.models:
        _check_shape(shape)
    shapes = {shape.name: shape for shape in found.models}
    for number, row in enumerate(found.rows, start=1):
        _check_row(row, f"row {number}", shapes.get(row.model))


def _check_row(row: PersonalRow, where: str, shape: ModelShape | None) -> None:
    if shape is None:
        raise _impossible(f"{where} names {row.model[:40]!r}, which is none of its models")
    if not 1 <= row.layers <= shape.layers:
        raise _impossible(f"{where} has {row.layers} of {shape.layers} layers")
    if not 0 <= row.depth_tokens < 1 << 24 or not 0 <= row.prompt_tokens < 1 << 24:
        raise _impossible(f"{where} has a context that none has")
    if row.threads is not None and not 0 < row.threads < 1 << 16:
        raise _impossible(f"{where} ran on {row.threads} threads")
    if not 0 <= row.taken_share <= 1:
        raise _impossible(f"{where} lost {row.taken_share:g} of its processor time to others")
    rates = (row.decode_tokens_per_s, row.prefill_tokens_per_s)
    if rates == (None, None):
        raise _impossible(f"{where} has no rate")
    for rate in rates:
        if rate is not None:
            _check_interval(rate, _LARGEST_RATE, where)


def _check_interval(found: Interval, largest: float, where: str) -> None:
    if not 0 < found.low <= found.value <= found.high < largest:
        raise _impossible(f"{where} has an interval from {found.low:g} to {found.high:g}")


def _check_shape(shape: ModelShape) -> None:
    """What decides how long planning a file takes; the rest shows when it is planned."""
    widths = (shape.hidden, shape.intermediate, shape.heads, shape.kv_heads, shape.head_dim)
    least = min(shape.hidden, shape.heads, shape.kv_heads)
    if (
        not 1 <= shape.layers <= shape.layers_of_model <= _LARGEST_LAYERS
        or any(not 0 <= width <= _LARGEST_WIDTH for width in widths)
        or least < 1
        or not 1 <= shape.vocabulary_tokens <= _LARGEST_VOCABULARY
        or not 0 <= shape.experts_used <= shape.experts <= _MOST_EXPERTS
        or len(shape.sliding_layers) not in (0, shape.layers)
    ):
        raise _impossible(f"the shape of {shape.name[:40]!r} is none that a model has")


def _impossible(what: str) -> FormatError:
    return FormatError(f"It is no sound personal device: {what}.", way_out=ANSWERS)
