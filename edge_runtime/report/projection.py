"""Projections as terminal pages: models on devices, what reads on one, what hardware a model needs.

Every page says that nothing ran there, what share of unseen devices its intervals hold for, and
what would settle a row. It words records and computes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from profiles.devices import DeviceProfile

from ..basis import Unavailable
from ..projection.records import Projection
from ..projection.rows import Asked, ProjectedRow, ProjectionReport, name_of
from ..statistics import Interval
from ..units import (
    GIB,
    format_bandwidth,
    format_bytes,
    format_count,
    format_duration,
    format_rate,
)
from ..verdict import MemoryFit, VerdictKind
from .plain import plain

STYLE = {
    VerdictKind.VIABLE: "green",
    VerdictKind.BORDERLINE: "yellow",
    VerdictKind.NOT_VIABLE: "red",
}
_FEW_NAMES = 3
_MANY_ROWS = 12
"""From so many rows on only those that are not plain are explained."""


def render_projection(report: ProjectionReport) -> RenderableType:
    """The page of `edge check --device`: one model's devices in one table, else a table each."""
    models = {row.row.model for row in report.rows}
    parts: list[RenderableType] = [asked_line(report.asked)]
    if len(models) == 1:
        first = report.rows[0].row
        title = f"{plain(first.model)}, {format_count(first.parameters)} parameters"
        parts += [Text(title, style="bold"), device_table(report.rows)]
    else:
        for device in report.devices:
            own = [row for row in report.rows if row.device == name_of(device)]
            parts += [Text(), _heading(device, own), model_table(own)]
    parts += [basis_line(report.rows), memory_line(), Text()]
    alone = len(report.devices) == 1
    for device in report.devices:
        sentence = plain(report.recommendation(device))
        label = "" if alone else f"{name_of(device)}: "
        parts.append(Text(f"{label}{sentence}", style="bold"))
    shared = () if alone else _said_of_all(report)
    for device in report.devices:
        own = [row for row in report.rows if row.device == name_of(device)]
        parts.append(Text())
        if len(models) == 1:
            parts.append(_heading(device, own))
        elif not alone:
            parts.append(Text(f"{name_of(device)}:", style="bold"))
        parts += device_notes(own, shared=shared)
    if shared:
        parts += [Text(), Text("All of them:", style="bold")]
        parts.append(_assumed_line(shared))
    return Group(*parts)


def _said_of_all(report: ProjectionReport) -> tuple[str, ...]:
    """The assumptions that every device's rows share: said once."""
    every = [
        set(assumed([row for row in report.rows if row.device == name_of(device)]))
        for device in report.devices
    ]
    return tuple(words for words in assumed(report.rows) if all(words in one for one in every))


def asked_line(asked: Asked) -> Text:
    """What was asked for, in one sentence."""
    target = asked.target
    return Text(
        f"Asked: {format_rate(target.decode_tokens_per_s)} tok/s ({target.name}), "
        f"after a prompt of {target.prompt_tokens} tokens, "
        f"with memory for a context of {target.context_tokens} tokens.",
        style="dim",
    )


def basis_line(rows: Sequence[ProjectedRow]) -> Text:
    """What the rates come from, that nothing ran for them, and what the intervals mean."""
    shares = sorted({round(100 * row.projection.confidence) for row in rows})
    share = " or ".join(f"{share} %" for share in shares)
    engines = " and ".join(sorted({plain(row.projection.backend) for row in rows}))
    published = "from published measurements"
    if not any(row.projection.nearness.device_known for row in rows):
        published += " of other devices"
    if any(row.projection.nearness.own_rows for row in rows):
        published += " and your own"
    return Text(
        f"Projected for {engines} {published}; nothing was run for this page. "
        f"An interval holds for {share} of unseen devices.",
        style="dim",
    )


def memory_line() -> Text:
    """What the two numbers of the memory column are."""
    return Text("GiB/free: memory needed, and what the system leaves of it at least.", style="dim")


def device_table(rows: Sequence[ProjectedRow]) -> Table:
    """Rows of one model, device by device."""
    table = _empty_table()
    table.add_column("Device", overflow="fold")
    table.add_column("On", no_wrap=True)
    table.add_column("Level", no_wrap=True)
    _add_figures(table, rows)
    mixed = len({(row.device, *_place(row)) for row in rows}) > len({row.device for row in rows})
    previous = None
    for row in rows:
        first = row.device != previous
        if first and previous is not None:
            table.add_section()
        previous = row.device
        table.add_row(
            row.device if first else "",
            row.projection.accelerator if first or mixed else "",
            row.row.level,
            *_figures(row),
        )
    return table


def model_table(
    rows: Sequence[ProjectedRow], *, name_width: int | None = None, mixed: bool | None = None
) -> Table:
    """Rows of one device, model by model; `name_width` and `mixed` make several tables alike.

    With `mixed` a column says where each row computes; otherwise the device's heading says it.
    """
    if mixed is None:
        mixed = is_mixed(rows)
    table = _empty_table()
    table.add_column("Model", overflow="fold", min_width=name_width)
    table.add_column("Params", justify="right", no_wrap=True, min_width=6)
    if mixed:
        table.add_column("On", no_wrap=True)
    table.add_column("Level", no_wrap=True, min_width=6)
    _add_figures(table, rows)
    previous = None
    for row in rows:
        first = row.row.model != previous
        previous = row.row.model
        table.add_row(
            plain(row.row.model) if first else "",
            format_count(row.row.parameters) if first else "",
            *([row.projection.accelerator] if mixed else []),
            row.row.level,
            *_figures(row),
        )
    return table


def is_mixed(rows: Sequence[ProjectedRow]) -> bool:
    """Whether rows of one device compute in more than one place."""
    return len({_place(row) for row in rows}) > 1


def _place(row: ProjectedRow) -> tuple[str, str]:
    return row.projection.accelerator, row.projection.api


def _empty_table() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)


def _add_figures(table: Table, rows: Sequence[ProjectedRow]) -> None:
    confidence = round(100 * max((row.projection.confidence for row in rows), default=0.8))
    table.add_column(f"tok/s ({confidence} %)", justify="right", no_wrap=True)
    table.add_column("TTFT", justify="right", no_wrap=True)
    table.add_column("GiB/free", justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True, min_width=len(VerdictKind.NOT_VIABLE))


def _figures(row: ProjectedRow) -> tuple[str | Text, ...]:
    verdict = row.verdict
    kind = (
        Text(verdict.kind.value, style=STYLE[verdict.kind])
        if row.is_known
        else Text("unknown", style="yellow")
    )
    ttft = format_duration(verdict.ttft_s.value) if verdict.ttft_s else "-"
    return rate_words(row.projection.decode_tokens_per_s), ttft, memory_words(verdict.memory), kind


def rate_words(rate: Interval | Unavailable) -> str:
    """`14.2 (10.1-19.8)`, or a dash."""
    if isinstance(rate, Unavailable):
        return "-"
    return f"{format_rate(rate.value)} ({format_rate(rate.low)}-{format_rate(rate.high)})"


def memory_words(memory: MemoryFit) -> str:
    """What is needed over what the system leaves, GiB: `1.24/5.6`."""
    free = memory.available_bytes
    return f"{_gib(memory.need_bytes, 2)}/{'?' if free is None else _gib(free, 1)}"


def _gib(count: int, digits: int) -> str:
    size = count / GIB
    return f"{size:.{digits}f}" if size < 10 else f"{size:.{max(digits - 1, 0)}f}"


def _heading(device: DeviceProfile, rows: Sequence[ProjectedRow]) -> RenderableType:
    words = Text(f"{name_of(device)}: ", style="bold")
    words.append(device_words(device, rows), style="not bold")
    return words


def device_words(device: DeviceProfile, rows: Sequence[ProjectedRow]) -> str:
    """What a device is and what was projected on: `Raspberry Pi 5, cpu at 17.1 GB/s, ...`."""
    places = {_place(row): row.projection for row in rows}
    where = dict.fromkeys(_place_words(found) for found in places.values())
    memory = dict.fromkeys(_free_words(device, found) for found in places.values())
    return ", ".join((plain(device.label), *where, *memory))


def _place_words(found: Projection) -> str:
    roof = found.roof_bytes_per_s
    bandwidth = (
        "unknown bandwidth" if roof is None else f"{_range(roof.low, roof.high)} GB/s ({roof.kind})"
    )
    by = f" by {found.api}" if found.api else ""
    return plain(f"{found.accelerator}{by} at {bandwidth}")


def _free_words(device: DeviceProfile, found: Projection) -> str:
    free = found.available
    if free is None:
        return "unknown what the system leaves free"
    sizes = device.accelerators[found.accelerator].memory_bytes or device.ram_bytes
    of = f" of {format_bytes(min(sizes))}" if sizes else ""
    return f"{_gib_range(free.low, free.high)} GiB free{of} ({free.kind})"


def _range(low: float, high: float) -> str:
    shown = [format_bandwidth(end).removesuffix(" GB/s") for end in (low, high)]
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} to {shown[1]}"


def _gib_range(low: float, high: float) -> str:
    shown = [_gib(int(end), 1) for end in (low, high)]
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} to {shown[1]}"


def device_notes(
    rows: Sequence[ProjectedRow],
    *,
    explained: Sequence[ProjectedRow] | None = None,
    shared: Collection[str] = (),
) -> Iterator[RenderableType]:
    """Why a device's rows are what they are, what they rest on, and what would settle them.

    `shared` assumptions are left out: they are said once for all devices.
    """
    if explained is None:
        explained = rows if len(rows) <= _MANY_ROWS else [row for row in rows if not row.is_known]
    named = _names(rows)
    for names, words in grouped(
        (name, reason_words(row))
        for row, name in named
        if row in explained
        and (row.verdict.kind is not VerdictKind.VIABLE or row.verdict.next_step)
    ):
        yield _indented(plain(f"{', '.join(names)}: {words}"))
    for names, words in grouped(
        (row.row.model, note)
        for row in rows
        if len(rows) <= _MANY_ROWS or row.verdict.kind is not VerdictKind.NOT_VIABLE
        for note in row.verdict.notes
    ):
        yield _indented(plain(f"{', '.join(names)}: {words}"))
    for words in evidence_words(rows):
        yield _indented(f"evidence: {words}", style="dim")
    if own := [words for words in assumed(rows) if words not in shared]:
        yield _assumed_line(own)
    for settles in _settling(rows):
        yield _indented(f"would settle it: {plain(settles)}")


def _assumed_line(assumptions: Iterable[str]) -> RenderableType:
    return _indented(f"assumed: {plain(' '.join(assumptions))}", style="dim")


def assumed(rows: Sequence[ProjectedRow]) -> list[str]:
    """What is assumed, each once; what is not true of all rows with the names of those it is of.

    Of many rows only what is true of more than one of them.
    """
    fewest = 2 if len(rows) > _MANY_ROWS else 1
    named = _names(rows)
    every = {name for _, name in named}
    said = grouped((name, words) for row, name in named for words in row.projection.assumptions)
    return [
        words if len(names) == len(every) else f"{_few(names)}: {words}"
        for names, words in said
        if len(names) >= fewest
    ]


def _names(rows: Sequence[ProjectedRow]) -> list[tuple[ProjectedRow, str]]:
    """The rows of a device and what tells each from the others."""
    several = len({row.row.model for row in rows}) > 1
    return [(row, f"{row.row.model} {row.row.level}" if several else row.row.level) for row in rows]


def _few(names: Sequence[str]) -> str:
    left = len(names) - _FEW_NAMES
    return ", ".join(names) if left <= 1 else f"{', '.join(names[:_FEW_NAMES])} and {left} more"


def _settling(rows: Sequence[ProjectedRow]) -> list[str]:
    """What would settle an open row, or one that nothing near is published of.

    The smallest model's: one run tells much of the others.
    """
    found = [
        row
        for row in rows
        if row.projection.settles
        and row.is_known
        and (
            row.verdict.kind is VerdictKind.BORDERLINE
            or row.projection.nearness.afar
            or not row.projection.nearness.devices
        )
    ]
    return [min(found, key=lambda row: row.row.parameters).projection.settles] if found else []


def reason_words(row: ProjectedRow) -> str:
    """The cause of a row's verdict and the next step, in one line."""
    verdict = row.verdict
    next_step = "" if verdict.next_step == row.projection.settles else verdict.next_step
    return plain(f"{verdict.cause.rstrip('.')}. {next_step}".rstrip())


def evidence_words(rows: Sequence[ProjectedRow]) -> Iterator[str]:
    """How much is published near: `cpu/llama.cpp: Q8_0 34 rows of 6 devices, Q4_0 73 of 11`.

    A level's types differ from model to model, and with them what is near: `8 to 60 of 5 to 6`.
    """
    found: dict[tuple[str, bool, bool, int], dict[str, list[tuple[int, int]]]] = {}
    for row in rows:
        near = row.projection.nearness
        key = (near.group, near.afar, near.device_known, near.own_rows)
        levels = found.setdefault(key, {})
        levels.setdefault(row.row.level, []).append((near.rows, near.devices))
    for (group, afar, itself, own), levels in found.items():
        (first, counts), *others = levels.items()
        words = [f"{first} {_span(counts, ' row', ' device')}"]
        words += [f"{level} {_span(counts)}" for level, counts in others]
        if afar and not own:
            words.append("none of a device like this one")
        if itself:
            words.append("this device is of that group")
        if own:
            words.append(f"{own} measured on this device itself")
        yield plain(f"published of {group}: {', '.join(words)}")


def _span(counts: Sequence[tuple[int, int]], row: str = "", device: str = "") -> str:
    """`34 rows of 6 devices`, or `2 to 217 rows of 1 to 27 devices`; without the words 34 of 6."""
    ends = []
    for numbers, word in zip(zip(*counts, strict=True), (row, device), strict=True):
        low, high = min(numbers), max(numbers)
        plural = "s" if word and high != 1 else ""
        ends.append(f"{low if low == high else f'{low} to {high}'}{word}{plural}")
    return " of ".join(ends)


def grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """What several say alike is said once, with all their names."""
    found: dict[str, list[str]] = {}
    for name, words in pairs:
        found.setdefault(words, []).append(name)
    return [(list(dict.fromkeys(names)), words) for words, names in found.items()]


def _indented(words: str, style: str = "") -> RenderableType:
    return Padding(Text(words, style=style), (0, 0, 0, 2))
