"""Which levels no other beats in every way: quality, speed and memory together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .differences import faster, less_loss, smaller_need
from .rows import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One level in the three dimensions; `losses` are nats of each scored token.

    All points of one call have losses of the same tokens.
    """

    label: str
    losses: tuple[float, ...]
    rate: Rate
    need_bytes: int


def pareto(points: Sequence[Point]) -> frozenset[str]:
    """The labels of the points that no other dominates.

    A point is dominated when another is no worse in all three dimensions and better in at least
    one; what the noise does not resolve counts as equal.
    """
    return frozenset(
        point.label
        for point in points
        if not any(_dominates(other, point) for other in points if other is not point)
    )


def _dominates(one: Point, other: Point) -> bool:
    advantages = (
        faster(one.rate, other.rate),
        -smaller_need(one.need_bytes, other.need_bytes),
    )
    # Memory and speed are a moment's work, tokens are many.
    if min(advantages) < 0:
        return False
    lost = -less_loss(one.losses, other.losses)
    return lost >= 0 and max(*advantages, lost) > 0
