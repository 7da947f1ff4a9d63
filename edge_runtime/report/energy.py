"""Energy in words: a figure always with its uncertainty, what measured it, of what, and how long.

What is not known is `unavailable` with its reason; never a bare number and never a zero.
"""

from __future__ import annotations

import math
import textwrap

from ..basis import Basis, Unavailable
from ..consumption import Consumption, consumption
from ..energy import Scope
from ..energy_use import EnergyRecord, EnergyReport, EnergyUse, Scenario
from ..measurement import Measurement
from ..phase_energy import NORMAL_95, PhaseEnergy
from ..statistics import Interval
from ..units import format_duration
from .plain import plain
from .sustained import SYMMETRIC_LIMIT

SCOPE_WORDS = {
    Scope.CHIP: "chip",
    Scope.MODULE: "module",
    Scope.BOARD: "board",
    Scope.DEVICE: "whole device",
}
_MOST_DECIMALS = 7
_LABEL_WIDTH = 11


def has_figures(measurement: Measurement) -> bool:
    """Whether any phase of a measurement has a figure of energy."""
    used = consumption(measurement)
    return not isinstance(used, Unavailable) and any(
        isinstance(phase, PhaseEnergy) for phase in (used.prefill, used.decode)
    )


def energy_words(measurement: Measurement) -> str:
    """The energy of a measurement in one line, or why there is none."""
    return consumption_words(consumption(measurement))


def joules_per_token(measurement: Measurement) -> str:
    """The gross joules per generated token, or per prompt token of a mere prompt; else nothing."""
    used = consumption(measurement)
    phase = None if isinstance(used, Unavailable) else used.decode or used.prefill
    return three_digits(phase.gross_j_per_token.value) if isinstance(phase, PhaseEnergy) else ""


def consumption_words(used: Consumption | Unavailable) -> str:
    """What was consumed for a token, by what that is known, or why it is not."""
    if isinstance(used, Unavailable):
        return unavailable_words(used)
    phases = [
        (phase, unit)
        for phase, unit in ((used.decode, "J/token"), (used.prefill, "J/prompt token"))
        if phase is not None
    ]
    known = [phase for phase, _ in phases if isinstance(phase, PhaseEnergy)]
    if not known:
        why = [phase for phase, _ in phases if isinstance(phase, Unavailable)]
        words = unavailable_words(why[0] if why else Unavailable(reason="nothing ran"))
        return "; ".join((words, *_inside(used)))
    reasons = {p.net_j.reason if isinstance(p.net_j, Unavailable) else "" for p in known}
    times = " and ".join(_seconds(phase.window_s) for phase in known)
    if len(known) == len(phases) > len(reasons) and (why_no_net := max(reasons)):
        # One reason for all of them is said once.
        gross = ", ".join(
            _with_error(p.gross_j_per_token, f" {u} gross")
            for p, u in zip(known, (unit for _, unit in phases), strict=True)
        )
        said = f"{gross}, net withheld: {why_no_net}"
    else:
        said = "; ".join(phase_words(phase, unit) for phase, unit in phases)
    return f"{said} ({source_words(used)}, {times})"


def _inside(used: Consumption) -> list[str]:
    """What sensors beside the headline, or inside it, can tell where the headline cannot."""
    return [
        f"{part.sensor} alone {three_digits(each)} {unit} gross ({SCOPE_WORDS[part.scope]})"
        for part in used.parts
        for each, unit in (
            (part.decode_j_per_token, "J/token"),
            (part.prefill_j_per_token, "J/prompt token"),
        )
        if each is not None
    ]


def unavailable_words(why: Unavailable) -> str:
    """Why there is no figure."""
    return f"unavailable ({why.reason})"


def _and_remedy(why: Unavailable) -> str:
    return f"{unavailable_words(why)}. {why.remedy}" if why.remedy else unavailable_words(why)


def source_words(used: Consumption) -> str:
    """What the figures rest on: `measured: battery BAT0, whole device`."""
    scope, source = SCOPE_WORDS[used.scope], short_source(used.source)
    if used.basis is Basis.MEASURED:
        return f"measured: {source}, {scope}"
    return f"estimated by {used.formula}: {source}, {scope}"


def short_source(source: str) -> str:
    """Several sources of one kind with the kind said once: `RAPL a + RAPL b (powercap)`."""
    *others, last = source.split(" + ")
    kind = last[last.index(" (") :] if " (" in last else ""
    if not kind or not all(one.endswith(kind) for one in others):
        return source
    return " + ".join((*(one.removesuffix(kind) for one in others), last))


def phase_words(phase: PhaseEnergy | Unavailable, unit: str) -> str:
    """`1.9 J/token net, 2.6 gross ± 0.1`, or why one of the two is missing."""
    if isinstance(phase, Unavailable):
        return f"{unit} {unavailable_words(phase)}"
    gross, net = phase.gross_j_per_token, phase.net_j_per_token
    if isinstance(net, Unavailable):
        return f"{_with_error(gross, f' {unit} gross')}, net withheld: {net.reason}"
    return f"{_like(net.value, gross)} {unit} net, {_with_error(gross, ' gross')}"


def _with_error(interval: Interval, unit: str) -> str:
    """`2.6 gross ± 0.1`, or by its bounds where it is wide."""
    if interval.is_hopeless:
        return f"{_digits(interval.value, 2)}{unit} (too noisy)"
    half = (interval.high - interval.low) / 2
    if half > SYMMETRIC_LIMIT * interval.value:
        low, value, high = (
            _digits(bound, 2) for bound in (interval.low, interval.value, interval.high)
        )
        return f"{value}{unit} ({low} to {high})"
    # Never surer than the last digit that is shown.
    error = max(half, 10.0 ** -_decimals(interval))
    return f"{_like(interval.value, interval)}{unit} ± {_like(error, interval)}"


def _decimals(interval: Interval) -> int:
    """As many as the half-width is worth, and no more than three digits of the value have."""
    half = (interval.high - interval.low) / 2
    of_value = 2 - math.floor(math.log10(interval.value))
    of_half = -math.floor(math.log10(half)) if half > 0 else of_value
    return max(min(of_half, of_value), 0)


def _like(value: float, interval: Interval) -> str:
    """A value with the decimals of an interval's; never rounded to 0."""
    text = f"{value:.{_decimals(interval)}f}"
    return text if float(text) else f"{value:.2g}"


def figure(interval: Interval) -> str:
    """A positive figure in three digits with the bounds of its 95 % interval."""
    if interval.is_hopeless:
        return f"{three_digits(interval.value)} (too noisy)"
    low, value, high = map(three_digits, (interval.low, interval.value, interval.high))
    return f"{value} ({low} to {high})"


def three_digits(value: float) -> str:
    """A number in three significant digits, without an exponent unless it is tiny."""
    return _digits(value, 3)


def _digits(value: float, count: int) -> str:
    if value == 0:
        return "0"
    decimals = count - 1 - math.floor(math.log10(abs(value)))
    return (
        f"{value:.{count - 1}e}" if decimals > _MOST_DECIMALS else f"{value:.{max(decimals, 0)}f}"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 1000 else format_duration(seconds)


def render_energy(report: EnergyReport, width: int = 0) -> str:
    """The page of `edge energy`: what each measurement consumed, then what each model costs.

    Lines are wrapped below their own words to a `width`, where one is given.
    """
    lines: list[str] = []
    for record in report.records:
        lines += [*_record_lines(record), ""]
    for use in report.models:
        lines += [*_use_lines(use, report.scenario), ""]
    return "\n".join(_wrapped(plain(line), width) for line in lines)


def _wrapped(line: str, width: int) -> str:
    indent = " " * (_LABEL_WIDTH + 2)
    if len(line) <= width or width < 3 * len(indent):
        return line
    parts = textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(parts)


def _line(label: str, words: str) -> str:
    return f"  {label:<{_LABEL_WIDTH}}{words}"


def _record_lines(one: EnergyRecord) -> list[str]:
    used = one.consumption
    lines = [f"{one.artifact.name} {one.artifact.level}, {one.workload.name}, {one.created}"]
    lines.append(_line("energy:", consumption_words(used)))
    if isinstance(used, Unavailable):
        if used.remedy:
            lines.append(_line("", used.remedy))
        return lines
    for label, phase in (("decode", used.decode), ("prefill", used.prefill)):
        if isinstance(phase, PhaseEnergy):
            lines.append(_line(label, _joules(phase)))
        elif phase is not None:
            lines.append(_line(label, _and_remedy(phase)))
    if isinstance(used.load, Unavailable):
        lines.append(_line("load", unavailable_words(used.load)))
    elif used.load is not None:
        load = used.load
        lines.append(
            _line("load", f"{three_digits(load.gross_j)} J gross in {_seconds(load.window_s)}")
        )  # fmt: skip
    idle = used.idle_w
    known = f"{figure(idle)} W" if isinstance(idle, Interval) else unavailable_words(idle)
    lines.append(_line("idle", known))
    lines.append(_line("method", f"{used.method}; {used.gain}"))
    for part in used.parts:
        where = "in the sum" if part.in_headline else "not added"
        joules = ", ".join(
            f"{name} {_part_words(total, u_j, each)}"
            for name, total, u_j, each in (
                ("decode", part.decode_j, part.decode_u_j, part.decode_j_per_token),
                ("prefill", part.prefill_j, part.prefill_u_j, part.prefill_j_per_token),
            )
            if total is not None
        )
        lines.append(_line("part", f"{part.sensor} ({SCOPE_WORDS[part.scope]}, {where}): {joules}"))
    lines += [_line("note", note) for note in used.notes]
    return lines


def _part_words(joules: float | Unavailable, u_j: float | None, per_token: float | None) -> str:
    if isinstance(joules, Unavailable):
        return unavailable_words(joules)
    if u_j is None or per_token is None:
        return ""
    half = NORMAL_95 * u_j
    error = Interval(low=joules - half, value=joules, high=joules + half)
    return f"{_with_error(error, ' J gross')}, {three_digits(per_token)} J/token"


def _joules(phase: PhaseEnergy) -> str:
    gross = _with_error(phase.gross_j_per_token.scaled(phase.tokens), " J gross")
    # Why there is no net stands above, in the line of the whole record.
    net = f"{three_digits(phase.net_j)} J net" if isinstance(phase.net_j, float) else "net withheld"
    count = f"{_many(phase.tokens, 'token')} in {_many(phase.repetitions, 'repetition')}"
    # An estimate rests on no sample.
    samples = f" {_many(phase.samples, 'sample')}," if phase.samples else ""
    time, power = _seconds(phase.window_s), three_digits(phase.power_w)
    return f"{gross}, {net}; {count}, {time},{samples} {power} W"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _use_lines(use: EnergyUse, scenario: Scenario) -> list[str]:
    scope = f", {SCOPE_WORDS[use.scope]}" if use.scope else ""
    basis = (
        f"{use.basis.lower()}: {short_source(use.source)}{scope}"
        if use.basis
        else "nothing measured"
    )
    reasons = {
        value.reason if isinstance(value, Unavailable) else None
        for value in (use.generated_j_per_token, use.prompt_j_per_token, use.chat)
    }
    if len(reasons) == 1 and None not in reasons and isinstance(use.chat, Unavailable):
        lines = [f"{use.artifact.name} {use.artifact.level}"]
        lines.append(_line("energy:", _and_remedy(use.chat)))
        return lines
    at_least, at_most = ("at least ", "at most ") if use.partial else ("", "")
    lines = [f"{use.artifact.name} {use.artifact.level} ({basis})"]
    for label, value, words in (
        ("generated", use.generated_j_per_token, f"{at_least}{{}} J per generated token, gross"),
        ("prompt", use.prompt_j_per_token, f"{at_least}{{}} J per prompt token, gross"),
        ("tokens", use.tokens_per_wh, f"{at_most}{{}} generated tokens per Wh"),
        ("battery", use.battery_percent, f"{at_least}{{}} % of {{}} Wh per 1000 generated tokens"),
    ):
        if isinstance(value, Unavailable):
            lines.append(_line(label, _and_remedy(value)))
        else:
            lines.append(_line(label, words.format(figure(value), f"{use.battery_wh or 0:g}")))
    chat = use.chat
    if isinstance(chat, Unavailable):
        lines.append(_line("chat", _and_remedy(chat)))
    else:
        lines.append(
            _line(
                "chat",
                f"idle {three_digits(chat.idle_h.value)} h, chatting {figure(chat.chatting_h)} h"
                f" on {use.battery_wh:g} Wh: {scenario.words}",
            )
        )
        if not chat.unhurried:
            lines.append(
                _line("", f"a turn takes {_seconds(chat.turn_s)}: they follow one another at once")
            )
    return lines
