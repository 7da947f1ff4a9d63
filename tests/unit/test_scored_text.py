"""What may be scored: files of text and prompts, good and hostile, and what tells them apart."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.backends import Message
from edge_runtime.errors import EdgeError, FormatError, UsageError
from edge_runtime.quality import text as texts
from edge_runtime.quality.text import (
    Passage,
    Prompt,
    Prompts,
    Text,
    evaluation_text,
    held_out_stories,
    read_prompts,
    read_text,
    tokens_sha256,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "given"


def test_a_text_is_read_to_the_letter(file: Path) -> None:
    data = "\ufeffFirst\r\nsecond \u2028 third\n\n".encode()
    file.write_bytes(data)
    found = read_text(file)
    assert found.content.encode() == data
    assert (found.name, found.shipped, found.size_bytes) == ("given", False, len(data))
    assert found.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"caf\xe9 noir", "not in UTF-8.*Byte 3 is 0xe9"),
        (b"\xff\xfeh\x00i\x00", "not in UTF-8"),
        (b"half \xed\xa0\x80", "not in UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(file: Path, data: bytes, words: str) -> None:
    file.write_bytes(data)
    with pytest.raises(FormatError, match=words):
        read_text(file)


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            read_text(path)
        with pytest.raises(UsageError, match="cannot be read"):
            read_prompts(path)


def test_a_file_is_not_read_beyond_its_limit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("x" * 101)
    monkeypatch.setattr(texts, "MOST_TEXT_BYTES", 100)
    monkeypatch.setattr(texts, "MOST_PROMPTS_BYTES", 100)
    with pytest.raises(FormatError, match="larger than 100 B"):
        read_text(file)
    with pytest.raises(FormatError, match="larger than 100 B"):
        read_prompts(file)


def test_a_text_without_all_of_its_characters_is_refused() -> None:
    with pytest.raises(UsageError, match="half a character"):
        Text(name="x", content="a\ud800b")
    with pytest.raises(UsageError, match="half a character"):
        Prompts.of(["a\udfffb"])


@pytest.mark.parametrize("shipped", [evaluation_text(), held_out_stories()])
def test_what_ships_is_long_enough_and_says_that_it_ships(shipped: Text) -> None:
    assert shipped.shipped
    assert 16_000 <= shipped.size_bytes <= 25_000
    assert shipped.name.endswith(".txt")
    assert "\r" not in shipped.content


def test_the_evaluation_text_is_of_many_kinds() -> None:
    content = evaluation_text().content
    for kind in ('"', "def ", "SELECT", "{", "1. ", "ü", "é", "雪", "Река", "%"):
        assert kind in content


LINES = """
{"prompt": "The capital of France is", "answer": " Paris."}

{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}\r
{"answer": "4", "messages": [{"content": "2 + 2?\u2028", "role": "user"}]}
"""


def test_prompts_are_read_in_their_order(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    found = read_prompts(file)
    assert found.name == "given"
    assert found.prompts == (
        Prompt(messages=(), text="The capital of France is", answer=" Paris."),
        Prompt(
            messages=(
                Message(role="system", content="Be brief."),
                Message(role="user", content="Hi"),
            ),
            text="Hi",
        ),
        Prompt(
            messages=(Message(role="user", content="2 + 2?\u2028"),),
            text="2 + 2?\u2028",
            answer="4",
        ),
    )


def test_the_fingerprint_of_prompts_is_of_what_they_say_and_not_of_how(file: Path) -> None:
    file.write_text(LINES)
    read = read_prompts(file)
    rewritten = [json.dumps(json.loads(line), indent=None) for line in LINES.split("\n") if line]
    file.write_text("\n".join(rewritten))
    assert read_prompts(file).sha256 == read.sha256
    given = Prompts.of(
        [
            read.prompts[0],
            [Message(role="system", content="Be brief."), Message(role="user", content="Hi")],
            read.prompts[2],
        ]
    )
    assert (given.sha256, given.size_bytes) == (read.sha256, read.size_bytes)
    assert Prompts.of([*read.prompts[:2]]).sha256 != read.sha256
    assert Prompts.of(["a"]).sha256 != Prompts.of(["b"]).sha256
    # A conversation of one message is not the message.
    assert Prompts.of(["a"]).sha256 != Prompts.of([[Message(role="user", content="a")]]).sha256


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "nested too deeply|no JSON"),
        ("1" * 5000, "no JSON"),
        ("NaN", "no JSON object"),
        ('"prompt"', "no JSON object"),
        ("{}", "either a prompt or messages"),
        ('{"prompt": "a", "messages": []}', "either a prompt or messages"),
        ('{"prompt": "a", "anwser": "b"}', "unknown field 'anwser'"),
        ('{"prompt": 3}', "prompt must be a string"),
        ('{"prompt": " "}', "prompt is empty"),
        ('{"prompt": "a", "answer": null}', "answer must be a string"),
        ('{"prompt": "a", "answer": ""}', "answer is empty"),
        ('{"messages": {}}', "a list of 1 to 100"),
        ('{"messages": []}', "a list of 1 to 100"),
        ('{"messages": ["a"]}', "a role and a content"),
        ('{"messages": [{"role": "user"}]}', "a role and a content"),
        ('{"messages": [{"role": "user", "content": "a", "x": 1}]}', "a role and a content"),
        ('{"messages": [{"role": "user", "content": ["a"]}]}', "content must be a string"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "nothing to answer"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(file: Path, line: str, words: str) -> None:
    file.write_text('{"prompt": "good"}\n' + line + "\n")
    with pytest.raises(FormatError, match=words) as caught:
        read_prompts(file)
    assert caught.value.fact.startswith("given, line 2: ")
    assert "{" in caught.value.way_out or "answer" in caught.value.way_out
    assert len(str(caught.value)) < 500


def test_too_many_prompts_and_none_are_refused(file: Path) -> None:
    file.write_text('{"prompt": "a"}\n' * 1001)
    with pytest.raises(FormatError, match="more than 1,000 prompts"):
        read_prompts(file)
    file.write_text("\n\n")
    with pytest.raises(FormatError, match="holds no prompts"):
        read_prompts(file)
    with pytest.raises(UsageError, match="There are no prompts"):
        Prompts.of([])
    with pytest.raises(UsageError, match="A prompt is empty"):
        Prompts.of(["a", " "])


def test_half_a_character_in_json_is_refused(file: Path) -> None:
    file.write_text('{"prompt": "a"}\n{"prompt": "a\\ud800"}')
    with pytest.raises(FormatError, match=r"line 2: .* half a character"):
        read_prompts(file)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "messages", "answer", "role", "content", "x"]), inner
        )
    ),
    max_leaves=6,
)


@given(st.binary(max_size=60) | st.builds(lambda v: json.dumps(v).encode(), json_values))
def test_whatever_a_file_holds_it_is_prompts_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(data)
    try:
        found = read_prompts(file)
    except EdgeError as error:
        assert error.fact  # noqa: PT017 - either outcome is right, nothing else
    else:
        assert all(prompt.text.strip() for prompt in found.prompts)


def test_the_fingerprint_of_tokens_is_of_ids_lengths_and_where_scoring_begins() -> None:
    passages = (Passage(tokens=(5, 7, 70_000), first=1), Passage(tokens=(1, 2), first=0))
    numbers = [1, 3, 5, 7, 70_000, 0, 2, 1, 2]
    data = b"".join(struct.pack("<I", number) for number in numbers)
    assert tokens_sha256(passages) == hashlib.sha256(data).hexdigest()
    assert tokens_sha256([Passage(tokens=(5, 7, 70_000), first=0)]) != tokens_sha256(passages[:1])
