"""What people want to know of energy: tokens for a watt-hour, the battery's share, hours of chat.

Pure functions of measurements. Prefill and decode of the same file, options and machine may come
from two measurements. A sensor that sees only a part of the device gives a least energy: what
follows from it is said to be a bound, never a value, and hours do not follow at all. The capacity
is the battery's as it is today.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .basis import Basis, Unavailable
from .consumption import Consumption, consumption
from .energy import Refusal, Scope
from .measurement import ArtifactRecord, Measurement, SessionOptions, Workload
from .phase_energy import WH_J, PhaseEnergy
from .statistics import Interval
from .units import format_duration

LEAST_WH, MOST_WH = 0.01, 1e6
"""No battery that runs a model is smaller, and none larger."""

_NO_CAPACITY = Unavailable(
    reason="no battery capacity is known", remedy="State it: edge energy FILE --battery-wh 50"
)

_NO_PROMPT = Unavailable(
    reason="no prompt was measured", remedy="Measure one as well: edge profile MODEL -p 512"
)
_NOT_ALL = Unavailable(
    reason="the sensor does not see the whole device",
    remedy="Log a meter in its supply, or run on battery: edge energy FILE --meter LOG.csv",
)
_NOTHING_GENERATED = Unavailable(
    reason="nothing was generated", remedy="Measure that as well: edge profile MODEL -n 128"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A chat: a prompt and an answer of so many tokens, one turn in every `cycle_s` seconds."""

    prompt_tokens: int = 300
    generate_tokens: int = 200
    cycle_s: float = 60.0

    @property
    def words(self) -> str:
        """The scenario as people say it."""
        return (
            f"{self.prompt_tokens} prompt + {self.generate_tokens} generated tokens,"
            f" one turn every {format_duration(self.cycle_s)}, idle between"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatHours:
    """How long a full battery lasts: chatting in the scenario, and idle with no model loaded.

    `turn_j` and `turn_s` are the gross energy and the time of one turn, `mean_w` the power over a
    cycle. `unhurried` is False when a turn takes longer than the cycle: they then follow at once.
    """

    chatting_h: Interval
    idle_h: Interval
    turn_j: Interval
    turn_s: float
    mean_w: Interval
    unhurried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyUse:
    """What one model costs on one machine: figures, or the reason for each that is missing.

    `partial` says that the sensor covers less than the device: energies are then at least, tokens
    at most, what is given, and no hours are told. `battery_percent` is what 1000 generated tokens
    take of the battery's present capacity. Energies are gross where they do not say net.
    """

    artifact: ArtifactRecord
    options: SessionOptions
    basis: Basis | None
    source: str
    scope: Scope | None
    partial: bool
    generated_j_per_token: Interval | Unavailable
    generated_net_j_per_token: Interval | Unavailable
    prompt_j_per_token: Interval | Unavailable
    prompt_net_j_per_token: Interval | Unavailable
    tokens_per_wh: Interval | Unavailable
    battery_percent: Interval | Unavailable
    battery_wh: float | None
    chat: ChatHours | Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyRecord:
    """What one measurement consumed, beside what was measured and the sensors that gave nothing."""

    created: str
    artifact: ArtifactRecord
    options: SessionOptions
    workload: Workload
    consumption: Consumption | Unavailable
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReport:
    """Everything `edge energy` says: of each measurement, and of each model in the scenario."""

    tool_version: str
    scenario: Scenario
    records: tuple[EnergyRecord, ...]
    models: tuple[EnergyUse, ...]
    schema: int = 1


def energy_report(
    measurements: Sequence[Measurement],
    scenario: Scenario,
    *,
    tool_version: str,
    battery_wh: float | None = None,
) -> EnergyReport:
    """What the measurements consumed, and what their models cost in the scenario."""
    return EnergyReport(
        tool_version=tool_version,
        scenario=scenario,
        records=tuple(
            EnergyRecord(
                created=one.created,
                artifact=one.artifact,
                options=one.options,
                workload=one.workload,
                consumption=consumption(one),
                refusals=one.refusals,
            )
            for one in measurements
        ),
        models=energy_uses(measurements, scenario, battery_wh=battery_wh),
    )


def energy_uses(
    measurements: Sequence[Measurement],
    scenario: Scenario | None = None,
    *,
    battery_wh: float | None = None,
) -> tuple[EnergyUse, ...]:
    """One use for each file, options and machine among the measurements, in order.

    Of several measurements of one the lengths nearest to the scenario's count. `battery_wh` stands
    in for the capacity that the record has, or has not.
    """
    scenario = scenario or Scenario()
    return tuple(_use(group, scenario, battery_wh) for group in grouped(measurements))


def grouped(measurements: Sequence[Measurement]) -> tuple[tuple[Measurement, ...], ...]:
    """The measurements of the same file, options and machine together, in order."""
    groups: dict[object, list[Measurement]] = {}
    for one in measurements:
        groups.setdefault(_same(one), []).append(one)
    return tuple(map(tuple, groups.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    measurement: Measurement
    consumption: Consumption


def _same(one: Measurement) -> object:
    """What two measurements must share for their phases to belong together."""
    host = one.host
    asked = replace(one.requested or one.options, context_tokens=None)
    return (
        one.artifact.fingerprint, one.artifact.level, asked, host.system, host.machine, host.cpu,
        host.cores_usable, host.ram_bytes, one.emulated, one.stated_power_w,
    )  # fmt: skip


def _use(group: Sequence[Measurement], scenario: Scenario, battery_wh: float | None) -> EnergyUse:
    found, why = [], None
    for one in group:
        used = consumption(one)
        if isinstance(used, Unavailable):
            why = why or used
        else:
            found.append(_Found(measurement=one, consumption=used))
    decoded = _nearest(found, scenario, prefill=False)
    decode = _phase(decoded, found, why or _NOTHING_GENERATED, prefill=False)
    level = decoded.consumption if decoded else found[0].consumption if found else None
    alike = [f for f in found if level is not None and _level(f.consumption) == _level(level)]
    prefilled = _nearest(alike, scenario, prefill=True)
    prefill = _phase(prefilled, alike, why or _NO_PROMPT, prefill=True)
    full_wh = battery_wh if battery_wh is not None else _capacity(group)
    partial = level is not None and level.scope is not Scope.DEVICE
    idle_w = _idle([f for f in (decoded, prefilled) if f is not None], why)
    gross = decode.gross_j_per_token if isinstance(decode, PhaseEnergy) else decode
    one = group[0]
    return EnergyUse(
        artifact=one.artifact,
        options=one.requested or one.options,
        basis=level.basis if level else None,
        source=level.source if level else "",
        scope=level.scope if level else None,
        partial=partial,
        generated_j_per_token=gross,
        generated_net_j_per_token=_net(decode),
        prompt_j_per_token=(
            prefill.gross_j_per_token if isinstance(prefill, PhaseEnergy) else prefill
        ),
        prompt_net_j_per_token=_net(prefill),
        tokens_per_wh=decode.tokens_per_wh if isinstance(decode, PhaseEnergy) else decode,
        battery_percent=_percent(gross, full_wh),
        battery_wh=full_wh,
        chat=_NOT_ALL if partial else _chat(scenario, prefill, decode, idle_w, full_wh),
    )


def _level(used: Consumption) -> tuple[object, ...]:
    """Energies may be added up only when the same sensors counted them."""
    return used.basis, used.source, used.scope


def _nearest(found: Sequence[_Found], scenario: Scenario, *, prefill: bool) -> _Found | None:
    """The measurement with that phase whose lengths are nearest to the scenario's."""

    def apart(one: _Found) -> int:
        workload = one.measurement.workload
        tokens = workload.prompt_tokens if prefill else workload.generate_tokens
        wanted = scenario.prompt_tokens if prefill else scenario.generate_tokens
        return abs(tokens - wanted) + workload.depth_tokens

    with_phase = [
        one
        for one in found
        if isinstance(
            one.consumption.prefill if prefill else one.consumption.decode, PhaseEnergy
        )
    ]  # fmt: skip
    return min(with_phase, key=apart, default=None)


def _phase(
    chosen: _Found | None, found: Sequence[_Found], otherwise: Unavailable, *, prefill: bool
) -> PhaseEnergy | Unavailable:
    """The chosen measurement's phase, or why no measurement has a figure for it."""
    for one in [chosen] if chosen is not None else found:
        phase = one.consumption.prefill if prefill else one.consumption.decode
        if phase is not None:
            return phase
    return otherwise


def _net(phase: PhaseEnergy | Unavailable) -> Interval | Unavailable:
    return phase.net_j_per_token if isinstance(phase, PhaseEnergy) else phase


def _idle(found: Sequence[_Found], why: Unavailable | None) -> Interval | Unavailable:
    levels = [one.consumption.idle_w for one in found]
    known = [level for level in levels if isinstance(level, Interval)]
    unknown = [level for level in levels if isinstance(level, Unavailable)]
    return (known or unknown or [why or Unavailable(reason="nothing was measured")])[0]


def _capacity(group: Sequence[Measurement]) -> float | None:
    """The battery's capacity as the latest record has it, watt-hours."""
    for one in reversed(group):
        full_wh = one.battery.full_wh if one.battery is not None else None
        if full_wh is not None and LEAST_WH <= full_wh <= MOST_WH:
            return full_wh
    return None


def _percent(per_token: Interval | Unavailable, full_wh: float | None) -> Interval | Unavailable:
    """100 x 1000 x J per token / (3600 x Wh)."""
    if isinstance(per_token, Unavailable):
        return per_token
    return per_token.scaled(100 * 1000 / (WH_J * full_wh)) if full_wh else _NO_CAPACITY


def _chat(
    scenario: Scenario,
    prefill: PhaseEnergy | Unavailable,
    decode: PhaseEnergy | Unavailable,
    idle_w: Interval | Unavailable,
    full_wh: float | None,
) -> ChatHours | Unavailable:
    """P = (E_turn + P_idle x t_idle) / t_cycle, hours = Wh / P; bounds are those of all at once."""
    needed = [
        (phase, tokens)
        for phase, tokens in (
            (prefill, scenario.prompt_tokens),
            (decode, scenario.generate_tokens),
        )
        if tokens
    ]
    for phase, _ in needed:
        if isinstance(phase, Unavailable):
            return phase
    if isinstance(idle_w, Unavailable):
        return idle_w
    if not full_wh:
        return _NO_CAPACITY
    known = [(p, tokens) for p, tokens in needed if isinstance(p, PhaseEnergy)]
    turn_s = sum(p.window_s / p.tokens * tokens for p, tokens in known)
    turn_j = _sum([p.gross_j_per_token.scaled(tokens) for p, tokens in known])
    cycle_s = max(scenario.cycle_s, turn_s)
    mean_w = _sum([turn_j, idle_w.scaled(cycle_s - turn_s)]).scaled(1 / cycle_s)
    return ChatHours(
        chatting_h=mean_w.inverse().scaled(full_wh),
        idle_h=idle_w.inverse().scaled(full_wh),
        turn_j=turn_j,
        turn_s=turn_s,
        mean_w=mean_w,
        unhurried=turn_s <= scenario.cycle_s,
    )


def _sum(intervals: Sequence[Interval]) -> Interval:
    return Interval(
        low=sum(i.low for i in intervals),
        value=sum(i.value for i in intervals),
        high=sum(i.high for i in intervals),
    )
