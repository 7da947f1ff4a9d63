"""`edge run`: complete a prompt, or chat. The answer goes to stdout, everything else to stderr."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EdgeError, UsageError
from .options import Provider, provider_names

if TYPE_CHECKING:
    from ..backends import Message, Sampling
    from ..measurement import SessionOptions
    from ..model import Model

OPENING = "Once upon a time"
"""What the shipped model continues when it is given nothing at all."""
COMPLETION_TOKENS = 256
_MAX_PROMPT_BYTES = 1 << 26
_MAX_GRAMMAR_BYTES = 1 << 22


def run(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A GGUF file, a directory with one, or hf:owner/repo[:file]. "
            "Without it: the small model that ships with this program."
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to say to it; - reads it from stdin. Without it: a chat."),
    ] = None,
    *,
    prompt_option: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="The prompt, where no MODEL is named before it."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="Instructions for the whole chat.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            "-n",
            min=1,
            help=f"Stop after so many. Default: where the model ends; {COMPLETION_TOKENS} when it "
            "completes a text.",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 always takes the likeliest token.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among so many; 0 is all.")] = 40,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="1 is all.")] = 0.95,
    min_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="0 is all.")] = 0.05,
    repeat_penalty: Annotated[float, typer.Option(help="1 is none.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="For the same answer again.")] = None,
    ctx: Annotated[
        int | None,
        typer.Option(
            "--context",
            "--ctx",
            "-c",
            min=1,
            help="Context length in tokens. Default: at most 4096.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, help="Default: the physical cores.")
    ] = None,
    gpu_layers: Annotated[
        int | None,
        typer.Option(help="Layers on the GPU; -1 is all. Default: all it has."),
    ] = None,
    kv_type: Annotated[
        str, typer.Option(help="Type of the KV cache: f16, q8_0, q4_0, ...")
    ] = "f16",
    grammar: Annotated[
        Path | None, typer.Option(help="A GBNF file the answer must follow.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="A JSON schema file the answer must follow.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text. May be repeated.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No speed line.")] = False,
    provider: Provider = None,
    backend: Annotated[str, typer.Option(hidden=True)] = "llama_cpp",
) -> None:
    """Streams a model's answer to stdout."""
    from .. import model as models
    from ..backends import Sampling
    from ..report.placement import placement_words

    if prompt is not None and prompt_option is not None:
        raise UsageError("The prompt is given twice.", way_out="Leave --prompt out.")
    if model is not None and any(map(str.isspace, model)) and not Path(model).exists():
        raise UsageError(
            f"{model!r} is no model.",
            cause="The first argument names one; a prompt alone goes to the shipped model.",
            way_out=f"edge run -p {shlex.quote(model)}",
        )
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        seed=seed,
        grammar=_text_of(grammar),
        json_schema=_text_of(json_schema),
    )
    options = _options(backend, ctx, threads, gpu_layers, kv_type, provider)
    path = _located(model)
    text = _prompt_text(prompt if prompt is not None else prompt_option, shipped=model is None)
    with models.load(path, options=options) as opened:
        has_template = opened.artifact.chat_template is not None
        if system is not None and (raw or not has_template):
            raise UsageError(
                "--system needs a chat.",
                cause="--raw is given." if raw else "This model has no chat template.",
            )
        placed = opened.session.engine.placement
        if (options.providers or len(placed) > 1) and not quiet:
            _say(f"Nodes of the graph: {placement_words(placed)}.")
        if not has_template and not raw:
            _say("This model has no chat template: it continues your text.")
        conversation = _Conversation(
            model=opened,
            sampling=sampling,
            stop=tuple(stop or ()),
            max_tokens=max_tokens,
            chats=has_template and not raw,
            system=system,
            quiet=quiet,
        )
        if text is None:
            _interact(conversation)
        elif not conversation.answer(text):
            raise typer.Exit(130)


@dataclass(slots=True, kw_only=True)
class _Conversation:
    """One model, the turns so far, and how answers are to be given."""

    model: Model
    sampling: Sampling
    stop: tuple[str, ...]
    max_tokens: int | None
    chats: bool
    system: str | None
    quiet: bool
    turns: list[Message] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)

    def reset(self) -> None:
        """Forgets all turns."""
        self.turns.clear()

    def answer(self, text: str) -> bool:
        """Streams the answer to one prompt; False when it was interrupted."""
        from ..backends import Message

        asked = Message(role="user", content=text)
        tokens = self._tokens(asked)
        limit = self.max_tokens if self.chats else self.max_tokens or COMPLETION_TOKENS
        said: list[str] = []
        with _interrupts() as cancel:
            timing = self._stream(tokens, limit, cancel, said)
        answer = "".join(said)
        if not answer.endswith("\n"):
            print(flush=True)
        if self.chats:
            self.turns += [asked, Message(role="assistant", content=answer)]
        if timing.finish == "context":
            _say(
                f"The context of {self.model.context_tokens} tokens is full; "
                "a longer one: --ctx N, a new chat: /reset"
            )
        if not self.quiet:
            print(timing.line(), file=sys.stderr, flush=True)
        return timing.finish != "cancelled"

    def _tokens(self, asked: Message) -> list[int]:
        from ..backends import Message

        if not self.chats:
            return self.model.tokenize(asked.content)
        system = [Message(role="system", content=self.system)] if self.system else []
        return self.model.chat_tokens([*system, *self.turns, asked])

    def _stream(
        self, tokens: list[int], limit: int | None, cancel: threading.Event, said: list[str]
    ) -> _Timing:
        shared = _shared_prefix(self.evaluated, tokens)
        self.evaluated = list(tokens)
        timing = _Timing(prefilled=len(tokens) - shared, started_ns=time.perf_counter_ns())
        pieces = self.model.session.stream(
            tokens, max_tokens=limit, sampling=self.sampling, stop=self.stop, cancel=cancel
        )
        for piece in pieces:
            timing.take(piece.token, piece.finish)
            self.evaluated.append(piece.token)
            if piece.text:
                said.append(piece.text)
                sys.stdout.write(piece.text)
                sys.stdout.flush()
        return timing


@dataclass(slots=True, kw_only=True)
class _Timing:
    """The stamps of one answer, and the speed line made of them."""

    prefilled: int
    started_ns: int
    first_ns: int = 0
    last_ns: int = 0
    tokens: int = 0
    finish: str | None = None

    def take(self, token: int, finish: str | None) -> None:
        """Notes one piece."""
        now = time.perf_counter_ns()
        self.finish = finish
        if token >= 0:
            self.first_ns = self.first_ns or now
            self.last_ns = now
            self.tokens += 1

    def line(self) -> str:
        """Prefill and decode rates, and the time to the first token."""
        from ..units import NS_PER_S, format_duration, format_rate

        if not self.tokens:
            return "[no token was generated]"
        first_s = (self.first_ns - self.started_ns) / NS_PER_S
        parts = [
            f"prefill {self.prefilled} tokens at {format_rate(self.prefilled / first_s)} tok/s"
        ]
        decode_s = (self.last_ns - self.first_ns) / NS_PER_S
        if self.tokens > 1 and decode_s > 0:
            rate = format_rate((self.tokens - 1) / decode_s)
            parts.append(f"decode {self.tokens} tokens at {rate} tok/s")
        parts.append(f"first token after {format_duration(first_s)}")
        return f"[{' | '.join(parts)}]"


def _shared_prefix(held: Sequence[int], tokens: Sequence[int]) -> int:
    shared = 0
    for a, b in zip(held, tokens, strict=False):
        if a != b:
            break
        shared += 1
    return shared if shared < len(tokens) else 0


def _options(
    backend: str,
    ctx: int | None,
    threads: int | None,
    gpu_layers: int | None,
    kv_type: str,
    provider: Sequence[str] | None,
) -> SessionOptions:
    from ..measurement import SessionOptions
    from .options import kv_type as kv_type_of

    kind = kv_type_of(kv_type)
    return SessionOptions(
        backend=backend,
        context_tokens=ctx,
        threads=threads,
        gpu_layers=gpu_layers,
        kv_type_k=kind,
        kv_type_v=kind,
        providers=provider_names(provider),
    )


def _located(reference: str | None) -> Path:
    """The model's file; fetched, or for the shipped model converted, when it is not there yet."""
    from .. import sources
    from ..units import format_bytes

    def on_download(name: str, size_bytes: int | None) -> None:
        size = f" ({format_bytes(size_bytes)})" if size_bytes is not None else ""
        _say(f"Fetching {name}{size}.")

    if reference is None:
        from .shipped import shipped_model

        return shipped_model()
    return sources.resolve(reference, on_download=on_download)


def _prompt_text(prompt: str | None, *, shipped: bool) -> str | None:
    """The prompt, read from stdin where that is meant; None for an interactive chat."""
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin is not None and sys.stdin.isatty():
        return None
    data = sys.stdin.buffer.read(_MAX_PROMPT_BYTES + 1) if sys.stdin is not None else b""
    if len(data) > _MAX_PROMPT_BYTES:
        raise UsageError("The prompt on stdin is larger than 64 MiB.")
    text = data.decode("utf-8", "replace").removesuffix("\n")
    if text:
        return text
    if shipped and prompt is None:
        return OPENING
    raise UsageError("The prompt on stdin is empty.", way_out="Give one: edge run MODEL 'Hello'")


def _text_of(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_GRAMMAR_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read.", cause=f"{error.strerror}.") from error
    if len(data) > _MAX_GRAMMAR_BYTES:
        raise UsageError(f"{path} is too large for a grammar or a schema.")
    return data.decode("utf-8", "replace")


def _say(text: str) -> None:
    print(f"edge: {text}", file=sys.stderr, flush=True)


def _interact(conversation: _Conversation) -> None:
    """Reads prompts from the terminal until Ctrl-D; a mistake ends one answer, not the chat."""
    import contextlib

    with contextlib.suppress(ImportError):  # line editing and history, where the system has them
        import readline  # noqa: F401 - importing it changes what input() does
    name = conversation.model.artifact.name
    verb = "Chat with" if conversation.chats else "Begin a text for"
    _say(f"{verb} {name}. Ctrl-C stops an answer, /reset forgets, /quit or Ctrl-D leaves.")
    while True:
        try:
            line = _read_line()
            if line is None or not _obey(conversation, line.strip()):
                return
        except EdgeError as error:
            _say(str(error))
        except KeyboardInterrupt:
            print(file=sys.stderr)


def _obey(conversation: _Conversation, text: str) -> bool:
    """Does what one line asks for; False when it asks to leave."""
    if text in ("/quit", "/exit"):
        return False
    if text == "/reset":
        conversation.reset()
        _say("A new conversation.")
    elif text.startswith("/") and " " not in text:
        _say(f"{text} is no command. There are /reset and /quit.")
    elif text:
        conversation.answer(text)
    return True


def _read_line() -> str | None:
    """A line typed after the prompt sign; None when the terminal says there are no more."""
    try:
        if sys.stdout.isatty():
            return input("> ")
        print("> ", end="", file=sys.stderr, flush=True)
        return input()
    except EOFError:
        print(file=sys.stderr)
        return None


class _interrupts:  # noqa: N801 - used as `with _interrupts() as cancel`
    """While it lasts, Ctrl-C sets an event instead of raising.

    A Python handler waits until the engine's present call returns, which a long prompt can make a
    minute; the interpreter's wake-up descriptor is written at once, and a thread waits for it.
    """

    def __enter__(self) -> threading.Event:
        import signal
        import socket

        self._cancel = threading.Event()
        if threading.current_thread() is not threading.main_thread():
            self._read = self._write = None
            return self._cancel
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._former = signal.signal(signal.SIGINT, lambda *_: self._cancel.set())
        self._former_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, name="edge-interrupt", daemon=True)
        self._thread.start()
        return self._cancel

    def __exit__(self, *_: object) -> None:
        if self._read is None or self._write is None:
            return
        import signal

        signal.set_wakeup_fd(self._former_fd)
        signal.signal(signal.SIGINT, self._former)
        self._write.close()
        self._thread.join()
        self._read.close()

    def _wait(self) -> None:
        import signal

        while self._read is not None and (numbers := self._read.recv(16)):
            if signal.SIGINT in numbers:
                self._cancel.set()
