"""How a text, or prompts with their answers, become passages of tokens.

A text is cut as llama-perplexity cuts it: tokens in passages as long as the context, what is left
over dropped, each passage's first token replaced by the one that begins a text where the tokenizer
has one, the second half of each scored. Of a prompt with its answer the answer is scored. It asks a
session for tokens and evaluates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..backends import Session, rendered_tokens
from ..errors import UnsupportedError, UsageError
from .text import Passage, Prompt, Prompts, Text

LEAST_CONTEXT_TOKENS = 8
"""Of a shorter passage next to nothing would be scored."""
LEAST_PASSAGES = 2
"""As llama-perplexity has it: fewer are refused."""
_TEMPLATE_BYTES = 1024
"""What a chat template may write of its own accord."""
_MESSAGE_BYTES = 64
_CONTEXT_STEP = 256


def cut(
    session: Session, text: Text, context_tokens: int, *, least: int = LEAST_PASSAGES
) -> tuple[Passage, ...]:
    """The passages of a text, each of `context_tokens` tokens.

    Raises UsageError for a context too short to score anything in, and for a text of fewer than
    `least` passages.
    """
    if context_tokens < LEAST_CONTEXT_TOKENS:
        raise UsageError(
            f"A text cannot be scored in a context of {context_tokens} tokens.",
            way_out=f"Give it at least {LEAST_CONTEXT_TOKENS}.",
        )
    # A file ends with a line end that is no part of its last line; llama-perplexity drops it too.
    tokens = session.tokenize(text.content.removesuffix("\n"))
    if len(tokens) < least * context_tokens:
        raise UsageError(
            f"{text.name} is too short: it has {len(tokens):,} tokens,"
            f" {least * context_tokens:,} are needed for {least} passages.",
            way_out=f"Give a longer text, or a shorter context than {context_tokens} tokens.",
        )
    begin = beginning(session)
    ends = range(context_tokens, len(tokens) + 1, context_tokens)
    return tuple(
        Passage(
            tokens=(*begin, *tokens[end - context_tokens + len(begin) : end]),
            first=context_tokens // 2,
        )
        for end in ends
    )


def beginning(session: Session) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts before every text: mostly one, or none."""
    bare = session.tokenize("a", add_special=False)
    whole = session.tokenize("a")
    at = next((i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare), 0)
    return tuple(whole[:at])


def prompt_text(session: Session, prompt: Prompt) -> str:
    """What is continued: the prompt's words, or the conversation by the chat template."""
    return session.render_chat(prompt.messages) if prompt.messages else prompt.text


def prompt_tokens(session: Session, prompt: Prompt, text: str | None = None) -> tuple[int, ...]:
    """The tokens of a prompt, or of the `text` it became with an answer behind it."""
    words = prompt_text(session, prompt) if text is None else text
    if prompt.messages:
        return tuple(rendered_tokens(session, words))
    return tuple(session.tokenize(words))


def with_answer(session: Session, prompt: Prompt, answer: str) -> Passage:
    """A prompt and the answer given to it, tokenized as one text.

    Scoring begins with the first token that the prompt alone would not have. Raises
    UnsupportedError where no token is the prompt's alone.
    """
    before = prompt_tokens(session, prompt)
    whole = prompt_tokens(session, prompt, prompt_text(session, prompt) + answer)
    shared = next(
        (i for i, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]),
        min(len(before), len(whole)),
    )
    if not 0 < shared < len(whole):
        raise UnsupportedError(
            f"The answer to {prompt.text[:40]!r} cannot be scored.",
            cause="This tokenizer makes no tokens that are the prompt's alone, or the answer's.",
            way_out="Begin the answer with a space, or ask in more words.",
        )
    return Passage(tokens=whole, first=shared - 1)


def room_for(prompts: Prompts, answer_tokens: int, most_tokens: int) -> int:
    """A context in which every prompt very likely has room with its answer, at most `most_tokens`.

    No token is less than a byte, but for those a chat template adds.
    """

    def size(prompt: Prompt) -> int:
        said = [message.role + message.content for message in prompt.messages] or [prompt.text]
        answer = max(answer_tokens, len((prompt.answer or "").encode()))
        return sum(len(words.encode()) + _MESSAGE_BYTES for words in said) + answer

    needed = max(map(size, prompts.prompts)) + _TEMPLATE_BYTES
    return min(-(-needed // _CONTEXT_STEP) * _CONTEXT_STEP, most_tokens)


def check_alike(
    found: Sequence[Passage], wanted: Sequence[Passage], *, name: str, reference: str
) -> None:
    """Raises UnsupportedError unless a tokenizer gave the reference's very tokens."""
    if list(found) == list(wanted):
        return
    place = next(
        (
            f"passage {number}, token {_first_difference(mine, theirs)}"
            for number, (mine, theirs) in enumerate(zip(found, wanted, strict=False))
            if mine != theirs
        ),
        "their number",
    )
    raise UnsupportedError(
        f"{name} cannot be held against {reference}: it reads the text as other tokens.",
        cause=f"They first differ in {place} (counted from 0).",
        way_out="Compare it with levels of its own model, made with the same tokenizer.",
    )


def _first_difference(mine: Passage, theirs: Passage) -> int:
    pairs = enumerate(zip(mine.tokens, theirs.tokens, strict=False))
    shorter = min(len(mine.tokens), len(theirs.tokens))
    return next((at for at, (a, b) in pairs if a != b), shorter)
