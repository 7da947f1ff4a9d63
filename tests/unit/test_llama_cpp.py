"""What only the llama.cpp backend has: its log, its threads, its refusals, its memory."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import backends
from edge_runtime.artifact import Artifact, ModelShape
from edge_runtime.backends import GREEDY, Sampling, threads
from edge_runtime.backends.llama_cpp import library, loading
from edge_runtime.backends.llama_cpp.session import LlamaCppSession
from edge_runtime.errors import (
    BackendError,
    EdgeError,
    EngineMissingError,
    MemoryLimitError,
    UnsupportedError,
    UsageError,
)
from edge_runtime.measurement import SessionOptions
from edge_runtime.memory import Buffer
from edge_runtime.units import MIB


def opened(path: Path, **options: Any) -> LlamaCppSession:
    settled = SessionOptions(**{"threads": 1, **options})
    session = backends.backend("llama_cpp").open(Artifact.open(path), settled)
    assert isinstance(session, LlamaCppSession)
    return session


@pytest.fixture
def session(random_gguf: Path) -> Iterator[LlamaCppSession]:
    with opened(random_gguf) as session:
        yield session


def test_the_engines_buffers_are_read_from_its_log() -> None:
    lines = (
        "load_tensors:   CPU_Mapped model buffer size =   379.38 MiB",
        "llama_context:        CPU  output buffer size =     0.58 MiB",
        "llama_kv_cache:        CPU KV buffer size =    48.00 MiB",
        "sched_reserve:        CPU compute buffer size =   100.00 MiB",
        "sched_reserve:        CPU compute buffer size =   300.75 MiB",
        "llama_memory_recurrent:      CUDA0 RS buffer size =     1.50 MiB",
        "a line about a buffer of another kind",
    )
    assert loading.read_buffers(lines) == (
        Buffer(device="CPU_Mapped", purpose="model", size_bytes=round(379.38 * MIB)),
        Buffer(device="CPU", purpose="output", size_bytes=round(0.58 * MIB)),
        Buffer(device="CPU", purpose="kv", size_bytes=48 * MIB),
        Buffer(device="CPU", purpose="compute", size_bytes=round(300.75 * MIB)),
        Buffer(device="CUDA0", purpose="recurrent", size_bytes=round(1.5 * MIB)),
    )


def test_a_log_line_may_come_in_pieces() -> None:
    log = library.EngineLog(lines=3)
    mark = log.mark
    log.receive(2, b"llama_model_load: good\nllama_model", None)
    log.receive(5, b"_load: half ", None)
    log.receive(5, b"a line\n", None)
    log.receive(4, b"ggml_x: it broke.\nggml_x: it broke.\n", None)
    assert log.since(mark) == ("llama_model_load: half a line", *["ggml_x: it broke."] * 2)
    assert log.complaint(mark) == "llama.cpp says: it broke."
    log.receive(4, None, None)
    log.receive(4, b"\xff\xfe" * 5000 + b"\n", None)
    assert len(log.since(mark)[-1]) <= 4096


def test_buffers_add_up_with_the_file(session: LlamaCppSession) -> None:
    sizes = {buffer.purpose: buffer.size_bytes for buffer in session.buffers}
    artifact = session.artifact
    assert sizes["model"] == pytest.approx(artifact.weight_bytes, rel=0.05)
    shape_bytes = artifact.shape.kv_bytes(session.context_tokens)
    assert sizes["kv"] == pytest.approx(shape_bytes, rel=0.05)


def test_the_context_is_what_the_engine_made_of_it(random_gguf: Path) -> None:
    with opened(random_gguf, context_tokens=100) as session:
        assert session.context_tokens == session.options.context_tokens == 256


def test_threads_default_to_the_usable_physical_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 6}, raising=False)
    for cpu, siblings in enumerate(("0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7")):
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "core_cpus_list").write_text(siblings + "\n")
    assert threads.default_threads(system_root=tmp_path) == 4
    cgroup = tmp_path / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    for text, wanted in (("150000 100000", 2), ("max 100000", 4), ("nonsense", 4), ("1 9", 1)):
        (cgroup / "cpu.max").write_text(text)
        assert threads.default_threads(system_root=tmp_path) == wanted
    (cgroup / "cpu.max").unlink()
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu/cpu.cfs_quota_us").write_text("300000")
    (cgroup / "cpu/cpu.cfs_period_us").write_text("100000")
    assert threads.default_threads(system_root=tmp_path) == 3
    (cgroup / "cpu/cpu.cfs_quota_us").write_text("-1")
    assert threads.default_threads(system_root=tmp_path) == 4
    assert threads.default_threads(system_root=tmp_path / "empty") == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context_tokens": 0}, "context_tokens"),
        ({"context_tokens": 2**31}, "context_tokens"),
        ({"threads": 0}, "threads"),
        ({"threads": 513}, "threads"),
        ({"threads_prefill": -1}, "threads_prefill"),
        ({"batch_tokens": 0}, "batch_tokens"),
        ({"micro_batch_tokens": 0}, "micro_batch_tokens"),
        ({"gpu_layers": -2}, "gpu_layers"),
        ({"kv_type_v": "q8_0", "flash_attention": "off"}, "needs flash attention"),
    ],
)
def test_impossible_options_are_refused_before_the_engine_sees_them(
    random_gguf: Path, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        opened(random_gguf, **options)


def test_gpu_layers_on_a_build_without_gpu_are_refused(random_gguf: Path) -> None:
    if backends.backend("llama_cpp").gpus():
        pytest.skip("this build sees a GPU")
    for layers in (1, -1):
        with pytest.raises(UsageError, match="sees no GPU"):
            opened(random_gguf, gpu_layers=layers)
    with opened(random_gguf, gpu_layers=0) as session:
        assert session.options.gpu_layers == 0


@pytest.mark.parametrize("flash", ["auto", "on", "off"])
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_cache_types_and_flash_attention_agree(random_gguf: Path, flash: str, kind: str) -> None:
    tokens = list(range(65, 105))
    with opened(random_gguf, kv_type_k="f32", kv_type_v="f32", flash_attention="off") as exact:
        exact.prefill(tokens)
        wanted = np.array(exact.logits())
    if kind == "q8_0":
        # Rows of 16 values cannot hold a block of 32: the engine refuses, and says why.
        with pytest.raises(EdgeError) as caught:
            opened(random_gguf, kv_type_k=kind, kv_type_v=kind, flash_attention=flash)
        assert caught.value.cause or flash == "off"
        return
    with opened(random_gguf, kv_type_k=kind, kv_type_v=kind, flash_attention=flash) as session:
        session.prefill(tokens)
        error = np.abs(np.array(session.logits()) - wanted).max()
    assert error <= {"f32": 0.02, "f16": 0.05, "bf16": 0.5}[kind]


def test_without_memory_mapping_the_answer_is_the_same(random_gguf: Path) -> None:
    with opened(random_gguf) as mapped, opened(random_gguf, memory_map=False) as read:
        for session in (mapped, read):
            session.prefill([1, 2, 3])
        assert np.allclose(mapped.logits(), read.logits(), atol=1e-3)
        assert mapped.options.memory_map
        assert not read.options.memory_map


def test_a_cache_larger_than_the_machine_is_refused(
    random_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10}.get)
    with pytest.raises(MemoryLimitError, match="shorter context"):
        opened(random_gguf, context_tokens=65536)


def _edited(source: Path, out: Path, old: bytes, new: bytes) -> Path:
    assert len(old) == len(new)
    data = source.read_bytes()
    assert old in data
    out.write_bytes(data.replace(old, new, 1))
    return out


def test_the_engines_refusal_is_the_cause(
    random_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    artifact = Artifact.open(random_gguf)
    wrong = _edited(random_gguf, tmp_path / "wrong.gguf", b"blk.1.ffn_up", b"blk.1.ffn_xp")
    backend = backends.backend("llama_cpp")
    object.__setattr__(artifact, "path", wrong)  # the header reader would refuse it first
    with pytest.raises(BackendError, match="cannot load") as caught:
        backend.open(artifact, SessionOptions())
    assert "ffn_up" in caught.value.cause
    alien = tmp_path / "alien.gguf"
    data = random_gguf.read_bytes()
    alien.write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxamx"))
    object.__setattr__(artifact, "path", alien)
    with pytest.raises(UnsupportedError, match="unknown model architecture") as unknown:
        backend.open(artifact, SessionOptions())
    assert "upgrade" in unknown.value.way_out
    object.__setattr__(artifact, "path", tmp_path / "gone.gguf")
    with pytest.raises(BackendError):
        backend.open(artifact, SessionOptions())
    assert capfd.readouterr() == ("", "")


def test_out_of_memory_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = library.LOG.mark
    library.LOG.receive(4, b"ggml_new_buffer: failed to allocate buffer of size 99\n", None)
    error = loading._loading_error("It failed.", mark)
    assert isinstance(error, MemoryLimitError)
    assert "failed to allocate" in error.cause


def test_a_missing_native_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def broken(name: str, *rest: Any) -> Any:
        if name.startswith("llama_cpp"):
            raise FileNotFoundError("Shared library with base name 'llama' not found")
        return real(name, *rest)

    monkeypatch.setattr(library, "_library", None)
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(EngineMissingError, match="pip install"):
        backends.backend("llama_cpp").engine()


def test_a_cancelled_prefill_stops_in_the_middle(make_random_gguf: Callable[..., Path]) -> None:
    path = make_random_gguf(context=32768)
    with opened(path, context_tokens=32768) as session:
        cancel = threading.Event()
        prompt = [i % 256 for i in range(30_000)]
        started = time.perf_counter()
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        pieces = list(session.stream(prompt, cancel=cancel))
        took = time.perf_counter() - started
        timer.join()
        assert [piece.finish for piece in pieces] == ["cancelled"]
        assert session.position < len(prompt)
        assert took < 20
        # What was stopped leaves a session that works, and the flag is down again.
        short = list(session.stream([1, 2, 3], max_tokens=3, sampling=GREEDY))
        with opened(path, context_tokens=32768) as fresh:
            assert list(fresh.stream([1, 2, 3], max_tokens=3, sampling=GREEDY)) == short


def test_an_event_set_after_the_end_disturbs_nothing(session: LlamaCppSession) -> None:
    cancel = threading.Event()
    list(session.stream([1] * 40, max_tokens=2, sampling=GREEDY, cancel=cancel))
    cancel.set()
    time.sleep(0.05)
    assert bytes(session.native.abort) == b"\0\0"
    session.prefill([1, 2])


def test_grammar_mistakes_name_their_place(
    session: LlamaCppSession, capfd: pytest.CaptureFixture[str]
) -> None:
    for grammar, words in (
        ('root ::= "a', "end of input"),
        ("other ::= [a]", "no rule named root"),
        ("root ::= missing", "missing"),
    ):
        with pytest.raises(UsageError, match=words):
            next(session.stream([1], sampling=Sampling(grammar=grammar)))
    for schema in ("{", "[]", '{"type": "nonsense"}', '{"$ref": "#/nowhere"}'):
        with pytest.raises(UsageError, match="schema"):
            next(session.stream([1], sampling=Sampling(json_schema=schema)))
    assert capfd.readouterr() == ("", "")


def test_a_grammar_is_followed_to_its_end(session: LlamaCppSession) -> None:
    for temperature in (0.0, 1.5):
        sampling = Sampling(
            grammar='root ::= ("ja" | "nein") "!" [0-9] [0-9]', seed=3, temperature=temperature
        )
        pieces = list(session.stream("Well?", sampling=sampling))
        answer = "".join(piece.text for piece in pieces)
        assert answer.rstrip("0123456789") in ("ja!", "nein!")
        assert len(answer.partition("!")[2]) == 2
        assert pieces[-1].finish == "eos"


def test_schema_answers_parse_for_many_seeds(session: LlamaCppSession) -> None:
    schema = json.dumps({"type": "array", "items": {"type": "boolean"}, "maxItems": 3})
    for seed in range(5):
        pieces = session.stream("List:", sampling=Sampling(json_schema=schema, seed=seed))
        assert all(type(x) is bool for x in json.loads("".join(p.text for p in pieces)))


def test_penalties_change_what_greedy_repeats(session: LlamaCppSession) -> None:
    def tokens(**penalties: float) -> list[int]:
        sampling = Sampling(temperature=0.0, ignore_eos=True, **penalties)
        return [p.token for p in session.stream("aaaa", max_tokens=64, sampling=sampling)]

    penalized = tokens(presence_penalty=1000.0, penalty_last_tokens=64)
    assert len(set(penalized)) == len(penalized)
    assert len(set(tokens())) < 64


def test_end_tokens_end_and_can_be_forbidden(session: LlamaCppSession) -> None:
    ends = session.native.vocabulary.end_tokens()
    assert 256 in ends
    assert all(session.ends(token) for token in ends)
    sampling = Sampling(temperature=100.0, top_k=0, top_p=1.0, min_p=0.0, seed=1, ignore_eos=True)
    pieces = list(session.stream("x", max_tokens=400, sampling=sampling))
    assert len(pieces) == 400
    assert not any(piece.token in ends for piece in pieces)


def test_special_tokens_count_only_when_asked_for(session: LlamaCppSession) -> None:
    assert session.tokenize("<|im_start|>", parse_special=True) == [257]
    assert session.tokenize("<|im_start|>") == list(b"<|im_start|>")
    assert session.tokenize("a\ud800b\0c") == list(b"a?b\0c")
    assert session.detokenize([257, 65]) == "A"
    assert session.detokenize([]) == ""


def test_two_sessions_share_nothing(random_gguf: Path) -> None:
    with opened(random_gguf) as one, opened(random_gguf) as two:
        one.prefill([1, 2, 3])
        two.prefill([9])
        one.step(4)
        assert (one.position, two.position) == (4, 1)
    with pytest.raises(BackendError):
        one.logits()


def _synthetic(tmp_path: Path, config: dict[str, Any], name: str) -> Path:
    import quantize

    shape = ModelShape.from_config(config, name=name)
    return quantize.synthesize(shape, "F16", tmp_path / f"{name}.gguf").path


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}


def test_an_artifact_without_vocabulary_runs_on_token_ids(tmp_path: Path) -> None:
    with opened(_synthetic(tmp_path, LLAMA, "bare")) as session:
        assert session.vocabulary_tokens == 300
        session.prefill([1, 2, 299])
        session.step(5)
        session.reset()
        pieces = list(session.stream([1, 2], max_tokens=4, sampling=Sampling(ignore_eos=True)))
        assert len(pieces) == 4
        assert {piece.text for piece in pieces} == {""}
        for act in (lambda: session.tokenize("a"), lambda: session.detokenize([1])):
            with pytest.raises(UnsupportedError, match="no vocabulary"):
                act()
        with pytest.raises(UnsupportedError, match="no chat template"):
            session.render_chat([])


def test_a_windowed_cache_is_only_reused_where_its_window_reaches(tmp_path: Path) -> None:
    windowed = {
        **LLAMA,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 16,
        "num_hidden_layers": 6,
        "sliding_window": 32,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 4096,
        "query_pre_attn_scalar": 16,
        "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
    }
    path = _synthetic(tmp_path, windowed, "windowed")
    with opened(path, context_tokens=2048, micro_batch_tokens=64) as used:
        assert used.native.window_tokens == 32
        long = [i % 299 + 1 for i in range(900)]
        list(used.stream(long, max_tokens=40, sampling=Sampling(temperature=0.0)))
        branch = [*long[:100], 7, 8, 9]
        again = list(used.stream(branch, max_tokens=20, sampling=GREEDY))
        assert used.position == len(branch) + 19
    with opened(path, context_tokens=2048, micro_batch_tokens=64) as fresh:
        assert list(fresh.stream(branch, max_tokens=20, sampling=GREEDY)) == again


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ('{"type": "integer", "maximum": 9}', "maximum"),
        ('{"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}}',
         "uniqueItems"),
        ('{"$defs": {"x": {"not": {}}}, "$ref": "#/$defs/x"}', "not"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_enforced_is_refused_by_name(
    session: LlamaCppSession, schema: str, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        session.sampler(Sampling(json_schema=schema))


def test_property_names_and_constants_are_no_keywords(session: LlamaCppSession) -> None:
    schema = (
        '{"type": "object", "properties": {"maximum": {"enum": [{"not": 1}]}},'
        ' "required": ["maximum"], "additionalProperties": false}'
    )
    session.sampler(Sampling(json_schema=schema)).close()


GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300}


def test_a_context_ends_where_the_table_of_positions_does(tmp_path: Path) -> None:
    # The engine rounds contexts up to 256 tokens, and ends the process at the table's end.
    path = _synthetic(tmp_path, {**GPT2, "n_positions": 40}, "table")
    with opened(path) as session:
        assert session.context_tokens == 40
        pieces = list(session.stream([1] * 30, sampling=Sampling(ignore_eos=True)))
        assert pieces[-1].finish == "context"
        assert len(pieces) == 11
    with pytest.raises(UsageError, match=r"41 tokens.*40 rows"):
        opened(path, context_tokens=41)


BERT = {
    "model_type": "bert", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 300, "max_position_embeddings": 40,
}  # fmt: skip


def test_an_encoder_writes_no_text_and_says_so_in_a_sentence(tmp_path: Path) -> None:
    with opened(_synthetic(tmp_path, BERT, "encoder"), embeddings=True) as session:
        assert session.context_tokens == 40
        with pytest.raises(UnsupportedError, match="reads texts and writes none"):
            next(session.stream([1, 2], max_tokens=1))
        with pytest.raises(UnsupportedError, match="reads texts and writes none"):
            session.step(1)
