"""Generation as every backend does it: the loop, the text that comes out of it, when it ends.

It knows tokens, bytes and stop strings, and drives a backend through the small `Decoder` protocol;
it knows no engine, no clock and no model. Because all backends share it, they agree on what a piece
is, on what is held back, and on why a stream ends.
"""

from __future__ import annotations

import codecs
import math
import operator
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from ..errors import BackendError, ContextFullError, UsageError
from . import Piece, Sampler, Sampling

NO_TOKEN = -1
"""The token of a last piece that reports a cancellation: nothing was generated with it."""

MAX_SEED = 2**32 - 2
"""The largest seed: engines reserve 2**32 - 1 for "draw one"."""


class Decoder(Protocol):
    """What the loop needs of a session beyond its public face."""

    context_tokens: int
    vocabulary_tokens: int
    generation: int
    """Counts the streams begun; a stream that is no longer the latest has lost its context."""

    @property
    def position(self) -> int:
        """How many tokens the context holds."""

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text."""

    def begin(self, tokens: Sequence[int], cancel: threading.Event | None) -> bool:
        """Leaves exactly `tokens` evaluated, reusing a shared prefix; False when cancelled."""

    def step(self, token: int) -> None:
        """Evaluates one token."""

    def sampler(self, sampling: Sampling) -> Sampler:
        """A sampler over the latest logits."""

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for special tokens."""

    def ends(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""


class TextAssembler:
    """Turns the bytes of successive tokens into text that is safe to show.

    An unfinished UTF-8 character and anything that may become a stop string are held back. Bytes
    that are no UTF-8 become U+FFFD. After a stop string nothing more comes out.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped = False

    def push(self, data: bytes) -> str:
        """Takes one token's bytes and gives the text that is now certain."""
        if self.stopped:
            return ""
        text = self._decoder.decode(data)
        if not self._stop:
            return text
        text = self._held + text
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = self._possible_stop_chars(text)
        self._held = text[len(text) - keep :] if keep else ""
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Gives what was held back for a stop string that never came.

        An unfinished character at the very end is left out: it is no text yet.
        """
        held, self._held = self._held, ""
        return held

    def _possible_stop_chars(self, text: str) -> int:
        """The length of the longest end of `text` that begins one of the stop strings."""
        longest = min(max(map(len, self._stop)) - 1, len(text))
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0


def check_sampling(sampling: Sampling) -> None:
    """Checks that every knob is in its range. Raises UsageError naming the one that is not."""
    knobs = (
        ("temperature", sampling.temperature, 0.0, 1000.0),
        ("top_k", sampling.top_k, 0, 2**31 - 1),
        ("top_p", sampling.top_p, 0.0, 1.0),
        ("min_p", sampling.min_p, 0.0, 1.0),
        ("repeat_penalty", sampling.repeat_penalty, 0.01, 1000.0),
        ("frequency_penalty", sampling.frequency_penalty, -1000.0, 1000.0),
        ("presence_penalty", sampling.presence_penalty, -1000.0, 1000.0),
        ("penalty_last_tokens", sampling.penalty_last_tokens, 0, 2**24),
        ("seed", 0 if sampling.seed is None else sampling.seed, 0, MAX_SEED),
    )
    for name, value, low, high in knobs:
        if not math.isfinite(value) or not low <= value <= high:
            raise UsageError(f"{name} is {value}.", cause=f"It must lie between {low} and {high}.")
    if sampling.grammar is not None and sampling.json_schema is not None:
        raise UsageError("A grammar and a JSON schema are both given.", way_out="Give one of them.")
    if sampling.ignore_eos and (sampling.grammar is not None or sampling.json_schema is not None):
        raise UsageError(
            "ignore_eos cannot be combined with a grammar.",
            cause="A finished grammar allows nothing but the end of the text.",
        )


def check_tokens(tokens: Sequence[int], vocabulary_tokens: int) -> list[int]:
    """The tokens as plain integers, each inside the vocabulary. Raises UsageError."""
    try:
        checked = [operator.index(token) for token in tokens]
    except TypeError as error:
        raise UsageError("A prompt must be a text or token ids.", cause=f"{error}.") from error
    if checked and not (min(checked) >= 0 and max(checked) < vocabulary_tokens):
        bad = next(token for token in checked if not 0 <= token < vocabulary_tokens)
        raise UsageError(
            f"There is no token {bad}.",
            cause=f"This model's token ids go from 0 to {vocabulary_tokens - 1}.",
        )
    return checked


def check_room(session: Decoder, count: int, position: int) -> None:
    """Raises ContextFullError unless `count` more tokens fit after `position`."""
    if position + count > session.context_tokens:
        raise ContextFullError(
            f"{count} tokens do not fit the context.",
            cause=f"It holds {session.context_tokens} tokens, {position} of them taken.",
            way_out="Open the model with a longer context (context_tokens=..., edge run --ctx N) "
            "or shorten the prompt.",
        )


def stream(
    session: Decoder,
    prompt: str | Sequence[int],
    *,
    max_tokens: int | None,
    sampling: Sampling,
    stop: Sequence[str],
    cancel: threading.Event | None,
) -> Iterator[Piece]:
    """Checks the request at once and gives the pieces lazily; see `Session.stream`."""
    check_sampling(sampling)
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"max_tokens is {max_tokens}.", cause="At least one token is generated.")
    if isinstance(stop, str):
        raise UsageError("stop is one string.", way_out=f"Give a tuple: stop=({stop!r},)")
    tokens = (
        session.tokenize(prompt)
        if isinstance(prompt, str)
        else check_tokens(prompt, session.vocabulary_tokens)
    )
    if not tokens:
        raise UsageError(
            "The prompt is empty.",
            cause="This model's vocabulary has no token that begins a text.",
            way_out="Give at least one word.",
        )
    check_room(session, len(tokens), 0)
    return _pieces(
        session,
        tokens,
        max_tokens=max_tokens,
        sampling=sampling,
        text=TextAssembler(stop),
        cancel=cancel,
    )


def _pieces(
    session: Decoder,
    tokens: Sequence[int],
    *,
    max_tokens: int | None,
    sampling: Sampling,
    text: TextAssembler,
    cancel: threading.Event | None,
) -> Iterator[Piece]:
    session.generation += 1
    turn = session.generation
    sampler = session.sampler(sampling)
    try:
        if not session.begin(tokens, cancel):
            yield Piece(token=NO_TOKEN, text="", finish="cancelled")
            return
        limit = max_tokens if max_tokens is not None else session.context_tokens
        context_tokens = session.context_tokens
        generated = 0
        while True:
            token = sampler.sample()
            generated += 1
            if session.ends(token):
                yield Piece(token=token, text=text.flush(), finish="eos")
                return
            shown = text.push(session.piece(token))
            if text.stopped:
                yield Piece(token=token, text=shown, finish="stop")
                return
            if generated >= limit:
                yield Piece(token=token, text=shown + text.flush(), finish="length")
                return
            if session.position >= context_tokens:
                yield Piece(token=token, text=shown + text.flush(), finish="context")
                return
            yield Piece(token=token, text=shown)
            if cancel is not None and cancel.is_set():
                yield Piece(token=NO_TOKEN, text=text.flush(), finish="cancelled")
                return
            if session.generation != turn:
                raise BackendError(
                    "This stream was overtaken by another one of the same session.",
                    cause="A session has one context.",
                    way_out="Finish or drop a stream before beginning the next.",
                )
            session.step(token)
    finally:
        sampler.close()
