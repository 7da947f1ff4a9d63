"""`edge compare --baseline OLD NEW --fail-if RULE`: a gate for continuous integration.

It reads two files of records, holds one against the other and ends with the gate's exit code:
0 passed, 1 a rule failed, 2 what cannot be compared, 4 a row that failed in the new file. What a
rule means, `comparison.gate` knows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer


def run_gate(
    baseline: Path,
    new: Path,
    rules: Sequence[str],
    *,
    strict: bool = False,
    markdown: bool = False,
    as_json: bool = False,
) -> NoReturn:
    """Holds a saved comparison against a baseline and ends the program.

    `strict` makes what the noise does not resolve a failure. The outcome goes to stdout, as lines,
    as markdown for a pull request, or as one JSON document. Raises UsageError for a rule that is
    none and for files that cannot be compared, FormatError and DiskError for what is no saved
    comparison.
    """
    from .. import __version__
    from ..comparison.gate import run_gate as held
    from ..comparison.rule import parse_rule
    from ..profiler.results import read_saved_file
    from ..report.gate import gate_document, gate_markdown, gate_text
    from ..report.plain import safe_json

    # Before any file is read: a misspelt rule must not cost a minute.
    asked = [parse_rule(rule) for rule in rules]
    gate = held(read_saved_file(baseline), read_saved_file(new), asked)
    if as_json:
        sys.stdout.write(
            safe_json(gate_document(gate, tool_version=__version__, strict=strict)) + "\n"
        )
    elif markdown:
        sys.stdout.write(gate_markdown(gate, strict=strict))
    else:
        sys.stdout.write(gate_text(gate, strict=strict))
    sys.stdout.flush()
    raise typer.Exit(gate.exit_code(strict=strict))
