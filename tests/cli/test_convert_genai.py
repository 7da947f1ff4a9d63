"""`edge convert --builder genai`: what is asked of onnxruntime-genai's builder, what is believed.

A stand-in lies on the child's path instead of the builder: it writes what a test puts there. The
real one, which needs torch and transformers, runs with `-m slow` where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import quantize
from edge_runtime.artifact import Artifact
from edge_runtime.errors import BackendError, UnsupportedError

Edge = Callable[..., tuple[int, str, str]]

STAND_IN = """
import json, os, shutil, sys
from pathlib import Path

here = Path(__file__).parent
given = dict(zip(sys.argv[1:-1:2], sys.argv[2::2]))
at = sys.argv.index("--extra_options")
folder = Path(given["-i"])
(here / "asked.json").write_text(json.dumps({
    "precision": given["-p"], "provider": given["-e"], "options": sorted(sys.argv[at + 1:]),
    "files": sorted(path.name for path in folder.iterdir()), "name": folder.name,
    "offline": os.environ.get("HF_HUB_OFFLINE"), "threads": os.environ.get("OMP_NUM_THREADS"),
}))
print("Reading embedding layer")
for layer in range(3):
    print(f"Reading decoder layer {layer}", flush=True)
exec((here / "act.py").read_text())
for path in (here / "made").iterdir():
    shutil.copy(path, given["-o"])
print("Saving ONNX model in", given["-o"])
"""


@pytest.fixture(scope="module")
def made(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a builder that does its work would write: a whole model."""
    out = tmp_path_factory.mktemp("made") / "int4"
    quantize.convert(tiny_model_dir, out, level="onnx:int4")
    return out


@pytest.fixture
def builder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, made: Path
) -> Path:
    """The stand-in's folder: `made` is what it copies, `act.py` runs before that."""
    root = tmp_path_factory.mktemp("path")
    package = root / "onnxruntime_genai"
    (package / "models").mkdir(parents=True)
    for folder in (package, package / "models"):
        (folder / "__init__.py").touch()
    (package / "models" / "builder.py").write_text(STAND_IN)
    (package / "models" / "act.py").touch()
    shutil.copytree(made, package / "models" / "made")
    monkeypatch.syspath_prepend(root)
    return package / "models"


def test_the_builders_model_is_read_back_and_its_doubts_are_told(
    edge: Edge, builder: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    code, out, err = edge("convert", tiny_model_dir, "--builder", "genai", "--verify")
    assert code == 0, err
    assert out.startswith("tiny_model-onnx-int4: ")
    assert ", onnx:int4, 2.30M parameters" in out
    assert "has written wrong ones without an error" in err
    folder = tmp_path / "tiny_model-onnx-int4"
    assert list(tmp_path.iterdir()) == [folder]
    assert Artifact.open(folder).level == "int4"


def test_the_builder_sees_data_only_and_no_network(
    builder: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(tiny_model_dir, tmp_path / "mine")
    (checkpoint / "modeling_mine.py").write_text("raise SystemExit('ran')")
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80")
    (checkpoint / "adapter_config.json").write_text("{}")
    told: list[float] = []
    level = quantize.onnx_level("int4").with_options(
        block_size=128, symmetric=False, algorithm="k_quant", head_bits=8, sensitive_bits=8,
        accuracy_level=1,
    )  # fmt: skip
    quantize.build_with_genai(
        checkpoint, tmp_path / "m", level=level, threads=3, progress=told.append
    )
    asked = json.loads((builder / "asked.json").read_text())
    assert asked["name"] == "mine"
    assert {name.rpartition(".")[2] for name in asked["files"]} == {"json", "safetensors"}
    assert "adapter_config.json" not in asked["files"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(asked["files"])
    assert (asked["precision"], asked["provider"]) == ("int4", "cpu")
    assert (asked["offline"], asked["threads"]) == ("1", "3")
    assert asked["options"] == [
        "accuracy_level=1",
        "algo_config=k_quant",
        "block_size=128",
        "hf_remote=false",
        "hf_token=false",
        "is_symmetric=false",
        "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8",
    ]
    assert told == sorted(told)
    assert (len(told), told[-1]) == (4, 1.0)


def test_tied_matrices_are_asked_to_be_stored_once(
    builder: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    quantize.build_with_genai(tiny_model_dir, tmp_path / "m")
    assert "shared_embeddings=true" in json.loads((builder / "asked.json").read_text())["options"]


def test_without_the_builder_one_sentence_names_the_extra(
    edge: Edge, builder: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    (builder / "act.py").write_text("import torch_that_is_not_there")
    code, out, err = edge("convert", tiny_model_dir, "--builder", "genai")
    assert (code, out) == (4, "")
    assert "There is no module torch_that_is_not_there" in err
    assert "pip install 'edge-runtime[genai-builder]'" in err
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_of_the_builder_is_installed_the_sentence_is_the_same(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "path"
    path.mkdir()
    # Hides the package from the child, where it is installed.
    (path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'onnxruntime_genai':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    monkeypatch.syspath_prepend(path)
    code, out, err = edge("convert", tiny_model_dir, "--builder", "genai")
    assert (code, out) == (4, "")
    assert "There is no module onnxruntime_genai" in err
    assert "pip install 'edge-runtime[genai-builder]'" in err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (
            "raise NotImplementedError(f'The {folder} model is not supported.')",
            "The tiny_model model",
        ),
        ("raise SystemExit(2)", "exit status 2"),
        ("os._exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), 9)", "memory runs out"),
        ("(here / 'made' / 'model.onnx').unlink()", "did not write the model"),
        ("os.truncate(here / 'made' / 'model.onnx.data', 100_000)", "is truncated"),
        ("os.truncate(here / 'made' / 'model.onnx', 1000)", "did not write the model"),
    ],
)
def test_a_builder_that_fails_leaves_nothing(
    edge: Edge, builder: Path, tiny_model_dir: Path, tmp_path: Path, act: str, words: str
) -> None:
    (builder / "act.py").write_text(act)
    code, out, err = edge("convert", tiny_model_dir, "--builder", "genai")
    assert (code, out) == (4, "")
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_it_ends_the_builder_and_leaves_nothing(
    builder: Path, tiny_model_dir: Path, tmp_path: Path, number: int, code: int
) -> None:
    (builder / "act.py").write_text(
        "import time; (here / 'pid').write_text(str(os.getpid())); time.sleep(60)"
    )
    arguments = ("convert", str(tiny_model_dir), "--builder", "genai")
    (tmp_path / "tmp").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "edge_runtime", *arguments],
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        pid = builder / "pid"
        while not (pid.exists() and pid.read_text()) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


def test_a_model_of_other_layers_is_not_believed(
    builder: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    shape = Artifact.open(builder / "made").shape
    quantize.synthesize(shape, "onnx:int4", builder / "made", layers=2)
    with pytest.raises(BackendError, match="It has 2 layers, the checkpoint 3"):
        quantize.build_with_genai(tiny_model_dir, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_not_quantized_is_not_believed(
    builder: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    quantize.convert(tiny_model_dir, builder / "made", level="onnx:fp32", overwrite=True)
    with pytest.raises(BackendError, match=r"It has 0 quantized products"):
        quantize.build_with_genai(tiny_model_dir, tmp_path / "m")
    assert quantize.build_with_genai(tiny_model_dir, tmp_path / "m", level="fp32").level == "fp32"


def test_a_graph_that_does_not_run_is_not_believed(
    builder: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantize.writers import onnx

    with monkeypatch.context() as context:
        context.setitem(onnx.OPSETS, "", 10_000)  # type: ignore[arg-type]
        quantize.convert(tiny_model_dir, builder / "made", level="onnx:int4", overwrite=True)
    with pytest.raises(BackendError, match="ONNX Runtime does not run the model"):
        quantize.build_with_genai(tiny_model_dir, tmp_path / "m")


@pytest.mark.parametrize(
    ("file", "entry", "words"),
    [
        (
            "config.json",
            {"auto_map": {"AutoConfig": "mine.Config"}},
            "code of the checkpoint's own",
        ),
        ("tokenizer_config.json", {"auto_map": {}}, "code of the checkpoint's own"),
        ("config.json", {"model_type": "mistral", "sliding_window": 4096}, "sliding window wrong"),
        ("config.json", {"model_type": "olmo"}, "OLMo 1 models wrong"),
    ],
)
def test_what_would_run_code_or_is_known_to_go_wrong_is_refused_before(
    builder: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    file: str,
    entry: dict[str, Any],
    words: str,
) -> None:
    checkpoint = shutil.copytree(tiny_model_dir, tmp_path / "mine")
    path = checkpoint / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **entry}))
    with pytest.raises(UnsupportedError, match=words):
        quantize.build_with_genai(checkpoint, tmp_path / "m")
    assert not (builder / "asked.json").exists()
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-l", "onnx:fp16"), 4, "makes no fp16 for processors"),
        (("--embedding-bits", 8), 2, "--embedding-bits"),
        (("-l", "onnx:int8", "--head-bits", 4), 2, "makes no part of an int8 model smaller"),
    ],
)
def test_what_the_builder_cannot_do_is_refused_before(
    edge: Edge,
    builder: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    arguments: tuple[object, ...],
    code: int,
    words: str,
) -> None:
    got, out, err = edge("convert", tiny_model_dir, "--builder", "genai", *arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert not (builder / "asked.json").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "onnxruntime_genai")),
    reason="needs the extra genai-builder",
)
@pytest.mark.parametrize("level", ["onnx:int4", "onnx:int8", "onnx:fp32"])
def test_the_real_builder_writes_a_family_that_is_not_ours(tmp_path: Path, level: str) -> None:
    import transformers

    config = transformers.PhiConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=2048, max_position_embeddings=512,
    )  # fmt: skip
    checkpoint = tmp_path / "phi"
    transformers.PhiForCausalLM(config).save_pretrained(checkpoint)
    tiny = Path(str(importlib.util.find_spec("edge_runtime").submodule_search_locations[0]))  # type: ignore[union-attr,index]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / "tiny_model" / name, checkpoint)
    with pytest.raises(UnsupportedError, match="--builder genai"):
        quantize.convert(checkpoint, tmp_path / "m", level=level)
    made = quantize.build_with_genai(checkpoint, tmp_path / "m", level=level, verify=True)
    assert f"onnx:{made.level}" == level
    assert (made.shape.architecture, made.shape.layers) == ("phi2", 2)
