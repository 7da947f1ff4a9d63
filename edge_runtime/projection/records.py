"""A projection and what it stands on, as records: an interval, its cause, its assumptions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from profiles.devices import Figure

from ..basis import Basis, Unavailable
from ..statistics import Interval
from ..verdict import Evidence, MemoryFit, Target, Verdict, VerdictKind, judge_evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeShare:
    """The share of a token's time that goes into one thing, by its name in the time model."""

    name: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearness:
    """How much is known nearby: published rows and devices of the same engine, API and family.

    `group` names that group; `afar` says that no device like this one is in it, by class and, where
    an API serves many, by maker. `device_known` says that rows of the device itself are among them;
    `own_rows` counts the user's own measurements that were used.
    """

    rows: int
    devices: int
    group: str
    afar: bool
    device_known: bool
    own_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What a model at a level would do on a device that was not run.

    Rates are tokens/s with the interval at `confidence`; decoding holds at `depth_tokens` of
    context. `bytes_per_token` are the weights read per token. `roof_tokens_per_s` is what the
    bandwidth allows at most: no rate is projected above it. `available` is what one app can use of
    the memory, of which `memory` counts the low end. `settles` names the measurement that would
    settle the answer, empty where near evidence is enough.
    """

    device: str
    device_label: str
    device_class: str
    model: str
    level: str
    backend: str
    accelerator: str
    api: str
    decode_tokens_per_s: Interval | Unavailable
    prefill_tokens_per_s: Interval | None
    confidence: float
    memory: MemoryFit
    available: Figure | None
    bytes_per_token: int
    kv_bytes_per_token_of_context: int
    depth_tokens: int
    depth_s_per_token: float | None
    roof_bytes_per_s: Figure | None
    roof_tokens_per_s: float | None
    shares: tuple[TimeShare, ...]
    cause: str
    assumptions: tuple[str, ...]
    nearness: Nearness
    settles: str

    def evidence_for_verdict(self) -> Evidence:
        """The projection as evidence of basis PROJECTED, for `judge_evidence`."""
        rate, roof = self.decode_tokens_per_s, self.roof_bytes_per_s
        share = (
            rate.value * self.bytes_per_token / roof.value
            if isinstance(rate, Interval) and roof is not None
            else None
        )
        return Evidence(
            model=self.model,
            level=self.level,
            basis=Basis.PROJECTED,
            decode_tokens_per_s=rate,
            depth_tokens=self.depth_tokens,
            prefill_tokens_per_s=self.prefill_tokens_per_s,
            memory=self.memory,
            depth_s_per_token=self.depth_s_per_token,
            bandwidth_share=share,
        )

    def verdict(self, target: Target, alternatives: Sequence[Projection] = ()) -> Verdict:
        """The verdict for a target; cause and next step are the projection's where speed decides.

        `alternatives` are the same model at other levels on the same device.
        """
        verdict = judge_evidence(
            self.evidence_for_verdict(),
            target,
            alternatives=[other.evidence_for_verdict() for other in alternatives],
        )
        if self.memory.kind is not VerdictKind.VIABLE or verdict.kind is VerdictKind.VIABLE:
            return verdict
        settles = self.settles if verdict.kind is VerdictKind.BORDERLINE else ""
        return dataclasses.replace(
            verdict, cause=self.cause, next_step=settles or verdict.next_step
        )
