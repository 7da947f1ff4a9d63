"""ONNX Runtime's own trace -> the time of each node.

The trace is a JSON list of events in whole microseconds: `model_run` around each inference, one
`..._kernel_time` for each node in it. A node that holds a graph (`If`, `Loop`) contains the events
of its nodes, so that only the time outside them is its own.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import BackendError
from ...latency import NodeTime, OperatorTimes

NS_PER_US = 1000
_KERNEL = "_kernel_time"


@dataclass(slots=True)
class _Event:
    """A span of one thread; `inside_us` is what its own inner spans take."""

    thread: int
    start_us: int
    end_us: int
    name: str
    op: str
    provider: str
    place: str
    inside_us: int = 0


def operator_times(path: Path, runs: int) -> OperatorTimes:
    """The times in the quicker half of the latest `runs` inferences in a trace.

    A neighbour that takes the processor for some milliseconds takes them from one node or another;
    the slower half tells more of it than of the model. Raises BackendError when the engine wrote
    none, or fewer inferences than that.
    """
    try:
        events = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BackendError("ONNX Runtime left no trace of its nodes.", cause=f"{error}.") from error
    windows = sorted(
        (span.start_us, span.end_us) for span in _spans(events, "Session") if span.op == "model_run"
    )[-runs:]
    if len(windows) < runs:
        raise BackendError(
            "ONNX Runtime's trace is not complete.",
            cause=f"It has {len(windows)} of {runs} inferences.",
        )
    windows = sorted(windows, key=lambda window: window[1] - window[0])[: (runs + 1) // 2]
    windows.sort()
    nodes = list(_within(_spans(events, "Node"), windows))
    _subtract_inner(nodes)
    # Names need not differ; the place in the graph does, but for graphs inside of others.
    found: dict[tuple[str, str, str, str], list[int]] = {}
    for node in nodes:
        key = (node.name, node.op, node.provider, node.place)
        total = found.setdefault(key, [0, 0])
        total[0] += 1
        total[1] += max(0, node.end_us - node.start_us - node.inside_us)
    return OperatorTimes(
        traced_runs=runs,
        runs_ns=tuple((end - start) * NS_PER_US for start, end in windows),
        nodes=tuple(
            NodeTime(name=name, op=op, provider=provider, calls=calls, self_ns=us * NS_PER_US)
            for (name, op, provider, _), (calls, us) in found.items()
        ),
    )


def _spans(events: object, category: str) -> Iterable[_Event]:
    """The complete events of one category; those of a node without the engine's suffix."""
    for event in events if isinstance(events, list) else ():
        if not isinstance(event, Mapping) or event.get("cat") != category:
            continue
        name, start, spent = str(event.get("name", "")), event.get("ts"), event.get("dur")
        if not isinstance(start, int) or not isinstance(spent, int):
            continue
        if category == "Node":
            if not name.endswith(_KERNEL):
                continue  # older engines also note their fences
            name = name.removesuffix(_KERNEL)
        about = event.get("args")
        about = about if isinstance(about, Mapping) else {}
        thread = event.get("tid")
        yield _Event(
            thread=thread if isinstance(thread, int) else 0,
            start_us=start,
            end_us=start + max(spent, 0),
            name=name,
            op=str(about.get("op_name", name)) if category == "Node" else name,
            provider=str(about.get("provider", "")),
            place=str(about.get("node_index", "")),
        )


def _within(spans: Iterable[_Event], windows: Sequence[tuple[int, int]]) -> Iterator[_Event]:
    """The spans that begin in one of the windows, which are in order."""
    starts = [start for start, _ in windows]
    for span in spans:
        place = bisect.bisect_right(starts, span.start_us) - 1
        if place >= 0 and span.start_us <= windows[place][1]:
            yield span


def _subtract_inner(nodes: list[_Event]) -> None:
    """Notes in each span what the spans right inside it take."""
    open_spans: list[_Event] = []
    thread = math.nan
    for node in sorted(nodes, key=lambda n: (n.thread, n.start_us, -n.end_us)):
        if node.thread != thread:
            thread, open_spans = node.thread, []
        while open_spans and not _inside(node, open_spans[-1]):
            open_spans.pop()
        if open_spans:
            open_spans[-1].inside_us += node.end_us - node.start_us
        open_spans.append(node)


def _inside(inner: _Event, outer: _Event) -> bool:
    return outer.start_us <= inner.start_us and inner.end_us <= outer.end_us
