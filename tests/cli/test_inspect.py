"""`edge inspect` as a user meets it: what a file is, also one that is no model or unknown here."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from edge_runtime.artifact import Artifact
from edge_runtime.cli.gguf_facts import inspect_gguf
from edge_runtime.errors import EdgeError
from edge_runtime.report.inspect import render_inspection
from edge_runtime.report.plain import safe_json

Edge = Callable[..., tuple[int, str, str]]
HOSTILE = "evil\x1b]0;owned\x07\x1b[31m\u202egnp.[red]\x9b1m\r\nsecond"


def other_gguf(path: Path, architecture: str, *, tensors: int = 1, **texts: str) -> Path:
    """A file of an architecture of one's own, with text metadata under the given names."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, text in texts.items():
        writer.add_string(name.replace("__", "."), text)
    for number in range(tensors):
        writer.add_tensor(f"layer.{number}", np.ones((4, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small_gguf(random_gguf: Path) -> bytes:
    """The header of a model and zeros for its weights."""
    from edge_runtime.artifact.gguf import read_header

    header = read_header(random_gguf)
    data = random_gguf.read_bytes()
    return data[: header.data_offset_bytes] + bytes(len(data) - header.data_offset_bytes)


def safe(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


def test_a_page_says_what_the_model_is(edge: Edge, random_gguf: Path) -> None:
    code, out, err = edge("inspect", random_gguf)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    rows = {line[:16].strip(): line[18:].strip() for line in out.splitlines()}
    artifact = Artifact.open(random_gguf)
    assert rows["Name"] == "random bytes"
    assert rows["Parameters"] == "107k (107,200)"
    assert rows["Level"] == "F32, 32.00 bits per weight"
    assert rows["Heads"] == "4 of 16, 2 for keys and values"
    assert rows["Tokenizer"] == "gpt2, pre-tokenizer gpt-2"
    assert rows["Tokens"] == "259, 1 merges"
    assert rows["end"] == '256 "<|end|>"'
    assert rows["adds begin"] == "no"
    assert rows["Chat template"].startswith("yes, ")
    assert "<|im_start|>" in out
    assert f"{artifact.shape.kv_bytes(512) // 1024} KiB" in out


def test_json_carries_every_fact(edge: Edge, random_gguf: Path) -> None:
    code, out, _ = edge("inspect", random_gguf, "--json", "--checksums", "--tensors")
    assert code == 0
    found = json.loads(out)
    artifact = Artifact.open(random_gguf)
    assert found["kind"] == "model"
    assert found["parameters"] == artifact.parameters
    assert found["weight_bytes"] == artifact.weight_bytes
    assert found["shape"]["hidden"] == 64
    assert found["chat_template"] == artifact.chat_template
    assert found["files"] == [
        {
            "name": random_gguf.name,
            "size_bytes": random_gguf.stat().st_size,
            "sha256": hashlib.sha256(random_gguf.read_bytes()).hexdigest(),
        }
    ]
    assert [(t["name"], tuple(t["dims"])) for t in found["tensors"]] == [
        (t.name, t.dims) for t in artifact.tensors
    ]
    assert found["memory"] == [
        {
            "context_tokens": 512,
            "weight_bytes": artifact.weight_bytes,
            "kv_bytes": artifact.shape.kv_bytes(512),
        }
    ]
    assert found["metadata"]["llama.block_count"] == 2
    assert "tensors" not in json.loads(edge("inspect", random_gguf, "--json")[1])


def test_contexts_are_chosen_and_one_beyond_the_models_is_marked(
    edge: Edge, random_gguf: Path
) -> None:
    code, out, _ = edge("inspect", random_gguf, "-c", 256, "-c", 1024)
    assert code == 0
    contexts = [
        line.split()[:2] for line in out.splitlines() if line.split()[:1] in (["256"], ["1024"])
    ]
    assert [row[0] for row in contexts] == ["256", "1024"]
    assert contexts[1][1] == "*"
    assert "longer than the model was made for" in out


def test_checksums_are_what_sha256sum_checks(edge: Edge, random_gguf: Path, tmp_path: Path) -> None:
    copied = Path(
        shutil.copy(random_gguf, tmp_path / "a model with a name that is rather long.gguf")
    )
    code, out, _ = edge("inspect", copied, "--checksums")
    assert code == 0
    digest = hashlib.sha256(copied.read_bytes()).hexdigest()
    assert f"{digest}  {copied.name}" in out.splitlines()


def test_a_split_model_is_one_model(edge: Edge, random_gguf: Path, tmp_path: Path) -> None:
    parts = split(random_gguf, tmp_path)
    code, out, _ = edge("inspect", parts[1], "--json")
    assert code == 0
    found = json.loads(out)
    assert found["parameters"] == 107_200
    assert [file["name"] for file in found["files"]] == [part.name for part in parts]
    _, page, _ = edge("inspect", parts[0], "--tensors")
    assert "in 2 files" in page
    assert "blk.1.ffn_down.weight" in page
    parts[1].unlink()
    code, _, err = edge("inspect", parts[0])
    assert code == 4
    assert "is missing" in err


def split(path: Path, folder: Path) -> tuple[Path, Path]:
    """The model cut into two files as llama.cpp cuts them."""
    reader = gguf.GGUFReader(path)
    tensors = list(reader.tensors)
    halves = (tensors[:9], tensors[9:])
    names = tuple(folder / f"model-0000{i}-of-00002.gguf" for i in (1, 2))
    for number, (name, half) in enumerate(zip(names, halves, strict=True)):
        writer = gguf.GGUFWriter(name, "llama")
        for field in reader.fields.values() if number == 0 else ():
            if field.types and field.name != "general.architecture" and "GGUF." not in field.name:
                kind, inner = field.types[0], field.types[-1]
                inner = inner if kind is gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, inner)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(tensors))
        for tensor in half:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return names


def test_an_architecture_not_known_here_shows_its_header(edge: Edge, tmp_path: Path) -> None:
    path = other_gguf(tmp_path / "mamba.gguf", "mamba9", mamba9__flavour="sweet")
    code, out, _ = edge("inspect", path)
    assert code == 0
    assert "mamba9" in out
    assert "not" in next(line for line in out.splitlines() if line.startswith("Shape"))
    assert '"sweet"' in out
    assert "F16" in out
    found = json.loads(edge("inspect", path, "--json")[1])
    assert "mamba9" in found["shape"]["reason"]
    assert (found["parameters"], found["memory"]) == (256, [])


@pytest.mark.parametrize(
    ("kind", "architecture", "tensors", "words"),
    [
        ("vocabulary", "llama", 0, "vocabulary without weights"),
        ("imatrix", "imatrix", 2, "edge quantize takes as --imatrix"),
        ("adapter", "llama", 1, "changes a model and is none itself"),
        ("projector", "clip", 1, "works beside a model"),
    ],
)
def test_files_that_are_no_models_say_what_they_are(
    edge: Edge, tmp_path: Path, kind: str, architecture: str, tensors: int, words: str
) -> None:
    types = {"imatrix": "imatrix", "adapter": "adapter"}
    stated = {"general__type": types[kind]} if kind in types else {}
    path = other_gguf(tmp_path / "other.gguf", architecture, tensors=tensors, **stated)
    code, out, _ = edge("inspect", path)
    assert code == 0
    assert words in " ".join(out.split())
    assert json.loads(edge("inspect", path, "--json")[1])["kind"] == kind


def test_an_importance_matrix_of_the_older_format_is_known(edge: Edge, tmp_path: Path) -> None:
    """Its layout is llama.cpp's: count; name, calls, values of each; calls and text of the data."""
    name, values = b"blk.0.ffn_down.weight", np.ones(32, np.float32)
    data = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 3, 32) + values.tobytes()
    path = tmp_path / "model.imatrix"
    path.write_bytes(data + struct.pack("<ii", 3, 8) + b"text.txt")
    code, out, _ = edge("inspect", path)
    assert code == 0
    rows = {line[:16].strip(): line[18:].strip() for line in out.splitlines()}
    assert (rows["What it is"], rows["Entries"]) == ("importance matrix", "1")
    assert rows["Its texts"] == "text.txt"
    path.write_bytes(data[:40])
    code, out, err = edge("inspect", path)
    assert (code, out) == (4, "")
    assert "model.imatrix" in err


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    places=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 20_000),
)
def test_a_damaged_header_is_shown_or_refused(
    small_gguf: bytes, tmp_path: Path, places: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(small_gguf)
    for place, value in places:
        data[place % len(data)] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data[: len(data) - cut] if cut % 3 == 0 else data)
    try:
        found = inspect_gguf(path, ())
    except EdgeError:
        return
    json.loads(safe_json(found.to_json()))
    shown = io.StringIO()
    Console(file=shown, width=80).print(render_inspection(found, tensors=True))
    assert safe(shown.getvalue())


def test_hostile_texts_never_reach_the_terminal(edge: Edge, tmp_path: Path) -> None:
    path = other_gguf(
        tmp_path / "evil.gguf",
        "mamba9",
        general__name=HOSTILE,
        general__license=HOSTILE,
        tokenizer__chat_template=HOSTILE,
        **{HOSTILE: HOSTILE},
    )
    for arguments in ((), ("--tensors", "--checksums"), ("--json",)):
        code, out, err = edge("inspect", path, *arguments)
        assert code == 0
        assert safe(out), ascii(out)
        assert safe(err)
    assert json.loads(out)["name"] == HOSTILE
    evil = tmp_path / "\x1b[31m.gguf"
    evil.write_bytes(b"\x1b[31m")
    code, out, err = edge("inspect", evil)
    assert (code, out) == (4, "")
    assert safe(err), ascii(err)


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda p: p / "none.gguf", 4, "There is no"),
        (lambda p: p, 4, "holds no model"),
        (lambda p: "hf:owner/repo", 2, "is on a hub"),
        (
            lambda p: (p / "config.json").write_text("{}") and p / "config.json",
            2,
            "Name its folder",
        ),
        (lambda p: (p / "x.gguf").write_bytes(b"PK\x03\x04") and p / "x.gguf", 4, "zip archive"),
    ],
)
def test_what_cannot_be_inspected_gets_a_sentence(
    edge: Edge, tmp_path: Path, make: Callable[[Path], Path | str], code: int, words: str
) -> None:
    got, out, err = edge("inspect", make(tmp_path))
    assert words in err
    assert (got, out) == (code, "")


def test_colours_only_on_a_terminal(random_gguf: Path) -> None:
    command = [sys.executable, "-m", "edge_runtime", "inspect", str(random_gguf), "--checksums"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "\x1b" not in done.stdout
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())
    assert done.stderr == ""
