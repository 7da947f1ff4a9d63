"""What `edge compare` makes of its SOURCE and of the levels asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.cli import model_source
from edge_runtime.cli.making import finished_files
from edge_runtime.cli.model_source import (
    USUAL_LEVELS,
    USUAL_ONNX_LEVELS,
    Source,
    find_source,
    wanted_levels,
)
from edge_runtime.errors import EdgeError, ModelNotFoundError, UsageError
from tests.conftest import write_random_gguf


def source(kind: str = "checkpoint", reference: str = "F16") -> Source:
    return Source(
        kind=kind,  # type: ignore[arg-type]
        path=Path("model.gguf"),
        stem="model",
        reference=reference,
        key="key",
        size_bytes=1,
    )


def labels(*asked: str, importance: bool = False, of: Source | None = None) -> list[str]:
    found = wanted_levels(asked, of or source(), importance=importance)
    return [one.label for one in found]


def test_levels_are_taken_apart_and_stand_once_without_the_reference() -> None:
    asked = labels("q8_0, F16,Q4_K_M", "onnx:INT4,Q8_0")
    assert asked == ["Q8_0", "Q4_K_M", "onnx:int4"]


def test_with_an_importance_matrix_a_level_that_takes_one_has_a_twin() -> None:
    asked = labels("Q8_0,Q2_K,IQ2_XXS,onnx:int4", importance=True)
    assert asked == ["Q8_0", "Q2_K", "Q2_K+imatrix", "IQ2_XXS+imatrix", "onnx:int4"]


def test_levels_that_say_which_is_weighted_are_taken_at_their_word() -> None:
    assert labels("Q4_0,Q2_K+imatrix", importance=True) == ["Q4_0", "Q2_K+imatrix"]


@pytest.mark.parametrize(
    ("asked", "importance", "of", "words"),
    [
        ("Q9_K", False, source(), "Q9_K"),
        ("Q4_0+magic", False, source(), "imatrix"),
        ("Q4_0+imatrix", False, source(), "--calibrate"),
        ("Q8_0+imatrix", True, source(), "no effect"),
        ("onnx:int4+imatrix", True, source(), "no effect"),
        ("Q8_0,onnx:int4", True, source(), "no effect at Q8_0, onnx:int4"),
        ("onnx:int4", False, source("gguf"), "checkpoint"),
        ("Q4_0", False, source("onnx", "onnx:fp32"), "checkpoint"),
        ("onnx:fp16", False, source("onnx", "onnx:fp32"), "onnx:int8"),
        (" , ", False, source(), "No level"),
    ],
)
def test_what_will_never_come_of_it_is_refused(
    asked: str, importance: bool, of: Source, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        labels(asked, importance=importance, of=of)


def test_the_usual_levels_are_of_the_formats_a_source_can_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_source, "_onnx_missing", lambda _source: None)
    usual = {
        kind: [one.label for one in wanted_levels(None, source(kind), importance=False)]
        for kind in ("checkpoint", "gguf", "onnx")
    }
    assert usual["checkpoint"] == [*USUAL_LEVELS, *USUAL_ONNX_LEVELS]
    assert usual["gguf"] == list(USUAL_LEVELS)
    assert usual["onnx"] == list(USUAL_ONNX_LEVELS)


def test_onnx_levels_that_cannot_be_had_are_left_out_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_source, "_onnx_missing", lambda _source: "No engine.")
    found = wanted_levels(None, source(), importance=False)
    assert [one.label for one in found] == list(USUAL_LEVELS)
    assert "left out: No engine." in capsys.readouterr().err


def test_the_shipped_model_is_a_checkpoint_of_half_floats() -> None:
    found = find_source(None, None)
    assert isinstance(found, Source)
    assert (found.kind, found.reference, found.shipped) == ("checkpoint", "F16", True)
    assert find_source(str(found.path), None) == found


def test_a_checkpoint_is_told_from_a_changed_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my model (1)"
    shutil.copytree(tiny_model_dir, folder)
    first = find_source(str(folder), "BF16")
    assert isinstance(first, Source)
    assert (first.stem, first.reference, first.shipped) == ("my-model-1", "BF16", False)
    assert find_source(str(folder), "bf16") == first
    config = folder / "config.json"
    config.write_text(config.read_text().replace("1e-05", "1e-06") + "\n")
    changed = find_source(str(folder), "BF16")
    assert isinstance(changed, Source)
    assert changed.key != first.key


def test_a_gguf_file_of_floats_is_its_own_reference(random_gguf: Path) -> None:
    found = find_source(str(random_gguf), None)
    assert isinstance(found, Source)
    assert (found.kind, found.reference, found.stem) == ("gguf", "F32", "random-bytes")
    with pytest.raises(UsageError, match="is itself"):
        find_source(str(random_gguf), "F16")


def test_names_of_files_stay_short_enough_for_any_disk(random_gguf: Path, tmp_path: Path) -> None:
    model = shutil.copy(random_gguf, tmp_path / f"{'模' * 80}.gguf")
    found = find_source(str(model), None)
    assert isinstance(found, Source)
    assert len(found.stem.encode()) <= 80


def test_the_reference_may_be_named_as_the_file_was(
    random_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_random_gguf(tmp_path / random_gguf.name, context=256)
    given = (str(random_gguf), f"./{random_gguf.name}")
    assert [finished_files(given, name).reference for name in given] == [0, 1]


@pytest.mark.engine
def test_a_file_that_is_quantized_already_gives_no_levels(
    random_gguf: Path, tmp_path: Path
) -> None:
    from quantize import requantize

    requantize(random_gguf, tmp_path / "m.gguf", "Q8_0")
    assert isinstance(find_source(str(tmp_path / "m.gguf"), None), Artifact)


@pytest.mark.parametrize("given", ["nowhere", "no/where", "nul\0l"])
def test_what_is_not_there_is_one_sentence(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgeError) as caught:
        find_source(given, None)
    assert isinstance(caught.value, ModelNotFoundError | UsageError)


def test_a_reference_of_a_checkpoint_must_be_floats() -> None:
    with pytest.raises(UsageError, match="no reference"):
        find_source(None, "Q8_0")
