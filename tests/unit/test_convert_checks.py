"""What cannot be converted faithfully is refused before a byte is written, naming the reason."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.errors import (
    DiskError,
    EdgeError,
    FormatError,
    ModelNotFoundError,
    UnsupportedError,
    UsageError,
)
from quantize import QuantizeOptions, conversion, convert
from quantize.writers import whole_file

st = pytest.importorskip("safetensors.numpy")

HIDDEN, WIDE, VOCABULARY = 32, 64, 12
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "bos_token_id": 8, "eos_token_id": 9,
}  # fmt: skip
TOKENIZER = {
    "added_tokens": [{"id": 8, "content": "<s>", "special": True},
                     {"id": 9, "content": "</s>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                      "use_regex": True},
    "post_processor": None,
    "model": {"type": "BPE", "ignore_merges": False, "merges": ["a b", ["ab", "c"]],
              "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "d": 5, "e": 6, "f": 7}},
}  # fmt: skip


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    at = "model.layers.0."
    dims = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,),
        at + "input_layernorm.weight": (HIDDEN,), at + "post_attention_layernorm.weight": (HIDDEN,),
        at + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        at + "self_attn.k_proj.weight": (HIDDEN // 2, HIDDEN),
        at + "self_attn.v_proj.weight": (HIDDEN // 2, HIDDEN),
        at + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        at + "mlp.gate_proj.weight": (WIDE, HIDDEN), at + "mlp.up_proj.weight": (WIDE, HIDDEN),
        at + "mlp.down_proj.weight": (HIDDEN, WIDE),
    }  # fmt: skip
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in dims.items()}


class Source:
    """A small checkpoint to be spoiled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = copy.deepcopy(CONFIG)
        self.tokenizer = copy.deepcopy(TOKENIZER)
        self.weights = weights()
        self.out = path / "out" / "m.gguf"
        self.out.parent.mkdir()

    def convert(self, level: str = "F16", **wishes: object):
        self.write_settings()
        st.save_file(self.weights, self.path / "model.safetensors")
        return convert(self.path, self.out, level=level, **wishes)

    def write_settings(self) -> None:
        (self.path / "config.json").write_text(json.dumps(self.config))
        (self.path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
        (self.path / "tokenizer.json").write_text(json.dumps(self.tokenizer))

    def refused(
        self, kind: type[EdgeError], words: str, level: str = "F16", **wishes: object
    ) -> None:
        with pytest.raises(kind, match=words):
            self.convert(level, **wishes)
        assert not list(self.out.parent.iterdir())


def values(artifact: Artifact, name: str) -> np.ndarray:
    """The values of an F32 tensor of a file, as numpy would have them."""
    (info,) = (t for t in artifact.tensors if t.name == name)
    data = artifact.paths[info.part].read_bytes()[info.offset_bytes :][: info.size_bytes]
    return np.frombuffer(data, "<f4").reshape(info.dims[::-1])


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_the_sound_one_converts(source: Source) -> None:
    artifact = source.convert()
    data = artifact.metadata
    assert tuple(data["tokenizer.ggml.tokens"])[-4:-2] == ("<s>", "</s>")
    assert tuple(data["tokenizer.ggml.token_type"]) == (1,) * 8 + (3, 3, 5, 5)
    assert tuple(data["tokenizer.ggml.merges"]) == ("a b", "ab c")
    assert data["general.file_type"] == 1
    assert (artifact.level, artifact.vocabulary_tokens) == ("F16", VOCABULARY)


def test_a_shipped_head_of_a_tied_model_is_written(source: Source) -> None:
    source.weights["lm_head.weight"] = source.weights["model.embed_tokens.weight"] + 1
    artifact = source.convert("F32")
    assert not artifact.shape.tied_embeddings
    assert (values(artifact, "output.weight") == source.weights["lm_head.weight"]).all()


def test_a_head_that_does_not_fit_is_refused_though_the_model_is_tied(source: Source) -> None:
    source.weights["lm_head.weight"] = np.ones((VOCABULARY, HIDDEN + 1), np.float32)
    source.refused(FormatError, r"lm_head\.weight has the shape")


def test_tensors_without_meaning_are_dropped_by_name(source: Source) -> None:
    source.weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    assert source.convert().shape.layers == 1


def test_llama3_frequencies_become_a_tensor(source: Source) -> None:
    source.config["rope_scaling"] = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    artifact = source.convert()
    (table,) = (t for t in artifact.tensors if t.name == "rope_freqs.weight")
    data = artifact.path.read_bytes()[table.offset_bytes :][: table.size_bytes]
    assert np.frombuffer(data, np.float32).max() == 8.0


def test_a_tensor_left_over_stops_the_conversion(source: Source) -> None:
    source.weights["model.layers.0.self_attn.q_norm.weight"] = np.ones(16, np.float32)
    source.refused(FormatError, "q_norm.weight has no place")


def test_a_layer_too_many_stops_the_conversion(source: Source) -> None:
    source.weights["model.layers.1.input_layernorm.weight"] = np.ones(HIDDEN, np.float32)
    source.refused(FormatError, "layers.1.input_layernorm.weight has no place")


def test_a_missing_tensor_is_named(source: Source) -> None:
    del source.weights["model.layers.0.mlp.up_proj.weight"]
    source.refused(FormatError, "blk.0.ffn_up.weight")


def test_an_untied_model_needs_its_head(source: Source) -> None:
    source.config["tie_word_embeddings"] = False
    source.refused(FormatError, "becomes output.weight")


def test_another_shape_than_the_config_says_is_named(source: Source) -> None:
    source.weights["model.norm.weight"] = np.ones(HIDDEN + 1, np.float32)
    source.refused(FormatError, r"model.norm.weight has the shape \[33\]")


def test_weights_that_are_no_numbers_leave_no_file(source: Source) -> None:
    source.weights["model.layers.0.mlp.down_proj.weight"][3, 3] = np.nan
    source.refused(FormatError, "down_proj.weight holds values that are no finite")


def test_other_families_are_refused_by_name(source: Source) -> None:
    source.config["architectures"] = ["LlamaForCausalLMs"]
    source.refused(UnsupportedError, "LlamaForCausalLMs.*Nearest: LlamaForCausalLM")
    source.config["architectures"] = 5
    source.refused(UnsupportedError, r"config\.json leaves out")


def test_a_config_of_another_family_is_found_out_by_the_tensors(source: Source) -> None:
    source.config.update(architectures=["Qwen2ForCausalLM"], model_type="qwen2")
    source.refused(FormatError, r"lacks the tensor that becomes blk\.0\.attn_[qkv]\.bias")


def test_levels_that_need_an_importance_matrix_are_refused_first(source: Source) -> None:
    source.refused(UnsupportedError, "IQ2_XS needs an importance matrix", "IQ2_XS")


def test_a_missing_tokenizer_is_said(source: Source) -> None:
    source.convert()
    (source.path / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json"):
        convert(source.path, source.out, overwrite=True)


def test_no_room_is_said_before_the_intermediate_file(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_file, "SPARE_BYTES", 2**60)
    source.refused(EdgeError, "no room", "Q4_K_M")


def test_the_same_files_come_out_whatever_the_threads(source: Source) -> None:
    wanted = source.convert("Q8_0").path.read_bytes()
    for threads in (1, 3, 10**6):
        found = source.convert("Q8_0", threads=threads, overwrite=True)
        assert found.path.read_bytes() == wanted


def test_a_file_that_is_there_is_refused_before_any_work(source: Source) -> None:
    source.out.write_text("mine")
    for level in ("F16", "Q4_K_M"):
        with pytest.raises(UsageError, match=r"is there already.*--force"):
            source.convert(level)
    assert source.out.read_text() == "mine"


def test_a_file_that_another_run_made_meanwhile_is_kept(source: Source) -> None:
    def overtaken(fraction: float) -> None:
        if fraction < 1:
            source.out.write_text("the other's")

    with pytest.raises(UsageError, match="is there already"):
        source.convert(progress=overtaken)
    assert source.out.read_text() == "the other's"
    assert len(list(source.out.parent.iterdir())) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_a_directory_whose_name_is_no_text_converts(source: Source, tmp_path: Path) -> None:
    source.convert()
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xff"))
    source.path.joinpath("out").rename(tmp_path.parent / f"{tmp_path.name}-out")
    odd.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (source.path / name).rename(odd / name)
    assert convert(odd, tmp_path / "m.gguf").name == "n\ufffd"


def test_progress_grows_to_one_over_the_whole_job(source: Source) -> None:
    told: list[float] = []
    source.convert(progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_what_progress_raises_stops_the_work_and_leaves_nothing(source: Source) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source.convert(progress=stop)
    assert not list(source.out.parent.iterdir())


def test_values_too_large_for_half_precision_say_the_way_out(source: Source) -> None:
    source.weights["model.layers.0.mlp.down_proj.weight"][1, 2] = 7e4
    source.refused(FormatError, r"down_proj\.weight holds 7e\+04, too large for F16.*--level BF16")
    assert source.convert("BF16").level == "BF16"


def test_a_split_file_opens_as_one(source: Source) -> None:
    artifact = source.convert("F32", split_bytes=10_000)
    assert len(artifact.paths) > 2
    assert artifact.path.name == f"m-00001-of-{len(artifact.paths):05d}.gguf"
    assert not source.out.exists()
    gate = values(artifact, "blk.0.ffn_gate.weight")
    assert (gate == source.weights["model.layers.0.mlp.gate_proj.weight"]).all()


@pytest.mark.parametrize(
    ("wishes", "words"),
    [({"threads": 0}, "0 threads"), ({"split_bytes": 0}, "hold no tensor")],
)
def test_requests_that_make_no_sense_are_refused(source: Source, wishes: dict, words: str) -> None:
    source.refused(UsageError, words, **wishes)


@pytest.mark.parametrize(
    ("matrices", "others", "wanted"),
    [(np.float16, np.float32, "F16"), (np.float32, np.float16, "F32")],
)
def test_the_intermediate_holds_every_matrix_as_it_is(
    source: Source, monkeypatch: pytest.MonkeyPatch, matrices: type, others: type, wanted: str
) -> None:
    for name, array in source.weights.items():
        # The embedding holds most bytes in neither case: one matrix of another type is enough.
        kind = matrices if name.endswith("gate_proj.weight") or matrices is np.float16 else others
        source.weights[name] = array.astype(others if array.ndim == 1 else kind)
    seen: list[Artifact] = []

    def watch(between: Path, *_: object, **__: object) -> Artifact:
        seen.append(Artifact.open(between))
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "requantize", watch)
    with pytest.raises(KeyboardInterrupt):
        source.convert("Q4_0")
    assert seen[0].level == wanted
    assert not list(source.out.parent.iterdir())


def test_memory_stays_small_whatever_the_size_of_a_tensor(source: Source) -> None:
    wide = 1 << 19  # three matrices of 32 MiB, which are holes in the file
    source.config["intermediate_size"] = wide
    source.write_settings()
    header, end = {}, 0
    for name, array in source.weights.items():
        dims = [wide if n == WIDE else n for n in array.shape]
        span = [end, end + 2 * int(np.prod(dims))]
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": span}
        end = span[1]
    text = json.dumps(header).encode()
    with (source.path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    tracemalloc.start()
    try:
        convert(source.path, source.out, level="Q8_0")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 * 1024**2 < end // 3


def test_an_importance_matrix_that_is_none_is_refused_before_any_work(source: Source) -> None:
    matrix = source.path / "imatrix.gguf"
    matrix.write_bytes(b"no matrix")
    source.refused(EdgeError, "imatrix", "IQ2_XS", options=QuantizeOptions(imatrix=matrix))


def test_a_directory_that_may_not_be_written_is_said_first(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_file.os, "access", lambda *_: False)
    source.refused(DiskError, "does not allow it")


def test_an_output_in_no_directory_is_said_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="mkdir -p"):
        convert(tmp_path / "no checkpoint", tmp_path / "no" / "m.gguf")
    with pytest.raises(ModelNotFoundError, match="Nothing is there"):
        convert(tmp_path / "no checkpoint", tmp_path / "m.gguf")
    with pytest.raises(EdgeError, match="is a directory"):
        convert(tmp_path / "no checkpoint", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelNotFoundError, match="It is no directory"):
        convert(tmp_path / "file", tmp_path / "m.gguf")
    with pytest.raises(EdgeError, match="cannot be written"):
        convert(tmp_path, tmp_path / "file" / "m.gguf")


# What a killed conversion leaves: it stops after so many slabs, in a process of its own.
CHILD = """
import sys, time
from pathlib import Path
from quantize import assembly, convert
from quantize.writers import whole_file

count = int(sys.argv[4])
assembly.SLAB_ELEMENTS = 512
encoded = assembly.Assembly.encoded
calls = []

def stop(*_):
    print("there", flush=True)
    time.sleep(60)

def slow(self, *given):
    calls.append(1)
    if len(calls) == count:
        stop()
    return encoded(self, *given)

assembly.Assembly.encoded = slow
if count == 0:
    whole_file._sync = stop
convert(Path(sys.argv[1]), Path(sys.argv[2]), level=sys.argv[3])
"""


@pytest.mark.parametrize(("level", "slabs"), [("F16", 1), ("Q8_0", 17), ("F32", 0)])
def test_a_conversion_killed_anywhere_leaves_no_file_and_the_next_cleans_up(
    source: Source, level: str, slabs: int
) -> None:
    whole = source.convert(level).path.read_bytes()
    source.out.unlink()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source.path), str(source.out), level, str(slabs)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(convert.__code__.co_filename).parents[1])},
    )
    assert child.stdout.readline() == "there\n"
    child.kill()
    child.wait()
    child.stdout.close()
    assert not source.out.exists()
    assert list(source.out.parent.iterdir())
    assert source.convert(level).path.read_bytes() == whole
    assert [path.name for path in source.out.parent.iterdir()] == ["m.gguf"]
