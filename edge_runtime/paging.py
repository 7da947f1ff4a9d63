"""Whether a model was read back from the disk while it decoded: the true sign of "does not fit".

Pure arithmetic on one measurement. A model that fits reads its weights once, when it is loaded or
first touched; one that does not loses pages between two steps and fetches them again, each step
anew. The sizes of buffers say what should fit, this says what did not.
"""

from __future__ import annotations

from dataclasses import dataclass

from .measurement import Measurement
from .memory import Memory
from .units import format_bytes

PAGING_SHARE = 0.01
"""From this share of what a decode step reads on, fetching it from the disk is called paging: on a
disk of 0.5 GB/s beside a memory of 15 GB/s, it makes every step about a third longer."""

PAGING_LEAST_BYTES = 4 * 1024**2
"""Less than this in all runs together is a library's code met for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """How much each decoded token had to fetch from the disk, and its share of what a step reads.

    At the least: where the system counts no bytes read, each major fault stands for one page.
    """

    bytes_per_token: float
    share: float

    @property
    def words(self) -> str:
        """The finding in words."""
        size = format_bytes(self.bytes_per_token)
        return (
            f"pages were read back from the disk while decoding ({size} per token,"
            f" {self.share:.0%} of what a step reads): it does not fit"
        )


def paging_of(measurement: Measurement) -> Paging | None:
    """What was read back while decoding; None where it was nothing to speak of, or is not known.

    Where nothing was evaluated before the first timed step (no warm-up, prompt or depth), reading
    the weights once is no reading back.
    """
    memory, workload = measurement.memory, measurement.workload
    steps = sum(len(run.step_ns) for run in measurement.runs)
    if not isinstance(memory, Memory) or not steps or not measurement.artifact.decode_bytes:
        return None
    fetched = sum(phase.fetched_bytes for phase in memory.phases if phase.phase == "decode")
    if not (measurement.warmups or workload.prompt_tokens or workload.depth_tokens):
        fetched -= measurement.artifact.size_bytes
    per_token = fetched / steps
    share = per_token / measurement.artifact.decode_bytes
    if fetched < PAGING_LEAST_BYTES or share < PAGING_SHARE:
        return None
    return Paging(bytes_per_token=per_token, share=share)
