"""On what a model is scored: a text, or prompts with their answers, and the passages of either.

Both come from files that anybody may have written: their size is looked at before they are read,
and every fault is named with its line. It knows nothing of tokens but that they are numbers: how a
text becomes passages is said in `passages`.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..artifact import Artifact
from ..backends import Message
from ..errors import FormatError, UsageError
from ..units import format_bytes

MOST_TEXT_BYTES = 16 * 1024**2
MOST_PROMPTS_BYTES = 4 * 1024**2
MOST_PROMPTS = 1000
MOST_MESSAGES = 100
"""In one conversation."""

_EXAMPLE = '{"prompt": "The capital of France is", "answer": " Paris."}'
_PACKAGE = __package__.rpartition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text as it was given, not yet tokens. `shipped` marks those that come with the package."""

    name: str
    content: str
    shipped: bool = False

    def __post_init__(self) -> None:
        """Refuses what no tokenizer could read (UsageError)."""
        _check_whole(self.content)

    @property
    def sha256(self) -> str:
        """The SHA-256 of its UTF-8 bytes, hexadecimal."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """The length of its UTF-8 bytes."""
        return len(self.content.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt, of plain words or a conversation; and the answer it should get, if given.

    `text` is what is continued, or what the conversation's last message says.
    """

    messages: tuple[Message, ...]
    text: str
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Prompts of a user's own, in their order.

    `sha256` and `size_bytes` are of what was given and how: of each prompt as one line of JSON.
    """

    name: str
    sha256: str
    size_bytes: int
    prompts: tuple[Prompt, ...]

    @classmethod
    def of(cls, given: Iterable[str | Sequence[Message] | Prompt], *, name: str = "") -> Prompts:
        """Prompts of plain words, of conversations, or already made. Raises UsageError."""
        made = []
        for item in given:
            if isinstance(item, Prompt):
                made.append(item)
            elif isinstance(item, str):
                made.append(Prompt(messages=(), text=item))
            elif item:
                made.append(Prompt(messages=tuple(item), text=item[-1].content))
        if not made or not all(prompt.text.strip() for prompt in made):
            raise UsageError(
                "A prompt is empty." if made else "There are no prompts.",
                way_out="Give at least one that says something.",
            )
        for prompt in made:
            for words in (prompt.text, prompt.answer or "", *(m.content for m in prompt.messages)):
                _check_whole(words)
        lines = "".join(f"{_line(prompt)}\n" for prompt in made).encode()
        return cls(
            name=name or f"{len(made)} prompts",
            sha256=hashlib.sha256(lines).hexdigest(),
            size_bytes=len(lines),
            prompts=tuple(made),
        )

    @property
    def answered(self) -> bool:
        """Whether an answer was given to every one; the reference gives those that were not."""
        return all(prompt.answer is not None for prompt in self.prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Tokens read from an empty context; the logits after `tokens[first:-1]` are scored.

    They are scored on the token that follows each: `tokens[first + 1:]`.
    """

    tokens: tuple[int, ...]
    first: int


def default_context_tokens(*artifacts: Artifact) -> int:
    """The length of a text's passages where none is asked for, so that all these models have it.

    512 tokens, llama-perplexity's default, or the shortest context if that is less.
    """
    return min([512, *(a.shape.context_tokens for a in artifacts if a.shape.context_tokens > 0)])


def source_kind(source: Text | Prompts) -> Literal["text", "prompts"]:
    """Which of the two it is, as records have it."""
    return "text" if isinstance(source, Text) else "prompts"


def tokens_sha256(passages: Iterable[Passage]) -> str:
    """The SHA-256 of all token ids and of where scoring begins in each passage, hexadecimal.

    Of every passage: first scored position, length, ids; uint32, little-endian.
    """
    digest = hashlib.sha256()
    for passage in passages:
        count = len(passage.tokens)
        digest.update(struct.pack(f"<{count + 2}I", passage.first, count, *passage.tokens))
    return digest.hexdigest()


def read_text(path: str | os.PathLike[str]) -> Text:
    """Reads a text in UTF-8, to the letter.

    Raises UsageError when there is none, FormatError for one that is no UTF-8 or too large.
    """
    file = Path(path)
    content = _read(file, MOST_TEXT_BYTES, "text")
    if not content.strip():
        raise FormatError(f"{file.name} is empty.", way_out="Name a file with text in it.")
    return Text(name=file.name, content=content)


def read_prompts(path: str | os.PathLike[str]) -> Prompts:
    """Reads prompts, one JSON object on each line.

    `{"prompt": "..."}` is continued as it is; `{"messages": [{"role": "user", "content": "..."}]}`
    is answered by the model's chat template. Either may have an `"answer"`. Raises UsageError when
    there is no file, FormatError naming the line that is something else.
    """
    file = Path(path)
    content = _read(file, MOST_PROMPTS_BYTES, "file of prompts")
    found: list[Prompt] = []
    # Not splitlines(): JSON may hold other line ends inside its strings.
    for number, line in enumerate(content.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        if len(found) == MOST_PROMPTS:
            raise FormatError(
                f"{file.name} has more than {MOST_PROMPTS:,} prompts.",
                way_out="Take a part of them.",
            )
        try:
            found.append(_prompt(line))
        except (FormatError, UsageError) as error:
            raise FormatError(
                f"{file.name}, line {number}: {error.fact}",
                cause=error.cause,
                way_out=error.way_out or f"Write lines like {_EXAMPLE}",
            ) from None
    if not found:
        raise FormatError(f"{file.name} holds no prompts.", way_out=f"Write lines like {_EXAMPLE}")
    return Prompts.of(found, name=file.name)


def evaluation_text() -> Text:
    """The text that ships for any model: varied, and small.

    About 17 kB tell levels apart that differ clearly; a perplexity worth publishing needs more.
    """
    return _shipped("evaluation.txt", f"{_PACKAGE}.quality")


def held_out_stories() -> Text:
    """The stories that the shipped model was not trained on, for that model only."""
    return _shipped("heldout.txt", f"{_PACKAGE}.tiny_model")


def _shipped(name: str, folder: str) -> Text:
    package, _, inner = folder.rpartition(".")
    content = importlib.resources.files(package).joinpath(inner, name).read_bytes().decode()
    return Text(name=name, content=content, shipped=True)


def _read(path: Path, most_bytes: int, kind: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise UsageError(
            f"The {kind} {path} cannot be read.",
            cause=f"{error.strerror or error}.",
            way_out="Name a file that is there.",
        ) from error
    if len(data) > most_bytes:
        raise FormatError(
            f"The {kind} {path.name} is larger than {format_bytes(most_bytes)}.",
            way_out="Take a part of it: scoring costs as much as reading it as a prompt.",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(
            f"The {kind} {path.name} is not in UTF-8.",
            cause=f"Byte {error.start} is {data[error.start]:#04x}.",
            way_out=f"Convert it: iconv -t UTF-8 {path.name}",
        ) from None


def _prompt(line: str) -> Prompt:
    """Reads one line of prompts. Raises FormatError."""
    try:
        data = json.loads(line)
    except RecursionError:
        raise FormatError("it is nested too deeply.") from None
    except ValueError as error:
        raise FormatError("it is no JSON.", cause=f"{error}.") from None
    if not isinstance(data, dict):
        raise FormatError(f"it is no JSON object but {_shown(data)}.")
    unknown = sorted(set(data) - {"prompt", "messages", "answer"})
    if unknown:
        raise FormatError(
            f"it has the unknown field {_shown(unknown[0])}.",
            cause="Known are prompt, messages and answer.",
        )
    if ("prompt" in data) == ("messages" in data):
        raise FormatError("it must have either a prompt or messages.")
    answer = _words(data["answer"], "answer") if "answer" in data else None
    if "prompt" in data:
        return Prompt(messages=(), text=_words(data["prompt"], "prompt"), answer=answer)
    messages = _messages(data["messages"])
    return Prompt(messages=messages, text=messages[-1].content, answer=answer)


def _messages(data: object) -> tuple[Message, ...]:
    if not (isinstance(data, list) and 1 <= len(data) <= MOST_MESSAGES):
        raise FormatError(f"messages must be a list of 1 to {MOST_MESSAGES} messages.")
    found = []
    for item in data:
        if not (isinstance(item, dict) and set(item) == {"role", "content"}):
            raise FormatError(
                "a message must have a role and a content, and nothing else.",
                way_out='Write messages like {"role": "user", "content": "Hello"}',
            )
        role = _words(item["role"], "role")
        found.append(Message(role=role, content=_words(item["content"], "content")))
    if found[-1].role == "assistant":
        raise FormatError(
            "the last message is the assistant's, so there is nothing to answer.",
            way_out='Give what it should say as "answer".',
        )
    return tuple(found)


def _words(data: object, name: str) -> str:
    if not isinstance(data, str):
        raise FormatError(f"{name} must be a string, not {_shown(data)}.")
    if not data.strip():
        raise FormatError(f"{name} is empty.")
    _check_whole(data)
    return data


def _check_whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "The text has half a character in it.",
            cause=f"Character {error.start} is a surrogate without its other half.",
            way_out="Write the whole character.",
        ) from None


def _shown(data: object) -> str:
    return f"{data!r:.40}"


def _line(prompt: Prompt) -> str:
    """A prompt as JSON that does not depend on how it was written."""
    data: dict[str, object] = (
        {"messages": [{"role": m.role, "content": m.content} for m in prompt.messages]}
        if prompt.messages
        else {"prompt": prompt.text}
    )
    if prompt.answer is not None:
        data["answer"] = prompt.answer
    return json.dumps(data, ensure_ascii=True, separators=(",", ":"))
