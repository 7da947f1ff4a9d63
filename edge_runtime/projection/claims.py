"""Rates that somebody claims of a device, held against what its memory can move at all.

Decoding a token reads every active weight once, so a claimed rate times those bytes is a bandwidth;
one above the memory's is physically impossible, whoever says it. Pure functions of records.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiles.devices import DeviceProfile

from ..errors import UsageError
from ..statistics import Interval
from ..units import format_bandwidth, format_bytes, format_rate
from .records import Projection

CACHED_BYTES = 128 << 20
"""So little may stay in a cache, which is faster than any memory: nothing bounds its rate here."""

_ROUNDED = 1.01
_BUILT = ("stated", "derived")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claimed decode rate, tokens/s, of one projected model on one device.

    `possible` is None where nothing bounds it: no bandwidth is stated, or a cache may hold the
    weights. `most_tokens_per_s` is what the memory allows.
    """

    tokens_per_s: float
    possible: bool | None
    most_tokens_per_s: float | None
    sentence: str


def judge_claim(found: Projection, device: DeviceProfile, tokens_per_s: float) -> Claim:
    """Says whether a claimed rate is possible there, and how it compares with the projection.

    Drafted tokens come several with each reading of the weights: such rates are not judged.
    """
    # What was measured was reached, and may be exceeded; what its makers built cannot be.
    unit = device.accelerators.get(found.accelerator)
    figures = [found.roof_bytes_per_s]
    if unit is None or not unit.memory_bytes:
        figures.append(device.memory_bandwidth_bytes_per_s)
    built = [one.high for one in figures if one is not None and one.kind in _BUILT]
    roof = max(built, default=None)
    what = (
        f"{format_rate(tokens_per_s)} tok/s of {found.model} at {found.level}"
        f" on {found.device_label}"
    )
    if roof is None or found.bytes_per_token <= CACHED_BYTES:
        why = "no bandwidth of the memory is stated" if roof is None else "a cache may hold it"
        return Claim(
            tokens_per_s=tokens_per_s,
            possible=None,
            most_tokens_per_s=None,
            sentence=f"{what}: nothing here bounds that, since {why}.",
        )
    most = roof / found.bytes_per_token
    if tokens_per_s > most * _ROUNDED:
        said = (
            f"{what} is physically impossible: reading {format_bytes(found.bytes_per_token)} for"
            f" each token takes {format_bandwidth(tokens_per_s * found.bytes_per_token)}, and its"
            f" memory moves at most {format_bandwidth(roof)}, which is {format_rate(most)} tok/s."
        )
    else:
        said = f"{what} is possible{_beside(found.decode_tokens_per_s, tokens_per_s)}."
    return Claim(
        tokens_per_s=tokens_per_s,
        possible=tokens_per_s <= most * _ROUNDED,
        most_tokens_per_s=most,
        sentence=said,
    )


def refuse_impossible(claim: Claim) -> None:
    """Raises UsageError for a claim that the memory's bandwidth forbids."""
    if claim.possible is False:
        raise UsageError(
            claim.sentence,
            way_out="Drafted tokens (speculative decoding) come several with each reading: they are"
            " counted apart.",
        )


def _beside(rate: object, tokens_per_s: float) -> str:
    if not isinstance(rate, Interval):
        return ""
    projected = f"{format_rate(rate.low)} to {format_rate(rate.high)} are projected"
    if tokens_per_s > rate.high:
        return f", and doubtful: {projected}"
    if tokens_per_s < rate.low:
        return f", and slow: {projected}"
    return f": {projected}"
