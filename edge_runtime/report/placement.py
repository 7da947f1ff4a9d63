"""Where a graph's nodes ran, in words. It knows the record and no engine."""

from __future__ import annotations

from collections.abc import Sequence

from ..measurement import Placement


def placement_words(placed: Sequence[Placement]) -> str:
    """Each provider's share of the nodes: `CUDA 98 %, CPU 2 %`; names alone where unknown."""
    return ", ".join(
        place.provider.removesuffix("ExecutionProvider")
        + (f" {100 * place.share:.0f} %" if place.share else "")
        for place in placed
    )
