"""Renders a conversation by the template a model file carries.

The template is a stranger's program: it runs in Jinja's immutable sandbox, with a bounded output,
and whatever it raises becomes an `EdgeError`. A model without a template is refused here, never
given a guessed one; `plain_text` is the documented plain form for those who ask for it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import EngineMissingError, FormatError, UnsupportedError, UsageError
from . import Message

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_TEMPLATE_CHARS = 1 << 20
MAX_RENDERED_CHARS = 1 << 26


def render(
    template: str | None,
    messages: Sequence[Message],
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt text of a conversation.

    Raises UnsupportedError when there is no template, UsageError when the template refuses these
    messages, FormatError when the template itself is broken.
    """
    if template is None:
        raise UnsupportedError(
            "This model has no chat template.",
            cause="It was not made for conversations, or its file lost the template.",
            way_out="Complete a text instead (model.stream, edge run --raw), or render the "
            "messages plainly with edge_runtime.backends.chat_template.plain_text.",
        )
    if len(template) > MAX_TEMPLATE_CHARS:
        raise FormatError("The chat template is too long to be one.")
    environment = _environment()
    import jinja2

    try:
        chunks = environment.from_string(template).generate(
            messages=[{"role": m.role, "content": m.content} for m in messages],
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
        )
        return _joined(chunks)
    except _RefusedError as error:
        raise UsageError(
            "The model's chat template refuses these messages.", cause=f"It says: {error}."
        ) from error
    except jinja2.TemplateError as error:
        raise FormatError(
            "The model's chat template cannot be rendered.",
            cause=f"{type(error).__name__}: {error}.",
            way_out="Complete a text instead: edge run --raw",
        ) from error
    except FormatError:
        raise
    except Exception as error:  # a stranger's program can raise anything Python can
        raise FormatError(
            "The model's chat template failed.",
            cause=f"{type(error).__name__}: {error}.",
            way_out="Complete a text instead: edge run --raw",
        ) from error


def plain_text(messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
    """The plain form: one `role: content` line per message, then `assistant:`.

    No model was trained on exactly this; it is for models without a template, when asked for.
    """
    lines = [f"{message.role}: {message.content}" for message in messages]
    return "\n".join([*lines, "assistant:"] if add_generation_prompt else lines)


class _RefusedError(Exception):
    """Raised by the template's own `raise_exception`."""


def _refuse(message: object) -> NoReturn:
    raise _RefusedError(str(message))


def _now(pattern: str) -> str:
    return dt.datetime.now().astimezone().strftime(pattern)


def _to_json(value: object, indent: int | None = None, **_: object) -> str:
    # Jinja's own filter escapes for HTML, which would put &lt; into prompts.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _joined(chunks: Any) -> str:
    parts: list[str] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_RENDERED_CHARS:
            raise FormatError("The model's chat template writes without end.")
        parts.append(chunk)
    return "".join(parts)


def _environment() -> Environment:
    try:
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise EngineMissingError(
            "Chat templates need Jinja2.", cause=f"{error}.", way_out="pip install jinja2"
        ) from error

    class Generation(Extension):
        """Accepts `{% generation %}`, by which training scripts mark the assistant's part."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's interface wants a plain class attribute

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    functions: dict[str, Callable[..., object]] = {"raise_exception": _refuse, "strftime_now": _now}
    environment.globals.update(functions)
    environment.filters["tojson"] = _to_json
    return environment
