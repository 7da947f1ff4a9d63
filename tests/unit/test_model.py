"""The embedding programmer's door: `edge_runtime.load` and what it gives."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edge_runtime as edge
from edge_runtime import GREEDY, Message, Sampling, SessionOptions
from edge_runtime.errors import ContextFullError, ModelNotFoundError, UnsupportedError, UsageError


def test_the_readmes_snippet_writes_sentences(tiny_gguf: Path) -> None:
    with edge.load(str(tiny_gguf), threads=1) as model:
        pieces = list(model.stream("Once upon a time", max_tokens=64, sampling=GREEDY))
        assert all(pieces)
        text = "".join(pieces)
        assert text == model.generate("Once upon a time", max_tokens=64, sampling=GREEDY)
    words = text.split()
    assert len(words) > 20
    assert np.mean([word.strip('.,!?"').isalpha() for word in words]) > 0.8


def test_greedy_is_the_same_in_every_process(tiny_gguf: Path) -> None:
    program = (
        "import sys, edge_runtime as edge\n"
        "with edge.load(sys.argv[1], threads=1) as m:\n"
        "    print(m.generate('The cat', max_tokens=24, sampling=edge.GREEDY), end='')"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program, str(tiny_gguf)],
            capture_output=True,
            timeout=60,
            check=False,
        )
        for _ in range(2)
    ]
    assert runs[0].stdout
    assert runs[0].stderr == b""
    assert runs[0].stdout == runs[1].stdout


def test_shortcuts_replace_the_options(random_gguf: Path) -> None:
    options = SessionOptions(context_tokens=512, threads=2)
    with edge.load(random_gguf, options=options, context_tokens=300, threads=1) as model:
        assert model.context_tokens == 512
        assert model.session.options.threads == 1
        assert model.artifact.name == "random bytes"


def test_another_backend_can_be_asked_for(random_gguf: Path) -> None:
    with edge.load(random_gguf, options=SessionOptions(backend="fake")) as model:
        assert model.session.engine.name == "fake"
        assert model.generate("Hello", max_tokens=5, sampling=GREEDY)
    with pytest.raises(UsageError, match="no backend"):
        edge.load(random_gguf, options=SessionOptions(backend="none"))


def test_a_conversation_goes_through_the_template(tiny_gguf: Path) -> None:
    with edge.load(tiny_gguf, threads=1) as model:
        turns = [("system", "Be kind."), Message(role="user", content="Who are you?")]
        answer = "".join(model.chat(turns, max_tokens=48, sampling=GREEDY))
        assert answer.strip()
        tokens = model.chat_tokens(turns)
        assert model.detokenize(tokens).replace("\n", " ").split() == (
            ["system", "Be", "kind.", "user", "Who", "are", "you?", "assistant"]
        )
        more = model.chat_tokens([*turns, ("assistant", answer), ("user", "And now?")])
        assert more[: len(tokens)] == tokens
        with pytest.raises(UsageError, match="role, content"):
            model.chat_tokens(["just a text"])


def test_the_beginning_token_is_not_doubled(make_random_gguf: Callable[..., Path]) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}"
    with edge.load(make_random_gguf("b.gguf", bos=True, template=template)) as model:
        assert model.tokenize("hi") == [257, *b"hi"]
        assert model.chat_tokens([("user", "hi")]) == [257, *b"hi"]
    with edge.load(
        make_random_gguf("c.gguf", bos=True, template="{{ messages[0].content }}")
    ) as model:
        assert model.chat_tokens([("user", "hi")]) == [257, *b"hi"]


def test_without_a_template_chatting_is_refused(make_random_gguf: Callable[..., Path]) -> None:
    with (
        edge.load(make_random_gguf("n.gguf", template=None)) as model,
        pytest.raises(UnsupportedError, match="no chat template"),
    ):
        model.chat([("user", "hi")])


def test_stop_strings_and_cancelling_reach_the_session(random_gguf: Path) -> None:
    with edge.load(random_gguf, threads=1) as model:
        sampling = Sampling(temperature=0.0, ignore_eos=True)
        text = model.generate("x", max_tokens=30, sampling=sampling)
        stop = text[4:6]
        cut = model.generate("x", max_tokens=30, sampling=sampling, stop=(stop,))
        assert cut == text[: text.index(stop)]
        cancel = threading.Event()
        cancel.set()
        assert model.generate("x", cancel=cancel) == ""
        with pytest.raises(ContextFullError):
            model.stream("x" * 5000)


def test_structured_answers_parse(tiny_gguf: Path) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    with edge.load(tiny_gguf, threads=1) as model:
        answer = model.generate(
            "Answer:", sampling=Sampling(json_schema=json.dumps(schema), seed=1)
        )
    assert isinstance(json.loads(answer)["ok"], bool)


def test_embeddings_of_a_model_without_pooling_are_the_mean(random_gguf: Path) -> None:
    with edge.load(random_gguf, threads=1, embeddings=True) as model:
        vector = np.array(model.embed("some text"))
        assert vector.shape == (64,)
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
        with pytest.raises(ContextFullError, match="one batch"):
            model.embed("x" * 600)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        edge.load(tmp_path / "none.gguf")


def test_importing_loads_the_standard_library_only() -> None:
    program = (
        "import sys, edge_runtime, edge_runtime.model, edge_runtime.sources\n"
        "heavy = {'numpy', 'llama_cpp', 'typer', 'rich', 'psutil', 'gguf', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[]"
