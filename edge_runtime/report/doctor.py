"""An `edge doctor` as a terminal page, and the record behind it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..basis import Unavailable
from ..measurement import BandwidthReading, Host
from .check import render_host

_NAME_WIDTH = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked for: what it is, and what was found or why it is unavailable."""

    name: str
    found: str | Unavailable
    needed: bool = False
    """Whether it runs models: without any such nothing can run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that was looked for on this machine."""

    host: Host
    bandwidth: BandwidthReading | Unavailable
    findings: tuple[Finding, ...]
    schema: int = 1

    @property
    def can_run(self) -> bool:
        """Whether models can run here at all."""
        engines = [finding for finding in self.findings if finding.needed]
        return not engines or any(not isinstance(e.found, Unavailable) for e in engines)


def _remedy(finding: Finding) -> str:
    return finding.found.remedy if isinstance(finding.found, Unavailable) else ""


def render_doctor(diagnosis: Diagnosis) -> RenderableType:
    """The whole page."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    # A sum of a board's rails has a long name, which must not leave the words no room.
    width = min(max((len(finding.name) for finding in diagnosis.findings), default=0), _NAME_WIDTH)
    table.add_column(style="bold", min_width=width, max_width=width, overflow="fold")
    table.add_column()
    following = (*(_remedy(finding) for finding in diagnosis.findings[1:]), "")
    for finding, next_remedy in zip(diagnosis.findings, following, strict=True):
        if isinstance(finding.found, Unavailable):
            mark = Text("no", style="red" if finding.needed else "yellow")
            words = Text(finding.found.reason)
            # What helps against several in a row is said once, below the last.
            if finding.found.remedy and finding.found.remedy != next_remedy:
                words.append(f"\n-> {finding.found.remedy}", style="dim")
            table.add_row(mark, finding.name, words)
        else:
            table.add_row(Text("ok", style="green"), finding.name, Text(finding.found))
    return Group(render_host(diagnosis.host, diagnosis.bandwidth), Text(), table)
