"""What reads on a device, and what hardware a model needs, as terminal pages.

Both answers are lists that a reader stops reading: the largest model that reads comes first, the
cheapest class of devices likewise. It words records and computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..projection.device_fit import FitReport, shortfall
from ..projection.hardware import BandwidthNeed, HardwarePlan, LevelNeeds, PlannedDevice, RamNeed
from ..projection.rows import name_of
from ..units import GIB, format_bandwidth, format_bytes, format_count, format_rate
from ..verdict import VerdictKind
from .plain import plain
from .projection import (
    STYLE,
    asked_line,
    basis_line,
    device_notes,
    device_words,
    grouped,
    is_mixed,
    memory_line,
    model_table,
    rate_words,
)

_MOST_MODELS = 12
_MOST_MISSES = 4
_NEAR = 2.0
"""What misses the target or the memory by no more than this factor just misses it."""
_WIDEST_NAME = 22
_MOST_DEVICES = 5
"""Of each class, unless all are asked for."""

_CLASS_WORDS = {
    "sbc": "boards",
    "mobile": "phones and tablets",
    "laptop": "laptops",
    "desktop": "desktops",
    "gpu": "graphics cards",
    "server": "servers",
}


def render_fit(report: FitReport, *, everything: bool = False) -> RenderableType:
    """The page of `edge fit`."""
    rows = (*report.rows, *report.misses)
    heading = Text(f"{name_of(report.device)}: ", style="bold")
    heading.append(device_words(report.device, rows), style="not bold")
    parts: list[RenderableType] = [heading, asked_line(report.asked), Text()]
    parts += _reading(report, everything=everything)
    parts += _missing(report, everything=everything)
    parts += [Text(), basis_line(rows), memory_line()]
    levels = ", ".join(report.levels)
    parts.append(Text(f"Of each model the level with the most bits of {levels}.", style="dim"))
    parts += device_notes(rows, explained=())
    return Group(*parts)


def _reading(report: FitReport, *, everything: bool) -> Iterator[RenderableType]:
    limit = format_rate(report.asked.target.decode_tokens_per_s)
    if not report.rows:
        yield Text(f"No model of the catalogue reads at {limit} tok/s there.", style="bold")
        return
    mixed = is_mixed((*report.rows, *report.misses))
    for rows, title in (
        (report.viable, f"Read at {limit} tok/s, the largest first"),
        (report.borderline, "May read: the interval or the memory leaves it open"),
    ):
        if not rows:
            continue
        shown = rows if everything else rows[:_MOST_MODELS]
        yield Text(title, style="bold")
        yield model_table(shown, name_width=_name_width(report), mixed=mixed)
        if left := len(rows) - len(shown):
            yield Text(f"and {left} smaller {_models(left)}: --all", style="dim")
        yield Text()


def _missing(report: FitReport, *, everything: bool) -> Iterator[RenderableType]:
    if not report.misses:
        return
    mixed = is_mixed((*report.rows, *report.misses))
    near = [row for row in report.misses if shortfall(row) <= _NEAR]
    shown = report.misses if everything else (near or report.misses)[:_MOST_MISSES]
    yield Text("Just miss" if near and not everything else "Do not read", style="bold")
    yield model_table(shown, name_width=_name_width(report), mixed=mixed)
    for names, words in grouped((row.row.model, row.verdict.cause) for row in shown):
        yield _indented(plain(f"{', '.join(names)}: {words}"), style="dim")
    if left := len(report.misses) - len(shown):
        yield Text(f"and {left} further {_models(left)}: --all", style="dim")


def _name_width(report: FitReport) -> int:
    """The tables stand below each other: their columns do, too."""
    rows = (*report.viable[:_MOST_MODELS], *report.borderline[:_MOST_MODELS])
    names = (len(row.row.model) for row in (*rows, *report.misses[:_MOST_MISSES]))
    return min(max(names), _WIDEST_NAME)


def _models(count: int) -> str:
    return "model" if count == 1 else "models"


def render_plan(plan: HardwarePlan, *, everything: bool = False) -> RenderableType:
    """The page of `edge plan`."""
    title = f"{plain(plan.model)}, {format_count(plan.parameters)} parameters"
    parts: list[RenderableType] = [Text(title, style="bold"), asked_line(plan.asked)]
    for needs in plan.needs:
        parts += [Text(), *_needs(needs, everything=everything)]
    parts += [Text(), *_devices(plan, everything=everything)]
    rows = [one.row for one in plan.devices]
    if rows:
        parts.append(basis_line(rows))
    if plan.unknown:
        names = ", ".join(plan.unknown)
        count = f"{len(plan.unknown)} device{'' if len(plan.unknown) == 1 else 's'}"
        parts.append(Text(f"Too little is known to project onto {count}: {names}.", "dim"))
    return Group(*parts)


def _needs(needs: LevelNeeds, *, everything: bool) -> Iterator[RenderableType]:
    memory = needs.memory
    bandwidths = needs.bandwidths if everything else _easiest(needs.bandwidths)
    yield Text(f"Needs at {needs.level}", style="bold")
    yield _indented(
        f"Memory: {format_bytes(needs.free_bytes)} free, of which "
        f"{format_bytes(memory.need_bytes)} in use: weights {format_bytes(memory.weights_bytes)}, "
        f"KV cache {format_bytes(memory.kv_bytes)}, compute {format_bytes(memory.compute_bytes)}, "
        f"process {format_bytes(memory.process_bytes)}"
    )
    for words in _memories(needs.memories):
        yield _indented(words, indent=4)
    yield _indented(
        f"Bandwidth: {format_bandwidth(needs.roof_bytes_per_s)} at the very least, on anything: "
        f"{format_bytes(needs.bytes_per_token)} are read for each token"
    )
    if bandwidths:
        yield Padding(_bandwidths(bandwidths), (0, 0, 0, 4))
    if any(need.likely is not None and need.sure is None for need in bandwidths):
        yield _indented("?: no bandwidth is surely enough, computing may take too long", indent=4)
    if any(need.likely is None for need in bandwidths):
        yield _indented("none is enough: computing takes too long whatever the bandwidth", indent=4)


def _easiest(needs: Sequence[BandwidthNeed]) -> list[BandwidthNeed]:
    """Of the ways to reach an accelerator of a class the one that needs least."""
    found: dict[tuple[str, str], BandwidthNeed] = {}
    for need in sorted(needs, key=lambda need: need.likely or math.inf, reverse=True):
        found[need.device_class, need.accelerator] = need
    return [need for need in needs if need in found.values()]


def _memories(memories: Sequence[RamNeed]) -> Iterator[str]:
    """`4 GiB: Android, Linux boards (cpu)`, the smallest first, alike ones together."""
    found: dict[int | None, list[str]] = {}
    for need in memories:
        names = found.setdefault(need.ram_bytes, [])
        if (where := _where(need, memories)) not in names:
            names.append(where)
    for size in sorted(found, key=lambda size: size or math.inf):
        words = "no size that is sold" if size is None else f"{size / GIB:g} GiB"
        yield f"{words}: {', '.join(found[size])}"


def _where(need: RamNeed, memories: Sequence[RamNeed]) -> str:
    """A system, with as much of class and accelerator as decides how much it takes."""
    if need.own:
        return "a graphics card's own"
    classed = f"{need.system} {_CLASS_WORDS[need.device_class]}"
    alike = [other for other in memories if other.system == need.system]
    if len({other.ram_bytes for other in alike}) == 1:
        return need.system
    alike = [other for other in alike if other.device_class == need.device_class]
    if len({other.ram_bytes for other in alike}) == 1:
        return classed
    return f"{classed} ({need.accelerator})"


def _bandwidths(needs: Sequence[BandwidthNeed]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("Class", no_wrap=True)
    table.add_column("On", no_wrap=True)
    table.add_column(f"GB/s ({round(100 * needs[0].confidence)} %)", justify="right", no_wrap=True)
    table.add_column("Otherwise like", overflow="fold")
    for need in needs:
        table.add_row(
            need.device_class,
            f"{need.accelerator} {need.api}".rstrip(),
            _need_words(need),
            need.like,
        )
    return table


def _need_words(need: BandwidthNeed) -> str:
    if need.likely is None:
        return "none is enough"
    ends = [_gb(need.least), _gb(need.sure)]
    return f"{_gb(need.likely)} ({ends[0]}-{ends[1]})"


def _gb(bytes_per_s: float | None) -> str:
    return "?" if bytes_per_s is None else format_bandwidth(bytes_per_s).removesuffix(" GB/s")


def _devices(plan: HardwarePlan, *, everything: bool) -> Iterator[RenderableType]:
    limit = format_rate(plan.asked.target.decode_tokens_per_s)
    if not plan.devices:
        yield Text(f"No known device reads at {limit} tok/s with it.", style="bold")
        return
    several, hidden = len(plan.needs) > 1, False
    yield Text("Devices that have it, cheapest class first", style="bold")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("Device", overflow="fold")
    table.add_column("Memory", justify="right", no_wrap=True)
    table.add_column("On", no_wrap=True)
    if several:
        table.add_column("Level", no_wrap=True)
    table.add_column(
        f"tok/s ({round(100 * plan.devices[0].row.projection.confidence)} %)",
        justify="right",
        no_wrap=True,
    )
    table.add_column("Verdict", no_wrap=True)
    for name in dict.fromkeys(one.device.device_class for one in plan.devices):
        own = [one for one in plan.devices if one.device.device_class == name]
        shown = own if everything else own[:_MOST_DEVICES]
        table.add_row(Text(_CLASS_WORDS[name].capitalize(), style="bold"))
        for one in shown:
            table.add_row(*_device_row(one, several=several))
        if left := len(own) - len(shown):
            sure = sum(one.row.verdict.kind is VerdictKind.VIABLE for one in own[len(shown) :])
            table.add_row(Text(f"  and {left} more, {sure} viable", style="dim"))
            hidden = True
    yield table
    if hidden:
        yield Text("--all lists every device, and every way to reach it.", style="dim")


def _device_row(one: PlannedDevice, *, several: bool) -> list[str | Text]:
    row = one.row
    size = "?" if one.memory_bytes is None else f"{one.memory_bytes / GIB:.3g} GiB"
    kind = row.verdict.kind
    return [
        f"  {_name(one)}",
        size,
        f"{row.projection.accelerator} {row.projection.api}".rstrip(),
        *([row.row.level] if several else []),
        rate_words(row.projection.decode_tokens_per_s),
        Text(kind.value, style=STYLE[kind]),
    ]


def _name(one: PlannedDevice) -> str:
    """What a phone is called: nobody buys its chip. `+2` are further products that have it."""
    bought = [product.id for product in one.device.products if product.name in one.products]
    if one.device.device_class != "mobile" or not bought:
        return one.device.id
    return bought[0] + (f" +{len(bought) - 1}" if len(bought) > 1 else "")


def _indented(words: str, *, indent: int = 2, style: str = "") -> RenderableType:
    return Padding(Text(words, style=style), (0, 0, 0, indent))
