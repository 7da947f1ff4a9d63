"""A projection by the bare roof, and devices to ask about: verdicts are known beforehand."""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.errors import UsageError
from edge_runtime.feasibility import Phase, planned_work
from edge_runtime.measurement import SessionOptions
from edge_runtime.memory_needs import PlannedModel, memory_fit
from edge_runtime.projection import Calibration, Nearness, Projection, hardware, rows
from edge_runtime.statistics import Interval
from edge_runtime.verdict import Target
from profiles.devices import DeviceProfile, Figure, device
from profiles.os_memory import usable_memory

SHARE = 0.5
"""What of the roof is reached; the interval's ends are a quarter below and a third above."""


def by_the_roof(
    planned: PlannedModel,
    device: DeviceProfile,
    *,
    backend: str = "llama.cpp",
    accelerator: str | None = None,
    api: str | None = None,
    target: Target | None = None,
    options: SessionOptions | None = None,
    own: Calibration | None = None,
) -> Projection:
    """Half the roof on the GPU where there is one with an API, else on the CPU."""
    target, options = target or Target(), options or SessionOptions()
    if accelerator is None:
        gpu = device.accelerators.get("gpu")
        accelerator = "gpu" if gpu is not None and "cpu" not in device.accelerators else "cpu"
    if accelerator not in device.accelerators:
        raise UsageError(f"{device.label} has no {accelerator}.")
    unit, roof = device.accelerators[accelerator], device.roof(accelerator)
    read = math.fsum(planned_work(planned, Phase.DECODE).bytes_by_type.values())
    free = usable_memory(device, accelerator=accelerator)
    rate: Interval | Unavailable = Unavailable(
        reason="its memory bandwidth is not known", remedy="Run edge doctor on it."
    )
    if roof is not None:
        reached = SHARE * roof.value / read
        rate = Interval(low=reached * 0.75, value=reached, high=reached * 4 / 3)
    return Projection(
        device=device.id, device_label=device.label, device_class=device.device_class,
        model=planned.shape.name, level=planned.level, backend=backend, accelerator=accelerator,
        api=api or (unit.apis[0] if unit.apis else ""), decode_tokens_per_s=rate,
        prefill_tokens_per_s=rate.scaled(8) if isinstance(rate, Interval) else None,
        confidence=0.8,
        memory=memory_fit(
            planned, target, options, available_bytes=int(free.low) if free else None
        ),
        available=free, bytes_per_token=int(read), kv_bytes_per_token_of_context=1000,
        depth_tokens=target.prompt_tokens, depth_s_per_token=1e-6, roof_bytes_per_s=roof,
        roof_tokens_per_s=roof.high / read if roof else None, shares=(),
        cause="memory bandwidth (half the roof)", assumptions=("half the roof is reached",),
        nearness=Nearness(
            afar=False,
            rows=12, devices=3, group="the roof", device_known=False, own_rows=0
        ),
        settles="One run on it: edge check --save",
    )  # fmt: skip


@pytest.fixture
def the_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every projection is by the roof."""
    monkeypatch.setattr(rows, "project", by_the_roof)
    monkeypatch.setattr(hardware, "project", by_the_roof)


def with_bandwidth(name: str, gb_per_s: float | None) -> DeviceProfile:
    """A known device with another bandwidth, or with one that nobody knows."""
    known = device(name)
    figure = known.memory_bandwidth_bytes_per_s
    assert isinstance(figure, Figure)
    if gb_per_s is None:
        return dataclasses.replace(
            known,
            memory_bandwidth_bytes_per_s=None,
            accelerators=MappingProxyType(
                {
                    kind: dataclasses.replace(unit, bandwidth_bytes_per_s=None)
                    for kind, unit in known.accelerators.items()
                }
            ),
        )
    own = dataclasses.replace(figure, low=gb_per_s * 1e9, high=gb_per_s * 1e9)
    return dataclasses.replace(known, memory_bandwidth_bytes_per_s=own)
