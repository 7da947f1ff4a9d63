"""Sweeps: the grammar of their options, the cells they make, and running them one after another.

A cell is one workload under one set of options; each is measured in its own child process. A cell
that fails leaves its reason behind and the sweep goes on. Cells found in earlier results are not
run again: same artifact, options asked for, workload, limits and round, same processor.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..artifact import Artifact
from ..backends import backend
from ..errors import EdgeError, EngineMissingError, UsageError
from ..measurement import (
    CHAT_WORKLOADS,
    CellFailure,
    Host,
    Limits,
    Measurement,
    SessionOptions,
    Workload,
    decode_workload,
    prefill_workload,
)
from .host import detect_host
from .limits import limited_host
from .measure import artifact_record, measure, tool_version
from .wire import Plan, Progress

MAX_VALUES = 1000
"""A range that expands to more cells than anyone could wait for is a slip of the keyboard."""
MAX_NUMBER = 10**9

_RANGE = re.compile(r"(\d+)-(\d+)(?:([+*])(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One workload under one set of options, on one artifact, maybe on an emulated device.

    `round` is which round of a comparison it belongs to; see `Measurement.round`.
    """

    artifact: Artifact
    options: SessionOptions
    workload: Workload
    limits: Limits | None = None
    round: int | None = None


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """Reads llama-bench's lists and ranges: `128,512`, `1-4`, `0-4096+1024`, `1-64*2`.

    Values keep their order and appear once. Raises UsageError that names the option.
    """
    values: dict[int, None] = {}
    for part in text.split(","):
        word = part.strip()
        match = _RANGE.fullmatch(word)
        if match is not None:
            expanded = _expand(match, option)
        elif word.isascii() and word.isdigit():
            expanded = iter((_number(word, option),))
        else:
            raise _bad(option, f"{word!r} is no number and no range.")
        for value in expanded:
            values[value] = None
            if len(values) > MAX_VALUES:
                raise _bad(option, f"{text!r} makes more than {MAX_VALUES} values.")
    return tuple(values)


def parse_words(text: str, option: str, known: Sequence[str]) -> tuple[str, ...]:
    """Reads a comma list of known words, each once. Raises UsageError."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        if word not in known:
            raise UsageError(
                f"{option}: {word!r} is not known.", way_out=f"Choose from: {', '.join(known)}."
            )
    return words


def parse_pairs(text: str, option: str) -> tuple[tuple[int, int], ...]:
    """Reads prompt and generation lengths measured together: `512,128` or `512,128;64,16`."""
    pairs = []
    for part in text.split(";"):
        numbers = [word.strip() for word in part.split(",")]
        if len(numbers) != 2 or not all(n.isascii() and n.isdigit() for n in numbers):
            raise _bad(option, f"{part!r} is no pair.", "Write it like 512,128.")
        pairs.append((_number(numbers[0], option), _number(numbers[1], option)))
    return tuple(dict.fromkeys(pairs))


def bench_workloads(
    prompts: Sequence[int],
    generates: Sequence[int],
    depths: Sequence[int] = (0,),
    pairs: Sequence[tuple[int, int]] = (),
) -> tuple[Workload, ...]:
    """The workloads of llama-bench's protocol, depth by depth; lengths of 0 make none."""
    made: list[Workload] = []
    for depth in depths:
        made += [prefill_workload(n, depth=depth) for n in prompts if n]
        made += [decode_workload(n, depth=depth) for n in generates if n]
        made += [_pair_workload(p, n, depth) for p, n in pairs if p and n]
    return tuple(made)


def chat_workloads(names: Sequence[str]) -> tuple[Workload, ...]:
    """The chat-like workloads of those names. Raises UsageError for an unknown one."""
    known = {workload.name: workload for workload in CHAT_WORKLOADS}
    return tuple(known[name] for name in parse_words(",".join(names), "--workload", tuple(known)))


def option_grid(
    base: SessionOptions, axes: Mapping[str, Sequence[object]]
) -> tuple[SessionOptions, ...]:
    """Every combination of some options' values, the last axis changing fastest."""
    names = list(axes)
    grid = []
    for values in itertools.product(*axes.values()):
        changes: dict[str, Any] = dict(zip(names, values, strict=True))
        grid.append(replace(base, **changes))
    return tuple(grid)


def run_cells(
    cells: Sequence[Cell],
    *,
    plan: Plan | None = None,
    earlier: Sequence[Measurement | CellFailure] = (),
    retry_failed: bool = True,
    stated_power_w: float | None = None,
    on_event: Callable[[Cell, Progress], bool | None] | None = None,
) -> Iterator[tuple[Cell, Measurement | CellFailure, bool]]:
    """Measures cells in order; yields each with its record and whether it was run just now.

    A failing cell yields its CellFailure, except for a missing engine, which fails them all and is
    raised. Earlier failures are tried again unless `retry_failed` is False. An earlier record
    counts with or without idle windows; `stated_power_w` is stated for it too.
    """
    plan = plan or Plan()
    find = EarlierCells(earlier, plan, failures=not retry_failed, stated_power_w=stated_power_w)
    for cell in cells:
        known = find(cell)
        if known is not None:
            yield cell, known, False
        else:
            yield cell, run_cell(cell, plan, stated_power_w, on_event), True


def run_cell(
    cell: Cell,
    plan: Plan,
    stated_power_w: float | None = None,
    on_event: Callable[[Cell, Progress], bool | None] | None = None,
) -> Measurement | CellFailure:
    """Measures one cell now: its record, or why there is none. Raises EngineMissingError."""

    def tell(progress: Progress) -> bool | None:
        return on_event(cell, progress) if on_event is not None else None

    try:
        _require_engine(cell)
        measured = measure(
            cell.artifact, cell.workload, cell.options, plan=plan, limits=cell.limits,
            stated_power_w=stated_power_w, on_event=tell,
        )  # fmt: skip
    except EngineMissingError:
        raise
    except EdgeError as error:
        return failed_cell(cell, error)
    return replace(measured, round=cell.round)


def failed_cell(cell: Cell, error: EdgeError) -> CellFailure:
    """The record of a cell that could not be measured."""
    return CellFailure(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        artifact=artifact_record(cell.artifact),
        requested=cell.options,
        workload=cell.workload,
        limits=cell.limits,
        round=cell.round,
        error=type(error).__name__,
        fact=error.fact,
        cause=error.cause,
        way_out=error.way_out,
    )


class EarlierCells:
    """Finds a cell's record among earlier ones: called with the cell, None where there is none.

    With `failures` an earlier failure counts as well. `stated_power_w` is stated for what is found.
    """

    def __init__(
        self,
        earlier: Sequence[Measurement | CellFailure],
        plan: Plan,
        *,
        failures: bool = False,
        stated_power_w: float | None = None,
    ) -> None:
        self._host = detect_host() if earlier else None
        self._records = tuple(record for record in earlier if _is_kept_up(record, plan))
        self._failures = failures
        self._stated_power_w = stated_power_w

    def __call__(self, cell: Cell) -> Measurement | CellFailure | None:
        """The latest earlier record of this very cell."""
        if self._host is None:
            return None
        found = _find(cell, self._records, self._host, failures=self._failures)
        if isinstance(found, Measurement) and self._stated_power_w is not None:
            return replace(found, stated_power_w=self._stated_power_w)
        return found


def _require_engine(cell: Cell) -> None:
    """Raises UsageError when a cell's engine does not run its model: no other is taken instead."""
    if cell.artifact.format in backend(cell.options.backend).formats:
        return
    raise UsageError(
        f"The engine {cell.options.backend} runs no {cell.artifact.format.upper()} models.",
        way_out="Leave --backend out: each model then gets the engine of its format.",
    )


def _is_kept_up(record: Measurement | CellFailure, plan: Plan) -> bool:
    """Whether a record was sustained for as long as is asked for now, or is no more than asked."""
    if isinstance(record, CellFailure):
        return True
    if plan.sustain_s is None or record.sustain_s is None:
        return record.sustain_s is plan.sustain_s
    return record.sustain_s >= plan.sustain_s


def _find(
    cell: Cell, earlier: Sequence[Measurement | CellFailure], host: Host, *, failures: bool
) -> Measurement | CellFailure | None:
    """The latest earlier record of this very cell."""
    for record in reversed(earlier):
        same = (
            record.artifact.fingerprint == cell.artifact.fingerprint
            and record.requested == cell.options
            and record.workload == cell.workload
            and record.round == cell.round
            and _limits_of(record) == cell.limits
        )
        if not same:
            continue
        if isinstance(record, CellFailure):
            if failures:
                return record
        elif record.host.cpu == host.cpu and (
            record.host.cores_usable == limited_host(host, cell.limits).cores_usable
        ):
            return record
    return None


def _limits_of(record: Measurement | CellFailure) -> Limits | None:
    if isinstance(record, CellFailure):
        return record.limits
    return record.emulated.limits if record.emulated else None


def _pair_workload(prompt: int, generate: int, depth: int) -> Workload:
    name = f"pp{prompt}+tg{generate}" + (f" @ d{depth}" if depth else "")
    return Workload(name=name, prompt_tokens=prompt, generate_tokens=generate, depth_tokens=depth)


def _expand(match: re.Match[str], option: str) -> Iterator[int]:
    first, last = _number(match[1], option), _number(match[2], option)
    step = _number(match[4], option) if match[4] else 1
    if first > last:
        raise _bad(option, f"The range {match[0]} runs backwards.")
    if match[3] == "*" and (step < 2 or first == 0):
        raise _bad(option, f"The range {match[0]} never grows.")
    if match[3] != "*" and step < 1:
        raise _bad(option, f"The range {match[0]} never ends.")
    value = first
    while value <= last:
        yield value
        value = value * step if match[3] == "*" else value + step


def _number(digits: str, option: str) -> int:
    if len(digits) > 10 or int(digits) > MAX_NUMBER:
        raise _bad(option, f"{digits[:20]} is too large.")
    return int(digits)


def _bad(
    option: str, fact: str, way_out: str = "Write it like 128,512 or 1-4 or 1-64*2."
) -> UsageError:
    return UsageError(f"{option}: {fact}", way_out=way_out)
