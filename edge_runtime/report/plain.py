"""A stranger's text made safe to show: names, templates and keys come from files anyone may write.

A control character or an escape sequence can move the cursor, change a title or forge a line; a
reversed direction can make a name read as another. None of them reaches a terminal from here.
"""

from __future__ import annotations

import json

_ELLIPSIS = "…"


def plain(text: str, *, most: int | None = None) -> str:
    """The text in one line, each character that cannot be printed replaced; cut at `most`."""
    if most is not None and len(text) > most:
        text = text[: max(most - 1, 0)] + _ELLIPSIS
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def quoted(text: str, *, most: int | None = None) -> str:
    """The text in double quotes, what cannot be printed as JSON writes it: `"\\n"`."""
    if most is not None and len(text) > most:
        text = text[: max(most - 1, 0)] + _ELLIPSIS
    return "".join(
        char if char.isprintable() else json.dumps(char)[1:-1]
        for char in json.dumps(text, ensure_ascii=False)
    )


def safe_json(document: object) -> str:
    """One JSON document, indented, in which every character beyond ASCII is escaped."""
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False)


def first_lines(text: str, *, lines: int, width: int) -> tuple[str, ...]:
    """The beginning of a text in lines that are safe to show."""
    return tuple(plain(line, most=width) for line in text.splitlines()[:lines])
