"""The words for a smaller device that was emulated: what it had, and of which machine.

Every table that shows such a figure must say so; nothing else is worded here.
"""

from __future__ import annotations

from ..measurement import CellFailure, Limits, Measurement
from ..units import format_bytes


def emulated_words(limits: Limits | None, cpu: str = "") -> str:
    """`emulated: 2 GiB ceiling, 1 core of <cpu>`; nothing where nothing was limited."""
    if limits is None:
        return ""
    words = []
    if limits.memory_bytes is not None:
        # What somebody typed is a whole number as a rule, and not measured to three digits.
        size, _, unit = format_bytes(limits.memory_bytes).partition(" ")
        whole = size.rstrip("0").rstrip(".") if "." in size else size
        words.append(f"{whole} {unit} ceiling")
    if limits.cores is not None:
        words.append(f"{limits.cores} core{'s' if limits.cores > 1 else ''}")
    whose = f" {'on' if limits.cores is None else 'of'} {cpu}" if cpu else ""
    return f"emulated: {', '.join(words)}{whose}"


def record_emulated_words(record: Measurement | CellFailure) -> str:
    """The same for a record; a failed cell knows no processor."""
    if isinstance(record, CellFailure):
        return emulated_words(record.limits)
    return emulated_words(record.emulated.limits, record.host.cpu) if record.emulated else ""
