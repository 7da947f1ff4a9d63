"""Every key and every byte of a conversion is the reference's: llama.cpp's own converter.

reference.json holds what it wrote for each case of `cases`, at each level (made by
scripts/reference_digests.py). Where it errs, ours must be right: DEFECTS says what ours is instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from golden.quantize.cases import CASES, Case
from golden.quantize.digests import LEVELS, FileDigest, described, digest

from quantize import assembly, convert
from quantize.architectures import find, known

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text("utf-8"))["cases"]
BY_NAME = {case.name: case for case in CASES}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}


def merge_ranks(case: Case) -> str:
    """A piece's score is its merge rank, negated: earlier merges win, what none makes is last."""
    model = json.loads(case.tokenizer()["tokenizer.json"])["model"]
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault(merge.replace(" ", ""), rank)
    scores = {token: -float(ranks.get(token, len(ranks))) for token in model["vocab"]}
    return described("[f32]", list(scores.values()))


DEFECTS: dict[str, dict[str, tuple[str, Callable[[Case, str], str]]]] = {
    **{
        name: {
            "general.file_type": (
                "the reference forgets the key in this family",
                lambda _, level: f"u32 {FILE_TYPES[level]}",
            )
        }
        for name in BY_NAME
        if name.startswith("gpt-neox")
    },
    "stablelm-2-12b": {
        "stablelm.rope.freq_base": (
            "the reference leaves the base to the engine, which takes 10000",
            lambda *_: "f32 50000.0",
        )
    },
    "llama-2-json": {
        "tokenizer.ggml.scores": (
            "the reference gives every token the same score, with which texts tokenize wrong",
            lambda case, _: merge_ranks(case),
        )
    },
}
"""Case -> key -> why ours differs, and what it is."""
DEFECTS["gpt-neox-sequential"] = {
    **DEFECTS["gpt-neox-sequential"],
    "gptneox.rope.freq_base": (
        "the reference leaves the base to the engine, which takes 10000",
        lambda *_: "f32 5000.0",
    ),
}


def expected(case: Case, level: str) -> tuple[dict[str, str], dict[str, tuple]]:
    """What the file must hold: keys, and tensors with dims and digest."""
    entry = REFERENCE[case.name]
    metadata = {**entry["metadata"], **entry["metadata_by_level"][level]}
    for key, (_, ours) in DEFECTS.get(case.name, {}).items():
        metadata[key] = ours(case, level)
    tensors = {name: (tuple(t["dims"]), t[level]) for name, t in entry["tensors"].items()}
    return metadata, tensors


def differences(found: FileDigest, case: Case, level: str) -> list[str]:
    """One line for each key or tensor that is not as it must be."""
    metadata, tensors = expected(case, level)
    ours = {name: (t.dims, t.text) for name, t in found.tensors.items()}
    return [
        f"{name}: must be {wanted.get(name)}, is {held.get(name)}"
        for wanted, held in ((metadata, found.metadata), (tensors, ours))
        for name in sorted(wanted.keys() | held.keys())
        if wanted.get(name) != held.get(name)
    ]


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """Writes each case's checkpoint once."""
    folder = tmp_path_factory.mktemp("cases")

    def written(case: Case) -> Path:
        path = folder / case.name
        return path if path.exists() else case.write(path)

    return written


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", BY_NAME)
def test_every_key_and_tensor_is_the_references(
    checkpoint_of: Callable[[Case], Path], tmp_path: Path, name: str, level: str
) -> None:
    case = BY_NAME[name]
    convert(checkpoint_of(case), tmp_path / "ours.gguf", level=level)
    assert not differences(digest(tmp_path / "ours.gguf"), case, level)


CHANGED = (
    "llama-1", "gpt-2", "gpt-neox", "mixtral", "qwen3-moe-fused", "stablelm-2-12b", "gemma-2",
)  # fmt: skip
"""Cases whose rows change places, are stacked, shared, turned or added to."""


@pytest.mark.parametrize(
    "name", [n if n in CHANGED else pytest.param(n, marks=pytest.mark.slow) for n in BY_NAME]
)
def test_slabs_join_without_a_seam(
    checkpoint_of: Callable[[Case], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(assembly, "SLAB_ELEMENTS", 1000)
    for level in ("F32", "Q8_0"):
        convert(checkpoint_of(BY_NAME[name]), tmp_path / f"{level}.gguf", level=level)
        assert not differences(digest(tmp_path / f"{level}.gguf"), BY_NAME[name], level)


def test_reference_and_table_name_the_same_cases() -> None:
    assert set(REFERENCE) == set(BY_NAME)
    assert len(BY_NAME) == len(CASES)
    assert set(DEFECTS) <= set(BY_NAME)


def test_every_family_has_a_case() -> None:
    converted = {find({"architectures": [name]}).gguf for name in known()}
    assert {find(case.config).gguf for case in CASES} == converted


def test_defects_are_still_the_references() -> None:
    """A defect that a renewed reference no longer has must leave the table."""
    for name, keys in DEFECTS.items():
        entry = REFERENCE[name]
        for key, (_, ours) in keys.items():
            assert entry["metadata"].get(key) != ours(BY_NAME[name], "F32"), (name, key)


def test_every_storage_type_is_converted_to_every_level() -> None:
    assert {case.dtype for case in CASES} == {"F32", "F16", "BF16"}
    for case in CASES:
        assert all(level in tensor for tensor in REFERENCE[case.name]["tensors"].values()
                   for level in LEVELS)  # fmt: skip
