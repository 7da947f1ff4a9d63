"""The known devices as a table, and one device with every figure's kind, day and source.

A bandwidth that is an accelerator's own is told from the roof of the memory it shares, which is
only an upper bound. Where nothing is known it says so: a blank is never taken for zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from profiles.device_profile import ACCELERATORS, Accelerator, DeviceProfile
from profiles.figures import Figure

from ..units import GIB
from .device_records import DeviceSheet, Usable, card_memory
from .plain import plain

UNKNOWN = "unknown"
_WIDE_COLUMNS = 110
_LEGEND = (
    "GB: memory as sold. cpu, gpu, npu: the bandwidth that bounds each, in GB/s; < where only the "
    "roof of the memory it shares is known, - where nothing is. runs: published measurements."
)


def render_devices(
    devices: Sequence[DeviceProfile],
    published: Mapping[str, int],
    products: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> RenderableType:
    """The table of devices; `published` counts measurements per id.

    `products` are those, by device, that are named below the table, since they are asked for by
    ids of their own.
    """
    named = [
        Text(f"{plain(device.id)} is in {', '.join(map(plain, products[device.id]))}")
        for device in devices
        if products.get(device.id)
    ]
    lines = _Lines(devices=devices, published=published)
    return Group(lines, *named, *([Text()] if named else []), Text(_LEGEND, style="dim"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lines:
    """A line for each device. A table of rich's would take as long as all the rest together."""

    devices: Sequence[DeviceProfile]
    published: Mapping[str, int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [
            (
                plain(device.id),
                device.device_class,
                _span(card_memory(device) or device.ram_bytes),
                *(_roof(device, name) for name in ACCELERATORS),
                str(self.published.get(device.id) or "-"),
            )
            for device in self.devices
        ]
        heads = ("id", "class", "GB", *ACCELERATORS, "runs")
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        gap = 1 + (options.max_width >= _WIDE_COLUMNS)
        # What a device is called gives way, never a figure.
        room = options.max_width - sum(widths) - gap * len(heads)
        names = [plain(device.name) for device in self.devices]
        named = min(max(room, 8), 48, max(map(cell_len, ("device", *names))))
        lines = Text(no_wrap=True)
        for name, cells in zip(("device", *names), (heads, *rows), strict=True):
            head = cells is heads
            lines.append(cells[0].ljust(widths[0] + gap), style="bold")
            lines.append_text(_called(name, named, bold=head))
            lines.append(" " * gap + cells[1].ljust(widths[1]), style="bold" if head else "")
            for cell, width in zip(cells[2:], widths[2:], strict=True):
                style = "bold" if head else "dim" if cell[0] in "-<" else ""
                lines.append(cell.rjust(gap + width), style=style)
            lines.append("\n")
        yield lines


def _called(name: str, width: int, *, bold: bool) -> Text:
    """A name in so many columns, cut where it is longer."""
    text = Text(name, style="bold" if bold else "")
    text.truncate(width, overflow="ellipsis", pad=True)
    return text


def render_device(sheet: DeviceSheet) -> RenderableType:
    """Every fact of one device: value, how it is known, when it was read, and its source."""
    facts = tuple(_facts(sheet))
    numbers: dict[str, int] = {}
    for fact in facts:
        if fact.source:
            numbers.setdefault(fact.source, len(numbers) + 1)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("known as", no_wrap=True)
    table.add_column("read on", no_wrap=True)
    table.add_column("", no_wrap=True, justify="right")
    for fact in facts:
        blank = fact.value == UNKNOWN
        table.add_row(
            Text(fact.name),
            Text(plain(fact.value), style="dim" if blank else ""),
            fact.kind,
            fact.as_of,
            Text(f"[{numbers[fact.source]}]" if fact.source else ""),
        )
    parts: list[RenderableType] = [*_title(sheet.device), table]
    notes: dict[str, str] = {}
    for fact in facts:
        if fact.note:
            notes[fact.note] = "; ".join(filter(None, (notes.get(fact.note), fact.name)))
    parts += _listed("Notes", [(f"{names}:", note) for note, names in notes.items()])
    parts += _listed("Sources", [(f"[{n}]", text) for text, n in numbers.items()])
    return Group(*parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fact:
    name: str
    value: str
    kind: str = ""
    as_of: str = ""
    source: str = ""
    note: str = ""


def _title(device: DeviceProfile) -> Iterator[Text]:
    if device.product:
        yield Text(plain(f"{device.product.name} ({device.product.id})"), style="bold")
        yield Text(plain(f"{device.name} ({device.id})"))
    else:
        yield Text(plain(f"{device.name} ({device.id})"), style="bold")
    words = (device.device_class, device.maker, device.soc, ", ".join(device.os))
    yield Text(plain("; ".join(word for word in words if word)))
    if device.aliases:
        yield Text(plain(f"also: {', '.join(device.aliases)}"))
    if device.product is None and device.products:
        yield Text(plain(f"sold as: {', '.join(p.id for p in device.products)}"))
    if device.note:
        yield Text(plain(device.note))


def _facts(sheet: DeviceSheet) -> Iterator[_Fact]:
    device = sheet.device
    has_cpu = "cpu" in device.accelerators
    if has_cpu:
        clusters = ", ".join(
            f"{c.count} x {c.name}" + (f" {_number(c.max_hz / 1e9)} GHz" if c.max_hz else "")
            for c in device.clusters
        )
        yield _said("cores", clusters, device.isa_source, device)
        yield _said("instructions", " ".join(device.isa), device.isa_source, device)
        sizes = ", ".join(_gb(size) for size in device.ram_bytes)
        yield _said("memory as sold", f"{sizes} GB" if sizes else "", device.ram_source, device)
        yield _Fact(name="memory type", value=device.memory_type or UNKNOWN)
        yield _figure("memory bandwidth", device.memory_bandwidth_bytes_per_s, 1e9, "GB/s")
    for name in ACCELERATORS:
        unit = device.accelerators.get(name)
        if unit is not None:
            yield from _accelerator_facts(device, unit)
        elif has_cpu:
            yield _Fact(name=name, value=UNKNOWN)
    yield from _usable(sheet.usable)
    if has_cpu or device.tdp_w:
        yield _figure("TDP", device.tdp_w, 1, "W")
    if has_cpu or device.sustained_w:
        yield _figure("sustained power", device.sustained_w, 1, "W")
    if device.device_class in ("mobile", "laptop"):
        yield _figure("battery", device.battery_j, 3600, "Wh")
    for mode in device.power_modes:
        name = f"mode {plain(mode.name)}{' (default)' if mode.default else ''}"
        yield _figure(name, mode.limit_w, 1, "W", mode.note)
        if mode.bandwidth_bytes_per_s:
            yield _figure(f"{name} bandwidth", mode.bandwidth_bytes_per_s, 1e9, "GB/s")
    count = sheet.published
    yield _Fact(name="published runs", value=str(count) if count else "none")


def _accelerator_facts(device: DeviceProfile, unit: Accelerator) -> Iterator[_Fact]:
    kind = unit.kind
    called = " via ".join(filter(None, (unit.name, ", ".join(unit.apis))))
    yield _Fact(name=kind, value=called or UNKNOWN)
    if unit.memory_bytes:
        sizes = f"{', '.join(_gb(size) for size in unit.memory_bytes)} GB"
        yield _Fact(name=f"{kind} memory", value=f"{sizes} {unit.memory_type}".rstrip())
    own = unit.bandwidth_bytes_per_s
    shared = device.roof(kind)
    if own is None and shared is not None:
        yield _Fact(
            name=f"{kind} bandwidth", value=f"{UNKNOWN}, at most {_number(shared.high / 1e9)} GB/s"
        )
    else:
        yield _figure(f"{kind} bandwidth", own, 1e9, "GB/s")
    for label, figure, name in (
        ("fp16", unit.fp16_flop_per_s, "TFLOP/s"),
        ("fp32", unit.fp32_flop_per_s, "TFLOP/s"),
        ("int8", unit.int8_op_per_s, "TOP/s"),
    ):
        if figure is not None or (kind != "cpu" and label != "fp32"):
            yield _figure(f"{kind} {label}", figure, 1e12, name)


def _usable(found: Sequence[Usable]) -> Iterator[_Fact]:
    """What is free for an app, told once for accelerators that have the same."""
    alike: dict[tuple[int, Figure | None], list[str]] = {}
    for usable in found:
        key = (usable.memory_bytes, usable.usable_bytes)
        alike.setdefault(key, []).append(usable.accelerator)
    for (size, figure), names in alike.items():
        fact = _figure(f"free of {_gb(size)} GB", figure, GIB, "GiB")
        yield dataclasses.replace(fact, value=f"{fact.value} for {', '.join(names)}")


def _said(name: str, value: str, source: str, device: DeviceProfile) -> _Fact:
    if not value:
        return _Fact(name=name, value=UNKNOWN)
    return _Fact(
        name=name, value=value, kind="stated", as_of=device.as_of.isoformat(), source=source
    )


def _figure(name: str, figure: Figure | None, scale: float, unit: str, note: str = "") -> _Fact:
    if figure is None:
        return _Fact(name=name, value=UNKNOWN, note=note)
    low, high = (_number(end / scale) for end in (figure.low, figure.high))
    return _Fact(
        name=name,
        value=f"{low} {unit}" if low == high else f"{low} to {high} {unit}",
        kind=figure.kind,
        as_of=figure.as_of.isoformat(),
        source=figure.source,
        note=" ".join(filter(None, (figure.note, note))),
    )


def _listed(title: str, entries: Sequence[tuple[str, str]]) -> Iterator[RenderableType]:
    if entries:
        yield Text(f"\n{title}", style="bold")
    for name, text in entries:
        yield Text.assemble((name, "bold"), f" {plain(text)}", overflow="fold")


def _roof(device: DeviceProfile, accelerator: str) -> str:
    roof = device.roof(accelerator)
    if roof is None:
        return "-"
    own = device.accelerators[accelerator].bandwidth_bytes_per_s is not None
    return f"{'' if own else '<'}{_number(roof.value / 1e9)}"


def _span(sizes: Sequence[int]) -> str:
    if not sizes:
        return "-"
    ends = dict.fromkeys(_gb(end) for end in (min(sizes), max(sizes)))
    return "-".join(ends)


def _number(value: float) -> str:
    """Three significant digits, as many as most sources give, and no zeros behind them."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _gb(size: int) -> str:
    """A size as it is sold: 8 GB of memory are 8 GiB."""
    return f"{size / GIB:g}"
