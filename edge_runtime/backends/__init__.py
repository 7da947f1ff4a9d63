"""The seam to inference engines: the Backend and Session protocols, and how one is looked up.

A backend opens an artifact; a session runs it. This package's `__init__` names no engine's types
and imports no engine: each lives in its own file and is imported when it is asked for. Others come
through the entry-point group `edge_runtime.backends`.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..artifact import Artifact
from ..errors import EdgeError, EngineMissingError, UsageError
from ..latency import InputRecord, LatencyOptions, OperatorTimes, OutputRecord, Placed
from ..measurement import Engine, Gpu, SessionOptions
from ..memory import Buffer

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

BUILTIN = {"llama_cpp": ".llama_cpp", "onnx": ".onnx", "fake": ".fake"}
"""Backends that ship, by name -> module (relative). Each module has a `BACKEND`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen from the logits. Temperature 0 is greedy and deterministic.

    The filters are applied in the order penalties, top-k, top-p, min-p, temperature. `grammar` is a
    GBNF text, `json_schema` a JSON schema; at most one of them. `seed` None draws a fresh one.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_tokens: int = 64
    seed: int | None = None
    grammar: str | None = None
    json_schema: str | None = None
    ignore_eos: bool = False


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One generated token: its id and the text that became printable with it.

    The text may be empty while a multi-byte character or a possible stop string is still open.
    `finish` is None until the last piece, then why generation ended: `length`, `stop`, `eos`,
    `cancelled` or `context`.
    """

    token: int
    text: str
    finish: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@runtime_checkable
class Sampler(Protocol):
    """Chooses tokens from a session's latest logits and remembers what it chose."""

    def sample(self) -> int:
        """Chooses the next token and accepts it."""

    def close(self) -> None:
        """Frees the engine's sampler; safe to call twice."""


@runtime_checkable
class Session(Protocol):
    """An opened artifact with one context. Not thread-safe, but cancelling works from anywhere.

    `options` are those really in force (threads, context length after the engine's rounding).
    """

    artifact: Artifact
    options: SessionOptions
    engine: Engine
    buffers: tuple[Buffer, ...]
    context_tokens: int
    vocabulary_tokens: int

    @property
    def position(self) -> int:
        """How many tokens the context holds."""

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text; special tokens written in it count only with `parse_special`."""

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special tokens left out."""

    def render_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt text of a conversation by the artifact's own chat template."""

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens after the present position in batches; returns when they are computed.

        Raises ContextFullError when they do not fit.
        """

    def step(self, token: int) -> None:
        """Evaluates exactly one token: one decode step; returns when it is computed."""

    def reset(self, *, keep_tokens: int = 0) -> None:
        """Forgets the context from position `keep_tokens` on."""

    def logits(self) -> Sequence[float]:
        """A copy of the logits after the last evaluated token: `vocabulary_tokens` float32."""

    def all_logits(self, tokens: Sequence[int], *, first: int = 0) -> Iterator[memoryview[float]]:
        """Evaluates tokens after the present position, giving the logits after each from `first`.

        They come in order, in blocks of float32 of shape (rows, vocabulary_tokens), one row for
        each of `tokens[first:]`. A block is valid until the next one is asked for or the session is
        used or closed: it may be the engine's own memory. It may be written to, so that `logits`
        has none afterwards. No more memory is taken than for the rows of one engine batch. Nothing
        is evaluated before the first block is asked for. Raises ContextFullError when the tokens do
        not fit, UnsupportedError for a model that gives the last position's logits only, and
        BackendError when the session is used otherwise between two blocks.
        """

    def sampler(self, sampling: Sampling) -> Sampler:
        """A sampler over this session's logits."""

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        sampling: Sampling = ...,
        stop: Sequence[str] = (),
        cancel: threading.Event | None = None,
    ) -> Iterator[Piece]:
        """Generates after a prompt, from an empty context (a shared prefix is reused).

        The first `next()` does the prefill and yields the first token; each later one is exactly
        one decode step. Nothing is printed. Raises ContextFullError when the prompt does not fit.
        """

    def embed(self, text: str) -> Sequence[float]:
        """The pooled embedding of a text, unit length; needs `SessionOptions(embeddings=True)`."""

    def close(self) -> None:
        """Frees everything; safe to call twice."""


@runtime_checkable
class Backend(Protocol):
    """Opens artifacts of the formats it knows."""

    name: str
    formats: tuple[str, ...]

    def open(self, artifact: Artifact, options: SessionOptions) -> Session:
        """Loads the weights and makes a context. Raises BackendError or ResourceError."""

    def engine(self) -> Engine:
        """The engine's name, version and build. Raises EngineMissingError."""

    def gpus(self) -> tuple[Gpu, ...]:
        """Accelerators this build can use."""


@runtime_checkable
class PlainModel(Protocol):
    """A model of any kind, opened to compute the same inference over and over.

    `options` are those in force; `placed` says which provider holds how many nodes.
    """

    options: LatencyOptions
    placed: tuple[Placed, ...]
    notes: tuple[str, ...]

    def bind(self, inputs: Sequence[InputRecord], seed: int) -> tuple[OutputRecord, ...]:
        """Makes the inputs, computes once, and keeps memory for outputs of the shapes found.

        Raises MemoryLimitError, and BackendError for what the engine refuses.
        """

    def run(self) -> None:
        """Computes one inference into the memory bound; returns when it is computed."""

    def operators(self, runs: int) -> OperatorTimes:
        """Ends tracing; the times of the latest `runs` inferences by node."""

    def close(self) -> None:
        """Frees everything; safe to call twice."""


@runtime_checkable
class PlainBackend(Protocol):
    """A backend that also runs models that are none of language."""

    def open_plain(
        self, path: Path, options: LatencyOptions, *, trace: Path | None = None
    ) -> PlainModel:
        """Loads a model; with a folder for a `trace` the time of each node is noted, at a cost.

        Raises what `Backend.open` raises.
        """

    def engine(self) -> Engine:
        """The engine's name, version and build. Raises EngineMissingError."""

    def gpus(self) -> tuple[Gpu, ...]:
        """Accelerators this build can use."""


def plain_backend(name: str) -> PlainBackend:
    """The backend of that name, for models of any kind. Raises what `backend` raises."""
    chosen = backend(name)
    if not isinstance(chosen, PlainBackend):
        raise UsageError(f"The backend {name} runs language models only.")
    return chosen


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises UsageError for an unknown name and EngineMissingError when its engine is not installed.
    """
    if name in BUILTIN:
        try:
            module = importlib.import_module(BUILTIN[name], __package__)
        except ImportError as error:
            raise EngineMissingError(
                f"The backend {name} cannot be loaded.",
                cause=f"{error}.",
                way_out="Install it again: pip install --force-reinstall edge-runtime",
            ) from error
        found: Backend = module.BACKEND
        return found
    for entry in _plugins().select(name=name):
        try:
            plugin: Backend = entry.load()
        except EdgeError:
            raise
        except Exception as error:  # a stranger's plugin may raise anything while importing
            raise EngineMissingError(
                f"The backend plugin {name} failed to load.", cause=f"{error}."
            ) from error
        return plugin
    raise UsageError(
        f"There is no backend named {name!r}.", way_out=f"Known: {', '.join(backend_names())}."
    )


def backend_for(artifact: Artifact, name: str) -> Backend:
    """The backend of that name, or the first that ships and opens the artifact's format instead.

    Options name an engine before anyone has looked at the file; the session's own options say which
    one it was. Raises what `backend` raises.
    """
    chosen = backend(name)
    if artifact.format in chosen.formats:
        return chosen
    others = (backend(other) for other in BUILTIN)
    return next((other for other in others if artifact.format in other.formats), chosen)


def rendered_tokens(session: Session, text: str) -> list[int]:
    """The tokens of a conversation that a chat template made into a text.

    Special tokens in it count as such, also where a message spells them. The token that begins a
    text is added when the tokenizer wants it, once.
    """
    tokens = session.tokenize(text, add_special=True, parse_special=True)
    bare = session.tokenize(text, add_special=False, parse_special=True)
    # Many templates write the beginning token themselves; two of them confuse a model.
    doubled = len(tokens) > len(bare) and bare[:1] == tokens[:1]
    return bare if doubled else tokens


def backend_names() -> tuple[str, ...]:
    """The names `backend` accepts, those that ship first."""
    return (*BUILTIN, *sorted(_plugins().names - BUILTIN.keys()))


def _plugins() -> EntryPoints:
    # A tenth of what a measuring process would import, and engines that ship are found without.
    from importlib.metadata import entry_points

    return entry_points(group="edge_runtime.backends")
