"""ONNX models as other tools export them: what they do otherwise must not show in what is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_decoders import Layout, write_byte_tokenizer, write_decoder, write_folder

from edge_runtime import backends
from edge_runtime.artifact import Artifact
from edge_runtime.backends import Sampling
from edge_runtime.backends.onnx import vocabulary
from edge_runtime.backends.onnx.session import OnnxSession
from edge_runtime.errors import FormatError, UnsupportedError
from edge_runtime.measurement import SessionOptions

pytestmark = pytest.mark.engine
pytest.importorskip("onnxruntime")

PLAIN = Layout(fused=False)
PROMPT = "The quick brown fox jumps over the lazy dog."
ON = Sampling(temperature=0.0, ignore_eos=True)


def opened(path: Path, **options: Any) -> OnnxSession:
    settled = SessionOptions(**{"threads": 1, "context_tokens": 128, **options})
    session = backends.backend("onnx").open(Artifact.open(path), settled)
    assert isinstance(session, OnnxSession)
    return session


def edited(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def logits_after(session: OnnxSession, *parts: list[int]) -> Any:
    session.reset()
    for part in parts:
        session.prefill(part)
    return np.array(session.logits())


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (replace(PLAIN, blind=True, branch=True), "decoder_model_merged.onnx"),
        (replace(PLAIN, blind=True), "decoder_with_past_model.onnx"),
        (replace(PLAIN, blind=True), "model.onnx"),
        (replace(PLAIN, blind=True, kv="float16"), "model.onnx"),
    ],
)
def test_a_graph_traced_with_one_token_after_a_past_gets_one_at_a_time(
    layout: Layout, name: str, tmp_path: Path
) -> None:
    sound = replace(layout, blind=False, branch=False)
    tokens = list(PROMPT.encode())
    with opened(write_decoder(tmp_path / "sound", sound)) as session:
        wanted = logits_after(session, tokens[:20], tokens[20:])
        text = [p.token for p in session.stream(tokens, max_tokens=20, sampling=ON)]
    folder = write_decoder(tmp_path / "old", layout, name=name).parent
    write_byte_tokenizer(folder)
    with opened(folder, micro_batch_tokens=16) as session:
        tolerance = 1e-3 if layout.kv == "float32" else 5e-2
        assert np.allclose(logits_after(session, tokens[:20], tokens[20:]), wanted, atol=tolerance)
        assert np.allclose(logits_after(session, tokens), wanted, atol=tolerance)
        if layout.kv == "float32":
            assert [p.token for p in session.stream(tokens, max_tokens=20, sampling=ON)] == text
        decoder = session.native.decoder
        assert decoder is not None
        session.reset()
        rows = np.concatenate([np.array(block) for block in decoder.all_logits(tokens)])
        assert np.allclose(rows[-1], wanted, atol=tolerance)


def test_a_graph_that_masks_the_future_keeps_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(write_decoder(tmp_path, PLAIN)) as session:
        decoder = session.native.decoder
        assert decoder is not None
        counts: list[int] = []
        batch = decoder._batch
        monkeypatch.setattr(
            decoder, "_batch", lambda ids, *rest: (counts.append(len(ids)), batch(ids, *rest))
        )
        session.prefill(list(range(30)))
        session.prefill(list(range(30)))
        assert counts == [30, 30]


def test_a_cache_that_must_be_as_long_as_the_window(tmp_path: Path) -> None:
    tokens = list(PROMPT.encode())
    window = Layout(window=16)
    with opened(write_folder(tmp_path / "long", window)) as session:
        wanted = logits_after(session, tokens[:20], tokens[20:])
    short = write_folder(tmp_path / "short", replace(window, short_cache=True))
    try:
        session = opened(short)
    except FormatError:
        pytest.skip("this ONNX Runtime does not know such caches")
    with session:
        assert session.artifact.shape.sliding_window == 16
        got = logits_after(session, tokens[:20], tokens[20:])
        assert np.allclose(got, wanted, atol=1e-3)
        session.reset(keep_tokens=30)
        session.prefill(tokens[30:])
        assert np.allclose(session.logits(), wanted, atol=1e-3)
    with opened(short, context_tokens=8) as session:
        assert {b.purpose: b.size_bytes for b in session.buffers}["kv"] == 2 * 2 * 2 * 16 * 16 * 4
        assert len(list(session.stream([1, 2, 3], max_tokens=5, sampling=ON))) == 5


def test_a_graph_that_cannot_go_on_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    def break_later(model: onnx.ModelProto) -> None:
        # A cache fits into nothing only as long as it is empty.
        nothing = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "nothing")
        model.graph.initializer.append(nothing)
        past = "past_key_values.0.key"
        made = helper.make_node("Reshape", [past, "nothing"], ["gone"], allowzero=1)
        model.graph.node.append(made)
        model.graph.output.append(helper.make_tensor_value_info("gone", 1, [None]))

    path = edited(write_folder(tmp_path, PLAIN), break_later)
    with pytest.raises(UnsupportedError, match="cannot go on after its own cache"):
        opened(path)


def test_a_decoder_without_its_output_matrix_embeds(tmp_path: Path) -> None:
    def behead(model: onnx.ModelProto) -> None:
        kept = [value for value in model.graph.output if value.name != "logits"]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    path = write_folder(tmp_path / "whole")
    with opened(path, embeddings=True) as session:
        wanted = session.embed(PROMPT)
    with opened(edited(path, behead), embeddings=True) as session:
        assert np.allclose(session.embed(PROMPT), wanted, atol=1e-5)
        with pytest.raises(UnsupportedError, match="writes none"):
            list(session.stream(PROMPT, max_tokens=2))


def test_a_tokenizer_of_any_size_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_folder(tmp_path)
    monkeypatch.setattr(vocabulary, "MAX_SIDE_BYTES", 100)
    with pytest.raises(FormatError, match=r"tokenizer\.json is larger than 100 B"):
        opened(path)


def test_a_cache_that_forgot_its_beginning_is_not_cut(tmp_path: Path) -> None:
    def forget(model: onnx.ModelProto) -> None:
        # Presents keep the last eight tokens, as caches of a sliding window do.
        for node in model.graph.node:
            node.output[:] = [f"{n}.whole" if n.startswith("present") else n for n in node.output]
            node.input[:] = [f"{n}.whole" if n.startswith("present") else n for n in node.input]
        for name, value in (("first", -8), ("last", 2**62), ("axis", 2)):
            array = np.array([value], np.int64)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        for output in model.graph.output:
            if output.name.startswith("present"):
                names = [f"{output.name}.whole", "first", "last", "axis"]
                model.graph.node.append(helper.make_node("Slice", names, [output.name]))

    path = edited(write_folder(tmp_path, replace(PLAIN, position_ids=True)), forget)
    with opened(path) as session:
        tokens = list(range(20, 40))
        wanted = logits_after(session, tokens[:12])
        session.prefill(tokens[12:])
        assert session.native.decoder is not None
        assert session.native.decoder.cut(12) == 0
        session.close()
    with opened(path) as session:
        session.begin(tokens, None)
        session.begin([*tokens[:10], 99, 98], None)
        assert session.position == 12
        got = np.array(session.logits())
        assert np.allclose(got, logits_after(session, [*tokens[:10], 99, 98]), atol=1e-4)
        assert not np.allclose(got, wanted, atol=1e-2)


def _typed(name: str, kind: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = [f"{name}.cast" if n == name else n for n in node.input]
        model.graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}.cast"], to=7))
        for value in model.graph.input:
            if value.name == name:
                value.type.tensor_type.elem_type = kind

    return change


def _sized(name: str, axis: int, size: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for value in model.graph.input:
            if value.name == name:
                value.type.tensor_type.shape.dim[axis].dim_value = size

    return change


def _more(model: onnx.ModelProto) -> None:
    name = f"past_key_values.{'1' * 5000}.key"
    model.graph.input.append(helper.make_tensor_value_info(name, 1, [1, 2, "past", 8]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_more, "cannot be filled: past_key_values.1{64}[.] It takes"),
        (_typed("attention_mask", 6), "attention_mask as tensor.int32., and its token ids as"),
        (_typed("attention_mask", 9), "attention_mask as tensor.bool."),
        (_typed("input_ids", 6), "its token ids as tensor.int32."),
        (_sized("input_ids", 0, 2), "2 texts at once"),
        (_sized("input_ids", 1, 64), "one length of text only"),
        (_sized("past_key_values.0.key", 2, 64), "one length of text only"),
    ],
)
def test_inputs_that_cannot_be_given_are_refused_by_name(
    change: Callable[[onnx.ModelProto], None], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=says):
        opened(edited(write_folder(tmp_path, PLAIN), change))


def test_whole_numbers_of_32_bits(tmp_path: Path) -> None:
    layout = replace(PLAIN, position_ids=True)
    tokens = list(PROMPT.encode())
    with opened(write_folder(tmp_path, layout)) as session:
        wanted = logits_after(session, tokens)
    for name in ("input_ids", "attention_mask", "position_ids"):
        edited(tmp_path / "model.onnx", _typed(name, 6))
    with opened(tmp_path) as session:
        assert np.allclose(logits_after(session, tokens[:9], tokens[9:]), wanted, atol=1e-3)
