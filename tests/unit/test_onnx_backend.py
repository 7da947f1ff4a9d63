"""What only the ONNX backend has: layouts, caches, tokenizers of all kinds, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_decoders import (
    CHATML,
    SPECIALS,
    Layout,
    write_byte_tokenizer,
    write_configs,
    write_decoder,
    write_folder,
    write_synthetic,
)

import edge_runtime as edge
from edge_runtime import backends
from edge_runtime.artifact import Artifact
from edge_runtime.backends import GREEDY, Sampling
from edge_runtime.backends.onnx import binding, buffers, library, loading, providers
from edge_runtime.backends.onnx.session import OnnxSession
from edge_runtime.backends.onnx.vocabulary import Vocabulary
from edge_runtime.errors import (
    ArtifactError,
    BackendError,
    ContextFullError,
    EdgeError,
    FormatError,
    MemoryLimitError,
    ModelNotFoundError,
    UnsupportedError,
    UsageError,
)
from edge_runtime.measurement import SessionOptions

PROMPT = "The quick brown fox jumps over the lazy dog, and then sleeps."
ON = Sampling(temperature=0.0, ignore_eos=True)


def opened(path: Path, **options: Any) -> OnnxSession:
    settled = SessionOptions(**{"threads": 1, "context_tokens": 256, **options})
    session = backends.backend("onnx").open(Artifact.open(path), settled)
    assert isinstance(session, OnnxSession)
    return session


def greedy(session: OnnxSession, count: int = 40) -> list[int]:
    return [piece.token for piece in session.stream(PROMPT, max_tokens=count, sampling=ON)]


LAYOUTS = {
    "genai": Layout(),
    "last logits": Layout(logits="last"),
    "asked logits": Layout(logits="asked"),
    "fused, positions by the cache": Layout(counts_cache=True),
    "exports": Layout(fused=False),
    "exports with positions": Layout(fused=False, position_ids=True),
    "merged": Layout(fused=False, branch=True),
    "old names": Layout(fused=False, past="past_key_values_{}_{}", present="present_{}_{}"),
}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    with opened(write_folder(tmp_path_factory.mktemp("wanted"))) as session:
        return greedy(session)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_says_the_same(layout: Layout, wanted: list[int], tmp_path: Path) -> None:
    with opened(write_folder(tmp_path, layout)) as session:
        assert greedy(session) == wanted
        assert session.native.decoder is not None
        assert session.native.decoder.shared == (layout.fused and not layout.counts_cache)
        assert session.native.decoder.last_only == (layout.logits != "all")
        assert session.options.kv_type_k == session.options.kv_type_v == "f32"


@pytest.mark.parametrize("fused", [True, False])
def test_a_cache_of_half_precision(fused: bool, tmp_path: Path) -> None:
    exact = opened(write_folder(tmp_path / "f32", Layout(fused=fused)))
    half = opened(write_folder(tmp_path / "f16", Layout(fused=fused, kv="float16")))
    assert half.options.kv_type_k == "f16"
    sizes = [{b.purpose: b.size_bytes for b in s.buffers}["kv"] for s in (exact, half)]
    assert sizes == [2 * 2 * 2 * 256 * 16 * 4, 2 * 2 * 2 * 256 * 16 * 2]
    for session in (exact, half):
        session.prefill(session.tokenize(PROMPT))
        for token in (7, 8, 9):
            session.step(token)
    assert np.allclose(exact.logits(), half.logits(), atol=0.1)


def test_weights_of_four_bits_run(tmp_path: Path) -> None:
    with opened(write_folder(tmp_path, Layout(int4=True))) as session:
        assert len(greedy(session, 8)) == 8


def test_long_prompts_are_cut_so_that_their_logits_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [i % 250 for i in range(200)]
    path = write_folder(tmp_path)
    with opened(path) as whole:
        whole.prefill(tokens)
        wanted = np.array(whole.logits())
    monkeypatch.setattr(binding, "LOGITS_BYTES", 20 * Layout().tokens * 4)
    with opened(path) as cut:
        assert cut.options.micro_batch_tokens == 20
        cut.prefill(tokens)
        assert np.allclose(cut.logits(), wanted, atol=1e-3)
    with opened(write_decoder(tmp_path / "last", Layout(logits="last"))) as last:
        assert last.options.micro_batch_tokens == 256


def test_going_back_and_on_again_changes_nothing(tmp_path: Path) -> None:
    for fused in (True, False):
        with opened(write_folder(tmp_path / str(fused), Layout(fused=fused))) as session:
            session.prefill([1, 2, 3, 4, 5, 6])
            wanted = np.array(session.logits())
            session.step(7)
            session.step(8)
            session.reset(keep_tokens=5)
            session.step(6)
            assert np.allclose(session.logits(), wanted, atol=1e-4)


def test_cancelling_reaches_a_prompt_that_is_being_evaluated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(context=4096, hidden=128, inner=512, layers=6)
    path = write_folder(tmp_path, layout)
    with opened(path, context_tokens=4096, micro_batch_tokens=4096) as session:
        cancel = threading.Event()
        threading.Timer(0.1, cancel.set).start()
        prompt = [i % 250 for i in range(4000)]
        pieces = list(session.stream(prompt, max_tokens=4, sampling=ON, cancel=cancel))
        assert capfd.readouterr() == ("", "")
        assert [piece.finish for piece in pieces] == ["cancelled"]
        assert session.position < len(prompt)
        assert len(greedy(session, 4)) == 4


def test_what_was_used_is_reported(tmp_path: Path) -> None:
    with opened(write_folder(tmp_path), threads=None, kv_type_k="f16") as session:
        assert session.options.providers == ("CPUExecutionProvider",)
        assert session.options.gpu_layers == 0
        assert session.options.threads == session.options.threads_prefill
        (placement,) = session.engine.placement
        assert placement.provider == "CPUExecutionProvider"
        assert placement.nodes > 30
        assert placement.share == 1.0
        assert session.engine.name == "onnxruntime"
        assert "CPU" in session.engine.build


def test_threads_spin_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "session.intra_op.allow_spinning"
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    settings = loading.session_settings(3)
    assert settings.intra_op_num_threads == 3
    assert settings.get_session_config_entry(key) == "1"
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert loading.session_settings(3).get_session_config_entry(key) == "0"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "threads"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"context_tokens": 513}, "made for 512"),
        ({"kv_type_k": "q8_0"}, "declares the type"),
        ({"flash_attention": "on"}, "operators decide"),
        ({"gpu_layers": 3}, "no accelerator"),
        ({"providers": ("warp",)}, "There is no execution provider 'warp'"),
        ({"providers": ("mine=/nowhere/lib.so",)}, "no library"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    if says == "no accelerator" and backends.backend("onnx").gpus():
        pytest.skip("this machine has an accelerator")
    with pytest.raises(UsageError, match=says):
        opened(write_folder(tmp_path), **options)


def test_a_library_that_is_no_provider_is_refused(tmp_path: Path) -> None:
    path = write_folder(tmp_path)
    file = tmp_path / "provider.so"
    file.write_bytes(b"no library")
    with pytest.raises(BackendError, match="gives no execution provider"):
        opened(path, providers=(f"mine={file}",))


def test_a_provider_may_be_named_shortly(tmp_path: Path) -> None:
    with opened(write_folder(tmp_path), providers=("cpu",)) as session:
        assert session.options.providers == ("CPUExecutionProvider",)


def test_placements_without_the_engines_help() -> None:
    class Old:
        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    placed = providers.placements(Old())
    assert [p.provider for p in placed] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers.memory_device(placed) == "cuda"
    assert not providers.on_processor(placed)


def test_a_model_larger_than_the_machine_is_refused(tmp_path: Path) -> None:
    artifact = replace(Artifact.open(write_folder(tmp_path)), size_bytes=1 << 60)
    with pytest.raises(MemoryLimitError, match="in all"):
        backends.backend("onnx").open(artifact, SessionOptions())


def test_a_cache_larger_than_the_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_folder(tmp_path, Layout(context=4096))
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256}.__getitem__)
    # 512 bytes per token: 2 MiB for a context of 4096 tokens, on a machine of 1 MiB.
    with pytest.raises(MemoryLimitError, match="context of 4096 tokens takes 2"):
        opened(path, context_tokens=4096)
    opened(path, context_tokens=512).close()


def _saved(path: Path, inputs: list[tuple[str, int, list[Any]]], node: Any, out: Any) -> Path:
    import onnx
    from onnx import helper

    values = [helper.make_tensor_value_info(*item) for item in inputs]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info(*out)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


def _as_language_model(path: Path, like: Path) -> Artifact:
    """An artifact that claims to be a decoder: what the engine sees decides."""
    return replace(Artifact.open(like), path=path, paths=(path,))


def test_graphs_that_are_no_decoders_are_refused(tmp_path: Path) -> None:
    from onnx import helper

    like = write_folder(tmp_path / "like")
    pixels = [("pixels", 1, [1, 3, 8, 8])]
    relu = helper.make_node("Relu", ["pixels"], ["y"])
    vision = _saved(tmp_path / "vision.onnx", pixels, relu, ("y", 1, [1, 3, 8, 8]))
    ids = [("input_ids", 7, ["b", "s"]), ("encoder_out", 1, ["b", "s", 4])]
    same = helper.make_node("Identity", ["encoder_out"], ["logits"])
    strange = _saved(tmp_path / "strange.onnx", ids, same, ("logits", 1, ["b", "s", 4]))
    alone = [("input_ids", 7, ["b", "s"])]
    float_ids = helper.make_node("Cast", ["input_ids"], ["logits"], to=1)
    bare = _saved(tmp_path / "bare.onnx", alone, float_ids, ("logits", 1, ["b", "s", 4]))
    unknown = helper.make_node("Marvel", ["input_ids"], ["logits"], domain="com.example")
    marvel = _saved(tmp_path / "marvel.onnx", alone, unknown, ("logits", 1, ["b", "s", 4]))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff" * 100)
    for path, kind, says in (
        (vision, UnsupportedError, "no token ids"),
        (strange, UnsupportedError, "cannot be filled: encoder_out"),
        (bare, UnsupportedError, "no cache of keys and values"),
        (marvel, UnsupportedError, r"knows no operator com\.example:Marvel\."),
        (broken, FormatError, "cannot load"),
        (tmp_path / "nothing.onnx", ModelNotFoundError, "cannot load"),
    ):
        with pytest.raises(kind, match=says):
            backends.backend("onnx").open(_as_language_model(path, like), SessionOptions(threads=1))


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_library", None)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(EdgeError, match="pip install onnxruntime"):
        backends.backend("onnx").engine()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows builds report by the system's means")
def test_the_engine_reports_to_nobody_and_leaves_no_files_of_its_own(tmp_path: Path) -> None:
    places = dict.fromkeys(("TMPDIR", "HOME", "XDG_CACHE_HOME"), str(tmp_path))
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | places
    load = "from edge_runtime.backends.onnx import library; library.library()"
    command = [sys.executable, "-B", "-c", load]
    subprocess.run(
        command, env=environment, cwd=Path(edge.__file__).parents[1], check=True, timeout=60
    )
    assert list(tmp_path.iterdir()) == []


def test_complaints_are_sentences() -> None:
    said = (
        "[ONNXRuntimeError] : 1 : FAIL : Load model from /x/m.onnx failed:"
        "/home/a/onnxruntime/core/graph/model.cc:182 onnxruntime::Model::Model(ModelProto&&, "
        "const PathString&) Unsupported model IR version: 99, max supported IR version: 11\n"
    )
    assert library.complaint(RuntimeError(said)).endswith("max supported IR version: 11.")
    assert "model.cc" not in library.complaint(RuntimeError(said))
    said = (
        "Load model from /x/m.onnx failed:This is an invalid model. Error No Op registered for Foo"
    )
    assert library.complaint(RuntimeError(said)).startswith("ONNX Runtime says: This is an invalid")
    unknown = library.translated(RuntimeError(said), "It failed.")
    assert isinstance(unknown, UnsupportedError)
    assert unknown.cause == "The engine knows no operator Foo."
    memory = library.translated(RuntimeError("std::bad_alloc"), "It failed.")
    assert isinstance(memory, MemoryLimitError)
    assert memory.cause == "There is not enough free memory."


def write_pieces_tokenizer(folder: Path) -> None:
    """Pieces as SentencePiece has them: marked spaces, bytes in angle brackets."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", "a", "b", "\u2581a", "\u2581ab"]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
            for i, text in enumerate(pieces[:3])
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {text: i for i, text in enumerate(pieces)},
                  "merges": ["\u2581 a", "\u2581a b"]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")


def test_pieces_with_marked_spaces_and_bytes(tmp_path: Path) -> None:
    write_pieces_tokenizer(tmp_path)
    words = Vocabulary(tmp_path / "model.onnx", empty=False)
    ids = words.tokenize("ab a\u00e9", add_special=False, parse_special=False)
    assert b"".join(map(words.piece, ids)) == " ab a\u00e9".encode()
    assert words.detokenize(ids) == "ab a\u00e9"
    assert words.piece(1) == words.piece(10**6) == b""
    assert words.ends(2)
    assert not words.ends(1)


def test_special_tokens_count_only_when_asked(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path, bos=True)
    words = Vocabulary(tmp_path / "model.onnx", empty=False)
    bare = words.tokenize("<|end|>", add_special=False, parse_special=False)
    assert bytes(bare) == b"<|end|>"
    assert words.tokenize("<|end|>", add_special=False, parse_special=True) == [256]
    assert words.tokenize("x", add_special=True, parse_special=False) == [257, ord("x")]
    assert words.special_text("bos") == SPECIALS[1]
    assert words.end_tokens() == (256, 258)


def test_ends_of_texts_come_from_every_config(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_text('{"model": {"eos_token_id": [3, 4]}}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5}')
    (tmp_path / "config.json").write_text('{"eos_token_id": null}')
    assert Vocabulary(tmp_path / "model.onnx", empty=False).end_tokens() == (3, 4, 5)


def test_files_may_lie_above_the_folder_of_exports(tmp_path: Path) -> None:
    layout = Layout(fused=False)
    write_byte_tokenizer(tmp_path)
    write_configs(tmp_path, layout)
    (tmp_path / "genai_config.json").unlink()
    path = write_decoder(tmp_path / "onnx", layout, name="model_q4.onnx")
    with opened(path) as session:
        assert session.tokenize("ab") == [97, 98]
        assert session.artifact.chat_template == CHATML


def test_without_a_tokenizer_ids_still_work(tmp_path: Path) -> None:
    path = write_folder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with opened(path) as session:
        assert len(list(session.stream([1, 2, 3], max_tokens=4, sampling=ON))) == 4
        for act in (lambda: session.tokenize("x"), lambda: session.detokenize([1])):
            with pytest.raises(UnsupportedError, match="no vocabulary"):
                act()


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    path = write_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises((FormatError, ArtifactError), match=r"tokenizer\.json"):
        opened(path)


def write_encoder(folder: Path, *, pooled: bool = False, types: bool = True) -> Path:
    """An embedding table as an encoder: its states are the rows of the tokens."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(5).standard_normal((259, 16)).astype(np.float32)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "s"]) for n in names]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    outs = [helper.make_tensor_value_info("last_hidden_state", 1, ["b", "s", 16])]
    if pooled:
        nodes.append(
            helper.make_node("ReduceMax", ["last_hidden_state"], ["sentence_embedding"], axes=[1],
                             keepdims=0)
        )  # fmt: skip
        outs.append(helper.make_tensor_value_info("sentence_embedding", 1, ["b", 16]))
    graph = helper.make_graph(nodes, "e", inputs, outs, [numpy_helper.from_array(table, "table")])
    opsets = [helper.make_opsetid("", 17)]
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "model.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    write_byte_tokenizer(folder)
    config = {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 259, "max_position_embeddings": 128, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return path


def _unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def _pool(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({kind: True}))

    return write


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("", lambda rows: rows.mean(axis=0)),
        ("pooling_mode_cls_token", lambda rows: rows[0]),
        ("pooling_mode_lasttoken", lambda rows: rows[-1]),
        ("pooling_mode_max_tokens", lambda rows: rows.max(axis=0)),
    ],
)
def test_an_encoder_gives_embeddings(kind: str, wanted: Any, tmp_path: Path) -> None:
    path = write_encoder(tmp_path)
    if kind:
        _pool(kind)(tmp_path)
    table = np.random.default_rng(5).standard_normal((259, 16)).astype(np.float32)
    with opened(path, embeddings=True, context_tokens=64) as session:
        found = np.array(session.embed("Hello"))
        assert np.allclose(found, _unit(wanted(table[list(b"Hello")])), atol=1e-6)
        with pytest.raises(UnsupportedError, match="writes none"):
            session.stream("x")
        with pytest.raises(UnsupportedError, match="writes none"):
            session.prefill([1])
        with pytest.raises(ContextFullError):
            session.embed("x" * 65)


def test_an_output_pooled_by_the_graph_is_taken(tmp_path: Path) -> None:
    table = np.random.default_rng(5).standard_normal((259, 16)).astype(np.float32)
    with opened(
        write_encoder(tmp_path, pooled=True, types=False), embeddings=True, context_tokens=64
    ) as session:
        wanted = _unit(table[list(b"Hello")].max(axis=0))
        assert np.allclose(session.embed("Hello"), wanted, atol=1e-6)


def test_a_decoder_without_hidden_states_makes_no_embeddings(tmp_path: Path) -> None:
    layout = Layout(hidden_states=False)
    path = write_folder(tmp_path, layout)
    with (
        opened(path, embeddings=True) as session,
        pytest.raises(UnsupportedError, match="no hidden states"),
    ):
        session.embed("x")


def test_sampling_follows_greedy_at_a_low_temperature(tmp_path: Path) -> None:
    with opened(write_folder(tmp_path)) as session:
        session.prefill(session.tokenize(PROMPT))
        cold = session.sampler(Sampling(temperature=1e-4, seed=1))
        assert cold.sample() == session.sampler(GREEDY).sample()


def test_the_files_format_decides_when_the_options_name_another_engine(tmp_path: Path) -> None:
    path = write_folder(tmp_path)
    artifact = Artifact.open(path)
    assert backends.backend_for(artifact, "llama_cpp").name == "onnx"
    assert backends.backend_for(artifact, "fake").name == "fake"
    with pytest.raises(UsageError, match="no backend named"):
        backends.backend_for(artifact, "other")
    with edge.load(path.parent, context_tokens=128, threads=1) as model:
        assert model.session.options.backend == "onnx"
        assert model.generate("Hello", max_tokens=4, sampling=ON)


LONG = {
    "model_type": "phi3",
    "architectures": ["Phi3ForCausalLM"],
    "original_max_position_embeddings": 64,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0 + i / 50 for i in range(8)],
        "long_factor": [1.5 + i for i in range(8)],
    },
}
"""A model that turns all positions otherwise once its context is longer than 64 tokens."""


def _logits(session: OnnxSession, tokens: list[int], chunk: int = 512) -> Any:
    session.reset()
    for start in range(0, len(tokens), chunk):
        session.prefill(tokens[start : start + chunk])
    return np.array(session.logits())


@pytest.mark.parametrize("level", ["fp32", "int4"])
def test_logits_nobody_wants_are_not_computed(level: str, tmp_path: Path) -> None:
    tokens = [i * 7 % 250 for i in range(200)]
    with opened(write_synthetic(tmp_path / "ours", level=level), micro_batch_tokens=200) as session:
        decoder = session.native.decoder
        assert decoder is not None
        assert decoder.shared
        assert decoder.last_only
        assert session.options.micro_batch_tokens == 200
        session.prefill(tokens[:150])
        after = np.array(session.logits())
        session.reset()
        rows = next(decoder.all_logits(tokens[:150]))
        assert rows.shape == (150, Layout().tokens)
        assert np.allclose(rows[-1], after, atol=1e-4)
        assert np.ptp(rows, axis=0).max() > 0.01
        assert decoder.position == 150
        more = next(decoder.all_logits(tokens[150:]))
        whole = _logits(session, tokens)
        assert np.allclose(more[-1], whole, atol=1e-4)


def test_the_logits_of_all_positions_where_a_graph_has_them(tmp_path: Path) -> None:
    tokens = [i * 7 % 250 for i in range(20)]
    found = {}
    for kind in ("all", "asked"):
        with opened(write_folder(tmp_path / kind, Layout(logits=kind))) as session:
            assert session.native.decoder is not None
            found[kind] = next(session.native.decoder.all_logits(tokens))
            assert np.allclose(session.native.decoder.logits, found[kind][-1])
    assert np.allclose(found["all"], found["asked"], atol=1e-5)
    with opened(write_folder(tmp_path / "last", Layout(logits="last"))) as session:
        assert session.native.decoder is not None
        with pytest.raises(UnsupportedError, match="last position only"):
            next(session.native.decoder.all_logits(tokens))


def test_a_long_prompt_in_batches_is_turned_as_the_whole_is(tmp_path: Path) -> None:
    path = write_synthetic(tmp_path / "long", **LONG)
    tokens = [i * 7 % 250 for i in range(150)]
    with opened(path) as whole, opened(path, micro_batch_tokens=32) as cut:
        assert cut.options.micro_batch_tokens == 32
        wanted = _logits(whole, tokens)
        assert np.allclose(_logits(cut, tokens), wanted, atol=2e-5)
        # By hand nobody can know how long it will be: what was turned as short is turned anew.
        assert np.allclose(_logits(cut, tokens, chunk=50), wanted, atol=2e-5)


def test_all_logits_of_a_long_text_in_batches_are_turned_as_the_whole_is(tmp_path: Path) -> None:
    path = write_synthetic(tmp_path / "long", **LONG)
    tokens = [i * 7 % 250 for i in range(150)]
    with opened(path) as whole, opened(path, micro_batch_tokens=32) as cut:
        wanted = [np.array(block) for block in whole.all_logits(tokens, first=10)]
        found = [np.array(block) for block in cut.all_logits(tokens, first=10)]
        assert len(found) > len(wanted) == 1
        assert np.allclose(np.concatenate(found), wanted[0], atol=2e-5)
        # What was turned as short is evaluated anew, and its logits are not given again.
        cut.reset()
        cut.prefill(tokens[:50])
        grown = np.concatenate([np.array(block) for block in cut.all_logits(tokens[50:])])
        assert np.allclose(grown, wanted[0][40:], atol=2e-5)
        assert cut.position == 150


def test_a_context_that_grows_long_token_by_token_is_turned_anew_once(tmp_path: Path) -> None:
    path = write_synthetic(tmp_path / "long", **LONG)
    tokens = [i * 7 % 250 for i in range(70)]
    with opened(path) as fresh, opened(path) as grown:
        grown.prefill(tokens[:60])
        for position in range(60, 70):
            grown.step(tokens[position])
            assert grown.position == position + 1
            wanted = _logits(fresh, tokens[: position + 1])
            assert np.allclose(np.array(grown.logits()), wanted, atol=2e-5)
        # Not so where the cache is only gone on with: there the two forms are mixed.
        assert grown.native.decoder is not None
        grown.reset()
        grown.prefill(tokens[:60])
        for token in tokens[60:]:
            grown.native.decoder.step(token)
        assert not np.allclose(grown.native.decoder.logits, wanted, atol=1e-4)


def test_a_prefix_turned_otherwise_is_not_reused(tmp_path: Path) -> None:
    path = write_synthetic(tmp_path / "long", **LONG)
    tokens = [i * 7 % 250 for i in range(150)]
    short, long, longer = tokens[:50], tokens[:100], tokens[:150]

    def asked(session: OnnxSession, *prompts: list[int]) -> Any:
        for prompt in prompts:
            assert session.begin(prompt, None)
        return np.array(session.logits())

    with opened(path) as fresh, opened(path) as used:
        for before, prompt in ((short, long), (long, longer), (longer, tokens[:60]), (short, long)):
            fresh.reset()
            assert np.allclose(asked(used, before, prompt), asked(fresh, prompt), atol=2e-5)
        decoder = used.native.decoder
        assert decoder is not None
        assert decoder.reusable(50, 120) == 50
        assert decoder.reusable(50, 60) == 0
        assert used.position == 100


def _change_node(kind: str, **changes: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node = next(node for node in model.graph.node if node.op_type == kind)
        for name, value in changes.items():
            if name == "input":
                node.input[0] = value
            else:
                setattr(node, name, value)

    return change


def _newer_opset(model: Any) -> None:
    model.opset_import[0].version = 99


def _newer_ir(model: Any) -> None:
    model.ir_version = 99


def _without_kernel(model: Any) -> None:
    from onnx import helper

    nodes = (
        helper.make_node("Cast", ["input_ids"], ["x16"], to=16),
        helper.make_node("Erf", ["x16"], ["y16"]),
        helper.make_node("Cast", ["y16"], ["y32"], to=1),
    )
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info("y32", 1, ["batch", "sequence"]))


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (_change_node("MatMul", op_type="Hyper", domain="com.microsoft"), UnsupportedError,
         "no operator Hyper"),
        (_without_kernel, UnsupportedError, "kernel for Erf"),
        (_newer_opset, UnsupportedError, "opset 99"),
        (_newer_ir, UnsupportedError, "IR version 99"),
        (_change_node("Add", input="input_ids"), FormatError, "not valid: Type Error"),
        (_change_node("Add", input="nowhere"), FormatError, "not valid: Node input 'nowhere'"),
    ],
)  # fmt: skip
def test_what_the_engine_refuses_is_said_in_a_sentence(
    change: Callable[[Any], None], kind: type[EdgeError], says: str, tmp_path: Path
) -> None:
    import onnx

    path = write_folder(tmp_path)
    artifact = Artifact.open(path)
    model = onnx.load(str(path))
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(kind, match=says) as caught:
        backends.backend("onnx").open(artifact, SessionOptions(threads=1))
    assert caught.value.way_out
    assert str(path) not in str(caught.value)


def test_weights_that_go_missing_after_all_was_checked(tmp_path: Path) -> None:
    path = write_synthetic(tmp_path / "ours")
    artifact = Artifact.open(path)
    data = path.with_name("model.onnx.data")
    whole = data.read_bytes()
    data.write_bytes(whole[:4096])
    with pytest.raises(FormatError, match="ends early, after 4096 bytes"):
        backends.backend("onnx").open(artifact, SessionOptions(threads=1))
    data.unlink()
    with pytest.raises(ModelNotFoundError, match="weights is missing"):
        backends.backend("onnx").open(artifact, SessionOptions(threads=1))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory so")
def test_too_little_memory_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = write_synthetic(
        tmp_path / "ours", hidden_size=512, intermediate_size=2048, max_position_embeddings=65536
    )
    script = f"""
import resource, sys
import numpy, tokenizers
from pathlib import Path
from edge_runtime import backends
from edge_runtime.artifact import Artifact
from edge_runtime.errors import MemoryLimitError
from edge_runtime.measurement import SessionOptions
artifact, onnx = Artifact.open(Path({str(path)!r})), backends.backend("onnx")
options = SessionOptions(threads=1, context_tokens=65536)
onnx.engine()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for spare in (8, 160):
    resource.setrlimit(resource.RLIMIT_AS, (held + spare * 2**20, resource.RLIM_INFINITY))
    try:
        onnx.open(artifact, options)
    except MemoryLimitError as error:
        print(error.fact)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "ONNX Runtime cannot load model.onnx.",
        "A context of 65536 tokens does not fit into memory.",
    ]


def test_binding_works_without_what_the_engines_wrapper_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine whose wrapper is built otherwise costs some time and nothing else."""
    path = write_folder(tmp_path)
    with opened(path) as session:
        wanted = greedy(session, 12)

    class Older:
        class OrtDevice:
            """Has no `make`."""

    monkeypatch.setattr(buffers, "library", Older)
    with opened(path) as session:
        assert greedy(session, 12) == wanted
