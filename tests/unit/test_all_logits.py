"""The logits after many tokens: how each engine is made to give them, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_decoders import Layout, write_folder

from edge_runtime import backends
from edge_runtime.artifact import Artifact
from edge_runtime.backends import GREEDY, slices
from edge_runtime.backends.llama_cpp import session as llama_session
from edge_runtime.backends.llama_cpp.session import LlamaCppSession
from edge_runtime.errors import BackendError, UnsupportedError
from edge_runtime.measurement import SessionOptions

TOKENS = [i * 7 % 250 for i in range(150)]


def opened(path: Path, name: str = "llama_cpp", **options: Any) -> Any:
    settled = SessionOptions(**{"threads": 1, "context_tokens": 256, **options})
    return backends.backend(name).open(Artifact.open(path), settled)


def rows_of(session: Any, tokens: list[int], first: int = 0) -> Any:
    blocks = session.all_logits(tokens, first=first)
    return np.concatenate([np.array(block) for block in blocks])


@given(
    count=st.integers(0, 300),
    first=st.integers(0, 300),
    batch=st.integers(1, 64),
    rows=st.integers(1, 64),
)
def test_every_token_is_evaluated_once_and_no_slice_is_too_large(
    count: int, first: int, batch: int, rows: int
) -> None:
    start, wanted = 0, 0
    while start < count:
        ahead = max(0, first - start)
        length = slices.length(count - start, ahead, batch_tokens=batch, rows=rows)
        given_rows = max(0, length - ahead)
        assert 1 <= length <= batch
        assert given_rows <= rows
        start, wanted = start + length, wanted + given_rows
    assert start == count
    assert wanted == max(0, count - first)


def test_the_logits_of_one_evaluation_are_bounded() -> None:
    assert slices.most_rows(259, 512) == 512
    assert slices.most_rows(151_936, 512) * 151_936 * 4 <= slices.LOGITS_BYTES
    assert slices.most_rows(10**9, 512) == 16  # fewer would take an evaluation for each token


def test_llama_cpps_context_is_made_anew_once_with_room_for_the_logits(
    random_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    widened = llama_session.widened

    def counted(native: Any, artifact: Artifact, rows: int) -> Any:
        made.append(rows)
        return widened(native, artifact, rows)

    freed: list[object] = []
    monkeypatch.setattr(llama_session, "widened", counted)
    with opened(random_gguf, micro_batch_tokens=64) as session:
        narrow_context, free = session.native.context, session.native.lib.llama_free

        def release(context: Any) -> None:
            freed.append(context)
            free(context)

        monkeypatch.setattr(session.native.lib, "llama_free", release)
        narrow = {buffer.purpose: buffer.size_bytes for buffer in session.buffers}
        sampler = session.sampler(GREEDY)
        session.prefill(TOKENS[:9])
        before = sampler.sample()
        rows = rows_of(session, TOKENS[9:])
        rows_of(session, TOKENS[:9])
        wide = {buffer.purpose: buffer.size_bytes for buffer in session.buffers}
        assert made == [64]
        assert freed == [narrow_context]
        assert wide["model"] == narrow["model"]
        assert wide["kv"] == narrow["kv"]
        assert session.position == len(TOKENS) + 9
        assert rows.shape == (len(TOKENS) - 9, session.vocabulary_tokens)
        session.reset()
        session.prefill(TOKENS[:9])
        assert sampler.sample() == before


def test_a_session_outlives_a_wider_context_that_cannot_be_made(
    random_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(random_gguf) as session:
        assert isinstance(session, LlamaCppSession)
        session.prefill(TOKENS[:9])
        before = list(session.logits())
        with monkeypatch.context() as patch:
            patch.setattr(session.native.lib, "llama_init_from_model", lambda *_: None)
            with pytest.raises(BackendError, match="cannot make a context"):
                next(session.all_logits(TOKENS))
        assert session.position == 9
        assert list(session.logits()) == before
        assert rows_of(session, TOKENS[9:]).shape[0] == len(TOKENS) - 9


def test_a_session_for_embeddings_gives_all_logits_too(random_gguf: Path) -> None:
    with opened(random_gguf, embeddings=True) as session, opened(random_gguf) as plain:
        vector = list(session.embed("a dog"))
        assert np.allclose(rows_of(session, TOKENS), rows_of(plain, TOKENS), atol=0.1)
        assert np.allclose(vector, session.embed("a dog"), atol=1e-6)


def test_a_graph_that_gives_the_last_positions_logits_only_is_refused(tmp_path: Path) -> None:
    with (
        opened(write_folder(tmp_path, Layout(logits="last")), "onnx") as session,
        pytest.raises(UnsupportedError, match="last position only"),
    ):
        session.all_logits(TOKENS)
