"""Written as ONNX at fp32, a checkpoint computes in onnxruntime what it computes in transformers.

reference.json has the logits of transformers, eager and in float32, for each case of `cases`. What
it cannot show (windows shorter than the text, chunks of a prompt, levels of integers) is shown by
what must hold of any right model.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from golden.quantize.checkpoint_case import Case
from golden.quantize.made_up_tokenizers import sentencepiece_pieces
from golden.quantize.onnx_graphs import BY_NAME, WRITTEN, Array, Convert, Model, shape_of

from edge_runtime.artifact import ModelShape
from edge_runtime.errors import (
    FormatError,
    ModelNotFoundError,
    UnsupportedError,
    UsageError,
)
from quantize.onnx.config import config_of
from quantize.onnx.conversion import convert_onnx
from quantize.onnx.details import DECODERS
from quantize.onnx.levels import onnx_level
from quantize.onnx.synthesis import synthesize_onnx, synthetic_onnx_bytes

onnxruntime = pytest.importorskip("onnxruntime")

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text("utf-8"))["cases"]
ROUNDING = 1e-5
"""Of the largest logit: what the order of additions changes in float32."""


def wanted(case: Case, length: int) -> tuple[list[int], Array]:
    entries = REFERENCE[case.twin or case.name]["logits"]
    (entry,) = (entry for entry in entries if entry["length"] == length)
    stored = np.frombuffer(base64.b64decode(entry["float32"]), "<f4")
    return entry["positions"], stored.reshape(len(entry["positions"]), -1)


def test_every_family_that_is_promised_is_compared() -> None:
    shapes = [shape_of(BY_NAME[name]) for name in WRITTEN if BY_NAME[name].lengths]
    assert {shape.architecture for shape in shapes} == set(DECODERS)


@pytest.mark.parametrize(
    ("name", "length"), [(name, n) for name in WRITTEN for n in BY_NAME[name].lengths]
)
def test_logits_are_those_of_transformers(converted: Convert, name: str, length: int) -> None:
    model, case = Model(converted(name)), BY_NAME[name]
    positions, logits = wanted(case, length)
    found, _ = model.run(case.sequence(length))
    assert np.abs(found[positions] - logits).max() <= ROUNDING * np.abs(logits).max()


@pytest.mark.parametrize("name", ["llama-3", "gemma-3", "phi-3.5", "phi-4-mini", "gpt-2", "olmo-3"])
def test_a_prompt_in_chunks_gives_what_the_whole_gives(converted: Convert, name: str) -> None:
    model, case = Model(converted(name)), BY_NAME[name]
    tokens = case.sequence(case.lengths[-1])
    whole, _ = model.run(tokens)
    # Where long contexts turn otherwise, a chunk has to know how long the whole will be.
    more = {"rotary_tokens": len(tokens)} if "rotary_tokens" in model.defaults else {}
    past, parts = None, []
    for start in range(0, len(tokens), 13):
        logits, past = model.run(tokens[start : start + 13], past, **more)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-6 * np.abs(whole).max())


def test_only_the_last_logits_are_made_when_asked(converted: Convert) -> None:
    model, tokens = Model(converted("llama-1")), BY_NAME["llama-1"].sequence(9)
    whole, _ = model.run(tokens)
    for count in (1, 4, 9, 20):
        kept, _ = model.run(tokens, num_logits_to_keep=count)
        np.testing.assert_array_equal(kept, whole[-count:])


@pytest.mark.parametrize(
    ("name", "change", "reach"),
    [  # two layers, the window's tokens including the one that looks: 2 x (16 - 1) + 1
        ("mistral", {}, 31),
        ("phi-3", {"sliding_window": 16}, 31),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, 31),
    ],
)
def test_a_window_hides_what_lies_before_it(
    tmp_path: Path, name: str, change: dict[str, object], reach: int
) -> None:
    case = dataclasses.replace(BY_NAME[name], config={**BY_NAME[name].config, **change})
    convert_onnx(case.write(tmp_path / "in"), tmp_path / "out", level="fp32")
    model = Model(tmp_path / "out")
    tokens = case.sequence(60)
    last = model.run(tokens)[0][-1]

    def with_another(at: int) -> Array:
        return model.run([*tokens[:at], tokens[at] + 1, *tokens[at + 1 :]])[0][-1]

    np.testing.assert_array_equal(with_another(60 - reach - 1), last)
    assert np.abs(with_another(60 - reach) - last).max() > 1e-6


def relative_error(found: Array, right: Array) -> float:
    return float(np.sqrt(((found - right) ** 2).mean() / (right**2).mean()))


@pytest.mark.parametrize("name", ["llama-1", "qwen2", "gemma-2", "gpt-2", "phi-3"])
@pytest.mark.parametrize(
    ("level", "options", "most"),
    [
        ("fp16", {}, 0.004),
        ("int8", {}, 0.05),
        ("int8", {"symmetric": False}, 0.045),
        ("int4", {}, 0.45),
        ("int4", {"block_size": 16, "symmetric": False}, 0.45),
        ("int4", {"block_size": 128}, 0.45),
        ("int4", {"algorithm": "k_quant", "head_bits": 8, "sensitive_bits": 8}, 0.35),
    ],
)
def test_levels_lose_what_their_bits_lose(
    converted: Convert, name: str, level: str, options: dict[str, object], most: float
) -> None:
    tokens = BY_NAME[name].sequence(40)
    right, _ = Model(converted(name)).run(tokens)
    found, _ = Model(converted(name, level, **options)).run(tokens)
    assert relative_error(found, right) < most


def test_a_tied_table_of_blocks_is_stored_once(converted: Convert) -> None:
    model = pytest.importorskip("onnx").load(
        converted("qwen2", "int4") / "model.onnx", load_external_data=False
    )
    places = {
        tensor.name: {pair.key: pair.value for pair in tensor.external_data}
        for tensor in model.graph.initializer
    }
    assert places["token_embd.weight"] == places["output.weight"]
    assert [n.op_type for n in model.graph.node].count("MatMulNBits") == 2 * 5 + 1


@pytest.mark.parametrize("name", ["llama-3", "qwen2", "phi-3"])
def test_a_table_of_halves_loses_less(converted: Convert, name: str) -> None:
    tokens = BY_NAME[name].sequence(60)
    right, _ = Model(converted(name)).run(tokens)
    whole, _ = Model(converted(name, "int8", embedding_bits=16, accuracy_level=1)).run(tokens)
    rounded, _ = Model(converted(name, "int8", embedding_bits=8, accuracy_level=1)).run(tokens)
    assert relative_error(whole, right) < relative_error(rounded, right)
    with pytest.raises(UsageError, match="number of bits"):
        onnx_level("int8").with_options(head_bits=16)


def test_the_folder_holds_what_is_needed_to_use_it(converted: Convert) -> None:
    folder = converted("smollm2", "int4")
    assert {path.name for path in folder.iterdir()} >= {
        "model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json", "config.json",
    }  # fmt: skip
    model = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    said = model.get_modelmeta().custom_metadata_map
    assert said["edge_runtime.level"] == "int4"
    assert "edge_runtime.synthetic" not in said
    assert [value.name for value in model.get_inputs()][:4] == [
        "input_ids", "attention_mask", "past_key_values.0.key", "past_key_values.0.value",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["llama-1", "gemma-3", "phi-3.5", "olmo-2", "gpt-2"])
@pytest.mark.parametrize("level", ["fp32", "int4"])
def test_onnxruntime_genai_continues_as_the_graph_does(
    converted: Convert, name: str, level: str
) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    case, folder = BY_NAME[name], converted(name, level)
    tokens = case.sequence(20)
    parameters = genai.GeneratorParams(genai.Model(str(folder)))
    parameters.set_search_options(max_length=40, do_sample=False)
    generator = genai.Generator(genai.Model(str(folder)), parameters)
    generator.append_tokens(tokens)
    theirs = []
    while not generator.is_done() and len(theirs) < 12:
        generator.generate_next_token()
        theirs.append(int(generator.get_next_tokens()[0]))
    model, ours = Model(folder), []
    logits, past = model.run(tokens)
    for _ in theirs:
        ours.append(int(logits[-1].argmax()))
        logits, past = model.run(ours[-1:], past)
    assert theirs == ours


def test_genai_is_told_tokens_and_habits(tmp_path: Path) -> None:
    checkpoint = BY_NAME["gemma-3-with-vision"].write(tmp_path / "in")
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"] |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    (checkpoint / "config.json").write_text(json.dumps(config))
    habits = {"do_sample": True, "top_k": 64, "top_p": 0.95, "temperature": None}
    (checkpoint / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1, "x", 2**40, 106], "repetition_penalty": -3, **habits})
    )
    convert_onnx(checkpoint, tmp_path / "out", level="fp32")
    told = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    model, search = told["model"], told["search"]
    assert (model["bos_token_id"], model["eos_token_id"], model["pad_token_id"]) == (2, [1, 106], 0)
    assert (search["do_sample"], search["top_k"], search["top_p"]) == (True, 64, 0.95)
    assert (search["temperature"], search["repetition_penalty"]) == (1.0, 1.0)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_synthetic_model_is_as_large_as_a_real_one(
    converted: Convert, tmp_path: Path, name: str
) -> None:
    shape = shape_of(BY_NAME[name])
    # A real checkpoint may ship a head of its own although its config ties it, and the other way.
    real = converted(name, "int8") / "model.onnx.data"
    artifact = synthesize_onnx(shape, "int8", tmp_path / "made")
    assert artifact.synthetic
    assert artifact.shape.layers == shape.layers
    made = tmp_path / "made" / "model.onnx.data"
    if name != "llama-3-transformers-5":
        assert made.stat().st_size == real.stat().st_size
    assert synthetic_onnx_bytes(shape, "int8") == made.stat().st_size


@pytest.mark.parametrize("level", ["fp32", "fp16", "int8", "int4"])
def test_a_synthetic_model_runs_and_says_what_it_is(tmp_path: Path, level: str) -> None:
    shape = shape_of(BY_NAME["gemma-3"])
    out = tmp_path / "out"
    artifact = synthesize_onnx(shape, level, out, layers=2)
    assert (artifact.shape.layers, artifact.shape.layers_of_model) == (2, 6)
    model = Model(out)
    logits, past = model.run([3, 4, 5])
    assert np.isfinite(logits).all()
    assert 1e-3 < logits.std() < 10
    assert len(past) == 4
    said = model.session.get_modelmeta().custom_metadata_map
    assert said["edge_runtime.synthetic"] == "true"
    config = json.loads((out / "config.json").read_text())
    cut = dataclasses.replace(shape.truncated(2), layers_of_model=2)
    assert ModelShape.from_config(config, name="gemma-3") == cut
    again = tmp_path / "again"
    synthesize_onnx(shape, level, again, layers=2)
    for name in ("model.onnx", "model.onnx.data"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.parametrize("name", [n for n in WRITTEN if n != "llama-yarn-factors"])
def test_the_config_of_a_shape_is_read_as_that_shape(name: str) -> None:
    shape = shape_of(BY_NAME[name])
    assert ModelShape.from_config(config_of(shape), name=name) == shape


@pytest.mark.parametrize(("name", "first"), [("llama-1", 1), ("gemma", 2), ("phi-3", 1)])
def test_a_sentencepiece_model_comes_along_as_tokenizer_json(
    converted: Convert, tmp_path: Path, name: str, first: int
) -> None:
    from tokenizers import Tokenizer

    checkpoint = BY_NAME[name].write(tmp_path / "in")
    (checkpoint / "tokenizer.json").unlink(missing_ok=True)
    convert_onnx(checkpoint, tmp_path / "out", level="int8")
    ours = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    text = "the quick  brown fox; it's naïve 你好\n\tover"
    assert ours.encode(text).ids[0] == first
    assert ours.decode(ours.encode(text).ids) == text
    if name == "llama-1":
        for line in (text, "  ", "1234 rivers", "it's what they've said", "lazy lazy"):
            tokens = ours.encode(line, add_special_tokens=False).tokens
            assert tokens == joined_by_score("\u2581" + line.replace(" ", "\u2581"))


def joined_by_score(text: str) -> list[str]:
    """SentencePiece's BPE by its definition: best union of neighbours first, then the leftmost."""
    pieces = sentencepiece_pieces(("<unk>", "<s>", "</s>"))
    scores = {piece: score for piece, score, kind in pieces if kind == 1}
    parts = list(text)
    while True:
        unions = [a + b for a, b in itertools.pairwise(parts)]
        known = [(-scores[union], at) for at, union in enumerate(unions) if union in scores]
        if not known:
            break
        _, at = min(known)
        parts[at : at + 2] = [unions[at]]
    return [
        piece
        for part in parts
        for piece in ([part] if part in scores else [f"<0x{byte:02X}>" for byte in part.encode()])
    ]


def test_rows_of_the_embedding_that_no_token_has_are_kept(tmp_path: Path) -> None:
    config = {**BY_NAME["gemma-3"].config, "vocab_size": 400}
    case = dataclasses.replace(BY_NAME["gemma-3"], config=config)
    artifact = convert_onnx(case.write(tmp_path / "in"), tmp_path / "out", level="int8")
    assert artifact.shape.vocabulary_tokens == 400
    assert Model(tmp_path / "out").run([5, 6])[0].shape == (2, 400)


def test_what_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    phi = BY_NAME["phi-2"].write(tmp_path / "phi")
    with pytest.raises(UnsupportedError, match="not written as ONNX"):
        convert_onnx(phi, tmp_path / "out")
    llama = BY_NAME["llama-1"].write(tmp_path / "llama")
    with pytest.raises(UnsupportedError, match="Nearest: int4"):
        convert_onnx(llama, tmp_path / "out", level="int44")
    with pytest.raises(UsageError, match="stored as floats"):
        onnx_level("fp16").with_options(block_size=64)
    with pytest.raises(UsageError, match="block size"):
        onnx_level("int4").with_options(block_size=48)
    with pytest.raises(UsageError, match="threads"):
        convert_onnx(llama, tmp_path / "out", threads=0)
    (llama / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="made from"):
        convert_onnx(llama, llama, overwrite=True)
    with pytest.raises(ModelNotFoundError):
        convert_onnx(tmp_path / "nowhere", tmp_path / "out")
    narrow = dataclasses.replace(
        BY_NAME["llama-1"], config={**BY_NAME["llama-1"].config, "head_dim": 12}
    )
    with pytest.raises(UnsupportedError, match="multiples of 8"):
        convert_onnx(narrow.write(tmp_path / "narrow"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("level", ["fp32", "fp16", "int8", "int4"])
def test_values_that_are_no_numbers_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    tensors = Case.tensors

    def broken(case: Case) -> dict[str, np.ndarray]:
        made = tensors(case)
        made["model.layers.1.mlp.up_proj.weight"][5, 7] = np.nan
        return made

    monkeypatch.setattr(Case, "tensors", broken)
    checkpoint = BY_NAME["tinyllama"].write(tmp_path / "in")
    with pytest.raises(FormatError, match=r"blk\.1\.ffn_up"):
        convert_onnx(checkpoint, tmp_path / "out", level=level)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_half_precision_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = Case.tensors

    def large(case: Case) -> dict[str, np.ndarray]:
        made = tensors(case)
        made["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
        return made

    monkeypatch.setattr(Case, "tensors", large)
    checkpoint = BY_NAME["tinyllama"].write(tmp_path / "in")
    with pytest.raises(FormatError, match="too large for fp16"):
        convert_onnx(checkpoint, tmp_path / "out", level="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
