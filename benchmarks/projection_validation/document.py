"""The validation as one document: groups scored, goals held against them, the worst misses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .scores import Case, Group, Miss, score, worst

USUAL_APIS = ("cuda", "metal", "rocm", "vulkan")
"""The APIs a GPU is mostly reached by with llama.cpp."""

SHALLOW_TOKENS = 1024
"""Contexts up to here hardly slow decoding down; most published rates are of such."""

GPU_GOAL = "GPU, dense, CUDA, Metal, ROCm, Vulkan, context to 1,024"
CPU_GOAL = "CPU, all"
SHALLOW = "dense, context to 1,024"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure the projection is to reach: what it is of, the goal in words, the value, and if."""

    figure: str
    goal: str
    value: float
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase's cases, scored: in total, by class and backend, and the worst misses."""

    totals: tuple[Group, ...]
    backends: tuple[Group, ...]
    worst: tuple[Miss, ...]


AGAINST = (GPU_GOAL, CPU_GOAL, "NPU, all", "mixtures of experts", "per-layer embeddings", "all")
"""The totals that other methods are held against in a table; the JSON has them for every group."""

Test = Callable[[Case], bool]


def _is_usual(case: Case) -> bool:
    """Whether a dense model ran on a GPU through llama.cpp and one of its usual APIs.

    A row that names no API is of one of them.
    """
    kind, _, way = case.path.partition("/")
    engine, _, api = way.partition("/")
    return (
        case.architecture == "dense"
        and kind == "gpu"
        and engine == "llama.cpp"
        and (not api or api in USUAL_APIS)
    )


_TOTALS: Mapping[str, Test] = {
    GPU_GOAL: lambda c: _is_usual(c) and c.depth_tokens <= SHALLOW_TOKENS,
    "GPU, dense, any context": _is_usual,
    "GPU, dense, every engine and API": lambda c: c.kind == "gpu" and c.architecture == "dense",
    "GPU, all": lambda c: c.kind == "gpu",
    "CPU, dense": lambda c: c.kind == "cpu" and c.architecture == "dense",
    CPU_GOAL: lambda c: c.kind == "cpu",
    "NPU, all": lambda c: c.kind == "npu",
    SHALLOW: lambda c: c.architecture == "dense" and c.depth_tokens <= SHALLOW_TOKENS,
    "dense": lambda c: c.architecture == "dense",
    "mixtures of experts": lambda c: c.architecture == "moe",
    "per-layer embeddings": lambda c: c.architecture == "ple",
    "hybrid": lambda c: c.architecture == "hybrid",
    "all": lambda _: True,
}


def phase_of(cases: Sequence[Case], *, target: float | None, misses: int) -> Phase:
    """Scores the cases of one phase; empty groups are left out."""
    return Phase(
        totals=totals_of(cases, target=target),
        backends=tuple(
            score(name, own, target=target) for name, own in sorted(by_backend(cases).items())
        ),
        worst=worst(cases, misses),
    )


def totals_of(cases: Sequence[Case], *, target: float | None) -> tuple[Group, ...]:
    """The cases by accelerator and by architecture, and all together."""
    found = ((name, [case for case in cases if test(case)]) for name, test in _TOTALS.items())
    return tuple(score(name, own, target=target) for name, own in found if own)


def by_backend(cases: Sequence[Case]) -> Mapping[str, list[Case]]:
    """The cases by class of device and the way it was reached: `gpu: llama.cpp cuda`."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        kind, _, way = case.path.partition("/")
        engine = way.replace("/", " ")
        name = f"{case.device_class}: {engine}" + (" cpu" if kind == "cpu" else "")
        found.setdefault(name, []).append(case)
    return found


def goals_of(decode: Phase, calibrated: Phase | None) -> Iterator[Goal]:
    """The goals of the projection on devices it never saw, as far as there are rows for them."""
    totals = {group.name: group for group in decode.totals}
    if group := totals.get(GPU_GOAL):
        yield _at_most(f"{group.name}: median error", group.accuracy.median_error, 0.12)
        yield _at_least(f"{group.name}: within 25 %", group.accuracy.within_quarter, 0.80)
    if group := totals.get(CPU_GOAL):
        yield _at_most(f"{group.name}: median error", group.accuracy.median_error, 0.30)
    after = {group.name: group for group in calibrated.totals} if calibrated else {}
    for name in (SHALLOW, "all"):
        if group := after.get(name):
            figure = f"{name}, one run per quantization family: median error"
            yield _at_most(figure, group.accuracy.median_error, 0.10)
    if group := totals.get("all"):
        for name, share in (
            ("rows", group.coverage.rows),
            ("mean over devices", group.coverage.devices),
        ):
            yield Goal(
                figure=f"80 % intervals that cover, {name}",
                goal="0.75 to 0.90",
                value=share,
                met=0.75 <= share <= 0.90,
            )
        if group.flips:
            name = f"verdicts flipped at {group.flips.target_tokens_per_s:g} tok/s"
            yield _at_most(f"{name}, of all", group.flips.share, 0.03)
            yield _at_most(f"{name}, of those decided", group.flips.share_of_decided, 0.03)


def _at_most(figure: str, value: float, most: float) -> Goal:
    return Goal(figure=figure, goal=f"<= {most:g}", value=value, met=value <= most)


def _at_least(figure: str, value: float, least: float) -> Goal:
    return Goal(figure=figure, goal=f">= {least:g}", value=value, met=value >= least)
