"""What a stranger's text may do to a terminal: nothing."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.report.plain import first_lines, plain, quoted, safe_json

ESCAPE = "a\x1b[31mb\x07\r\nc\x9b\u202ed"


def test_control_characters_and_directions_are_replaced() -> None:
    assert plain(ESCAPE) == "a\ufffd[31mb\ufffd\ufffd\ufffdc\ufffd\ufffdd"
    assert plain("naïve 日本 🙂 [red]") == "naïve 日本 🙂 [red]"


def test_long_texts_are_cut_with_a_sign_of_it() -> None:
    assert plain("abcdef", most=4) == "abc…"
    assert plain("abcd", most=4) == "abcd"
    assert quoted("abcdef", most=4) == '"abc…"'


def test_quoted_texts_show_what_cannot_be_seen() -> None:
    assert quoted("\n") == '"\\n"'
    assert quoted("▁the") == '"▁the"'
    assert quoted('\x1b"') == '"\\u001b\\""'
    assert quoted("\u202e") == '"\\u202e"'


def test_only_the_first_lines_are_shown() -> None:
    assert first_lines("one\r\ntwo\x1b\nthree", lines=2, width=20) == ("one", "two\ufffd")
    assert first_lines("", lines=2, width=20) == ()


@given(st.text())
def test_whatever_comes_in_nothing_unprintable_goes_out(text: str) -> None:
    assert plain(text).isprintable()
    assert quoted(text).isprintable()
    assert safe_json({"text": text}).replace("\n", "").isprintable()
    assert json.loads(safe_json({"text": text}))["text"] == text
    assert json.loads(quoted(text)) == text
