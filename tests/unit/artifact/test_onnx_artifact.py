"""What `Artifact.open` says of ONNX models: three layouts, every level, and what it refuses."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.artifact import Artifact, ModelShape
from edge_runtime.artifact.onnx.graph import read_graph
from edge_runtime.errors import FormatError, ModelNotFoundError, UnsupportedError
from tests import onnx_models as made

SHAPE = ModelShape.from_config(made.CONFIG, name="m")
MATRICES = made.LAYERS * (128 * 64 + 64 * 64 + 96 * 64 + 64 * 96)
PARAMETERS = MATRICES + 64 * 40 + made.LAYERS * 64


def genai_folder(where: Path, level: str = "int4", **options: object) -> Path:
    made.save(
        made.Decoder(level, **options).model,
        where / "model.onnx",
        external=True,
        config=made.CONFIG,
        genai=made.GENAI,
        tokenizer=True,
    )
    return where


def test_a_genai_folder(tmp_path: Path) -> None:
    folder = genai_folder(tmp_path / "tiny")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    artifact = Artifact.open(folder)
    assert artifact.format == "onnx"
    assert artifact.path == folder / "model.onnx"
    assert artifact.paths == (folder / "model.onnx", folder / "model.onnx.data")
    assert artifact.size_bytes == sum(path.stat().st_size for path in artifact.paths)
    assert (artifact.name, artifact.level) == ("tiny", "int4")
    assert artifact.shape == ModelShape.from_config(made.CONFIG, name="tiny")
    assert artifact.tokenizer_model == "tokenizer.json"
    assert artifact.chat_template == "{{ messages }}"
    assert artifact.vocabulary_tokens == 40
    assert artifact.parameters == PARAMETERS
    assert not artifact.synthetic
    assert artifact.layers_of_model == made.LAYERS
    assert len(artifact.fingerprint) == 16
    assert artifact == Artifact.open(folder / "model.onnx")


def test_exports_of_a_hub_lie_below_their_tokenizer(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--Tiny-1B" / "snapshots" / "abc"
    path = made.save(made.Decoder("q4f16").model, repository / "onnx" / "model_q4f16.onnx")
    for name, content in (("config.json", made.CONFIG), ("tokenizer.json", made.TOKENIZER)):
        (repository / name).write_text(json.dumps(content))
    (repository / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "tools", "template": "x"},
                                      {"name": "default", "template": "{{ bos }}"}]})
    )  # fmt: skip
    for given in (path, repository, repository / "onnx"):
        artifact = Artifact.open(given)
        assert (artifact.name, artifact.level) == ("Tiny-1B", "q4f16")
        assert artifact.tokenizer_model == "tokenizer.json"
        assert artifact.chat_template == "{{ bos }}"
        assert artifact.shape.rope_theta == 10_000


def test_several_exports_must_be_told_apart(tmp_path: Path) -> None:
    for name in ("model_q4.onnx", "model.onnx", "model_fp16.onnx"):
        made.save(made.Decoder().model, tmp_path / "onnx" / name, config=made.CONFIG)
    with pytest.raises(ModelNotFoundError, match=r"3 models.*onnx/model\.onnx, onnx/model_fp16"):
        Artifact.open(tmp_path)
    named = made.save(made.Decoder().model, tmp_path / "onnx/model.onnx", genai=made.GENAI)
    assert Artifact.open(named.parent).path == named


def test_halves_of_a_merged_decoder_are_no_models(tmp_path: Path) -> None:
    for name in ("decoder_model", "decoder_with_past_model", "decoder_model_merged"):
        made.save(made.Decoder().model, tmp_path / f"{name}.onnx", config=made.CONFIG)
    assert Artifact.open(tmp_path).path.name == "decoder_model_merged.onnx"


@pytest.mark.parametrize("genai", [made.GENAI, None])
def test_a_graph_shows_its_sizes_without_a_config(tmp_path: Path, genai: object) -> None:
    path = made.save(made.Decoder("int4").model, tmp_path / "model.onnx", genai=genai)  # type: ignore[arg-type]
    shape = Artifact.open(path).shape
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (
        2, 64, 4, 2, 16,
    )  # fmt: skip
    assert (shape.vocabulary_tokens, shape.context_tokens, shape.intermediate) == (40, 128, 96)
    assert shape.tied_embeddings
    assert not shape.encoder


def test_a_family_that_is_not_known_runs_all_the_same(tmp_path: Path) -> None:
    config = {**made.CONFIG, "model_type": "newlm", "architectures": ["NewForCausalLM"]}
    path = made.save(made.Decoder().model, tmp_path / "model.onnx", config=config)
    artifact = Artifact.open(path)
    assert artifact.shape.architecture == "newlm"
    assert not artifact.shape.encoder
    assert artifact.decode_bytes > 0
    assert artifact.parameters == PARAMETERS
    with pytest.raises(UnsupportedError, match="newlm"):
        artifact.shape.weight_bytes("Q8_0")


BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "vocab_size": 40,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
}


@pytest.mark.parametrize("config", [None, BERT])
def test_an_encoder_makes_embeddings_and_keeps_no_cache(tmp_path: Path, config: object) -> None:
    path = made.save(made.encoder(), tmp_path / "e" / "model.onnx", config=config)  # type: ignore[arg-type]
    artifact = Artifact.open(path)
    assert artifact.shape.encoder
    assert artifact.decode_bytes == artifact.kv_bytes(100) == 0
    assert artifact.parameters == 40 * 64
    assert artifact.tokenizer_model == "none"


@pytest.mark.parametrize(
    ("level", "matrix_bits", "head_bits"),
    [("fp32", 32, 32), ("fp16", 16, 16), ("int4", 4 + 1, 4 + 1), ("int8", 8 + 1, 8 + 1),
     ("q4f16", 4.5, 4.5)],
)  # fmt: skip
def test_levels_and_bytes(tmp_path: Path, level: str, matrix_bits: float, head_bits: float) -> None:
    artifact = Artifact.open(made.save(made.Decoder(level).model, tmp_path / "model.onnx"))
    norm = 2 if level in ("fp16", "q4f16") else 4
    head = 64 * 40 * head_bits / 8
    read = MATRICES * matrix_bits / 8 + head + made.LAYERS * 64 * norm
    angles = 2 * 8 * norm  # a row of each table
    assert artifact.level == level
    assert artifact.shape.tied_embeddings
    assert artifact.decode_bytes == read + angles
    assert artifact.weight_bytes == read + 128 * angles
    assert artifact.parameters == PARAMETERS


def test_zero_points_are_weight_bytes_too(tmp_path: Path) -> None:
    plain = Artifact.open(made.save(made.Decoder("int4").model, tmp_path / "a.onnx"))
    model = made.Decoder("int4", zero_points=True).model
    offset = Artifact.open(made.save(model, tmp_path / "b.onnx"))
    layer = (128 + 64 + 96) * 1 + 64 * 2  # a row's offsets fill whole bytes
    assert offset.weight_bytes - plain.weight_bytes == made.LAYERS * layer + 40
    assert offset.mix[0][0] == "INT4"
    assert offset.tensors[0].type.bits_per_element == 4 + (32 + 4) / 32


def test_an_embedding_of_its_own_is_looked_up(tmp_path: Path) -> None:
    path = made.save(
        made.Decoder("int4", tied=False).model, tmp_path / "model.onnx", config=made.CONFIG
    )
    artifact = Artifact.open(path)
    assert not artifact.shape.tied_embeddings
    assert artifact.parameters == PARAMETERS  # the config shares what the file holds twice
    tied = Artifact.open(made.save(made.Decoder("int4").model, tmp_path / "tied.onnx"))
    assert artifact.decode_bytes == tied.decode_bytes + 64 * 4


def test_integers_without_blocks(tmp_path: Path) -> None:
    artifact = Artifact.open(made.save(made.Decoder("dynamic").model, tmp_path / "model.onnx"))
    assert artifact.level == "int8"
    sizes = {name: size for name, _, size in artifact.mix}
    assert sizes["INT8"] == MATRICES + made.LAYERS * 4 * (4 + 1)


def test_the_cache_is_what_the_graph_says(tmp_path: Path) -> None:
    whole = Artifact.open(made.save(made.Decoder("fp32").model, tmp_path / "a.onnx"))
    half = Artifact.open(made.save(made.Decoder("fp16").model, tmp_path / "b.onnx"))
    assert whole.kv_bytes(100) == 100 * made.LAYERS * 2 * 2 * 16 * 4
    assert half.kv_bytes(100) * 2 == whole.kv_bytes(100)


def test_windows_are_those_of_the_attention(tmp_path: Path) -> None:
    model = made.Decoder(window=32).model
    for config in (None, made.CONFIG):
        artifact = Artifact.open(made.save(model, tmp_path / "model.onnx", config=config))
        assert artifact.shape.sliding_window == 32
        assert artifact.shape.sliding_layers == (True, False)


def test_a_synthetic_model_cut_in_depth_says_so(tmp_path: Path) -> None:
    stated = {"edge_runtime.synthetic": "true", "edge_runtime.layers_of_model": "24"}
    model = made.Decoder("int8", metadata=stated).model
    config = {**made.CONFIG, "num_hidden_layers": 24}
    artifact = Artifact.open(made.save(model, tmp_path / "model.onnx", config=config))
    assert artifact.synthetic
    assert (artifact.shape.layers, artifact.layers_of_model) == (2, 24)


def test_a_stated_level_counts_only_where_the_weights_bear_it_out(tmp_path: Path) -> None:
    for stated, shown in (("int4-b128", "int4-b128"), ("fp16", "int4"), ("int4\x1b[31m", "int4")):
        model = made.Decoder("int4", metadata={"edge_runtime.level": stated}).model
        assert Artifact.open(made.save(model, tmp_path / "model.onnx")).level == shown


def test_fingerprints_follow_graph_and_sizes_not_the_path(tmp_path: Path) -> None:
    one = Artifact.open(genai_folder(tmp_path / "a")).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert Artifact.open(tmp_path / "b").fingerprint == one
    assert Artifact.open(genai_folder(tmp_path / "c", metadata={"x": "y"})).fingerprint != one
    with (tmp_path / "b" / "model.onnx.data").open("ab") as file:
        file.write(b"\0")
    assert Artifact.open(tmp_path / "b").fingerprint != one


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_hidden_layers", 3), ("num_key_value_heads", 4), ("head_dim", 32), ("hidden_size", 128),
     ("vocab_size", 41)],
)  # fmt: skip
def test_a_config_that_contradicts_the_graph(tmp_path: Path, key: str, value: int) -> None:
    config = {**made.CONFIG, key: value}
    path = made.save(made.Decoder("int4").model, tmp_path / "model.onnx", config=config)
    with pytest.raises(FormatError, match=rf"config\.json contradicts.*{key} {value}"):
        Artifact.open(path)


def test_a_genai_config_that_contradicts_the_graph(tmp_path: Path) -> None:
    genai = copy.deepcopy(dict(made.GENAI))
    genai["model"]["decoder"]["num_hidden_layers"] = 7  # type: ignore[index]
    path = made.save(made.Decoder().model, tmp_path / "model.onnx", genai=genai)
    with pytest.raises(FormatError, match=r"genai_config\.json contradicts.*layers 7.*has 2"):
        Artifact.open(path)


@pytest.mark.parametrize(
    ("genai", "error", "words"),
    [
        ({"model": 3}, FormatError, "describes no model"),
        ({"model": {"decoder": {"filename": "../model.onnx"}}}, FormatError, "names no model file"),
        ({"model": {"decoder": {"filename": "x.onnx"}}}, ModelNotFoundError, "x.onnx is missing"),
        ({"model": {"decoder": {"pipeline": []}}}, UnsupportedError, "pipeline"),
        ({"model": {"encoder": {}}}, UnsupportedError, "names no decoder"),
    ],
)
def test_genai_configs_that_cannot_be(
    tmp_path: Path, genai: object, error: type, words: str
) -> None:
    made.save(made.Decoder().model, tmp_path / "model.onnx", genai=genai)  # type: ignore[arg-type]
    with pytest.raises(error, match=words):
        Artifact.open(tmp_path)


def test_what_is_no_language_model_is_refused_by_name(tmp_path: Path) -> None:
    path = made.save(made.picture_model(), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match=r"no language model.*pixels \(FP32\)"):
        Artifact.open(path)
    assert dict(read_graph(path).operators) == {"Conv": 1}
    no_past = made.save(made.Decoder(cache=False).model, tmp_path / "b.onnx", config=made.CONFIG)
    with pytest.raises(UnsupportedError, match="keeps no cache"):
        Artifact.open(no_past)


def test_a_decoder_fed_with_embeddings_is_one_part_of_a_model(tmp_path: Path) -> None:
    model = made.Decoder().model
    model.graph.input[0].name = "inputs_embeds"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(UnsupportedError, match="one part of a model"):
        Artifact.open(made.save(model, tmp_path / "model.onnx"))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_that_scores_labels_is_an_encoder(tmp_path: Path, family: str) -> None:
    model = made.encoder()
    model.graph.output[0].name = model.graph.node[0].output[0] = "logits"
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 9
    config = {**BERT, "model_type": family, "architectures": ["XForTokenClassification"]}
    artifact = Artifact.open(made.save(model, tmp_path / "model.onnx", config=config))
    assert artifact.shape.encoder
    assert artifact.shape.vocabulary_tokens == 40


def test_half_of_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    model = made.Decoder().model
    extra = helper.make_tensor_value_info(
        "encoder_hidden_states", TensorProto.FLOAT, ["b", "s", 64]
    )
    model.graph.input.append(extra)
    with pytest.raises(UnsupportedError, match="encoder_hidden_states"):
        Artifact.open(made.save(model, tmp_path / "model.onnx"))


def test_missing_and_truncated_data(tmp_path: Path) -> None:
    folder = genai_folder(tmp_path)
    data = folder / "model.onnx.data"
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    with pytest.raises(FormatError, match=r"model\.onnx\.data is truncated"):
        Artifact.open(folder)
    data.unlink()
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx\.data is missing"):
        Artifact.open(folder)
    data.mkdir()
    with pytest.raises(FormatError, match="no regular file"):
        Artifact.open(folder)


def with_location(path: Path, location: str, **numbers: str) -> Path:
    """A model whose one weight says it lies there."""
    model = made.encoder()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **numbers}.items():
        tensor.external_data.add(key=key, value=value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "location",
    ["../secret", "a/../../secret", "/etc/passwd", "..\\secret", "C:\\secret", "\\\\host\\secret",
     "*/_ORT_MEM_ADDR_/*"],
)  # fmt: skip
def test_data_outside_the_folder_is_never_touched(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(20_000))
    path = with_location(tmp_path / "m" / "model.onnx", location)
    with pytest.raises(FormatError, match="outside its folder"):
        Artifact.open(path)


def test_links_out_of_the_folder_are_followed_in_a_hubs_cache_only(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    with_location(blobs / "aaa", "model.onnx_data")
    (blobs / "bbb").write_bytes(bytes(40 * 64 * 4))
    snapshot = tmp_path / "snapshots" / "x"
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../blobs/aaa")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/bbb")
    assert Artifact.open(snapshot / "model.onnx").paths[1] == snapshot / "model.onnx_data"
    (snapshot / "model.onnx").unlink()
    shutil.copy(blobs / "aaa", snapshot / "model.onnx")
    with pytest.raises(FormatError, match="leads out of it"):
        Artifact.open(snapshot / "model.onnx")


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"offset": "-1"}, "offset"),
        ({"offset": "0x10"}, "offset"),
        ({"offset": "9" * 30}, "offset"),
        ({"offset": "4"}, "truncated"),
        ({"length": "10239"}, "want 10240"),
    ],
)
def test_ranges_that_cannot_be(tmp_path: Path, numbers: dict[str, str], words: str) -> None:
    path = with_location(tmp_path / "model.onnx", "data", **numbers)
    (tmp_path / "data").write_bytes(bytes(40 * 64 * 4))
    with pytest.raises(FormatError, match=words):
        Artifact.open(path)


def test_tensors_may_share_their_bytes(tmp_path: Path) -> None:
    model = made.Decoder("fp32", tied=False).model
    path = made.save(model, tmp_path / "model.onnx", external=True)
    model = onnx.load(path, load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name == "head":
            for entry in tensor.external_data:
                entry.value = places["embed"].get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    artifact = Artifact.open(path)
    assert artifact.shape.tied_embeddings
    assert artifact.parameters == PARAMETERS


def test_weights_inside_constants_and_branches_count(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.ones((16, 64), np.float32), "c")
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["w"], value=value)], "then", [],
        [helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 64])],
    )  # fmt: skip
    model = made.Decoder().model
    before = Artifact.open(made.save(model, tmp_path / "a.onnx"))
    model.graph.node.append(
        helper.make_node("If", ["flag"], ["chosen"], then_branch=inner, else_branch=inner)
    )
    after = Artifact.open(made.save(model, tmp_path / "b.onnx"))
    assert after.parameters - before.parameters == 2 * 1024  # one in each branch
    assert after.weight_bytes - before.weight_bytes == 2 * 4096


@pytest.mark.parametrize("same_names", [True, False])
def test_a_merged_decoder_is_told_through_its_branches(tmp_path: Path, same_names: bool) -> None:
    model = made.Decoder("fp32", tied=False).model
    merged = onnx.ModelProto()
    merged.CopyFrom(model)
    branches = []
    for number in range(2):
        branch = onnx.GraphProto()
        branch.CopyFrom(model.graph)
        for part in ("initializer", "input"):
            branch.ClearField(part)
        if not same_names:
            branch.output[0].name = branch.node[-1].output[0] = f"logits_{number}"
        branches.append(branch)
    merged.graph.ClearField("node")
    merged.graph.node.append(
        helper.make_node(
            "If", ["use_cache_branch"], ["logits"], then_branch=branches[0], else_branch=branches[1]
        )
    )
    whole = Artifact.open(made.save(model, tmp_path / "model.onnx", config=made.CONFIG))
    artifact = Artifact.open(made.save(merged, tmp_path / "decoder_model_merged.onnx"))
    assert not artifact.shape.tied_embeddings
    assert artifact.decode_bytes == whole.decode_bytes
    assert artifact.parameters == whole.parameters == PARAMETERS
