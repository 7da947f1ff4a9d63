"""Chat templates are strangers' programs: rendered as meant, contained when hostile."""

from __future__ import annotations

import datetime as dt

import pytest

from edge_runtime.backends import Message
from edge_runtime.backends.chat_template import plain_text, render
from edge_runtime.errors import EdgeError, FormatError, UnsupportedError, UsageError

HELLO = (Message(role="user", content="Hello"),)


def rendered(template: str | None, messages: tuple[Message, ...] = HELLO, **more: bool) -> str:
    return render(template, messages, bos_token="<s>", eos_token="</s>", **more)


def test_a_template_sees_what_hugging_face_templates_expect() -> None:
    template = (
        "{{ bos_token }}\n"
        "{%- for message in messages %}\n"
        "    {%- if message['role'] == 'user' %}\n"
        "        {{- '[INST] ' + message.content | trim + ' [/INST]' }}\n"
        "    {%- else %}\n"
        "        {{- message.content + eos_token }}\n"
        "    {%- endif %}\n"
        "    {%- if loop.index == 2 %}{% break %}{% endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt and not tools %}>{% endif %}"
    )
    turns = (*HELLO, Message(role="assistant", content="Hi"), Message(role="user", content="no"))
    assert rendered(template, turns) == "<s>[INST] Hello [/INST]Hi</s>>"
    assert rendered(template, turns, add_generation_prompt=False).endswith("Hi</s>")


def test_json_is_written_without_html_escapes() -> None:
    turns = (Message(role="user", content="<a> & 'ü'"),)
    assert rendered("{{ messages[0].content | tojson }}", turns) == "\"<a> & 'ü'\""


def test_training_marks_are_accepted() -> None:
    assert rendered("a{% generation %}{{ eos_token }}{% endgeneration %}b") == "a</s>b"


def test_the_date_is_todays() -> None:
    assert rendered("{{ strftime_now('%Y') }}") == str(dt.datetime.now().astimezone().year)


def test_a_templates_own_refusal_is_the_users_mistake() -> None:
    with pytest.raises(UsageError, match="only one system message"):
        rendered("{{ raise_exception('only one system message') }}")


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ messages[5].content.x }}",
        "{{ 1 / 0 }}",
        "{{ undefined_function() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include 'secret' %}",
        "x" * (1 << 21),
    ],
)
def test_broken_and_hostile_templates_become_errors(template: str) -> None:
    with pytest.raises(FormatError):
        rendered(template)


def test_a_template_that_writes_without_end_is_stopped() -> None:
    endless = "{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}"
    with pytest.raises(EdgeError, match="without end"):
        rendered(endless, (Message(role="user", content="x" * 10_000),))


def test_without_a_template_nothing_is_guessed() -> None:
    with pytest.raises(UnsupportedError, match="no chat template"):
        rendered(None)
    assert plain_text(HELLO) == "user: Hello\nassistant:"
    assert plain_text(HELLO, add_generation_prompt=False) == "user: Hello"
