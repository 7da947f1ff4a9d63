"""Requantizing is llama.cpp's own work, to the byte; its refusals and its death are sentences.

The witness is the same quantizer called by `quantizer_child.py`, which has nothing of ours.
"""

from __future__ import annotations

import functools
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from edge_runtime.artifact import GGML_TYPES, LEVELS, Artifact, ModelShape
from edge_runtime.errors import (
    BackendError,
    DiskError,
    EngineMissingError,
    FormatError,
    UnsupportedError,
    UsageError,
    WorkerError,
)
from quantize import QuantizeOptions, child, convert, imatrix, plan, requantize, synthesize

pytestmark = pytest.mark.engine

WITNESS = Path(__file__).with_name("quantizer_child.py")
DENSE = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 64, "head_dim": 32,
    "tie_word_embeddings": False,
}  # fmt: skip
EXPERTS = {
    **DENSE, "model_type": "mixtral", "num_key_value_heads": 8, "num_hidden_layers": 1,
    "num_local_experts": 4,
}  # fmt: skip
NARROW = {**DENSE, "hidden_size": 96, "intermediate_size": 172, "num_attention_heads": 3,
          "num_key_value_heads": 3, "tie_word_embeddings": True}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("models")
    configs = {"dense": DENSE, "experts": EXPERTS, "narrow": NARROW}
    return {
        name: synthesize(ModelShape.from_config(config, name=name), "F32", folder / f"{name}.gguf")
        for name, config in configs.items()
    }


@pytest.fixture(scope="module")
def matrices(
    models: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """An importance matrix for every model, one expert of which was never used."""
    folder = tmp_path_factory.mktemp("matrices")
    rng = np.random.default_rng(5)
    for name, model in models.items():
        entries = []
        for tensor in model.tensors:
            if len(tensor.dims) < 2 or tensor.name == "token_embd.weight":
                continue
            experts = tensor.dims[2] if len(tensor.dims) > 2 else 1
            counts = np.arange(experts, 0, -1, np.float32) * 40 - 40 * (experts > 1)
            sums = rng.gamma(0.5, 1, (experts, tensor.dims[0])) * counts[:, None]
            entries.append(
                imatrix.ImportanceEntry(
                    name=tensor.name, sums=sums.astype(np.float32), counts=counts
                )
            )
        imatrix.write(
            folder / f"{name}.imatrix", entries, datasets=("a text",), chunks=3, chunk_tokens=512
        )
    return {name: folder / f"{name}.imatrix" for name in models}


@functools.cache
def witness() -> subprocess.Popen[str]:
    """The process all tests ask; it ends with its stdin, that is with this process."""
    return subprocess.Popen(
        [sys.executable, str(WITNESS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    if witness.cache_info().currsize:
        with witness() as child:
            child.stdin.close()
        witness.cache_clear()


def witnessed(source: Artifact, out: Path, level: str, **job: object) -> bytes:
    settings = {"ftype": LEVELS[level].ftype, **job.pop("set", {})}
    spec = {"source": str(source.path), "out": str(out), "set": settings, **job}
    child = witness()
    child.stdin.write(json.dumps(spec) + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "0\n"
    return out.read_bytes()


def importance(path: Path) -> dict[str, object]:
    """What the reference's own tool would hand to the quantizer for a matrix."""
    read = imatrix.read(path)
    means = [[e.name, e.values.tolist()] for e in read.entries]
    pairs = [
        ["quantize.imatrix.file", str(path)[:127]],
        ["quantize.imatrix.dataset", read.datasets[0]],
        ["quantize.imatrix.entries_count", len(means)],
        ["quantize.imatrix.chunks_count", read.chunks],
    ]
    return {"importance": means, "pairs": pairs}


def check_same(source: Artifact, folder: Path, level: str, options: QuantizeOptions, **job) -> None:
    ours = requantize(source.path, folder / "ours.gguf", level, options=options)
    assert ours.path.read_bytes() == witnessed(source, folder / "theirs.gguf", level, **job)


UNMEASURED = ("F16", "Q8_0", "Q4_K_M")
MEASURED = ("Q4_0", "Q2_K_S")  # the lattices take seconds to set up: the slow test has them


@pytest.mark.parametrize("level", UNMEASURED)
def test_a_level_is_what_llama_cpp_makes_of_it(
    models: dict[str, Artifact], tmp_path: Path, level: str
) -> None:
    check_same(models["dense"], tmp_path, level, QuantizeOptions())


@pytest.mark.parametrize("level", MEASURED)
def test_importance_reaches_every_tensor(
    models: dict[str, Artifact], matrices: dict[str, Path], tmp_path: Path, level: str
) -> None:
    options = QuantizeOptions(imatrix=matrices["dense"])
    check_same(models["dense"], tmp_path, level, options, **importance(matrices["dense"]))


@pytest.mark.parametrize("level", ["Q4_K_M", "MXFP4_MOE"])
def test_experts_have_importance_of_their_own(
    models: dict[str, Artifact], matrices: dict[str, Path], tmp_path: Path, level: str
) -> None:
    options = QuantizeOptions(imatrix=matrices["experts"])
    check_same(models["experts"], tmp_path, level, options, **importance(matrices["experts"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "level"),
    [
        (name, level)
        for name in ("dense", "experts", "narrow")
        for level in LEVELS
        if (name, level) != ("narrow", "Q1_0")  # refused
    ],
)
def test_every_level_of_every_model(
    models: dict[str, Artifact], matrices: dict[str, Path], tmp_path: Path, name: str, level: str
) -> None:
    check_same(
        models[name], tmp_path, level, QuantizeOptions(imatrix=matrices[name]),
        **importance(matrices[name]),
    )  # fmt: skip
    if not LEVELS[level].needs_imatrix:  # and what it is without
        folder = tmp_path / "unmeasured"
        folder.mkdir()
        check_same(models[name], folder, level, QuantizeOptions())


def number(name: str) -> int:
    return GGML_TYPES[name].id


@pytest.mark.parametrize(
    ("level", "options", "job"),
    [
        ("Q4_K_M", QuantizeOptions(pure=True), {"set": {"pure": True}}),
        (
            "Q4_K_M",
            QuantizeOptions(output_tensor_type="q5_k", token_embedding_type="BF16"),
            {"set": {"output_tensor_type": number("Q5_K"), "token_embedding_type": number("BF16")}},
        ),
        (
            "Q8_0",
            QuantizeOptions(leave_output_tensor=True, threads=1),
            {"set": {"quantize_output_tensor": False}},
        ),
        (
            "Q3_K_L",
            QuantizeOptions(
                tensor_types=(("FFN_DOWN", "iq4_xs"), (r"blk\.[0-1]\.(attn_[kv]|ffn)", "Q6_K"))
            ),
            {
                "types": [
                    ["ffn_down", number("IQ4_XS")],
                    [r"blk\.[0-1]\.(attn_[kv]|ffn)", number("Q6_K")],
                ]
            },
        ),
    ],
)
def test_options_mean_what_llama_cpp_means_by_them(
    models: dict[str, Artifact], tmp_path: Path, level: str, options: QuantizeOptions, job: dict
) -> None:
    check_same(models["dense"], tmp_path, level, options, **job)


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_a_plan_is_what_becomes_of_it(
    models: dict[str, Artifact], tmp_path: Path, name: str
) -> None:
    options = QuantizeOptions(tensor_types=(("ffn_down", "q6_k"),))
    planned = plan(models[name].path, "Q4_K_M", options=options)
    made = requantize(models[name].path, tmp_path / "m.gguf", "Q4_K_M", options=options)
    assert {t.name: (t.dims, t.type) for t in planned.tensors} == {
        t.name: (t.dims, t.type) for t in made.tensors
    }
    assert planned.total_bytes == made.size_bytes
    assert planned.weight_bytes == made.weight_bytes


def test_a_plan_says_what_stands_in_for_what_and_why(models: dict[str, Artifact]) -> None:
    planned = plan(models["narrow"].path, "Q4_K_M")
    down = next(t for t in planned.fallbacks if t.name == "blk.1.ffn_down.weight")
    assert (down.wanted.name, down.type.name) == ("Q6_K", "F16")
    assert down.why == "Rows of 172 are no multiple of the 256 elements of a Q6_K block."
    fits = plan(models["dense"].path, "Q4_0")
    assert fits.fallbacks == ()
    elements = sum(t.elements for t in models["dense"].tensors)
    assert fits.bits_per_weight == pytest.approx(8 * fits.weight_bytes / elements)
    assert fits.source_bytes == models["dense"].size_bytes


def test_a_level_that_needs_importance_can_be_planned_without(models: dict[str, Artifact]) -> None:
    planned = plan(models["dense"].path, "IQ2_XXS")
    assert "blk.0.attn_q.weight" in planned.unmeasured
    assert "token_embd.weight" not in planned.unmeasured
    assert plan(models["dense"].path, "Q2_K").unmeasured == ()


def test_a_plan_names_what_was_given_for_nothing(
    models: dict[str, Artifact], matrices: dict[str, Path]
) -> None:
    options = QuantizeOptions(
        imatrix=matrices["dense"], tensor_types=(("ffn_sideways", "q8_0"), ("ffn_up", "q8_0"))
    )
    planned = plan(models["experts"].path, "Q4_0", options=options)
    assert "blk.1.attn_q.weight" in planned.unused_entries
    assert "blk.0.attn_q.weight" not in planned.unused_entries
    assert planned.unused_patterns == ("ffn_sideways",)


def test_a_file_of_another_alignment_becomes_a_sound_one(
    models: dict[str, Artifact], tmp_path: Path
) -> None:
    """The quantizer copies `general.alignment` and aligns to 32 bytes: a file nobody could read."""
    reader = gguf.GGUFReader(models["narrow"].path)
    writer = gguf.GGUFWriter(tmp_path / "wide.gguf", "llama")
    writer.add_custom_alignment(256)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            value = field.contents()
            writer.add_key_value(field.name, value, field.types[0], *field.types[1:2])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made = requantize(tmp_path / "wide.gguf", tmp_path / "m.gguf", "Q4_0", verify=True)
    usual = requantize(models["narrow"].path, tmp_path / "u.gguf", "Q4_0")
    assert made.metadata["general.alignment"] == 32
    assert tensor_bytes(made.path) == tensor_bytes(usual.path)


def tensor_bytes(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


def test_parts_of_a_split_file_become_one(
    models: dict[str, Artifact], tmp_path: Path, cut: Callable[[Path, Path], Path]
) -> None:
    first = cut(models["dense"].path, tmp_path / "cut.gguf")
    parts = Artifact.open(first)
    assert len(parts.paths) > 1
    check_same(parts, tmp_path, "Q4_K_S", QuantizeOptions())
    whole = requantize(models["dense"].path, tmp_path / "whole.gguf", "Q4_K_S")
    assert whole.path.read_bytes() == (tmp_path / "ours.gguf").read_bytes()


def test_parts_stay_parts_when_asked(
    models: dict[str, Artifact], tmp_path: Path, cut: Callable[[Path, Path], Path]
) -> None:
    source = Artifact.open(cut(models["dense"].path, tmp_path / "cut.gguf"))
    folder, count = tmp_path / "out", len(source.paths)
    folder.mkdir()
    made = requantize(source.path, folder / "m.gguf", "Q4_0", keep_split=True, verify=True)
    names = [f"m-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [path.name for path in made.paths] == names
    with pytest.raises(FileNotFoundError):  # the witness writes parts, not the file it is told
        witnessed(source, tmp_path / "m", "Q4_0", set={"keep_split": True})
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


@pytest.fixture
def cut() -> Callable[[Path, Path], Path]:
    from quantize.splitting import split

    return lambda source, out: split(source, out, 400_000)


@pytest.fixture(scope="module")
def full(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert(checkpoint, tmp_path_factory.mktemp("full") / "full.gguf")


def test_progress_grows_to_one_and_one_file_is_left(full: Artifact, tmp_path: Path) -> None:
    told: list[float] = []
    artifact = requantize(full.path, tmp_path / "m.gguf", "q4_k_m", progress=told.append)
    assert artifact.level == "Q4_K_M"
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) >= len(full.tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_metadata_and_vocabulary_survive(full: Artifact, tmp_path: Path) -> None:
    artifact = requantize(full.path, tmp_path / "m.gguf", "Q4_0")
    assert artifact.shape == full.shape
    assert artifact.chat_template == full.chat_template
    assert tuple(artifact.metadata["tokenizer.ggml.tokens"]) == tuple(
        full.metadata["tokenizer.ggml.tokens"]
    )


def test_a_quantized_source_needs_a_word(full: Artifact, tmp_path: Path) -> None:
    once = requantize(full.path, tmp_path / "once.gguf", "Q8_0")
    with pytest.raises(UsageError, match="quantized already"):
        requantize(once.path, tmp_path / "twice.gguf", "Q4_0")
    assert plan(once.path, "Q4_0").loses_twice
    assert not plan(full.path, "Q4_0").loses_twice
    allowed = QuantizeOptions(allow_requantize=True)
    twice = requantize(once.path, tmp_path / "twice.gguf", "Q4_0", options=allowed)
    assert twice.path.read_bytes() == witnessed(
        once, tmp_path / "theirs.gguf", "Q4_0", set={"allow_requantize": True}
    )
    # What stays as it is loses nothing more.
    assert requantize(once.path, tmp_path / "same.gguf", "Q8_0").weight_bytes == once.weight_bytes


def test_requests_that_make_no_sense(full: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="own source"):
        requantize(full.path, full.path, "Q4_0")
    with pytest.raises(UnsupportedError, match="importance matrix"):
        requantize(full.path, tmp_path / "m.gguf", "IQ1_S")
    with pytest.raises(DiskError, match="mkdir -p"):
        requantize(full.path, tmp_path / "no" / "m.gguf", "Q4_0")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_ends_the_child_and_leaves_nothing(full: Artifact, tmp_path: Path) -> None:
    def interrupt(_fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        requantize(full.path, tmp_path / "m.gguf", "Q4_0", progress=interrupt)
    assert not list(tmp_path.iterdir())


ABORT = "import os; os.write(2, b'GGML_ASSERT(x) failed'); os.abort()"
KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        (ABORT, WorkerError, r"signal SIGABRT.*GGML_ASSERT\(x\) failed"),
        (KILL, WorkerError, "SIGKILL.*memory"),
        ("raise SystemExit(3)", WorkerError, "exit status 3"),
        ("import no_such_engine", EngineMissingError, "no_such_engine.*pip install"),
        ('print(\'{"missing": ["dry_run"]}\')', EngineMissingError, "too old.*dry_run"),
        ("print('{\"status\": 0}')", BackendError, "0 tensors of"),
    ],
)
def test_a_child_that_fails_is_a_sentence(
    full: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    error: type[Exception],
    words: str,
) -> None:
    start = subprocess.Popen
    monkeypatch.setattr(
        child.subprocess,
        "Popen",
        lambda _argv, **options: start([sys.executable, "-c", program], **options),
    )
    with pytest.raises(error, match=words):
        requantize(full.path, tmp_path / "m.gguf", "Q4_0")
    assert not list(tmp_path.iterdir())


def test_the_working_directory_lends_the_child_no_modules(
    full: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('not the one of the library')")
    monkeypatch.chdir(tmp_path)
    assert requantize(full.path, Path("m.gguf"), "Q4_0", verify=True).level == "Q4_0"


def test_a_full_disk_is_a_sentence_and_leaves_nothing(full: Artifact, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        with pytest.raises(DiskError, match=r"m\.gguf cannot be written"):
            requantize(full.path, tmp_path / "m.gguf", "Q4_0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_refused(full: Artifact, tmp_path: Path) -> None:
    tensor = next(t for t in full.tensors if t.name == "blk.0.ffn_up.weight")
    data = bytearray(full.path.read_bytes())
    data[tensor.offset_bytes : tensor.offset_bytes + 2] = np.float16("nan").tobytes()
    (tmp_path / "nan.gguf").write_bytes(data)
    with pytest.raises(FormatError, match=r"blk\.0\.ffn_up\.weight"):
        requantize(tmp_path / "nan.gguf", tmp_path / "m.gguf", "Q4_0")
    assert [path.name for path in tmp_path.iterdir()] == ["nan.gguf"]


def test_what_cannot_be_done_is_refused_before_any_work(
    models: dict[str, Artifact], matrices: dict[str, Path], tmp_path: Path
) -> None:
    def refused(model: str, error: type[Exception], words: str, level: str, **options) -> None:
        with pytest.raises(error, match=words):
            requantize(
                models[model].path, tmp_path / "m.gguf", level, options=QuantizeOptions(**options)
            )
        assert not list(tmp_path.iterdir())

    refused(
        "dense", UnsupportedError, "blk.0.ffn_down.weight cannot be made IQ2_XXS.* 1 more",
        "Q4_0", tensor_types=(("ffn_down", "iq2_xxs"),),
    )  # fmt: skip
    refused(
        "dense", UnsupportedError, "token_embd.weight cannot be made IQ2_XS",
        "Q4_0", token_embedding_type="iq2_xs", imatrix=matrices["dense"],
    )  # fmt: skip
    refused(
        "narrow", UsageError, "token_embd.weight cannot be Q4_K.*rows of 96.*Q8_0",
        "Q4_0", token_embedding_type="q4_k",
    )  # fmt: skip
    refused(
        "dense", UsageError, r"no regular expression in '\(\?i\)ffn'",
        "Q4_0", tensor_types=(("(?i)ffn", "q8_0"),),
    )  # fmt: skip
    refused("narrow", UnsupportedError, "attn_k.weight cannot be Q1_0.*rows of 96", "Q1_0")
    refused("dense", UsageError, "no effect at F16", "F16", tensor_types=(("ffn", "q8_0"),))
    refused(
        "narrow", FormatError, "is not of this model.* 256 values; the tensor takes 96",
        "Q4_0", imatrix=matrices["dense"],
    )  # fmt: skip
    refused(
        "dense", UsageError, "No tensor of dense.gguf has 'ffn_sideways'",
        "Q4_0", tensor_types=(("ffn_sideways", "q8_0"),),
    )  # fmt: skip
    foreign = tmp_path.parent / f"{tmp_path.name}-foreign.gguf"
    entry = imatrix.ImportanceEntry(
        name="enc.0.q.weight", sums=np.ones((1, 256), np.float32), counts=np.ones(1, np.float32)
    )
    imatrix.write(foreign, [entry], datasets=["words"], chunks=1, chunk_tokens=64)
    refused("dense", UsageError, "None of its 1 entries", "Q4_0", imatrix=foreign)


def test_an_existing_file_is_overwritten_only_when_asked(full: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="--force"):
        requantize(full.path, out, "Q8_0")
    assert out.read_bytes() == b"precious"
    assert requantize(full.path, out, "Q8_0", overwrite=True, verify=True).level == "Q8_0"


def test_the_child_ends_when_its_parent_is_killed(full: Artifact, tmp_path: Path) -> None:
    """Killed in the middle: the child stops, and what it was writing goes with the next run."""
    program = (
        "import sys, time; from pathlib import Path; from quantize import requantize\n"
        "def hang(_): print('working', flush=True); time.sleep(60)\n"
        "requantize(Path(sys.argv[1]), Path(sys.argv[2]), 'Q4_0', progress=hang)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(full.path), str(tmp_path / "m.gguf")],
        stdout=subprocess.PIPE,
        cwd=Path(child.__file__).parents[1],
    )
    assert parent.stdout.readline() == b"working\n"
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=20)
    for _ in range(200):
        if not list(tmp_path.iterdir()):
            break
        time.sleep(0.05)
    assert requantize(full.path, tmp_path / "again.gguf", "Q4_0")
    assert [path.name for path in tmp_path.iterdir()] == ["again.gguf"]
