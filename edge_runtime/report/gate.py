"""A gate's outcome in words: for a terminal, for a pull request, and as one JSON document.

What failed comes first. A change is shown with its 95 % interval, because that is what the rule was
held against.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..codec import to_jsonable
from ..comparison.gate import Check, CheckKind, Gate
from ..statistics import Interval
from ..units import format_bytes, format_duration, format_rate
from .energy import three_digits
from .plain import plain

SCHEMA = 1
"""The number of the JSON document's layout."""

_ORDER = (CheckKind.FAILED, CheckKind.MISSING, CheckKind.UNRESOLVED, CheckKind.PASSED)
_UNKNOWN_FACTOR = 1e3
"""An interval that reaches so far beyond its value says nothing."""
_MOST_PASSED = 200


def gate_text(gate: Gate, *, strict: bool = False) -> str:
    """The whole outcome in lines: one for each check, then the notes, then the answer."""
    lines = [
        f"{check.kind.value}: {plain(check.label)}, {plain(check.rule.text)}: {_words(check)}"
        for check in _sorted(gate.checks)
    ]
    lines += [f"note: {plain(note)}" for note in gate.notes]
    return "\n".join((*lines, _answer(gate, strict=strict))) + "\n"


def gate_markdown(gate: Gate, *, strict: bool = False) -> str:
    """A summary for a pull request: what did not pass as a table, what did folded away."""
    wrong = [check for check in _sorted(gate.checks) if check.kind is not CheckKind.PASSED]
    passed = gate.of_kind(CheckKind.PASSED)
    word, _, counts = _answer(gate, strict=strict).partition(": ")
    lines = [f"### Quantization levels: {word}", "", counts, ""]
    if wrong:
        lines += [*_table(wrong), ""]
    if passed:
        lines += [f"<details><summary>{_count(len(passed), 'check')} passed</summary>", ""]
        lines += [*_table(passed[:_MOST_PASSED]), "", "</details>", ""]
    lines += [f"- {_cell(note)}" for note in gate.notes]
    return "\n".join(lines).rstrip() + "\n"


def gate_document(gate: Gate, *, tool_version: str, strict: bool = False) -> dict[str, object]:
    """The outcome as plain JSON values: values in the rule's unit, changes as shares."""
    return {
        "schema": SCHEMA,
        "tool_version": tool_version,
        "strict": strict,
        "exit_code": gate.exit_code(strict=strict),
        "checks": [
            {
                "rule": check.rule.text,
                "metric": check.rule.metric,
                "unit": check.rule.unit,
                "relative": check.rule.relative,
                "threshold": check.rule.threshold,
                "label": check.label,
                "outcome": check.kind.value,
                "old": check.old,
                "new": check.new,
                "found": to_jsonable(check.found),
                "reason": check.reason or None,
            }
            for check in gate.checks
        ],
        "notes": list(gate.notes),
    }


def _sorted(checks: Iterable[Check]) -> list[Check]:
    return sorted(checks, key=lambda check: _ORDER.index(check.kind))


def _answer(gate: Gate, *, strict: bool) -> str:
    """The gate's answer in a few words, with how many checks ended how."""
    counts = [(kind, len(gate.of_kind(kind))) for kind in _ORDER]
    said = ", ".join(f"{count} {kind.value}" for kind, count in counts if count)
    code = gate.exit_code(strict=strict)
    word = {0: "passed", 1: "failed", 4: "incomplete"}[code]
    unresolved = " (strict)" if code == 1 and not gate.of_kind(CheckKind.FAILED) else ""
    return f"{word}{unresolved}: {said}"


def _words(check: Check) -> str:
    if check.found is None or check.new is None:
        return plain(check.reason)
    found = _found(check, check.found)
    if not check.rule.relative:
        return found if check.old is None else f"{found}, {_value(check, check.old)} before"
    assert check.old is not None
    return f"{found}, {_value(check, check.old)} before, {_value(check, check.new)} now"


def _table(checks: Sequence[Check]) -> list[str]:
    rows = ["| | level | rule | before | now | held against it (95 %) |",
            "|---|---|---|---:|---:|---:|"]  # fmt: skip
    for check in checks:
        cells = (
            f"**{check.kind.value}**" if check.kind is not CheckKind.PASSED else check.kind.value,
            _code(check.label),
            _code(check.rule.text),
            "" if check.old is None else _value(check, check.old),
            "" if check.new is None else _value(check, check.new),
            _cell(check.reason) if check.found is None else _found(check, check.found),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _code(text: str) -> str:
    """A stranger's text as a code span in a cell: nothing in it is markup, a link or a mention."""
    safe = plain(text, most=120).replace("`", "'").replace("|", "\\|")
    return f"`{safe}`"


def _cell(text: str) -> str:
    """A stranger's text in prose: no markup, link or mention of its own, no new line or column."""
    safe = plain(text, most=300).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = safe.replace("@", "&#64;").replace("://", "&#58;//").replace("www.", "www&#46;")
    return "".join(f"\\{char}" if char in "\\`*_[]|~!$" else char for char in safe)


def _found(check: Check, found: Interval) -> str:
    """What was held against the threshold, with its interval."""
    if check.rule.relative:
        ends = [f"{share:+.1%}" for share in (found.value, found.low, found.high)]
        exact = found.low == found.high
        unknown = 1 + found.high > _UNKNOWN_FACTOR * (1 + found.value)
    else:
        ends = [_value(check, value) for value in (found.value, found.low, found.high)]
        exact = found.low == found.high
        unknown = found.high > _UNKNOWN_FACTOR * abs(found.value) > 0
    if exact:
        return ends[0]
    if unknown:
        return f"{ends[0]} (too noisy)"
    low, high = ends[1:]
    unit = high.partition(" ")[2]
    return f"{ends[0]} ({low.removesuffix(f' {unit}') if unit else low} to {high})"


def _value(check: Check, value: float) -> str:
    unit = check.rule.unit
    if unit == "bytes":
        return format_bytes(value)
    if unit == "s":
        return format_duration(value)
    if unit == "share":
        return f"{value:.2%}"
    if unit == "tok/s":
        return f"{format_rate(value)} tok/s"
    if unit == "J":
        return f"{three_digits(value)} J"
    return f"{value:.4g}{' nats' if unit == 'nats' else ''}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
