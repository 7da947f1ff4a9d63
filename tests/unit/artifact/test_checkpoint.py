"""Reading `config.json`."""

from __future__ import annotations

import pytest

from edge_runtime.artifact.checkpoint import read_config
from edge_runtime.errors import ArtifactError, FormatError, ModelNotFoundError


def test_a_directory_or_the_file_itself(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    assert read_config(tmp_path) == {"model_type": "llama"}
    assert read_config(str(tmp_path / "config.json")) == {"model_type": "llama"}


def test_a_directory_without_a_config_is_no_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no model directory"):
        read_config(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no file"):
        read_config(tmp_path / "none.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"not json",
        b"[1]",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"config\.json"):
        read_config(path)


def test_a_config_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(3 * 1024**3)
    with pytest.raises(FormatError, match="larger than"):
        read_config(path)


def test_a_path_that_cannot_be_is_refused():
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_config("a\0b")
