"""Costs as a terminal page: each question a small table, each figure beside what it rests on.

What is missing stands in the place of its figure with the reason and what supplies it; what is
missing for one reason in several places says so once.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from ..basis import Unavailable
from ..costs import CostReport
from ..costs.device import DeviceCost
from ..costs.elsewhere import TrainingCost
from ..economics import Bound, Ground, Origin, Quantity
from ..phase_energy import WH_J
from ..statistics import HOPELESS_FACTOR
from .energy import three_digits
from .plain import plain

_LABEL_WIDTH = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One line: what, how much or why not, and the unit as people say it; None below a heading."""

    label: str
    figure: Quantity | Unavailable | None
    unit: str = ""
    always: bool = False
    """Whether it stands there even when the reason for its absence was said before."""


def render_cost(report: CostReport, *, explain: bool = False) -> RenderableType:
    """The whole page of `edge cost`; with `explain`, how each figure comes about."""
    said: set[Unavailable] = set()
    parts: list[RenderableType] = []
    if report.caution:
        parts += [Text(plain(report.caution), style="bold"), Text()]
    shown: list[_Row] = []
    for title, rows in _sections(report):
        lines = tuple(_lines(rows, said))
        if lines:
            parts += [Text(plain(title), style="bold"), _Lines(rows=lines), Text()]
        shown += rows
    if explain:
        parts += [Text("How", style="bold"), _explained(shown), Text()]
    parts += [Text(plain(note), style="dim") for note in report.notes]
    if not report.notes:
        parts.pop()
    return Group(*parts)


def _sections(report: CostReport) -> Iterator[tuple[str, Sequence[_Row]]]:
    money = plain(report.currency)
    for device in report.devices:
        yield device.name, _grounds(device)
    yield (
        f"{money} per million generated tokens{_counted(report)}",
        [
            *_of_devices(report, _device_million),
            *_million_elsewhere(report),
        ],
    )
    yield (
        f"{money} per day",
        [
            *_of_devices(report, _device_day),
            *_day_elsewhere(report),
        ],
    )
    yield (
        "Generated tokens per day",
        [
            *_of_devices(report, lambda device: _device_tokens(device, report)),
            *_rented_tokens(report),
        ],
    )
    yield "Battery", _of_devices(report, lambda device: _battery(device, report.reading))
    if report.training is not None:
        yield "Training", _training(report.training, money)


def _counted(report: CostReport) -> str:
    prompts = report.input_per_output
    if not prompts:
        return ", prompts not counted"
    return f", each with {prompts:g} prompt token{'' if prompts == 1 else 's'}"


def _of_devices(report: CostReport, rows: Callable[[DeviceCost], Iterable[_Row]]) -> list[_Row]:
    """The rows of each device, below its name where there are several."""
    found: list[_Row] = []
    for device in report.devices:
        of_one = list(rows(device))
        if len(report.devices) > 1 and of_one:
            found.append(_Row(label=device.name, figure=None))
        found += of_one
    return found


def _grounds(device: DeviceCost) -> list[_Row]:
    rows = [_Row(label="energy", figure=device.generated_j_per_token, unit="J/token")]
    if device.j_per_token != device.generated_j_per_token:
        rows.append(_Row(label="energy with prompts", figure=device.j_per_token, unit="J/token"))
    return [*rows, _Row(label="rate", figure=device.tokens_per_s, unit="tok/s")]


def _device_million(device: DeviceCost) -> Iterator[_Row]:
    yield _Row(label="electricity", figure=device.electricity, always=True)
    yield _Row(label="hardware", figure=device.hardware)
    yield _Row(label="together", figure=device.together)


def _million_elsewhere(report: CostReport) -> Iterator[_Row]:
    if report.api is not None:
        yield _Row(label="API", figure=report.api.per_million)
    if report.rented is not None:
        yield _Row(label="rented GPU, always busy", figure=report.rented.per_million)
        yield _Row(label="  for 1,000 of them", figure=report.rented.per_thousand)


def _device_day(device: DeviceCost) -> Iterator[_Row]:
    used = device.tokens_per_day
    if isinstance(used, Quantity):
        yield _Row(label=f"device, {used.value:,.0f} tokens", figure=device.per_day)


def _day_elsewhere(report: CostReport) -> Iterator[_Row]:
    api, rented = report.api, report.rented
    if api is not None and isinstance(api.per_day, Quantity):
        yield _Row(label="API, the stated tokens", figure=api.per_day)
    if rented is None:
        return
    if api is not None and isinstance(rented.api_per_day, Quantity):
        yield _Row(label="API, all the GPU can do", figure=rented.api_per_day)
    yield _Row(label="rented around the clock", figure=rented.per_day)
    if isinstance(rented.per_year, Quantity):
        yield _Row(label="  for a year", figure=rented.per_year, unit="a year")


def _device_tokens(device: DeviceCost, report: CostReport) -> Iterator[_Row]:
    yield _Row(label="the device does", figure=device.most_tokens_per_day)
    if report.api is not None:
        yield _Row(label="it beats the API from", figure=device.break_even_tokens_per_day)


def _rented_tokens(report: CostReport) -> Iterator[_Row]:
    rented = report.rented
    if rented is None:
        return
    yield _Row(label="the rented GPU does", figure=rented.generated_per_day)
    if report.input_per_output:
        yield _Row(label="  with their prompts", figure=rented.tokens_per_day)
    if report.api is not None:
        yield _Row(label="it beats the API from", figure=rented.break_even_tokens_per_day)


def _battery(device: DeviceCost, reading: str) -> Iterator[_Row]:
    battery = device.battery
    capacity = battery.battery_j
    if isinstance(capacity, Quantity):
        yield _Row(label="a full one holds", figure=_in_wh(capacity), unit="Wh")
    yield _Row(label="1,000 generated tokens", figure=battery.percent, unit="%", always=True)
    yield _Row(label="generating nonstop", figure=battery.generating_h, unit="h")
    yield _Row(label=f"at {reading}", figure=battery.reading_h, unit="h")


def _in_wh(capacity: Quantity) -> Quantity:
    low, value, high = (j / WH_J for j in (capacity.low, capacity.value, capacity.high))
    return replace(capacity, low=low, value=value, high=high, unit="Wh")


def _training(training: TrainingCost, money: str) -> list[_Row]:
    return [
        _Row(label="operations", figure=training.flop, unit="FLOP"),
        _Row(label="GPU time", figure=training.gpu_h, unit="GPU hours"),
        _Row(label="cost", figure=training.cost, unit=money),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lines:
    """Labels with words beside them: in the same line where it has room, else below it."""

    rows: tuple[tuple[str, str, str], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(options.max_width - _LABEL_WIDTH, _LABEL_WIDTH)
        widest = max((len(figure) for _, figure, _ in self.rows), default=0)
        for label, figure, words in self.rows:
            line = Text(plain(f"  {label}").ljust(_LABEL_WIDTH))
            if len(label) + 3 > _LABEL_WIDTH and (figure or words):
                line.append("\n" + " " * _LABEL_WIDTH)
            line.append(plain(figure))
            beside = widest + 2 + len(words) <= room
            if figure and words:
                gap = widest - len(figure) + 2 if beside else 0
                line.append(" " * gap if beside else "\n" + " " * _LABEL_WIDTH)
            below = "\n" + " " * _LABEL_WIDTH
            wrapped = textwrap.wrap(plain(words), room, break_on_hyphens=False)
            line.append(below.join(wrapped), style="dim" if figure else "")
            line.rstrip()
            yield line


def _lines(rows: Sequence[_Row], said: set[Unavailable]) -> Iterator[tuple[str, str, str]]:
    """Each row's label, figure and basis; or, in place of both, why there is none, told once."""
    heading: tuple[str, str, str] | None = None
    for row in rows:
        figure = row.figure
        if figure is None:
            heading = (row.label, "", "")
            continue
        if isinstance(figure, Quantity):
            words = (_amount(figure, row.unit), basis_words(figure))
        elif figure not in said:
            said.add(figure)
            words = ("", _why(figure))
        elif row.always:
            words = ("", "unavailable, as said above")
        else:
            continue
        if heading is not None:
            yield heading
            heading = None
        yield (row.label, *words)


def _why(missing: Unavailable) -> str:
    never = missing.reason.startswith(("never", "not known"))
    reason = missing.reason if never else f"unavailable ({missing.reason})"
    return ". ".join(filter(None, (reason, missing.remedy)))


def _amount(figure: Quantity, unit: str) -> str:
    """`at least 0.0124 J/token (0.0108 to 0.0143)`."""
    low, value, high = map(amount, (figure.low, figure.value, figure.high))
    bound = f"{figure.bound.value} " if figure.bound is not Bound.NONE else ""
    if figure.high > HOPELESS_FACTOR * figure.low:
        span = " (too noisy)"
    else:
        span = "" if low == value == high else f" ({low} to {high})"
    return f"{bound}{value}{f' {unit}' if unit else ''}{span}"


def basis_words(figure: Quantity) -> str:
    """What a figure rests on: `stated`, `measured (battery BAT0)`, `derived: measured, stated`."""
    if not figure.formula:
        return ", ".join(map(_ground, figure.rests_on))
    origins = {ground.basis for ground in figure.rests_on}
    # A ground that is derived itself stands in a line of its own, with its own basis.
    told = origins - {Origin.DERIVED} or origins
    return f"derived: {', '.join(sorted(told))}"


def _ground(ground: Ground) -> str:
    return f"{ground.basis.value} ({ground.source})" if ground.source else ground.basis.value


def _explained(rows: Sequence[_Row]) -> _Lines:
    """The formula of each derived figure, and its grounds."""
    lines = []
    for row in rows:
        figure = row.figure
        if figure is None:
            lines.append((row.label, "", ""))
        elif isinstance(figure, Quantity) and figure.formula:
            grounds = ", ".join(
                f"{one.name} {one.value:.6g} {one.basis.value}" for one in figure.rests_on
            )
            lines.append((row.label, "", f"{figure.formula}; {grounds}"))
    return _Lines(rows=tuple(lines))


def amount(value: float) -> str:
    """A number as money is written: 5,256.00, 798.34, 0.00717; large counts without decimals."""
    if not value:
        return "0"
    if abs(value) >= 1e15:
        return f"{value:.3e}"
    if abs(value) >= 10_000 or (abs(value) >= 1000 and math.isclose(value, round(value))):
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1 else three_digits(value)
