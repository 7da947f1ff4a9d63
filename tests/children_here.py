"""Measuring children without processes: what a child does, done in the test's own process.

Everything goes through the same lines as between processes, so whatever cannot travel fails here
too. For the backend without an engine only, and for nothing that ends, confines or outlives its
process: those tests have real children.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

from edge_runtime.profiler import worker
from edge_runtime.profiler.serving import Channel
from edge_runtime.profiler.wire import Listener, Progress, decode, decode_spec, encode

Answer = TypeVar("Answer")


class ChildHere:
    """Takes the place of `profiler.child.Child` in `profiler.measure`."""

    enough = False

    def __init__(
        self,
        spec: object,
        _what: str,
        _advice: object,
        *,
        timeout_s: float,
        on_event: Listener | None,
        confined_by: tuple[str, ...] = (),
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        assert timeout_s > 0
        assert not confined_by, "only a process of its own can be confined"
        self._spec = decode_spec(encode(spec))
        self._on_event = on_event
        self._on_start = on_start

    def answer(self, kind: type[Answer]) -> Answer:
        """Does what the child would do; its errors are raised as they are."""
        if self._on_start is not None:
            self._on_start(os.getpid())
        found = worker.perform(self._spec, cast(Channel, self))  # type: ignore[arg-type]
        answer = decode(encode(found), kind)
        assert isinstance(answer, kind)
        return answer

    def send(self, message: object) -> None:
        """An event, for the parent."""
        event = decode(encode(message), Progress)
        assert isinstance(event, Progress)
        if self._on_event is not None and self._on_event(event):
            self.enough = True
