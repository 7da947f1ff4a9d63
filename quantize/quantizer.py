"""llama.cpp's quantizer as a process of its own: jobs go in, its log and its verdict come out.

A failed check in C ends that process and not the caller's. Knows how the quantizer fails and what
its failures mean; refuses to know what is quantized to what, and why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import (
    BackendError,
    DiskError,
    EdgeError,
    EngineMissingError,
    FormatError,
    UnsupportedError,
    UsageError,
)

from .child import Child

_KEPT_LINES = 20_000  # a plan is a line or two for each tensor; no model has so many
_LAST_WORDS = "failed to quantize: "
_INVALID = re.compile(r"tensor '(?P<name>.+)' has invalid data")
_UNMEASURED = re.compile(r"Missing importance matrix for tensor (?P<name>\S+)")
_OFFENDING = re.compile(r"- offending tensor: (?P<name>\S+)")
_UNFIT = re.compile(
    r"warning: (?P<name>\S+) +- ncols +(?P<row>\d+) not divisible by +(?P<block>\d+)"
    r".*no tensor type fallback is defined for type (?P<type>\w+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of the quantizer, in its own terms: numbers of types, a pattern and a type a pair.

    `out` is where it writes, ignored in a dry run; `remove` is what must go if the caller dies
    meanwhile. `pairs` are set in the new file's metadata. `output` is the file in the user's words.
    """

    source: Path
    out: Path | None
    remove: tuple[Path, ...] = ()
    output: Path | None = None
    ftype: int
    threads: int | None = None
    allow_requantize: bool = False
    pure: bool = False
    keep_split: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: int | None = None
    token_embedding_type: int | None = None
    tensor_types: tuple[tuple[str, int], ...] = ()
    pairs: tuple[tuple[str, str | int], ...] = ()
    imatrix: Path | None = None

    def spec(self) -> dict[str, object]:
        """The job as the child process takes it."""
        return {
            "source": str(self.source.absolute()),
            "out": str(self.out.absolute()) if self.out is not None else "",
            "remove": [str(path.absolute()) for path in self.remove],
            "dry_run": self.out is None,
            "ftype": self.ftype,
            # More threads than processors gain nothing, and too many cannot be started.
            "nthread": min(self.threads or 0, os.cpu_count() or 1),
            "allow_requantize": self.allow_requantize,
            "pure": self.pure,
            "keep_split": self.keep_split,
            "leave_output_tensor": self.leave_output_tensor,
            "output_tensor_type": self.output_tensor_type,
            "token_embedding_type": self.token_embedding_type,
            "tensor_types": self.tensor_types,
            "pairs": self.pairs,
            "imatrix": str(self.imatrix.absolute()) if self.imatrix is not None else None,
        }


class Quantizer(Child):
    """A running child process that quantizes."""

    def __init__(self) -> None:
        super().__init__("worker")

    def run(self, job: Job, on_tensor: Callable[[int], None] | None = None) -> tuple[str, ...]:
        """Does a job and returns the quantizer's log, at most its last 20,000 lines.

        `on_tensor` is told the number, from 1, of each tensor when it is begun. Raises FormatError,
        UnsupportedError, UsageError, DiskError and BackendError for what the quantizer refuses,
        EngineMissingError when it cannot be loaded and WorkerError when its process dies.
        """
        try:
            status, log = self._follow(job, on_tensor)
        except BaseException:
            self.end()  # first of all: what it writes is about to be removed
            raise
        if status == 0:
            return log
        if status is not None:
            raise _refusal(log, job)
        raise self.death(log[-1] if log else "")

    def _follow(
        self, job: Job, on_tensor: Callable[[int], None] | None
    ) -> tuple[int | None, tuple[str, ...]]:
        """Hands the child a job and listens: its status (None if it gave none) and its log."""
        log: list[str] = []
        for message in self.ask(job.spec()):
            if "log" in message:
                log.append(str(message["log"]))
                del log[:-_KEPT_LINES]
            elif "missing" in message:
                raise _outdated(message["missing"])
            elif "status" in message:
                return int(str(message["status"])), tuple(log)
            elif on_tensor is not None:
                on_tensor(int(str(message["tensor"])))
        return None, tuple(log)


def _outdated(missing: object) -> EngineMissingError:
    names = ", ".join(map(str, missing)) if isinstance(missing, list) else str(missing)
    return EngineMissingError(
        "The installed llama-cpp-python is too old to quantize with.",
        cause=f"Its quantizer does not know {names}.",
        way_out="Bring it up to date: pip install --upgrade llama-cpp-python",
    )


def _refusal(log: tuple[str, ...], job: Job) -> EdgeError:
    """What the quantizer meant by refusing."""
    last = next((line for line in reversed(log) if _LAST_WORDS in line), log[-1] if log else "")
    reason = last.partition(_LAST_WORDS)[2] or last
    if "iostream" in reason or "basic_ios" in reason:
        return DiskError(
            f"{job.output or job.out} cannot be written.",
            cause=f"The quantizer says: {reason}",
            way_out="Free some space, or choose a directory on another disk.",
        )
    if invalid := _INVALID.search(reason):
        return FormatError(
            f"{job.source} holds weights that are no numbers.",
            cause=f"The tensor {invalid['name']} has values that are infinite or not a number.",
            way_out="Download or convert the model again.",
        )
    if unfit := _UNFIT.search(last):
        return UnsupportedError(
            f"The tensor {unfit['name']} cannot be {unfit['type'].upper()}.",
            cause=f"Its rows of {unfit['row']} are no multiple of the {unfit['block']} elements of"
            " a block, and llama.cpp has no other type for them.",
            way_out="Choose another level, such as Q2_K or Q4_0.",
        )
    if "data validation failed" in reason:
        return FormatError(
            f"{job.source} holds weights that cannot be quantized.",
            cause="They became infinite or no numbers.",
            way_out="Download or convert the model again, or choose a larger level.",
        )
    unmeasured = _UNMEASURED.search(reason) or _OFFENDING.search("\n".join(log[-20:]))
    if unmeasured is not None:
        return UnsupportedError(
            f"The tensor {unmeasured['name']} needs an importance matrix at this level.",
            way_out="Give one that holds it, or choose a larger level.",
        )
    if job.tensor_types and not any(line.startswith("[") for line in log) and _is_regex(reason):
        patterns = ", ".join(repr(pattern) for pattern, _ in job.tensor_types)
        return UsageError(
            f"llama.cpp reads no regular expression in {patterns}.",
            cause=f"It says: {reason}",
            way_out=r"Write one like ffn_down or blk\.[0-3]\.attn_v.",
        )
    return BackendError("The quantizer refused the file.", cause=f"It says: {reason}")


def _is_regex(reason: str) -> bool:
    # The C++ libraries word their regex errors freely; these words are in all of them.
    words = ("regex", "regular expression", "expression", "bracket", "parenthes", "brace", "escape")
    return any(word in reason.lower() for word in words)
