"""How a text is cut, what of a prompt is scored, and when two tokenizers count as the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.backends import Message, Session
from edge_runtime.errors import UnsupportedError, UsageError
from edge_runtime.quality.passages import (
    beginning,
    check_alike,
    cut,
    prompt_tokens,
    room_for,
    with_answer,
)
from edge_runtime.quality.text import Passage, Prompt, Prompts, Text

BOS, MERGED, SPECIAL = 1000, 2000, 3000


class Tokenizer:
    """A token for each byte; `ab` is one, and so is `<s>` where special tokens count."""

    def __init__(self, before: Sequence[int] = (), after: Sequence[int] = ()) -> None:
        self.before, self.after = list(before), list(after)

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        found: list[int] = []
        rest = text
        while rest:
            if parse_special and rest.startswith("<s>"):
                found.append(SPECIAL)
                rest = rest[3:]
            elif rest.startswith("ab"):
                found.append(MERGED)
                rest = rest[2:]
            else:
                found += rest[0].encode()
                rest = rest[1:]
        return [*self.before, *found, *self.after] if add_special else found

    def render_chat(self, messages: Sequence[Message]) -> str:
        return "".join(f"<s>{m.role}:{m.content}\n" for m in messages) + "<s>says:"


def session(before: Sequence[int] = (), after: Sequence[int] = ()) -> Session:
    return cast(Session, Tokenizer(before, after))


def text(content: str) -> Text:
    return Text(name="t.txt", content=content)


DIGITS = "0123456789" * 5


def test_a_text_is_cut_into_whole_passages_whose_second_half_is_scored() -> None:
    found = cut(session(), text(DIGITS), 16)
    data = DIGITS.encode()
    assert [passage.tokens for passage in found] == [
        tuple(data[0:16]), tuple(data[16:32]), tuple(data[32:48]),
    ]  # fmt: skip
    assert {passage.first for passage in found} == {8}
    # An odd context is halved downwards, as llama-perplexity does.
    assert cut(session(), text(DIGITS), 9)[0].first == 4


def test_every_passage_begins_with_the_token_that_begins_a_text() -> None:
    found = cut(session([BOS]), text(DIGITS), 16)
    data = DIGITS.encode()
    # 51 tokens: the first passage has the one of the text, the others lose their own first token.
    assert found[0].tokens == (BOS, *data[:15])
    assert found[1].tokens == (BOS, *data[16:31])
    assert found[2].tokens == (BOS, *data[32:47])
    two = cut(session([BOS, 7]), text(DIGITS), 16)
    assert [passage.tokens[:3] for passage in two] == [
        (BOS, 7, data[0]), (BOS, 7, data[16]), (BOS, 7, data[32]),
    ]  # fmt: skip


@pytest.mark.parametrize("before", [(), (BOS,), (BOS, 7)])
@pytest.mark.parametrize("after", [(), (9,)])
def test_the_beginning_is_told_from_the_end(
    before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    assert beginning(session(before, after)) == before


def test_one_line_end_at_the_end_is_no_part_of_the_text() -> None:
    # 32 bytes and the line end would make the last token of a passage of 11 another one.
    kept = cut(session(), text("x" * 32 + "\n\n"), 11)
    assert kept[2].tokens[-1] == ord("\n")
    with pytest.raises(UsageError, match="it has 21 tokens, 22 are needed"):
        cut(session(), text("x" * 21 + "\n"), 11)


def test_a_text_of_less_than_two_passages_is_refused_with_both_numbers() -> None:
    assert len(cut(session(), text("x" * 32), 16)) == 2
    with pytest.raises(UsageError, match=r"t\.txt is too short: it has 31 tokens, 32 are needed"):
        cut(session(), text("x" * 31), 16)
    with pytest.raises(UsageError, match="context of 7 tokens"):
        cut(session(), text("x" * 31), 7)


@given(st.integers(8, 64), st.integers(0, 400), st.sampled_from([(), (BOS,)]))
def test_nothing_is_scored_twice_and_only_the_rest_is_dropped(
    context: int, length: int, before: tuple[int, ...]
) -> None:
    count = length + len(before)
    if count < 2 * context:
        with pytest.raises(UsageError):
            cut(session(before), text("x" * length), context)
        return
    found = cut(session(before), text("x" * length), context)
    assert len(found) == count // context
    assert all(len(passage.tokens) == context for passage in found)
    scored = sum(len(passage.tokens) - 1 - passage.first for passage in found)
    assert scored == len(found) * (context - 1 - context // 2)


def plain(words: str, answer: str | None = None) -> Prompt:
    return Prompt(messages=(), text=words, answer=answer)


CHAT = Prompt(messages=(Message(role="user", content="hi <s>"),), text="hi <s>", answer="yes")


def test_plain_words_are_no_special_tokens_and_a_template_is() -> None:
    assert SPECIAL not in prompt_tokens(session(), plain("a<s>"))
    assert prompt_tokens(session([BOS]), CHAT).count(SPECIAL) == 3
    # A template that writes the beginning token itself does not get a second one.
    assert prompt_tokens(session([SPECIAL]), CHAT)[:2] == (SPECIAL, ord("u"))


def test_an_answer_is_scored_from_its_first_token_on() -> None:
    found = with_answer(session([BOS]), plain("Q?", " no"), " no")
    assert found.tokens == (BOS, *b"Q? no")
    assert found.tokens[found.first + 1 :] == tuple(b" no")
    chat = with_answer(session(), CHAT, "yes")
    assert chat.tokens[chat.first + 1 :] == tuple(b"yes")


def test_a_token_of_both_prompt_and_answer_is_scored_with_the_answer() -> None:
    found = with_answer(session(), plain("xa", "bc"), "bc")
    assert found.tokens == (ord("x"), MERGED, ord("c"))
    assert found.tokens[found.first + 1 :] == (MERGED, ord("c"))
    with pytest.raises(UnsupportedError, match="cannot be scored"):
        with_answer(session(), plain("a", "b"), "b")


@given(
    st.lists(st.text(min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=3),
    st.integers(1, 30),
    st.booleans(),
)
def test_there_is_room_for_every_prompt_with_its_answer(
    words: list[str], answer_tokens: int, chat: bool
) -> None:
    prompts = Prompts.of(
        [[Message(role="user", content=said)] for said in words] if chat else words
    )
    room = room_for(prompts, answer_tokens, 10_000)
    longest = max(len(prompt_tokens(session([BOS]), prompt)) for prompt in prompts.prompts)
    assert room >= longest + answer_tokens
    assert room % 256 == 0
    assert room_for(prompts, answer_tokens, 100) == 100


def test_other_tokens_are_refused_with_the_first_place() -> None:
    mine = (Passage(tokens=(1, 2, 3), first=0), Passage(tokens=(4, 5, 6), first=0))
    check_alike(mine, mine, name="a", reference="b")
    for other, place in (
        ((mine[0], Passage(tokens=(4, 9, 6), first=0)), "passage 1, token 1"),
        ((mine[0], Passage(tokens=(4, 5, 6, 7), first=0)), "passage 1, token 3"),
        (mine[:1], "their number"),
    ):
        with pytest.raises(UnsupportedError, match=place) as caught:
            check_alike(other, mine, name="a.gguf", reference="b.gguf")
        assert "a.gguf cannot be held against b.gguf" in caught.value.fact
