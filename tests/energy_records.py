"""Measurements with energy, built by hand: sensors whose joules anybody can add up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from edge_runtime.energy import Energy, EnergySeries, Scope, SensorInfo, SeriesBreak
from edge_runtime.measurement import Measurement, Run, Workload
from edge_runtime.timeline import Timeline, Window
from tests.records import measurement, tg_run

S = 1_000_000_000

Watts = Callable[[float], float]


def sensor(name: str = "rapl:package-0", **changes: object) -> SensorInfo:
    """A counter that is read ten times a second and resolves a second."""
    info = SensorInfo(
        id=name, source=f"sensor {name}", scope=Scope.CHIP, covers=("cpu:0",), method="counter",
        update_s=0.001, step=0.0, poll_s=0.1, window_s=1.0,
    )  # fmt: skip
    return replace(info, **changes)  # type: ignore[arg-type]


def series(
    watts: Watts, *, until_s: float, info: SensorInfo | None = None, period_s: float = 0.1
) -> EnergySeries:
    """What a sensor counts of a power that is constant between its readings."""
    steps = round(until_s / period_s)
    stamps = [round(i * period_s * S) for i in range(steps + 1)]
    added = [watts((i + 0.5) * period_s) * period_s for i in range(steps)]
    return EnergySeries(
        sensor=info or sensor(),
        stamps_ns=tuple(stamps),
        joules=tuple(itertools.accumulate(added, initial=100.0)),
    )


def run(start_s: float, prefill_s: float, decode_s: float, *, prompt: int, steps: int) -> Run:
    """A run of the bench protocol: prefill, then as many decode steps."""
    begun = round((start_s + prefill_s) * S)
    step = round(decode_s * S) // steps if steps else 0
    return Run(
        started_ns=round(start_s * S),
        prefilled_ns=begun if prompt else None,
        prefill_tokens=prompt,
        token_ns=tuple(begun + step * (i + 1) for i in range(steps)),
    )


def window(name: str, start_s: float, end_s: float, busy: float | None = 0.01) -> Window:
    return Window(
        name=name,  # type: ignore[arg-type]
        started_ns=round(start_s * S),
        ended_ns=round(end_s * S),
        busy_share=busy,
    )


IDLE_WINDOWS = (window("idle_a", 0, 10), window("idle_b", 30, 40))
RUNS = (
    run(12, 2, 4, prompt=100, steps=40),
    run(20, 2, 4, prompt=100, steps=40),
)
"""Two runs: 2 s of prefill and 4 s of decode each."""


def power(at_s: float) -> float:
    """2 W idle, 12 W loading and prefilling, 7 W decoding."""
    if 10 <= at_s < 14 or 20 <= at_s < 22:
        return 12.0
    return 7.0 if 14 <= at_s < 18 or 22 <= at_s < 26 else 2.0


def recorded(
    *sensors: EnergySeries,
    headline: Sequence[str] | None = None,
    runs: tuple[Run, ...] = RUNS,
    windows: tuple[Window, ...] = (*IDLE_WINDOWS, window("load", 10, 12)),
) -> Measurement:
    """A measurement with those sensors: by hand 48 J of prefill, 56 J of decode, 2 W of idling."""
    found = sensors or (series(power, until_s=40),)
    base = measurement(
        runs, workload=Workload(name="pp100+tg40", prompt_tokens=100, generate_tokens=40)
    )
    names = tuple(s.sensor.id for s in found) if headline is None else tuple(headline)
    return replace(
        base,
        energy=Energy(series=found, headline=names),
        timeline=Timeline(windows=windows),
        noise=replace(base.noise, foreign_share=0.01),
    )


MINUTE = series(power, until_s=40)


def drifting(t: float) -> float:
    return 3.0 if t >= 26 else power(t)


NO_NET: dict[str, tuple[Measurement, str]] = {
    "no idle window": (recorded(windows=()), "no idle window was measured"),
    "one idle window": (recorded(windows=IDLE_WINDOWS[:1]), "only one idle window"),
    "drift": (recorded(series(drifting, until_s=40)), "baseline drift: idling drew 2 W before and"),
    "busy before": (
        recorded(windows=(window("idle_a", 0, 10, 0.06), IDLE_WINDOWS[1])),
        "foreign load: while idling other programs used 6% of the CPU",
    ),
    "busy after": (
        recorded(windows=(IDLE_WINDOWS[0], window("idle_b", 30, 40, 0.5))),
        "foreign load: while idling other programs used 50%",
    ),
    "busy meanwhile": (
        replace(recorded(), noise=replace(recorded().noise, foreign_share=0.051)),
        "foreign load: other programs used 5% of the CPU",
    ),
    "idle too short": (
        recorded(windows=(window("idle_a", 0, 0.9), IDLE_WINDOWS[1])),
        "idling: rapl:package-0: below sensor resolution: 900 ms is shorter than the 1.00 s",
    ),
    "idle above the run": (
        recorded(series(lambda t: 9.0 if t < 10 or t >= 26 else power(t), until_s=40)),
        "running drew no more than idling (9 W)",
    ),
    "idle too coarse": (
        recorded(series(power, until_s=40, info=sensor(step=30.0))),
        "idling: below sensor resolution",
    ),
    "a little above idling": (
        recorded(series(lambda t: 7.0 if 14 <= t < 18 or 22 <= t < 26 else 6.99, until_s=40,
                        info=sensor(step=0.1))),
        "below sensor resolution: the 0.08 J that the model adds are known to ±",
    ),
    "idle of no length": (
        recorded(windows=(window("idle_a", 5, 5), IDLE_WINDOWS[1])),
        "idling: rapl:package-0: below sensor resolution",
    ),
    "idle backwards": (
        recorded(
            series(power, until_s=40, info=sensor(window_s=-99.0)),
            windows=(window("idle_a", 8, 5), IDLE_WINDOWS[1]),
        ),
        "idling: rapl:package-0: the sensor did not advance",
    ),
    "sensor begins late": (
        recorded(windows=(window("idle_a", -5, 5), IDLE_WINDOWS[1])),
        "idling: rapl:package-0: its first reading came too late",
    ),
}  # fmt: skip


def broken(**changes: object) -> Measurement:
    return recorded(replace(MINUTE, **changes))  # type: ignore[arg-type]


def without(first: int, after: int) -> EnergySeries:
    keep = [i for i in range(len(MINUTE.stamps_ns)) if not first <= i < after]
    return replace(
        MINUTE,
        stamps_ns=tuple(MINUTE.stamps_ns[i] for i in keep),
        joules=tuple(MINUTE.joules[i] for i in keep),
    )


NO_GROSS: dict[str, tuple[Measurement, str]] = {
    "too short": (
        recorded(runs=(run(14, 0, 0.9, prompt=0, steps=9),)),
        "rapl:package-0: below sensor resolution: 900 ms is shorter than the 1.00 s",
    ),
    "too coarse": (
        broken(sensor=sensor(step=60.0)), "below sensor resolution: 56 J in 8.00 s are known to",
    ),
    "too few samples": (
        recorded(
            replace(MINUTE, sensor=sensor(method="power")),
            runs=(run(14, 0, 1.55, prompt=0, steps=9),),
        ),
        "rapl:package-0: below sensor resolution: 16 samples",
    ),
    "a gap in watts": (
        recorded(replace(without(150, 160), sensor=sensor(method="power"))),
        "rapl:package-0: it was not read for 1.10 s",
    ),
    "reset": (
        broken(breaks=(SeriesBreak(noticed_ns=15 * S, reason="the counter was reset"),)),
        "rapl:package-0: it lost its thread: the counter was reset",
    ),
    "vanished": (
        recorded(without(200, 1000)), "rapl:package-0: it stopped giving readings before the end",
    ),
    "stalled": (
        recorded(series(lambda t: 0 if 15 < t < 17 else power(t), until_s=40)),
        "rapl:package-0: counter stalled: it stood still for 2.00 s",
    ),
    "never advanced": (
        recorded(series(lambda _: 0.0, until_s=40, info=sensor(update_s=1.0))),
        "rapl:package-0: the sensor did not advance in 8.00 s",
    ),
}  # fmt: skip


SILENT = replace(measurement((tg_run(50, S // 10),)), stated_power_w=8.0)
"""5 s of decoding at 10 tok/s, and no sensor."""
