"""A child process of ours, as it is itself: one specification in, events and one answer out.

JSON lines: the specification and the parent's acknowledgements come in on stdin, events and the
answer go out on what was stdout when it started. Everything else that anybody prints, engine or
library, lands in stderr, so that no noise can corrupt an answer. After each event the child waits
for the parent's acknowledgement: while something is timed here, the parent sleeps. What is done
between specification and answer, this module does not know.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from ..errors import EdgeError, MemoryLimitError, WorkerError
from .wire import ENOUGH, Progress, encode

_PR_SET_PDEATHSIG = 1


class Ordered(Protocol):
    """A specification, as far as every child needs it."""

    @property
    def parent_pid(self) -> int:
        """The process that must not be outlived."""


Order = TypeVar("Order", bound=Ordered)


class Channel:
    """The private line to the parent."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.enough = False
        """Whether the parent has asked that no further repetition be begun."""

    def receive(self) -> bytes:
        """One line from the parent."""
        return self._incoming.readline()

    def send(self, message: object) -> None:
        """Writes a message and, for an event, waits until the parent has dealt with it."""
        self._outgoing.write(encode(message))
        self._outgoing.flush()
        if isinstance(message, Progress):
            reply = self._incoming.readline()
            if not reply:
                # The parent is gone: nobody wants the rest.
                os._exit(1)
            self.enough = self.enough or reply == ENOUGH


def serve(
    read: Callable[[bytes], Order],
    perform: Callable[[Order, Channel], object],
    *,
    activity: str = "measuring",
) -> None:
    """Serves one specification and ends the process: `read` reads its line, `perform` does it.

    What `perform` returns is the answer, an EdgeError it raises likewise. `activity` is what the
    process does, as in "the measuring process".
    """
    # Ctrl-C goes to the whole terminal group; the parent decides what becomes of this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(sys.stdin.buffer, _claim_stdout())
    answer: object
    try:
        line = channel.receive()
        if not line:
            return
        spec = read(line)
        _bind_to_parent(spec.parent_pid)
        answer = perform(spec, channel)
    except EdgeError as error:
        answer = error
    except MemoryError:
        answer = MemoryLimitError(
            f"There was not enough memory for {activity}.",
            way_out="Choose a smaller level, a shorter context or a smaller shape.",
        )
    except Exception as error:  # an engine or a plugin may raise anything; the parent must hear it
        traceback.print_exc()
        answer = WorkerError(
            f"The {activity} process failed.",
            cause=f"{type(error).__name__}: {error}.",
            way_out="Report it with the model's name and this message.",
        )
    channel.send(answer)
    sys.stderr.flush()
    # The kernel frees everything faster than the engine would, and nothing can fail any more.
    os._exit(0)


def _claim_stdout() -> BinaryIO:
    """Takes stdout for the protocol alone and points descriptor 1 at stderr."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "wb")


def _bind_to_parent(parent_pid: int) -> None:
    """Makes sure that this process never outlives its parent, and is the first to go for memory."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)
    with contextlib.suppress(OSError):
        # A model that does not fit must cost the user this process, not another program.
        Path("/proc/self/oom_score_adj").write_text("1000")
