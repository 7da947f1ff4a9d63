"""Models in several files: any part opens all, a missing or foreign one is named."""

from __future__ import annotations

import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.artifact.split import part_paths, read_parts
from edge_runtime.errors import FormatError, ModelNotFoundError

from .conftest import encode_gguf, model_pairs, model_rows

U16, I32 = 2, 5


@pytest.fixture
def write_parts(tmp_path, tiny):
    """Writes the tiny model in three parts; `numbers` and `total` are what they claim."""

    def make(numbers=(0, 1, 2), total=None, repeat=False, name="tiny", skip=()):
        rows, _ = model_rows(tiny)
        thirds = [rows[:7], rows[7:14], rows[14:]]
        if repeat:
            thirds[1] = thirds[1] + rows[:1]
        paths = []
        for part, third in enumerate(thirds):
            placed, offset = [], 0
            for tensor, dims, kind, _ in third:
                placed.append((tensor, dims, kind, offset))
                count = 1
                for dim in dims:
                    count *= dim
                offset += -(-4 * count // 32) * 32
            pairs = [
                ("split.no", U16, numbers[part]),
                ("split.count", U16, 3),
                ("split.tensors.count", I32, len(rows) if total is None else total),
            ]
            if part == 0:
                pairs = model_pairs(tiny) + pairs
            path = tmp_path / f"{name}-{part + 1:05d}-of-00003.gguf"
            if part not in skip:
                path.write_bytes(encode_gguf(pairs, placed, data_bytes=offset))
            paths.append(path)
        return paths

    return make


@pytest.mark.parametrize("which", [0, 1, 2])
def test_any_part_opens_the_whole_model(write_parts, tiny, which):
    paths = write_parts()
    artifact = Artifact.open(paths[which])
    assert artifact.paths == tuple(paths)
    assert artifact.path == paths[0]
    assert artifact.shape == tiny
    assert artifact.parameters == tiny.parameters
    assert artifact.size_bytes == sum(path.stat().st_size for path in paths)
    assert {tensor.part for tensor in artifact.tensors} == {0, 1, 2}


def test_the_fingerprint_is_one_for_all_parts(write_parts):
    paths = write_parts()
    assert len({Artifact.open(path).fingerprint for path in paths}) == 1


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_part_is_named(write_parts, missing):
    paths = write_parts(skip=(missing,))
    with pytest.raises(ModelNotFoundError, match=paths[missing].name):
        Artifact.open(paths[(missing + 1) % 3])


def test_parts_of_another_model_are_refused(write_parts):
    paths = write_parts(numbers=(0, 2, 1))
    with pytest.raises(FormatError, match="not part 2 of 3"):
        Artifact.open(paths[0])


def test_a_tensor_in_two_parts_is_refused(write_parts):
    with pytest.raises(FormatError, match=r"is in tiny-00001.* and in tiny-00002"):
        Artifact.open(write_parts(repeat=True)[0])


def test_a_wrong_number_of_tensors_is_refused(write_parts):
    with pytest.raises(FormatError, match="instead of 99"):
        Artifact.open(write_parts(total=99)[0])


def test_a_renamed_part_is_refused_with_the_right_name(write_parts, tmp_path):
    moved = write_parts()[1].rename(tmp_path / "renamed.gguf")
    with pytest.raises(FormatError, match="NAME-00001-of-00003"):
        Artifact.open(moved)


def test_a_file_named_like_a_part_that_is_whole_opens(write_model, tiny):
    path = write_model(tiny, name="m-00001-of-00001.gguf")
    assert len(read_parts(path)) == 1


@pytest.mark.parametrize(
    "name", ["m.gguf", "m-00002-of-00001.gguf", "m-00000-of-00002.gguf", "m-1-of-2.gguf"]
)
def test_names_that_name_no_part(tmp_path, name):
    assert part_paths(tmp_path / name) == (tmp_path / name,)
