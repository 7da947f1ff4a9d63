"""What every backend's session promises, checked on each of them with the same tests."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_decoders import Layout, write_folder, write_synthetic

from edge_runtime import backends
from edge_runtime.artifact import Artifact
from edge_runtime.backends import GREEDY, Message, Sampling, Session, slices
from edge_runtime.backends.generation import NO_TOKEN
from edge_runtime.errors import (
    BackendError,
    ContextFullError,
    EdgeError,
    UnsupportedError,
    UsageError,
)
from edge_runtime.measurement import SessionOptions

PROMPT = "The quick brown fox jumps over the lazy dog."
Open = Callable[..., Session]


ONNX_LAYOUTS = {
    "onnx": Layout(),
    "onnx growing": Layout(fused=False, position_ids=True),
}
"""A graph whose cache is updated in place, and one whose cache grows."""

OURS = "onnx ours"
"""A graph of our own writer: its inputs that need not be given are."""


@pytest.fixture(params=["llama_cpp", "fake", *ONNX_LAYOUTS, OURS])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name(variant: str) -> str:
    return variant.split(maxsplit=1)[0]


@pytest.fixture(scope="session")
def random_onnx(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    written = {key: write_folder(folder / key, layout) for key, layout in ONNX_LAYOUTS.items()}
    return {**written, OURS: write_synthetic(folder / OURS)}


@pytest.fixture
def open_session(variant: str, random_gguf: Path, random_onnx: dict[str, Path]) -> Iterator[Open]:
    opened: list[Session] = []
    path = random_onnx.get(variant, random_gguf)

    def open_one(**options: object) -> Session:
        settled = SessionOptions(**{"context_tokens": 512, "threads": 1, **options})
        backend = backends.backend(variant.split(maxsplit=1)[0])
        opened.append(backend.open(Artifact.open(path), settled))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


@pytest.fixture
def session(open_session: Open) -> Session:
    return open_session()


def text_of(session: Session, prompt: str = PROMPT, **wishes: object) -> str:
    return "".join(piece.text for piece in session.stream(prompt, **wishes))


def tokens_of(session: Session, prompt: str = PROMPT, **wishes: object) -> list[int]:
    return [piece.token for piece in session.stream(prompt, **wishes)]


def test_it_is_what_the_protocols_say(name: str, session: Session) -> None:
    backend = backends.backend(name)
    assert isinstance(backend, backends.Backend)
    assert isinstance(session, backends.Session)
    assert isinstance(session.sampler(GREEDY), backends.Sampler)
    assert backend.name == name
    assert session.artifact.format in backend.formats
    assert replace(session.engine, placement=()) == backend.engine()
    assert all(buffer.size_bytes >= 0 for buffer in session.buffers)
    assert {"model", "kv", "compute"} <= {buffer.purpose for buffer in session.buffers}


def test_the_options_in_force_are_recorded(open_session: Open) -> None:
    session = open_session(context_tokens=None, threads=None)
    assert session.options.context_tokens == session.context_tokens >= 256
    assert session.options.threads is not None
    assert session.options.threads >= 1
    assert session.options.gpu_layers == 0 or backends.backend(session.options.backend).gpus()


def test_greedy_generation_is_deterministic(open_session: Open) -> None:
    first, second = open_session(), open_session()
    wanted = tokens_of(first, max_tokens=40, sampling=GREEDY)
    assert tokens_of(first, max_tokens=40, sampling=GREEDY) == wanted
    assert tokens_of(second, max_tokens=40, sampling=GREEDY) == wanted


def test_greedy_takes_the_largest_logit(session: Session) -> None:
    session.prefill(session.tokenize(PROMPT))
    logits = session.logits()
    sampler = session.sampler(GREEDY)
    assert sampler.sample() == int(np.argmax(logits))
    sampler.close()
    sampler.close()


def test_the_first_next_prefills_and_each_later_one_is_one_step(session: Session) -> None:
    prompt = session.tokenize(PROMPT)
    stream = session.stream(PROMPT, max_tokens=8, sampling=Sampling(seed=3, ignore_eos=True))
    assert session.position == 0
    for steps, piece in enumerate(stream):
        assert session.position == len(prompt) + steps
        assert 0 <= piece.token < session.vocabulary_tokens
    assert session.position == len(prompt) + 7


def test_nothing_is_printed(open_session: Open, capfd: pytest.CaptureFixture[str]) -> None:
    session = open_session()
    text_of(session, max_tokens=4, sampling=GREEDY)
    with pytest.raises(EdgeError):
        text_of(session, max_tokens=1, sampling=Sampling(grammar='root ::= "'))
    session.close()
    assert capfd.readouterr() == ("", "")


def test_a_length_limit_ends_with_its_reason(session: Session) -> None:
    pieces = list(session.stream(PROMPT, max_tokens=5, sampling=Sampling(seed=1, ignore_eos=True)))
    assert len(pieces) == 5
    assert [piece.finish for piece in pieces] == [None] * 4 + ["length"]


def test_a_full_context_ends_with_its_reason(open_session: Open) -> None:
    session = open_session(context_tokens=256)
    prompt = session.tokenize("x" * (session.context_tokens - 6))
    pieces = list(session.stream(prompt, sampling=Sampling(seed=1, ignore_eos=True)))
    assert pieces[-1].finish == "context"
    assert session.position == session.context_tokens
    assert len(pieces) == session.context_tokens - len(prompt) + 1


def test_a_prompt_too_long_is_refused_before_any_work(session: Session) -> None:
    long = [65] * (session.context_tokens + 1)
    with pytest.raises(ContextFullError, match="do not fit"):
        session.stream(long)
    with pytest.raises(ContextFullError):
        session.prefill(long)
    assert session.position == 0


def test_a_step_beyond_the_context_is_refused(open_session: Open) -> None:
    session = open_session(context_tokens=256)
    session.prefill([65] * session.context_tokens)
    with pytest.raises(ContextFullError):
        session.step(65)
    session.reset()
    session.prefill([65])
    session.step(66)
    assert session.position == 2


@pytest.mark.parametrize("token", [-1, 10**6, 2**40])
def test_a_token_outside_the_vocabulary_is_refused(session: Session, token: int) -> None:
    for act in (session.prefill, session.stream, session.detokenize):
        with pytest.raises(UsageError, match="no token"):
            act([65, token])
    session.prefill([65])
    with pytest.raises(UsageError, match="no token"):
        session.step(token)
    assert session.position == 1


def test_text_survives_tokens_and_back(session: Session) -> None:
    text = "Grüße, 東京! 🙂 <|im_start|>"
    assert session.detokenize(session.tokenize(text)) == text


def test_multi_byte_characters_arrive_whole(session: Session) -> None:
    sampling = Sampling(temperature=1.5, seed=4, ignore_eos=True)
    pieces = list(session.stream(PROMPT, max_tokens=200, sampling=sampling))
    session.reset()
    data = bytes(piece.token for piece in pieces if piece.token < 256)
    whole = data.decode("utf-8", "replace")
    text = "".join(piece.text for piece in pieces)
    # An unfinished character at the very end is no text; everything before must agree.
    assert whole.startswith(text)
    assert len(whole) - len(text) <= 1
    assert any(ord(char) > 127 for char in text)


def test_a_stop_string_ends_the_text_and_is_never_shown(session: Session) -> None:
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    free = list(session.stream(PROMPT, max_tokens=60, sampling=sampling))
    text = "".join(piece.text for piece in free)
    readable = [i for i in range(5, len(text) - 3) if "\ufffd" not in text[i : i + 3]]
    stop = text[readable[0] : readable[0] + 3]
    pieces = list(session.stream(PROMPT, max_tokens=60, sampling=sampling, stop=("", stop)))
    assert pieces[-1].finish == "stop"
    assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]


def test_text_held_for_a_stop_string_is_given_at_the_end(session: Session) -> None:
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    text = text_of(session, max_tokens=30, sampling=sampling)
    last = text[-1]
    held = text_of(session, max_tokens=30, sampling=sampling, stop=(last + "never so",))
    assert held == text


def test_seeds_reproduce_and_differ(session: Session) -> None:
    def sampled(seed: int) -> list[int]:
        sampling = Sampling(temperature=1.2, seed=seed, ignore_eos=True)
        return tokens_of(session, max_tokens=24, sampling=sampling)

    assert sampled(11) == sampled(11)
    assert sampled(11) != sampled(12)


def test_cancelling_between_steps_ends_the_stream(session: Session) -> None:
    cancel = threading.Event()
    stream = session.stream(PROMPT, sampling=Sampling(seed=1, ignore_eos=True), cancel=cancel)
    taken = list(itertools.islice(stream, 3))
    position = session.position
    cancel.set()
    rest = list(stream)
    assert [piece.finish for piece in (*taken, *rest)] == [None, None, None, "cancelled"]
    assert rest[0].token == NO_TOKEN
    assert session.position == position


def test_cancelling_before_the_start_evaluates_nothing(session: Session) -> None:
    cancel = threading.Event()
    cancel.set()
    pieces = list(session.stream(PROMPT, cancel=cancel))
    assert [piece.finish for piece in pieces] == ["cancelled"]
    assert session.position == 0


def test_reset_forgets(session: Session) -> None:
    session.prefill(session.tokenize("abc"))
    before = list(session.logits())
    session.step(100)
    session.reset()
    assert session.position == 0
    with pytest.raises(BackendError, match="no logits"):
        session.logits()
    session.prefill(session.tokenize("abc"))
    assert list(session.logits()) == before


def test_reset_keeps_a_prefix(session: Session) -> None:
    session.prefill(session.tokenize("abcdef"))
    session.reset(keep_tokens=3)
    assert session.position == 3
    session.prefill(session.tokenize("xyz"))
    kept = np.array(session.logits())
    session.reset()
    session.prefill(session.tokenize("abcxyz"))
    assert np.allclose(kept, session.logits(), atol=2e-2)
    with pytest.raises(UsageError):
        session.reset(keep_tokens=7)
    with pytest.raises(UsageError):
        session.reset(keep_tokens=-1)


def test_a_reused_prefix_changes_nothing(open_session: Open) -> None:
    used, fresh = open_session(), open_session()
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    beginning = tokens_of(used, PROMPT, max_tokens=6, sampling=sampling)
    longer = used.tokenize(PROMPT) + beginning + used.tokenize(" And then")
    again = [piece.token for piece in used.stream(longer, max_tokens=24, sampling=sampling)]
    once = [piece.token for piece in fresh.stream(longer, max_tokens=24, sampling=sampling)]
    assert again == once


def test_prefill_in_chunks_equals_prefill_at_once(open_session: Open) -> None:
    tokens = [(7 * i) % 250 for i in range(100)]
    at_once = open_session()
    at_once.prefill(tokens)
    chunked = open_session(batch_tokens=32, micro_batch_tokens=16)
    chunked.prefill(tokens)
    by_hand = open_session()
    for token in tokens:
        by_hand.step(token) if by_hand.position else by_hand.prefill([token])
    wanted = np.array(at_once.logits())
    assert len(wanted) == at_once.vocabulary_tokens
    # Kernels for one row and for many round differently; the F16 cache bounds how much.
    assert np.allclose(chunked.logits(), wanted, atol=2e-2)
    assert np.allclose(by_hand.logits(), wanted, atol=2e-2)


def test_an_overtaken_stream_says_so(session: Session) -> None:
    sampling = Sampling(seed=1, ignore_eos=True)
    older = session.stream("one", max_tokens=9, sampling=sampling)
    next(older)
    next(session.stream("two", max_tokens=9, sampling=sampling))
    with pytest.raises(BackendError, match="overtaken"):
        next(older)


def test_use_after_close_raises(session: Session) -> None:
    stream = session.stream(PROMPT, max_tokens=9, sampling=Sampling(seed=1, ignore_eos=True))
    next(stream)
    sampler = session.sampler(GREEDY)
    session.close()
    session.close()
    for act in (
        lambda: next(stream),
        sampler.sample,
        session.logits,
        session.reset,
        lambda: session.step(1),
        lambda: session.prefill([1]),
        lambda: session.tokenize("x"),
        lambda: session.detokenize([65]),
        lambda: session.stream("x"),
        lambda: session.sampler(GREEDY),
    ):
        with pytest.raises(BackendError, match="closed"):
            act()
    sampler.close()


def test_a_conversation_is_rendered_by_the_models_template(session: Session) -> None:
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="<Hi> & bye"),
    )
    assert session.render_chat(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<Hi> & bye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    closed = session.render_chat(messages[:1], add_generation_prompt=False)
    assert closed == "<|im_start|>system\nBe brief.<|im_end|>\n"


def test_embeddings_have_unit_length_and_depend_on_the_text(
    variant: str, open_session: Open
) -> None:
    session = open_session(embeddings=True)
    if variant == OURS:
        with pytest.raises(UnsupportedError, match="no hidden states"):
            session.embed("a dog")
        return
    one, two = (np.array(session.embed(text)) for text in ("a dog", "a ship in the night"))
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)
    assert np.allclose(one, session.embed("a dog"), atol=1e-6)
    assert not np.allclose(one, two, atol=1e-2)
    assert text_of(session, max_tokens=3, sampling=Sampling(seed=1, ignore_eos=True)) is not None
    with pytest.raises(UsageError):
        session.embed("")


def test_embeddings_must_be_asked_for_when_opening(session: Session) -> None:
    with pytest.raises(UsageError, match="not opened for embeddings"):
        session.embed("a dog")


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling": Sampling(temperature=-1.0)},
        {"sampling": Sampling(temperature=float("nan"))},
        {"sampling": Sampling(top_p=1.5)},
        {"sampling": Sampling(top_k=-1)},
        {"sampling": Sampling(seed=2**32)},
        {"sampling": Sampling(grammar="root ::= [a]", json_schema="{}")},
        {"sampling": Sampling(grammar="root ::= [a]", ignore_eos=True)},
        {"max_tokens": 0},
        {"stop": "bare"},
    ],
)
def test_impossible_wishes_are_refused_at_once(session: Session, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        session.stream(PROMPT, **wrong)


def test_an_empty_prompt_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="empty"):
        session.stream("")


def test_grammars_are_obeyed_or_refused(name: str, session: Session) -> None:
    schema = json.dumps(
        {
            "type": "object",
            "properties": {"name": {"enum": ["Ada", "Alan"]}, "born": {"type": "boolean"}},
            "required": ["name", "born"],
            "additionalProperties": False,
        }
    )
    sampling = Sampling(json_schema=schema, seed=5)
    if name in ("fake", "onnx"):
        with pytest.raises(UnsupportedError, match="no grammars"):
            text_of(session, sampling=sampling)
        return
    pieces = list(session.stream(PROMPT, max_tokens=400, sampling=sampling))
    assert pieces[-1].finish == "eos"
    answer = json.loads("".join(piece.text for piece in pieces))
    assert answer["name"] in ("Ada", "Alan")
    assert isinstance(answer["born"], bool)


TOKENS = [(7 * i) % 250 for i in range(90)]


def rows_of(session: Session, tokens: list[int], *, first: int = 0) -> np.ndarray:
    """The rows of all blocks; they are copied, because a block lives until the next one."""
    blocks = [np.array(block) for block in session.all_logits(tokens, first=first)]
    return np.concatenate(blocks)


def test_all_logits_are_those_after_each_step(open_session: Open) -> None:
    session = open_session(batch_tokens=64, micro_batch_tokens=32)
    session.prefill(TOKENS[:5])
    rows = rows_of(session, TOKENS[5:], first=20)
    assert rows.shape == (len(TOKENS) - 25, session.vocabulary_tokens)
    assert rows.dtype == np.float32
    assert session.position == len(TOKENS)
    stepped = open_session()
    stepped.prefill(TOKENS[:25])
    for row, token in zip(rows, TOKENS[25:], strict=True):
        stepped.step(token)
        # Kernels for one row and for many round differently; the F16 cache bounds how much.
        assert np.allclose(row, stepped.logits(), atol=2e-2)


def test_all_logits_come_in_blocks_of_bounded_size(
    open_session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session()
    wanted = rows_of(session, TOKENS, first=10)
    vocabulary = session.vocabulary_tokens
    monkeypatch.setattr(slices, "LOGITS_BYTES", 20 * vocabulary * 4)
    small = open_session()
    blocks = []
    for block in small.all_logits(TOKENS, first=10):
        assert block.format == "f"
        assert block.shape[1] == vocabulary
        assert block.shape[0] <= 20
        blocks.append(np.array(block))
        np.asarray(block)[:] = 0.0  # it is the reader's until the next
    assert len(blocks) >= 4
    assert np.allclose(np.concatenate(blocks), wanted, atol=0.1)  # rows of others differ by more


def test_all_logits_begin_with_the_first_block_and_leave_none_behind(session: Session) -> None:
    before = tokens_of(session, max_tokens=8, sampling=GREEDY)
    session.reset()
    blocks = session.all_logits(TOKENS, first=80)
    assert session.position == 0
    assert sum(block.shape[0] for block in blocks) == 10
    assert session.position == len(TOKENS)
    with pytest.raises(BackendError, match="no logits"):
        session.logits()
    session.step(3)
    session.reset(keep_tokens=40)
    assert list(session.all_logits(TOKENS[:30], first=30)) == []
    assert session.position == 70
    assert list(session.all_logits([])) == []
    assert tokens_of(session, max_tokens=8, sampling=GREEDY) == before


def test_all_logits_are_refused_at_the_call(session: Session) -> None:
    for tokens, first, error in (
        ([65, -1], 0, UsageError),
        ([65, 10**6], 0, UsageError),
        ([65], 2, UsageError),
        ([65], -1, UsageError),
        ([65] * (session.context_tokens + 1), 0, ContextFullError),
    ):
        with pytest.raises(error):
            session.all_logits(tokens, first=first)
    assert session.position == 0
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.all_logits([65])


def test_reading_all_logits_of_a_session_used_otherwise_ends(open_session: Open) -> None:
    session = open_session(batch_tokens=32, micro_batch_tokens=32)
    blocks = session.all_logits(TOKENS)
    next(blocks)
    session.step(1)
    with pytest.raises(BackendError, match="used otherwise"):
        next(blocks)
    session.reset()
    blocks = session.all_logits(TOKENS)
    next(blocks)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        next(blocks)
