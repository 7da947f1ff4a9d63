"""Quantizing finished ONNX models: held against ONNX Runtime's quantizer and the float model."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_decoders import Layout, write_decoder, write_folder

import quantize
from edge_runtime import errors
from edge_runtime.artifact import Artifact
from quantize import OnnxQuantizeOptions, requantize_onnx
from quantize.child import Child
from quantize.onnx import official, requantization, requantizer
from quantize.onnx.conversion import convert_onnx
from quantize.onnx.feeds import feeds
from quantize.onnx.requantization import plan_onnx

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "edge_runtime" / "tiny_model"
TEXT = TINY / "heldout.txt"
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def session(model: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])


def logits(model: Path, ids: Any = range(40, 72)) -> Any:
    ready = session(model)
    return ready.run(["logits"], feeds(ready, list(ids)))[0][0].astype(np.float64)


def divergence(reference: Any, other: Any) -> float:
    """Mean KL divergence of the next token's distribution."""

    def logs(values: Any) -> Any:
        values = values - values.max(-1, keepdims=True)
        return values - np.log(np.exp(values).sum(-1, keepdims=True))

    p, q = logs(reference), logs(other)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def content(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model as a folder of fp32."""
    out = tmp_path_factory.mktemp("tiny") / "tiny-fp32"
    convert_onnx(TINY, out, level="fp32")
    return out


@pytest.fixture(scope="module")
def tiny_ids() -> list[int]:
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(TEXT.read_text()).ids


class ChildHere:
    """Does in this process what the quantizing child does: for what neither prints nor dies."""

    def __init__(self, module: str, **_words: str) -> None:
        assert module == "onnx.requantizer"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, job: object) -> Iterator[dict[str, object]]:
        said: list[dict[str, object]] = []
        last = requantizer._requantize(json.loads(json.dumps(job)), lambda m: said.append(dict(m)))
        yield from (*said, last)


@pytest.fixture
def child_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requantization, "Child", ChildHere)


@pytest.mark.usefixtures("child_here")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_foreign_decoder_gets_the_very_blocks_of_onnxruntimes_quantizer(
    tmp_path: Path, bits: int, symmetric: bool
) -> None:
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    # The half of a byte that stands for no block may hold anything: an even number of blocks.
    hidden = 96 if symmetric else 128
    source = write_folder(
        tmp_path / "source", Layout(hidden=hidden, heads=hidden // 32, kv_heads=1)
    )
    before = content(source.parent)
    options = OnnxQuantizeOptions(symmetric=symmetric)
    made = requantize_onnx(source, tmp_path / "out", f"int{bits}", options=options)
    official_one = nbits.MatMulNBitsQuantizer(
        onnx.load(source), algo_config=nbits.DefaultWeightOnlyQuantConfig(
            block_size=32, is_symmetric=symmetric, accuracy_level=4, bits=bits
        ),
    )  # fmt: skip
    official_one.process()
    theirs = {t.name: t for t in official_one.model.model.graph.initializer}
    ours = {t.name: t for t in onnx.load(made.path).graph.initializer}
    blocks = [name for name in theirs if name.endswith(f"_Q{bits}")]
    assert len(blocks) == made.nodes == made.products == 15
    for name in blocks:
        weight = name.removesuffix(f"_Q{bits}")
        for mine, yours in (
            (name, name),
            (f"{name}_scales", f"{weight}_scales"),
            *([] if symmetric else [(f"{name}_zeros", f"{weight}_zero_points")]),
        ):
            a, b = numpy_helper.to_array(ours[mine]), numpy_helper.to_array(theirs[yours])
            np.testing.assert_array_equal(a.ravel(), b.ravel(), err_msg=mine)
    official_one.model.save_model_to_file(str(tmp_path / "theirs.onnx"), False)
    np.testing.assert_array_equal(logits(made.path), logits(tmp_path / "theirs.onnx"))
    assert content(source.parent) == before
    artifact = Artifact.open(tmp_path / "out")
    assert artifact.level == f"int{bits}"
    beside = {"tokenizer.json", "genai_config.json", "config.json"}
    assert beside < {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.usefixtures("child_here")
@pytest.mark.parametrize(
    "layout",
    [
        Layout(fused=False, position_ids=True),
        Layout(kv="float16"),
        Layout(fused=False, branch=True, logits="last"),
    ],
)
def test_exports_of_every_layout_run_as_before_with_eight_bits(
    tmp_path: Path, layout: Layout
) -> None:
    source = write_decoder(tmp_path / "source", layout)
    made = requantize_onnx(source, tmp_path / "out", "onnx:int8", verify=True)
    a, b = logits(source), logits(made.path)
    assert 0 < divergence(a, b) < 0.03 * np.abs(a).max()
    activations = [k for k in made.kept if not k.elements]
    assert len(activations) == (0 if layout.fused else 2 * layout.layers)
    assert made.size_bytes < 0.7 * made.source_bytes


@pytest.mark.usefixtures("child_here")
def test_quality_on_a_trained_model_has_the_known_order(
    tiny: Path, tiny_ids: list[int], tmp_path: Path
) -> None:
    reference = logits(tiny / "model.onnx", tiny_ids[:400])

    def kl(name: str, level: str, **options: Any) -> float:
        made = requantize_onnx(tiny, tmp_path / name, level, options=OnnxQuantizeOptions(**options))
        assert made.nodes == 16
        return divergence(reference, logits(made.path, tiny_ids[:400]))

    int8, rtn = kl("int8", "int8"), kl("rtn", "int4")
    searched = kl("k", "int4", algorithm="k_quant")
    mixed = kl("mixed", "int4", algorithm="k_quant_mixed")
    assert 0 < int8 < 1e-4 < mixed < 7e-4 < searched < rtn < 3e-3
    said = {p.key: p.value for p in onnx.load(tmp_path / "mixed" / "model.onnx").metadata_props}
    assert said["edge_runtime.level"] == "int4"
    assert said["edge_runtime.algorithm"] == "k_quant_mixed"


@pytest.mark.usefixtures("child_here")
def test_a_quantized_folder_is_what_converting_at_that_level_computes(
    tiny: Path, tiny_ids: list[int], tmp_path: Path
) -> None:
    """Converting quantizes the embedding as well; the matrices of the layers are the same."""
    convert_onnx(TINY, tmp_path / "converted", level="int8")
    made = quantize.requantize(tiny, tmp_path / "made", "int8")
    assert made.level == "int8"
    ids = tiny_ids[:64]
    a, b = (logits(tmp_path / name / "model.onnx", ids) for name in ("converted", "made"))
    np.testing.assert_array_equal(a.argmax(-1), b.argmax(-1))


def graph_of(
    path: Path,
    nodes: list[Any],
    weights: dict[str, Any],
    *,
    width: int,
    out: int,
    kind: int = FLOAT,
    extra: tuple[Any, ...] = (),
    **save: Any,
) -> Path:
    """A network from `x` (batch, width) to `y` (batch, out)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, ["batch", width])],
        [helper.make_tensor_value_info("y", kind, ["batch", out])],
        [*(numpy_helper.from_array(v, k) for k, v in weights.items()), *extra],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(path), **save)
    return path


@pytest.fixture
def drawn() -> Any:
    random = np.random.default_rng(3)
    return lambda *dims: (random.standard_normal(dims) / 8).astype(np.float32)


def branch(name: str, weight: str) -> Any:
    value = helper.make_tensor_value_info(name, FLOAT, None)
    node = helper.make_node("MatMul", ["d", weight], [name], name=f"in_{name}")
    return helper.make_graph([node], name, [], [value])


@pytest.mark.usefixtures("child_here")
def test_every_way_to_write_a_product_is_rewritten(tmp_path: Path, drawn: Any) -> None:
    constant = numpy_helper.from_array(drawn(64, 64), "")
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "bias"], ["a"], name="upright", transB=1),
        helper.make_node("Gemm", ["a", "w2"], ["b"], name="lying"),
        helper.make_node("Transpose", ["w3"], ["w3t"], perm=[1, 0]),
        helper.make_node("MatMul", ["b", "w3t"], ["c"], name="turned"),
        helper.make_node("Constant", [], ["w4"], value=constant),
        helper.make_node("MatMul", ["c", "w4"], ["d"], name="constant"),
        helper.make_node("Greater", ["zero", "one"], ["never"]),
        helper.make_node(
            "If", ["never"], ["e"], then_branch=branch("p", "w5"), else_branch=branch("q", "w6")
        ),
        helper.make_node("Gather", ["w3", "rows"], ["looked_up"], axis=0),
        helper.make_node("ReduceMean", ["looked_up"], ["mean"], axes=[0], keepdims=0),
        helper.make_node("Add", ["e", "mean"], ["y"]),
    ]
    weights = {
        "w1": drawn(96, 48), "bias": drawn(96), "w2": drawn(96, 64), "w3": drawn(64, 64),
        "w5": drawn(64, 64), "w6": drawn(64, 64), "rows": np.array([3, 5]),
        "zero": np.float32(0), "one": np.float32(1),
    }  # fmt: skip
    source = graph_of(tmp_path / "in" / "net.onnx", nodes, weights, width=48, out=64)
    options = OnnxQuantizeOptions(accuracy_level=1)  # what is left is the weights' rounding
    made = requantize_onnx(source, tmp_path / "out", "int8", options=options, verify=True)
    onnx.checker.check_model(str(made.path))
    assert (made.nodes, made.kept) == (6, ())
    x = {"x": drawn(5, 48) * 8}
    a, b = (session(path).run(["y"], x)[0] for path in (source, made.path))
    assert 0 < np.abs(a - b).max() < 0.02 * np.abs(a).max()
    # The table that is looked up stays; the matrices nobody reads any more are gone.
    left = {t.name for t in onnx.load(made.path).graph.initializer}
    assert "w3" in left
    assert not left & {"w1", "w2", "w4", "w5", "w6"}


@pytest.mark.usefixtures("child_here")
def test_half_precision_keeps_its_type(tmp_path: Path, drawn: Any) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = {"w": drawn(64, 80).astype(np.float16)}
    source = graph_of(tmp_path / "h.onnx", nodes, weights, width=64, out=80, kind=HALF)
    made = requantize_onnx(source, tmp_path / "out", "int8", verify=True)
    x = {"x": drawn(3, 64).astype(np.float16)}
    a, b = (session(path).run(["y"], x)[0] for path in (source, made.path))
    assert b.dtype == np.float16
    np.testing.assert_allclose(b, a, atol=0.02)


@pytest.mark.usefixtures("child_here")
def test_weights_beyond_two_gibibytes_of_a_data_file_are_found(tmp_path: Path, drawn: Any) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weight = drawn(64, 80)
    source = graph_of(
        tmp_path / "net.onnx", nodes, {"w": weight}, width=64, out=80,
        save_as_external_data=True, location="net.data", size_threshold=0,
    )  # fmt: skip
    model = onnx.load(source, load_external_data=False)
    (tensor,) = model.graph.initializer
    del tensor.external_data[:]
    offset = 5 * 2**29 + 4096
    for key, value in {"location": "net.data", "offset": offset, "length": weight.nbytes}.items():
        tensor.external_data.add(key=key, value=str(value))
    source.write_bytes(model.SerializeToString())
    with (tmp_path / "net.data").open("r+b") as file:  # all before it is a hole
        file.seek(offset)
        file.write(weight.tobytes())
    made = requantize_onnx(source, tmp_path / "out", "int8")
    x = drawn(3, 64)
    np.testing.assert_allclose(session(made.path).run(["y"], {"x": x})[0], x @ weight, atol=0.02)
    assert made.size_bytes < 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's figure")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = {"w": np.ones((4096, 8192), np.float32)}
    source = graph_of(
        tmp_path / "net.onnx", nodes, weights, width=4096, out=8192,
        save_as_external_data=True, location="net.data",
    )  # fmt: skip
    made = requantize_onnx(source, tmp_path / "out", "int4")
    assert made.source_bytes > 128 * 2**20
    assert made.peak_bytes is not None
    assert made.peak_bytes < 112 * 2**20


def test_excluded_operators_stay_and_a_wrong_name_is_a_slip(tmp_path: Path, drawn: Any) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="last"),
    ]
    weights = {"v": drawn(64, 64), "w": drawn(64, 64)}
    source = graph_of(tmp_path / "net.onnx", nodes, weights, width=64, out=64)
    for level, algorithm in (("int4", "rtn"), ("int8-dynamic", "rtn"), ("int4", "gptq")):
        options = OnnxQuantizeOptions(
            exclude=("last",), algorithm=algorithm,
            calibration=TEXT if algorithm == "gptq" else None,
        )  # fmt: skip
        if algorithm == "gptq":  # a net without a tokenizer cannot be calibrated with a text
            with pytest.raises(errors.UnsupportedError, match="tokenizer"):
                requantize_onnx(source, tmp_path / "gptq", level, options=options)
            assert not (tmp_path / "gptq").exists()
            continue
        made = requantize_onnx(source, tmp_path / level, level, options=options)
        assert [(k.name, k.reason) for k in made.kept] == [("last", "it is excluded")]
        assert "w" in {t.name for t in onnx.load(made.path).graph.initializer}
        assert made.nodes == 1
    with pytest.raises(errors.UsageError, match="'lsat'"):
        plan_onnx(source, "int4", options=OnnxQuantizeOptions(exclude=("lsat",)))


def test_gptq_runs_the_model_on_the_text(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", Layout(layers=1))
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox. " * 10, "utf-8")
    before = content(source.parent)
    known = {n.name for n in onnx.load(source).graph.node if n.op_type == "MatMul"}
    options = OnnxQuantizeOptions(algorithm="gptq", calibration=text, exclude=(sorted(known)[0],))
    made = requantize_onnx(source, tmp_path / "out", "int4", options=options, verify=True)
    assert made.nodes == len(known) - 1
    assert content(source.parent) == before
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*before, "model.onnx.data"}
    odd = OnnxQuantizeOptions(algorithm="gptq", calibration=text, block_size=64)
    with pytest.raises(errors.UnsupportedError, match="smaller --block-size"):
        requantize_onnx(source, tmp_path / "odd", "int4", options=odd)
    kept = [n for n in onnx.load(made.path).graph.node if n.op_type == "MatMul"]
    assert [n.name for n in kept] == [sorted(known)[0]]


def test_dynamic_int8_takes_fused_products_and_convolutions(
    tiny: Path, tiny_ids: list[int], tmp_path: Path, drawn: Any
) -> None:
    made = requantize_onnx(tiny, tmp_path / "tiny", "int8-dynamic")
    assert Artifact.open(tmp_path / "tiny").level == "int8-dynamic"
    reference = logits(tiny / "model.onnx", tiny_ids[:300])
    assert divergence(reference, logits(made.path, tiny_ids[:300])) < 5e-3

    vision = convolution(tmp_path / "vision.onnx", drawn)
    with pytest.raises(errors.UnsupportedError, match=r"convolution.*int8-dynamic"):
        requantize_onnx(vision, tmp_path / "no", "int8")
    assert not (tmp_path / "no").exists()
    made = requantize_onnx(vision, tmp_path / "vision", "int8-dynamic", verify=True)
    assert (made.nodes, made.elements, made.kept) == (2, 64 * 32 * 9 + 10 * 64, ())


def convolution(path: Path, drawn: Any) -> Path:
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1),
    ]
    weights = {"k": drawn(64, 32, 3, 3), "w": drawn(10, 64), "b": drawn(10)}
    graph = helper.make_graph(
        nodes, "vision", [helper.make_tensor_value_info("image", FLOAT, ["n", 32, 8, 8])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 10])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(path))
    return path


def test_what_cannot_be_quantized_is_refused_with_the_reason(tmp_path: Path, drawn: Any) -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    source = graph_of(tmp_path / "a.onnx", nodes, {"w": drawn(64)}, width=64, out=64)
    with pytest.raises(errors.UnsupportedError, match="no product with a constant"):
        plan_onnx(source, "int4")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    listed = helper.make_tensor("w", FLOAT, [64, 64], drawn(64, 64).ravel().tolist())
    source = graph_of(tmp_path / "b.onnx", nodes, {}, width=64, out=64, extra=(listed,))
    with pytest.raises(errors.UnsupportedError, match="one by one"):
        plan_onnx(source, "int4")
    done = write_folder(tmp_path / "c", Layout(int4=True))
    for level in ("int4", "int8", "int8-dynamic"):
        with pytest.raises(errors.UsageError, match="quantized already"):
            plan_onnx(done, level)


@pytest.mark.usefixtures("child_here")
def test_values_that_are_no_numbers_stop_it(tmp_path: Path, drawn: Any) -> None:
    weight = drawn(64, 64)
    weight[3, 4] = np.nan
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = graph_of(tmp_path / "a.onnx", nodes, {"w": weight}, width=64, out=64)
    with pytest.raises(errors.FormatError, match="no finite numbers"):
        requantize_onnx(source, tmp_path / "out", "int4")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["missing", "short", "outside", "garbled", "cut"])
def test_a_damaged_source_gives_one_sentence_and_leaves_nothing(
    tmp_path: Path, drawn: Any, damage: str
) -> None:
    folder = tmp_path / "in"
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = graph_of(
        folder / "net.onnx", nodes, {"w": drawn(64, 64)}, width=64, out=64,
        save_as_external_data=True, location="net.data", size_threshold=0,
    )  # fmt: skip
    data = folder / "net.data"
    if damage == "missing":
        data.unlink()
    elif damage == "short":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "outside":
        data.rename(tmp_path / "net.data")
        source.write_bytes(source.read_bytes().replace(b"net.data", b"../n.dat"))
    elif damage == "garbled":
        source.write_bytes(b"\xff" * 64 + source.read_bytes())
    else:
        source.write_bytes(source.read_bytes()[:-40])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(errors.ArtifactError):
        requantize_onnx(source, tmp_path / "out", "int4")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("child_here")
def test_a_target_that_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in")
    requantize_onnx(source, tmp_path / "out", "int4")
    before = content(tmp_path / "out")
    with pytest.raises(errors.UsageError, match="--force"):
        requantize_onnx(source, tmp_path / "out", "int8")
    assert content(tmp_path / "out") == before
    requantize_onnx(source, tmp_path / "out", "int8", overwrite=True)
    assert Artifact.open(tmp_path / "out").level == "int8"
    with pytest.raises(errors.UsageError, match="made from"):
        requantize_onnx(source, tmp_path / "in", "int8", overwrite=True)


def test_the_death_of_the_process_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(Child):
        def ask(self, job: Any) -> Iterator[Any]:
            for answer in super().ask(job):
                yield answer
                self._process.kill()

    source = write_folder(tmp_path / "in")
    monkeypatch.setattr(requantization, "Child", Dying)
    with pytest.raises(errors.WorkerError, match="SIGKILL"):
        requantize_onnx(source, tmp_path / "out", "int4")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of Unix")
@pytest.mark.parametrize("level", ["int4", "int8-dynamic"])
def test_a_disk_that_takes_no_more_leaves_nothing(tmp_path: Path, level: str) -> None:
    source = write_folder(tmp_path / "in", Layout(hidden=128, inner=512))
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises((errors.DiskError, errors.BackendError)) as caught:
            requantize_onnx(source, tmp_path / "out", level)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert level != "int4" or isinstance(caught.value, errors.DiskError)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_too_little_memory_is_said_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(tmp_path / "in")
    monkeypatch.setattr(requantization, "_available_bytes", lambda: 100 * 2**20)
    with pytest.raises(errors.MemoryLimitError, match="rtn or k-quant"):
        requantize_onnx(source, tmp_path / "out", "int8-dynamic")
    assert requantize_onnx(source, tmp_path / "out", "int4").nodes == 15


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(errors.EngineMissingError, match=r"pip install 'edge-runtime\[onnx\]'"):
        official.require_packages("gptq")
    with pytest.raises(errors.EngineMissingError, match="torch"):
        official.require_packages("hqq")


@pytest.mark.parametrize(
    ("level", "options", "words"),
    [
        ("int8", {"algorithm": "k_quant"}, "for int4"),
        ("int4", {"algorithm": "gptq"}, "--calibrate"),
        ("int4", {"calibration": TEXT}, "no effect"),
        ("int4", {"algorithm": "hqq", "symmetric": True}, "zero points"),
        ("int8-dynamic", {"block_size": 64}, "int8-dynamic has no"),
        ("Q4_K_M", {}, "int4, int8"),
        ("fp16", {}, "edge convert"),
        ("in4", {}, "Nearest: int4"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, level: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.EdgeError, match=words):
        plan_onnx(tmp_path / "none.onnx", level, options=OnnxQuantizeOptions(**options))


@pytest.mark.usefixtures("child_here")
def test_the_plan_says_the_size_that_comes_out(tiny: Path, tmp_path: Path) -> None:
    plan = plan_onnx(tiny, "int4")
    made = requantize_onnx(tiny, tmp_path / "out", "int4")
    side = sum(p.stat().st_size for p in tiny.iterdir() if not p.name.startswith("model.onnx"))
    assert plan.total_bytes == pytest.approx(made.size_bytes - side, rel=0.02)
    assert len(plan.matrices) == made.products


@pytest.mark.usefixtures("child_here")
def test_settings_for_genai_name_the_new_file(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in")
    source = source.rename(source.with_name("model_fp32.onnx"))
    settings = source.with_name("genai_config.json")
    stated = json.loads(settings.read_text("utf-8"))
    stated["model"]["decoder"]["filename"] = source.name
    settings.write_text(json.dumps(stated, separators=(",", ":")), "utf-8")
    requantize_onnx(source.parent, tmp_path / "out", "int4")
    stated["model"]["decoder"]["filename"] = "model.onnx"
    assert json.loads((tmp_path / "out" / "genai_config.json").read_text("utf-8")) == stated
    assert Artifact.open(tmp_path / "out").level == "int4"


def test_settings_that_are_no_text_are_refused_before_the_work(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in")
    source.with_name("genai_config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(errors.FormatError, match=r"genai_config\.json"):
        requantize_onnx(source, tmp_path / "out", "int4")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_config_of_another_model_does_not_go_with_the_new_one(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in")
    settings = source.with_name("config.json")
    stated = json.loads(settings.read_text("utf-8"))
    settings.write_text(json.dumps(stated | {"num_hidden_layers": 99}), "utf-8")
    with pytest.raises(errors.FormatError, match=r"config\.json contradicts"):
        requantize_onnx(source, tmp_path / "out", "int4")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
