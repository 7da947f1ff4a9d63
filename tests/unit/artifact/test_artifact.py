"""What `Artifact.open` says of a file."""

from __future__ import annotations

import pytest

from edge_runtime.artifact import (
    LAYERS_OF_MODEL_KEY,
    LEVELS,
    SYNTHETIC_KEY,
    Artifact,
    ModelShape,
    types_for,
)
from edge_runtime.errors import FormatError, ModelNotFoundError, UnsupportedError

from .conftest import TINY, encode_gguf, model_pairs

U32, BOOL, TEXT, ARRAY = 4, 7, 8, 9


def test_a_whole_model_file(write_model, tiny):
    path = write_model(tiny, ("tokenizer.chat_template", TEXT, "{{ messages }}"))
    artifact = Artifact.open(path)
    assert artifact.name == "tiny"
    assert artifact.shape == tiny
    assert artifact.format == "gguf"
    assert artifact.paths == (path,)
    assert artifact.size_bytes == path.stat().st_size
    assert artifact.level == "F32"
    assert artifact.chat_template == "{{ messages }}"
    assert artifact.tokenizer_model == "no_vocab"
    assert artifact.vocabulary_tokens == 40
    assert artifact.parameters == tiny.parameters
    assert artifact.weight_bytes == tiny.weight_bytes("F32")
    assert artifact.decode_bytes == tiny.decode_bytes("F32")
    assert not artifact.synthetic
    assert artifact.layers_of_model == 2
    assert len(artifact.fingerprint) == 16


def test_a_path_may_be_text(write_model, tiny):
    assert Artifact.open(str(write_model(tiny))).shape == tiny


def test_without_a_name_the_files_own_stands_in(write_model, tiny):
    path = write_model(tiny, without="general.name", name="stories.gguf")
    assert Artifact.open(path).name == "stories"


def test_without_a_chat_template_there_is_none(write_model, tiny):
    assert Artifact.open(write_model(tiny)).chat_template is None


def test_a_synthetic_truncated_file_says_so(write_model, tiny):
    path = write_model(tiny, (SYNTHETIC_KEY, BOOL, True), (LAYERS_OF_MODEL_KEY, U32, 24))
    artifact = Artifact.open(path)
    assert artifact.synthetic
    assert artifact.layers_of_model == 24
    assert artifact.shape.layers == 2
    assert artifact.shape.layers_of_model == 24


def test_fewer_layers_of_the_model_than_in_the_file_cannot_be(write_model, tiny):
    with pytest.raises(FormatError, match="layers_of_model"):
        Artifact.open(write_model(tiny, (LAYERS_OF_MODEL_KEY, U32, 1)))


def test_the_vocabulary_counts_the_tokens_of_the_file(write_model, tiny):
    path = write_model(tiny, ("tokenizer.ggml.tokens", ARRAY, (TEXT, ["a", "b", "c"])))
    assert Artifact.open(path).vocabulary_tokens == 3


def write_at(write, shape, level, stated):
    types = types_for(shape, LEVELS[level])
    rows, offset = [], 0
    for tensor in shape.tensors:
        kind = types[tensor.name]
        rows.append((tensor.name, tensor.dims, kind.id, offset))
        offset += -(-kind.size_bytes(tensor.dims) // 32) * 32
    pairs = [pair for pair in model_pairs(shape) if pair[0] != "general.file_type"]
    if stated is not None:
        pairs.append(("general.file_type", U32, stated))
    return write(encode_gguf(pairs, rows, data_bytes=offset), name=f"{level}-{stated}.gguf")


WIDE = {**TINY, "hidden_size": 256, "intermediate_size": 512}


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_of_a_file_made_at_a_level(write, level):
    shape = ModelShape.from_config(WIDE, name="wide")
    artifact = Artifact.open(write_at(write, shape, level, LEVELS[level].ftype))
    dense_mxfp4 = level == "MXFP4_MOE"  # without experts it is Q8_0, and that is what is there
    assert artifact.level == ("Q8_0" if dense_mxfp4 else level)
    assert artifact.weight_bytes == shape.weight_bytes(level)
    assert artifact.decode_bytes == shape.decode_bytes(level)


@pytest.mark.parametrize("stated", [None, 2, 77, 1024])
def test_a_stated_level_that_is_not_there_gives_way_to_what_is(write, stated):
    shape = ModelShape.from_config(WIDE, name="wide")
    assert Artifact.open(write_at(write, shape, "Q4_K_M", stated)).level == "Q4_K + Q6_K"


def test_the_mix_lists_types_by_size_and_adds_up(write):
    shape = ModelShape.from_config(WIDE, name="wide")
    artifact = Artifact.open(write_at(write, shape, "Q4_K_M", 15))
    names = [name for name, _, _ in artifact.mix]
    assert sorted(names) == ["F32", "Q4_K", "Q6_K"]
    assert sum(count for _, count, _ in artifact.mix) == len(shape.tensors)
    assert sum(size for _, _, size in artifact.mix) == shape.weight_bytes("Q4_K_M")
    sizes = [size for _, _, size in artifact.mix]
    assert sizes == sorted(sizes, reverse=True)


def test_a_directory_is_no_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match="directory"):
        Artifact.open(tmp_path)


def test_an_unknown_architecture_is_named_with_its_neighbours(write_model, tiny):
    path = write_model(tiny, ("general.architecture", TEXT, "qwen3next"))
    with pytest.raises(UnsupportedError, match=r"model\.gguf.*'qwen3next'.*qwen3"):
        Artifact.open(path)


def test_an_error_of_the_shape_names_the_file(write_model, tiny):
    path = write_model(tiny, without="llama.embedding_length", name="broken.gguf")
    with pytest.raises(FormatError, match=r"broken\.gguf.*embedding_length"):
        Artifact.open(path)


def test_a_file_that_only_holds_a_vocabulary_is_no_model(write):
    path = write([("general.architecture", TEXT, "llama")], [])
    with pytest.raises(FormatError, match="holds no weights"):
        Artifact.open(path)
