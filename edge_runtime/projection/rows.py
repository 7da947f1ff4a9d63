"""Projections as the rows of an answer: what each is judged, why, and what would settle it.

A row is a model at a level on a device nobody ran it on. It is judged by the same rules as a
measurement, with the interval of the projection; the reason and the next step are the projection's
own, since nothing here can be measured again on a quiet machine. Pure functions of records.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from profiles.devices import DeviceProfile
from profiles.figures import figure_record

from ..artifact import ModelShape
from ..basis import Unavailable
from ..codec import to_jsonable
from ..feasibility import Row, recommend, within_context
from ..measurement import SessionOptions
from ..memory_needs import PlannedModel
from ..statistics import Interval
from ..units import format_bytes
from ..verdict import Evidence, Target, Verdict, VerdictKind, judge_evidence
from . import Calibration, Projection, project

SCHEMA = 1
"""The version of the JSON documents that hold projections."""

_CLOSE = "Close other programs, or try a smaller model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of every device alike: the target, and how the models would be opened.

    Without an `accelerator` each device is projected with the best it has for the engine. `own` are
    measurements made on a device itself, by its `name_of`: they count for more than any other's.
    """

    target: Target
    backend: str = "llama.cpp"
    accelerator: str | None = None
    options: SessionOptions = field(default_factory=SessionOptions)
    own: Mapping[str, Calibration] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedRow:
    """One model at one level on one device: the projection, and the row it is judged to be.

    `device` is the name it was found by: a product's where one was asked for.
    """

    device: str
    row: Row
    projection: Projection

    @property
    def verdict(self) -> Verdict:
        """What it is judged."""
        return self.row.verdict

    @property
    def is_known(self) -> bool:
        """Whether anything is known to judge by: a rate, or that the memory does not suffice."""
        return self.row.judged

    def to_json(self) -> dict[str, object]:
        """The row as plain JSON values, SI units; every rate with its interval and confidence."""
        found, verdict = self.projection, self.row.verdict
        return {
            "device": self.device,
            "model": self.row.model,
            "parameters": self.row.parameters,
            "level": self.row.level,
            "accelerator": found.accelerator,
            "api": found.api,
            "backend": found.backend,
            "basis": verdict.basis.value,
            "verdict": verdict.kind.value,
            "cause": verdict.cause,
            "next_step": verdict.next_step,
            "decode_tokens_per_s": _rate(found.decode_tokens_per_s, found.confidence),
            "prefill_tokens_per_s": _rate(found.prefill_tokens_per_s, found.confidence),
            "ttft_s": _rate(verdict.ttft_s, found.confidence),
            "memory": _memory(self),
            "weights_bytes": self.row.weights_bytes,
            "bytes_per_token": found.bytes_per_token,
            "kv_bytes_per_token_of_context": found.kv_bytes_per_token_of_context,
            "depth_tokens": found.depth_tokens,
            "roof_bytes_per_s": figure_record(found.roof_bytes_per_s),
            "roof_tokens_per_s": found.roof_tokens_per_s,
            "shares": to_jsonable(found.shares),
            "longest_context_tokens": verdict.longest_context_tokens,
            "limit_tokens_per_s": verdict.limit_tokens_per_s,
            "context_tokens": verdict.context_tokens,
            "prompt_tokens": verdict.prompt_tokens,
            "assumptions": list(found.assumptions),
            "evidence": to_jsonable(found.nearness),
            "settles": found.settles,
            "notes": list(verdict.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionReport:
    """Models on devices that were not run: the rows, device by device, as they were asked for."""

    tool_version: str
    asked: Asked
    devices: tuple[DeviceProfile, ...]
    rows: tuple[ProjectedRow, ...]
    schema: int = SCHEMA

    @property
    def exit_code(self) -> int:
        """0 when anything is viable, else 3 when anything may be or is unknown, else 1."""
        return exit_code_of(self.rows)

    def recommendation(self, device: DeviceProfile) -> str:
        """One sentence with the best choice on a device."""
        own = [one.row for one in self.rows if one.device == name_of(device)]
        return recommend(own, self.asked.target)

    def to_json(self) -> dict[str, object]:
        """The document: the request, the devices, a list of flat rows."""
        return {
            **heading(self.schema, self.tool_version, self.asked),
            "devices": [describe(device) for device in self.devices],
            "rows": [row.to_json() for row in self.rows],
            "recommendations": {
                name_of(device): self.recommendation(device) for device in self.devices
            },
        }


def project_rows(
    plans: Sequence[PlannedModel], device: DeviceProfile, asked: Asked
) -> tuple[ProjectedRow, ...]:
    """One model's levels on one device, judged together, so that each can name a better one.

    A model made for less context than is asked is judged at its own. Raises UsageError when the
    device has no such accelerator, or the engine is not known on it.
    """
    target, notes = within_context(plans[0].shape, asked.target)
    found = [
        project(
            planned,
            device,
            backend=asked.backend,
            accelerator=asked.accelerator,
            target=target,
            options=asked.options,
            own=asked.own.get(name_of(device)),
        )
        for planned in plans
    ]
    evidence = [_noted(one.evidence_for_verdict(), notes) for one in found]
    return tuple(
        ProjectedRow(
            device=name_of(device),
            row=Row(
                model=one.model,
                parameters=_parameters(planned.shape),
                level=one.level,
                weights_bytes=planned.weight_bytes,
                verdict=_judge(one, own, [e for e in evidence if e is not own], target, device),
            ),
            projection=one,
        )
        for planned, one, own in zip(plans, found, evidence, strict=True)
    )


@functools.lru_cache(maxsize=128)
def _parameters(shape: ModelShape) -> int:
    """Counted once for all levels of a shape."""
    return shape.parameters


def name_of(device: DeviceProfile) -> str:
    """The name a device answers to: its product's where one was asked for."""
    return device.product.id if device.product else device.id


def exit_code_of(rows: Sequence[ProjectedRow]) -> int:
    """0 when anything is viable, else 3 when anything may be or is unknown, else 1."""
    kinds = {row.verdict.kind for row in rows}
    if VerdictKind.VIABLE in kinds:
        return 0
    return 3 if VerdictKind.BORDERLINE in kinds else 1


def heading(schema: int, tool_version: str, asked: Asked) -> dict[str, object]:
    """What every document of projections begins with."""
    return {
        "schema": schema,
        "tool_version": tool_version,
        "basis": "PROJECTED",
        "target": to_jsonable(asked.target),
        "backend": asked.backend,
        "accelerator": asked.accelerator,
    }


def describe(device: DeviceProfile) -> dict[str, object]:
    """What a document says of a device; everything that is known of it: `edge devices show`."""
    return {
        "id": name_of(device),
        "profile": device.id,
        "name": device.label,
        "class": device.device_class,
        "soc": device.soc,
        "ram_bytes": list(device.ram_bytes),
        "memory_bandwidth_bytes_per_s": figure_record(device.memory_bandwidth_bytes_per_s),
        "accelerators": {
            kind: {
                "name": unit.name,
                "apis": list(unit.apis),
                "memory_bytes": list(unit.memory_bytes),
                "bandwidth_bytes_per_s": figure_record(unit.bandwidth_bytes_per_s),
            }
            for kind, unit in device.accelerators.items()
        },
        "as_of": device.as_of.isoformat(),
    }


def _noted(evidence: Evidence, notes: tuple[str, ...]) -> Evidence:
    return dataclasses.replace(evidence, notes=(*evidence.notes, *notes))


def _judge(
    found: Projection,
    evidence: Evidence,
    alternatives: Sequence[Evidence],
    target: Target,
    device: DeviceProfile,
) -> Verdict:
    """The verdict, with the reasons that a projection has in place of those of a measurement."""
    verdict = judge_evidence(evidence, target, alternatives=alternatives)
    rate, memory = found.decode_tokens_per_s, verdict.memory
    if verdict.kind is VerdictKind.VIABLE:
        return verdict
    too_slow = isinstance(rate, Interval) and rate.high < target.decode_tokens_per_s
    worst = memory.kind is VerdictKind.NOT_VIABLE or not too_slow
    if memory.available_bytes is not None and memory.kind is not VerdictKind.VIABLE and worst:
        cause = (
            f"memory: needs {format_bytes(memory.need_bytes)} of the "
            f"{format_bytes(memory.available_bytes)} that {_leaves(device, found)}"
        )
        # Nobody closes programs on a device they do not have.
        next_step = verdict.next_step.replace(_CLOSE, "Try a smaller model.")
        return dataclasses.replace(verdict, cause=cause, next_step=next_step)
    if isinstance(rate, Unavailable):
        return dataclasses.replace(verdict, cause=f"unknown: {rate.reason}", next_step=rate.remedy)
    if memory.available_bytes is None and rate.low >= target.decode_tokens_per_s:
        cause = f"memory: how much {device.label} leaves free is not known"
        return dataclasses.replace(verdict, cause=cause, next_step=found.settles)
    next_step = _faster(alternatives, target)
    if not next_step and not too_slow:
        next_step = found.settles or "It may read: try it there, or try a smaller model."
    return dataclasses.replace(
        verdict, cause=found.cause, next_step=next_step or "Try a smaller model."
    )


def _leaves(device: DeviceProfile, found: Projection) -> str:
    unit = device.accelerators.get(found.accelerator)
    if unit is not None and unit.memory_bytes:
        return "the card gives"
    return f"{device.os[0]} leaves" if len(device.os) == 1 else "the system leaves"


def _faster(alternatives: Sequence[Evidence], target: Target) -> str:
    """The level with the most weights of those that read surely and fit."""
    reading = [
        other
        for other in alternatives
        if isinstance(other.decode_tokens_per_s, Interval)
        and other.decode_tokens_per_s.low >= target.decode_tokens_per_s
        and other.memory.kind is VerdictKind.VIABLE
    ]
    if not reading:
        return ""
    best = max(reading, key=lambda other: other.memory.weights_bytes)
    return f"{best.level} would read."


def _rate(rate: Interval | Unavailable | None, confidence: float) -> dict[str, object] | None:
    if rate is None:
        return None
    if isinstance(rate, Unavailable):
        return {"reason": rate.reason, "remedy": rate.remedy}
    return {"low": rate.low, "value": rate.value, "high": rate.high, "confidence": confidence}


def _memory(row: ProjectedRow) -> dict[str, object]:
    memory = row.verdict.memory
    return {
        "need_bytes": memory.need_bytes,
        "weights_bytes": memory.weights_bytes,
        "kv_bytes": memory.kv_bytes,
        "compute_bytes": memory.compute_bytes,
        "process_bytes": memory.process_bytes,
        "available_bytes": memory.available_bytes,
        "headroom_bytes": memory.headroom_bytes,
        "available": figure_record(row.projection.available),
        "verdict": memory.kind.value,
    }
