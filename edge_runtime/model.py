"""A model opened for use: text in, text out, over whatever backend runs it.

This is the embedding programmer's door. It opens an artifact, keeps one session, and turns pieces
into plain strings; anything finer is on `Model.session`. It knows no engine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from . import backends, sources
from .artifact import Artifact
from .backends import Message, Piece, Sampling, Session
from .errors import UsageError
from .measurement import SessionOptions


def load(
    path: str | os.PathLike[str],
    *,
    options: SessionOptions | None = None,
    context_tokens: int | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    embeddings: bool | None = None,
) -> Model:
    """Opens a model file, a directory with one in it, or `hf:owner/repo[:file]`.

    The keyword shortcuts replace the same fields of `options`. Raises ModelNotFoundError,
    FormatError or UnsupportedError for what is no runnable model, HubError while fetching one,
    BackendError or MemoryLimitError when the engine cannot open it.
    """
    shortcuts: dict[str, int | bool | None] = {
        "context_tokens": context_tokens,
        "threads": threads,
        "gpu_layers": gpu_layers,
        "embeddings": embeddings,
    }
    given = {name: value for name, value in shortcuts.items() if value is not None}
    settled = replace(options or SessionOptions(), **given)  # type: ignore[arg-type] # fields by name
    artifact = Artifact.open(sources.resolve(path))
    backend = backends.backend_for(artifact, settled.backend)
    return Model(backend.open(artifact, settled))


class Model:
    """An opened model; close it, or use it in a `with` block. One thread at a time.

    `session` is the session underneath, with prefill, step and logits.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def artifact(self) -> Artifact:
        """The file that was opened."""
        return self.session.artifact

    @property
    def context_tokens(self) -> int:
        """How many tokens prompt and answer may have together."""
        return self.session.context_tokens

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - a frozen value
        stop: Sequence[str] = (),
        cancel: threading.Event | None = None,
    ) -> Iterator[str]:
        """Continues a prompt, giving text as it comes; the pieces joined are the whole text.

        Ends at `max_tokens`, at the model's end of text, before a `stop` string (never shown),
        when `cancel` is set from any thread, or when the context is full. Raises ContextFullError
        when the prompt alone does not fit.
        """
        return _texts(
            self.session.stream(
                prompt, max_tokens=max_tokens, sampling=sampling, stop=stop, cancel=cancel
            )
        )

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - a frozen value
        stop: Sequence[str] = (),
        cancel: threading.Event | None = None,
    ) -> str:
        """The whole continuation of a prompt; see `stream`."""
        return "".join(
            self.stream(prompt, max_tokens=max_tokens, sampling=sampling, stop=stop, cancel=cancel)
        )

    def chat(
        self,
        messages: Sequence[Message | tuple[str, str]],
        *,
        max_tokens: int | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - a frozen value
        stop: Sequence[str] = (),
        cancel: threading.Event | None = None,
    ) -> Iterator[str]:
        """Answers a conversation of `Message`s or (role, content) pairs by the model's template.

        Raises UnsupportedError when the model has no chat template. Give the answer back as an
        `assistant` message in the next turn: what both turns share is not evaluated again.
        """
        return _texts(
            self.session.stream(
                self.chat_tokens(messages),
                max_tokens=max_tokens,
                sampling=sampling,
                stop=stop,
                cancel=cancel,
            )
        )

    def chat_tokens(self, messages: Sequence[Message | tuple[str, str]]) -> list[int]:
        """The prompt tokens of a conversation, ready for the assistant's turn.

        Special tokens in the template count as such, also where a message's text spells them. The
        token that begins a text is added when the tokenizer wants it, once.
        """
        turns = [_message(message) for message in messages]
        return backends.rendered_tokens(self.session, self.session.render_chat(turns))

    def embed(self, text: str) -> Sequence[float]:
        """The embedding of a text, unit length; needs `load(..., embeddings=True)`."""
        return self.session.embed(text)

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text; special tokens written in it count only with `parse_special`."""
        return self.session.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special tokens left out."""
        return self.session.detokenize(tokens)

    def close(self) -> None:
        """Frees the weights and the context; safe to call twice."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _message(message: Message | tuple[str, str]) -> Message:
    if isinstance(message, Message):
        return message
    try:
        role, content = message
    except (TypeError, ValueError) as error:
        raise UsageError(
            "A message is no Message and no (role, content) pair.",
            way_out='Write it like Message(role="user", content="Hello").',
        ) from error
    return Message(role=role, content=content)


def _texts(pieces: Iterator[Piece]) -> Iterator[str]:
    for piece in pieces:
        if piece.text:
            yield piece.text
