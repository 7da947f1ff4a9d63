"""Devices of one's own in words: what was measured on them, and what that covers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..basis import Unavailable
from ..projection.calibration import Calibration
from ..projection.own import PersonalDevice, PersonalRow
from ..projection.own_costs import covered_types
from ..projection.own_rows import LeftOut
from ..statistics import Interval
from ..units import format_bandwidth, format_bytes, format_rate
from .plain import plain

_SHOWN_LEFT_OUT = 8


def render_personal(
    device: PersonalDevice, calibration: Calibration, left_out: Sequence[LeftOut]
) -> RenderableType:
    """One device: the host, a line per measurement, what the costs cover, and how to go on."""
    parts: list[RenderableType] = [
        Text(plain(f"{device.id}: {host_words(device)}"), style="bold"),
        _rows(device.rows),
        *(Text(plain(sentence)) for sentence in _coverage(device, calibration)),
    ]
    parts += [Text(plain(sentence), style="yellow") for sentence in _disturbances(device.rows)]
    parts += [
        Text(plain(f"left out: {one.what}: {one.reason}"), style="dim")
        for one in left_out[:_SHOWN_LEFT_OUT]
    ]
    if len(left_out) > _SHOWN_LEFT_OUT:
        parts.append(Text(f"and {len(left_out) - _SHOWN_LEFT_OUT} more left out", style="dim"))
    parts.append(Text(f"Use it: edge check --device {device.id}"))
    return Group(*parts)


def render_personal_devices(devices: Sequence[PersonalDevice]) -> RenderableType:
    """The devices of one's own, a line each."""
    table = _table("id", "device", "class", "is a", "rows", "measured")
    for one in devices:
        table.add_row(
            Text(plain(one.id), style="bold"),
            Text(plain(one.host.cpu)),
            one.device_class,
            plain(one.base) or "-",
            str(len(one.rows)),
            plain(one.created[:10]),
        )
    return table


def device_entry(device: PersonalDevice, file: str) -> dict[str, object]:
    """A device of one's own as an entry of a list in JSON."""
    return {
        "id": device.id,
        "name": device.name,
        "class": device.device_class,
        "base": device.base or None,
        "cpu": device.host.cpu,
        "created": device.created,
        "rows": len(device.rows),
        "disturbed_rows": sum(bool(row.disturbed) for row in device.rows),
        "rows_that_count": sum(row.counts for row in device.rows),
        "file": file,
    }


def host_words(device: PersonalDevice) -> str:
    """The host in a few words: processor, cores, memory, measured bandwidth."""
    host, bandwidth = device.host, device.bandwidth
    words = [host.cpu, f"{host.cores_usable} cores", format_bytes(host.ram_bytes)]
    if not isinstance(bandwidth, Unavailable):
        words.append(f"{format_bandwidth(bandwidth.bytes_per_s.value)} measured")
    return ", ".join((*words, f"class {device.device_class}"))


def _disturbances(rows: Sequence[PersonalRow]) -> list[str]:
    """What other programs did to the measurements, and what helps; nothing where all were quiet."""
    spoilt = [row for row in rows if not row.counts]
    noisy = [row for row in rows if row.disturbed and row.counts]
    said = []
    if spoilt:
        most = f"{min(max(row.taken_share for row in spoilt), 1):.0%}"
        what = (
            "No measurement counts"
            if len(spoilt) == len(rows)
            else (f"{len(spoilt)} of {len(rows)} measurements do not count")
        )
        said.append(
            f"{what}: other programs took up to {most} of the processor time, and what they leave "
            "says nothing of the device."
        )
    if noisy:
        said.append(
            f"{len(noisy)} measurements were disturbed ({noisy[-1].disturbed[0]}): they count for "
            "less."
        )
    if said:
        said.append("Close other programs, then: edge check --save, and edge calibrate again.")
    return said


def _rows(rows: Sequence[PersonalRow]) -> Table:
    table = _table("model", "level", "on", "context", "decode tok/s", "prefill tok/s", "")
    for row in rows:
        table.add_row(
            plain(row.model) + ("" if not row.synthetic else " *"),
            plain(row.level),
            plain(" ".join(filter(None, (row.accelerator, row.api)))),
            str(row.depth_tokens),
            _rate(row.decode_tokens_per_s),
            _rate(row.prefill_tokens_per_s),
            "" if not row.disturbed else "disturbed" if row.counts else "not counted",
        )
    if any(row.synthetic for row in rows):
        table.caption = "* true shape and types, random weights"
        table.caption_justify = "left"
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True, justify="right" if "tok/s" in head else "left")
    return table


def _rate(rate: Interval | None) -> str:
    return "-" if rate is None else format_rate(rate.value)


def _coverage(device: PersonalDevice, calibration: Calibration) -> list[str]:
    """For each way that was measured, whether costs of its own follow, and for which types."""
    said = []
    for backend, accelerator, api in dict.fromkeys(
        (row.backend, row.accelerator, row.api) for row in device.rows
    ):
        types = covered_types(calibration, backend=backend, accelerator=accelerator, api=api)
        where = " ".join(filter(None, (backend, "on its", accelerator, api and f"by {api}")))
        if not any(
            (row.backend, row.accelerator, row.api) == (backend, accelerator, api) and row.counts
            for row in device.rows
        ):
            continue
        if types:
            said.append(
                f"{where}: models of the tensor types {', '.join(types)} are projected by costs "
                "fitted to these measurements, others from published ones corrected by these."
            )
        else:
            # Where some were spoilt the way out is another: it is said below.
            enough = all(row.counts for row in device.rows)
            said.append(
                f"{where}: too few measurements for costs of its own; published ones are corrected "
                f"by these.{' A bare edge check --save measures enough.' if enough else ''}"
            )
    return said
