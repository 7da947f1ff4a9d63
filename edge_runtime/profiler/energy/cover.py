"""Which sensors make up the headline figure: those that do not overlap and cover the most.

Sensors nest: a package lies inside what psys counts, psys inside a battery's discharge. Adding two
levels counts the inner one twice, so one level is chosen and everything else is shown beside it.
This module goes by what the sensors say of themselves and reads nothing.

A part is `kind:which` (`cpu:0`, `dram:1`, `gpu:GPU-1f3c`), `kind:*` stands for all of a kind, and
`cpu:0/cores` for a piece of one, which never stands for the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...energy import Scope, SensorInfo

_MACHINE = {Scope.DEVICE: 3, Scope.BOARD: 2, Scope.MODULE: 1}


def headline(infos: Sequence[SensorInfo]) -> tuple[str, ...]:
    """The ids of sensors that do not overlap and together cover the widest measured scope.

    The widest first: the whole device, else board, else module, else the sum of packages, DRAM and
    discrete GPUs, where a wider sensor (psys) stands instead of those inside it. A modelled reading
    counts only where nothing is measured at all: a sum of measured and modelled joules would be
    neither. Pieces of a chip count only where no whole one is read. The order of the sensors does
    not matter, and their ids only between two that are alike in everything else.
    """
    measured = [info for info in infos if not info.modelled]
    candidates = measured or list(infos)
    whole = [info for info in candidates if not _is_piece(info)]
    candidates = whole or candidates
    chosen: list[SensorInfo] = []
    for info in sorted(candidates, key=lambda info: _precedence(info, candidates)):
        if not any(overlap(info, other) for other in chosen):
            chosen.append(info)
    return tuple(sorted(info.id for info in chosen))


def resolved_headline(infos: Sequence[SensorInfo], longest_s: float) -> tuple[str, ...]:
    """The headline where windows last at most so many seconds.

    A battery's gauge takes minutes: of a run of one minute it can say nothing, while the counters
    of the chips inside it can. So a level that is too slow makes way for the next one, if that is
    measured as much and resolves so little in all its sensors: a part of a sum is never left out.
    """
    widest = headline(infos)
    is_modelled = any(info.modelled for info in infos if info.id in widest)
    quick = [
        info
        for info in infos
        if (info.window_s <= longest_s or not _breadth(info)) and info.modelled is is_modelled
    ]
    next_level = headline(quick)
    resolved = all(info.window_s <= longest_s for info in infos if info.id in next_level)
    return next_level if next_level and resolved else widest


def overlap(one: SensorInfo, other: SensorInfo) -> bool:
    """Whether some joules are in both readings. Of a sensor that lists no parts all may be."""
    if not (one.covers and other.covers) or any(
        _meet(a, b) for a in one.covers for b in other.covers
    ):
        return True
    return _spans(one, other) or _spans(other, one)


def _precedence(info: SensorInfo, among: Sequence[SensorInfo]) -> tuple[object, ...]:
    """Sorts wider sensors first, and of the equally wide the one that tells more finely."""
    inside = sum(_contains(info, other) for other in among)
    by_counter = info.method == "counter"
    fineness = (info.window_s, info.update_s, info.step, info.poll_s)
    return (-_breadth(info), -inside, not by_counter, *fineness, info.id)


def _breadth(info: SensorInfo) -> int:
    """How wide a sensor of the machine is; 0 for one of chips or of a discrete GPU's board."""
    if info.scope is Scope.DEVICE or not _only_gpus(info):
        return _MACHINE.get(info.scope, 0)
    return 0


def _spans(wide: SensorInfo, other: SensorInfo) -> bool:
    """Whether the other lies inside a reading of the whole device, board or module.

    A discrete GPU has a supply of its own and lies outside of all but the device, unless listed.
    """
    if wide.scope is Scope.DEVICE:
        return True
    return _breadth(wide) > 0 and not _only_gpus(other)


def _only_gpus(info: SensorInfo) -> bool:
    return bool(info.covers) and all(part.startswith("gpu:") for part in info.covers)


def _is_piece(info: SensorInfo) -> bool:
    return bool(info.covers) and all("/" in part for part in info.covers)


def _contains(outer: SensorInfo, inner: SensorInfo) -> bool:
    return all(any(_covers(a, b) for a in outer.covers) for b in inner.covers)


def _meet(a: str, b: str) -> bool:
    return _covers(a, b) or _covers(b, a)


def _covers(outer: str, inner: str) -> bool:
    """Whether the inner part is the outer one, one of its kind (`cpu:*`), or a piece of it."""
    if outer.endswith("*"):
        return inner.startswith(outer[:-1])
    return inner == outer or inner.startswith(f"{outer}/")
