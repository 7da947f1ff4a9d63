"""Passing a cancellation on to the engine while it computes.

It knows an event and the byte that the engine looks at, and neither sessions nor tokens.
"""

from __future__ import annotations

import ctypes
import threading

_POLL_S = 0.02


class CancelWatch:
    """A thread that passes a cancel event on to the engine while it computes."""

    def __init__(self, cancel: threading.Event, abort: ctypes.Array[ctypes.c_char]) -> None:
        self._cancel = cancel
        self._abort = abort
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="edge-cancel", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch; afterwards the engine computes freely again."""
        self._over.set()
        with self._lock:
            self._abort[0] = b"\0"

    def _watch(self) -> None:
        while not self._over.is_set():
            if self._cancel.wait(_POLL_S):
                with self._lock:
                    if not self._over.is_set():
                        self._abort[0] = b"\1"
                return
