"""An `edge check` as a terminal page: the machine, a table, a sentence, what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..basis import Basis, Unavailable
from ..consumption import consumption
from ..feasibility import CheckReport, FitSummary, Row, RowEnergy
from ..measurement import BandwidthReading, Host, Limits
from ..statistics import Interval
from ..units import (
    format_bandwidth,
    format_bytes,
    format_count,
    format_duration,
    format_rate,
)
from ..verdict import VerdictKind
from .emulated import emulated_words
from .energy import short_source, three_digits, unavailable_words
from .plain import plain

_STYLE = {
    VerdictKind.VIABLE: "green",
    VerdictKind.BORDERLINE: "yellow",
    VerdictKind.NOT_VIABLE: "red",
}
_NOTE_OF_BASIS = {
    Basis.MEASURED: "measured: timed here on the real file",
    Basis.SYNTHETIC: "synthetic: timed here, true shape and types, random weights",
    Basis.PROJECTED: "projected: computed from the cells timed here; these models did not run",
}


def render_check(report: CheckReport) -> RenderableType:
    """The whole page of a check."""
    parts: list[RenderableType] = [
        render_host(report.host, report.bandwidth, report.limits),
        Text(),
        _asked(report),
        _table(report.rows),
        *_bases(report.rows),
        Text(),
        Text(report.recommendation, style="bold"),
    ]
    details = list(_details(report))
    if details:
        parts += [Text(), *details]
    return Group(*parts)


def render_host(
    host: Host, bandwidth: BandwidthReading | Unavailable, limits: Limits | None = None
) -> RenderableType:
    """The machine in a few lines."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    if limits is not None:
        words = emulated_words(limits).partition(": ")[2]
        grid.add_row("Emulated", f"{words}; caches and bandwidth are this machine's")
    cores = f"{host.cores_usable} usable of {host.cores_logical} logical"
    if host.cores_physical:
        cores += f", {host.cores_physical} physical"
    grid.add_row("Machine", f"{host.cpu}, {host.system} {host.release} {host.machine}")
    grid.add_row("Cores", cores + (f"; {host.virtualization}" if host.virtualization else ""))
    grid.add_row("Kernels can use", ", ".join(host.isa) or "no vector extensions detected")
    free = (
        f", {format_bytes(host.ram_available_bytes)} free now"
        if host.ram_available_bytes is not None
        else ""
    )
    grid.add_row("Memory", format_bytes(host.ram_bytes) + free)
    grid.add_row("Bandwidth", _bandwidth(bandwidth))
    gpus = "; ".join(
        f"{gpu.name} ({gpu.description})" if gpu.description else gpu.name for gpu in host.gpus
    )
    grid.add_row("GPU", gpus or "none that this build of the engine can use")
    return grid


def _bandwidth(reading: BandwidthReading | Unavailable) -> str:
    if isinstance(reading, Unavailable):
        return f"unavailable: {reading.reason}"
    rate = reading.bytes_per_s
    return (
        f"{format_bandwidth(rate.value)} read "
        f"({format_bandwidth(rate.low)} to {format_bandwidth(rate.high)}; "
        f"{reading.threads} threads over {format_bytes(reading.working_set_bytes)})"
    )


def _asked(report: CheckReport) -> Text:
    target = report.target
    return Text(
        f"Asked: {format_rate(target.decode_tokens_per_s)} tok/s ({target.name}), "
        f"after a prompt of {target.prompt_tokens} tokens, "
        f"with memory for a context of {target.context_tokens} tokens.",
        style="dim",
    )


def _table(rows: Sequence[Row]) -> Table:
    # One basis for all rows is said once, below: the table then fits 80 columns.
    mixed = len({row.verdict.basis for row in rows}) > 1
    powered = any(isinstance(row.energy, RowEnergy) for row in rows)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("Model", no_wrap=True)
    table.add_column("Params", justify="right", no_wrap=True)
    table.add_column("Level", no_wrap=True)
    table.add_column("tok/s (95 %)", justify="right", no_wrap=True)
    table.add_column("TTFT", justify="right", no_wrap=True)
    table.add_column("Memory", justify="right", no_wrap=True)
    if powered:
        table.add_column("J/token", justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    if mixed:
        table.add_column("Basis", no_wrap=True)
    previous = None
    for row in rows:
        verdict = row.verdict
        first = row.model != previous
        if first and previous is not None:
            table.add_section()
        previous = row.model
        rate = verdict.decode_tokens_per_s
        table.add_row(
            row.model if first else "",
            format_count(row.parameters) if first else "",
            row.level,
            _rate(rate),
            format_duration(verdict.ttft_s.value) if verdict.ttft_s else "-",
            format_bytes(verdict.memory.need_bytes),
            *([_joules(row.energy)] if powered else []),
            Text(verdict.kind.value, style=_STYLE[verdict.kind])
            if row.judged
            else Text("unknown", style="yellow"),
            *([verdict.basis.value.lower()] if mixed else []),
        )
    return table


def _rate(rate: Interval | Unavailable) -> str:
    if isinstance(rate, Unavailable):
        return "-"
    if rate.is_hopeless:
        return f"{format_rate(rate.value)} (too noisy)"
    return f"{format_rate(rate.value)} ({format_rate(rate.low)}-{format_rate(rate.high)})"


def _joules(energy: RowEnergy | Unavailable) -> str:
    """Short enough for 80 columns; what it rests on is said once, below."""
    if isinstance(energy, Unavailable):
        return "-"
    per_token = energy.j_per_token
    percent = math.ceil(100 * per_token.relative_half_width)
    words = f"{three_digits(per_token.value)} ±{percent}%"
    return f"{words} est." if energy.basis is Basis.ESTIMATED else words


def _bases(rows: Iterable[Row]) -> Iterable[RenderableType]:
    """What the numbers of the table rest on, for each basis that occurs in it."""
    found = {row.verdict.basis for row in rows}
    return [Text(words, style="dim") for basis, words in _NOTE_OF_BASIS.items() if basis in found]


def _details(report: CheckReport) -> Iterable[RenderableType]:
    """Why a row is what it is where that is not plain, then the ground the numbers stand on."""
    few = len({row.model for row in report.rows}) <= 3
    for row in report.rows:
        rate = row.verdict.decode_tokens_per_s
        if few:
            yield _row_details(row)
        elif isinstance(rate, Unavailable):
            yield Text(f"{row.model} {row.level}: {rate.reason}. {rate.remedy}.", style="dim")
    for fit in report.fits:
        yield Text(_fit_line(fit), style="dim")
    for failure in report.failures:
        yield Text(failure, style="yellow")
    noisy = sorted({flag for m in report.measurements for flag in m.noise.flags})
    if noisy:
        yield Text(
            "disturbed while measuring, intervals widened: " + "; ".join(noisy), style="yellow"
        )
    yield Text(
        f"{len(report.measurements)} measurements in {format_duration(report.elapsed_s)}, "
        f"at most {format_bytes(report.peak_disk_bytes)} of disk; energy: {plain(_energy(report))}",
        style="dim",
    )


def _energy(report: CheckReport) -> str:
    """What measured the column of energies, or the one reason why there is none."""
    known = [row.energy for row in report.rows if isinstance(row.energy, RowEnergy)]
    if known:
        sources = dict.fromkeys(
            f"{one.basis.lower()} by {short_source(one.source)}" for one in known
        )
        return f"gross, {', '.join(sources)}; net of idling: edge profile --idle 30s"
    for measurement in report.measurements:
        used = consumption(measurement)
        reasons = (used,) if isinstance(used, Unavailable) else (used.decode, used.prefill)
        for why in reasons:
            if isinstance(why, Unavailable):
                return unavailable_words(why)
    if not report.measurements:
        return "unavailable (nothing was measured)"
    return "unavailable (none of these files was run whole)"


def _row_details(row: Row) -> RenderableType:
    verdict = row.verdict
    memory = verdict.memory
    lines = [f"{row.level}: {verdict.cause}. {verdict.next_step}".rstrip()]
    # ONNX Runtime keeps rearranged copies of the weights, which take more than the file's.
    compute = "packing and compute" if row.level.startswith("onnx:") else "compute"
    parts = (
        f"memory {format_bytes(memory.need_bytes)}: weights {format_bytes(memory.weights_bytes)}, "
        f"KV cache {format_bytes(memory.kv_bytes)} at {verdict.context_tokens} tokens, "
        f"{compute} {format_bytes(memory.compute_bytes)}, "
        f"process {format_bytes(memory.process_bytes)}"
    )
    if memory.headroom_bytes is not None and memory.available_bytes is not None:
        free = format_bytes(memory.available_bytes)
        if memory.headroom_bytes < 0:
            parts += f"; {format_bytes(-memory.headroom_bytes)} more than the {free} free"
        else:
            parts += f"; {format_bytes(memory.headroom_bytes)} of {free} stays free"
    lines.append(parts)
    if verdict.itl_p90_s is not None:
        lines.append(
            f"slowest tenth of the tokens: {format_duration(verdict.itl_p90_s)} or more "
            f"(limit {format_duration(verdict.itl_limit_s)})"
        )
    if verdict.longest_context_tokens is not None:
        lines.append(
            f"longest context that still reads at {format_rate(verdict.limit_tokens_per_s)} tok/s: "
            f"{verdict.longest_context_tokens:,} tokens"
        )
    lines += verdict.notes
    return Group(Text(lines[0]), Padding(Text("\n".join(lines[1:]), style="dim"), (0, 0, 0, 2)))


def _fit_line(fit: FitSummary) -> str:
    rates = ", ".join(f"{name} {_fit_rate(value, fit.what)}" for name, value in fit.rates)
    if fit.attention_products_per_s:
        rates += f", attention {fit.attention_products_per_s / 1e9:.3g} G products/s"
    engine = f"{fit.engine} " if fit.engine else ""
    return (
        f"{engine}{fit.what} fitted to {fit.cells} cells, error {fit.relative_error:.1%}: "
        f"{format_duration(fit.seconds_per_layer)} per layer, {rates}"
    )


def _fit_rate(value: float, what: str) -> str:
    if what == "prefill":
        return f"{value / 1e9:.3g} G weights/s"
    return format_bandwidth(value)
