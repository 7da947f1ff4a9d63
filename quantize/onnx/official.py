"""Quantizing by onnxruntime.quantization: HQQ, GPTQ and dynamic int8, the model held whole.

It runs in the child process only. These quantizers know no product but MatMul and pass over the
rest without a word, so products of other kinds become MatMuls first, and what must stay is hidden
from them. It refuses to know files beside the model.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.artifact.onnx.graph import read_graph
from edge_runtime.errors import BackendError, EdgeError, EngineMissingError, UnsupportedError

from ..child import Say
from ..writers.onnx import Element
from ..writers.onnx_folder import DATA_NAME, MODEL_NAME
from ..writers.onnx_rewriting import FUSED_DOMAIN, Changes, rewritten
from .algorithms import OnnxQuantizeOptions
from .calibration import Samples
from .outline import operators_of
from .products import Matrix, products_of

_MESSAGE_BYTES = 2**31 - 2**20
"""What weights may take of the two gibibytes a message can hold."""
_SMALL_BYTES = 2**28
"""Weights up to here are handed over in memory."""
_SCRATCH = "scratch"


def write_official(
    source: Path,
    folder: Path,
    level: str,
    options: OnnxQuantizeOptions,
    metadata: Mapping[str, str],
    say: Say,
) -> None:
    """Writes the model into a folder, quantized.

    Raises EngineMissingError naming the packages that are missing, UnsupportedError for weights an
    algorithm cannot take, and BackendError when the quantizer gives up.
    """
    require_packages(options.algorithm)
    logging.disable(logging.WARNING)
    matrices, _ = products_of(read_graph(source), operators_of(source), options.exclude)
    if options.algorithm == "gptq":
        _check_for_gptq(matrices, options.block_size)
    scratch = folder / _SCRATCH
    scratch.mkdir()
    tempfile.tempdir = str(scratch)  # gigabytes belong on the disk of the output
    try:
        say({"stage": "reading"})
        _quantize(source, folder, level, options, matrices, say)
        changes = Changes(
            operators={}, dropped=frozenset(), moved={}, added=(), metadata=dict(metadata)
        )
        written = rewritten(folder / MODEL_NAME, changes, DATA_NAME)
        (folder / MODEL_NAME).write_bytes(written)
    except (EdgeError, OSError, MemoryError):
        raise
    except Exception as error:  # these packages raise whatever their own libraries raise
        words = " ".join(str(error).split())[:300]
        raise BackendError(
            "onnxruntime.quantization gave up.",
            cause=f"It says: {type(error).__name__} {words}",
            way_out="Choose --algorithm rtn or k-quant, which need none of it.",
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_for_gptq(matrices: Sequence[Matrix], block_size: int) -> None:
    """Refuses what onnxruntime's GPTQ fails at in the end, after all its work."""
    for matrix in matrices:
        name, kind = matrix.operator.called, matrix.weight.type.name
        if kind != "FP32":
            raise UnsupportedError(
                "gptq takes weights of fp32 only.",
                cause=f"That of {name} is {kind}.",
                way_out="Choose --algorithm k-quant, or start from the model at fp32.",
            )
        # It packs zero points of 4 bits across rows, which comes out wrong by half a byte.
        if -(-matrix.columns // block_size) % 2:
            raise UnsupportedError(
                "gptq takes rows of an even number of blocks only.",
                cause=f"{name} has rows of {matrix.columns}, blocks are of {block_size}.",
                way_out="Choose a smaller --block-size, or --algorithm k-quant.",
            )


def require_packages(algorithm: str) -> None:
    """Raises EngineMissingError naming what an algorithm needs and is not installed."""
    wanted = ["onnx", "onnx_ir", "ml_dtypes", *(["torch"] if algorithm == "hqq" else [])]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        torch = " torch" if "torch" in missing else ""
        raise EngineMissingError(
            f"{algorithm if algorithm != 'rtn' else 'int8-dynamic'} needs packages that are not"
            f" installed: {', '.join(missing)}.",
            cause="It is computed by onnxruntime.quantization, which imports them.",
            way_out=f"Install them: pip install 'edge-runtime[onnx]'{torch}",
        )


def _quantize(
    source: Path,
    folder: Path,
    level: str,
    options: OnnxQuantizeOptions,
    matrices: Sequence[Matrix],
    say: Say,
) -> None:
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.neural_compressor import util as array_reader

    model = onnx.load(str(source))
    hidden = _only_matmuls(model, matrices, convolutions=level == "int8-dynamic")
    # From here on nobody holds the floats twice; but of a path GPTQ takes only what is too large
    # for a message.
    most = _MESSAGE_BYTES if options.algorithm == "gptq" else _SMALL_BYTES
    model = _by_path(model, folder, most)
    say({"stage": "quantizing"})
    out = folder / MODEL_NAME
    if level == "int8-dynamic":
        quantize_dynamic(
            model,
            str(out),
            nodes_to_exclude=list(options.exclude),
            use_external_data_format=True,
            # Its shape inference stops at fused operators; what they give is of the weights' type.
            extra_options={"DefaultTensorType": _tensor_type(matrices)},
        )
        return
    algorithm: Any
    if options.algorithm == "hqq":
        algorithm = nbits.HQQWeightOnlyQuantConfig(block_size=options.block_size, bits=4)
    else:
        # It imports torch to ask whether an array is one of torch's; ours are numpy's.
        array_reader.to_numpy = lambda values: values
        # With blocks of the scales' own size a scale follows from weights that errors were
        # spread to already; with larger ones from those before.
        algorithm = nbits.GPTQWeightOnlyQuantConfig(
            calibration_data_reader=Samples.read(source, options.calibration),
            block_size=options.block_size,
        )
    quantizer = nbits.MatMulNBitsQuantizer(
        model,
        bits=4,
        block_size=options.block_size,
        is_symmetric=bool(options.symmetric),
        accuracy_level=options.accuracy_level,
        algo_config=algorithm,
    )
    quantizer.process()
    made = quantizer.model
    for node in made.model.graph.node:
        if node.name in hidden:
            node.op_type, node.domain = "MatMul", ""
    if FUSED_DOMAIN not in {opset.domain for opset in made.model.opset_import}:
        made.set_opset_import(FUSED_DOMAIN, 1)
    say({"stage": "writing"})
    made.save_model_to_file(str(out), True)


def _tensor_type(matrices: Sequence[Matrix]) -> int:
    """The element type of most weights, by ONNX's number."""
    halves = sum(m.weight.type.name == "FP16" for m in matrices)
    return int(Element.FLOAT16 if 2 * halves > len(matrices) else Element.FLOAT)


def _by_path(model: Any, folder: Path, most_bytes: int) -> Any:
    """The model itself, or where it was put: by a file goes what copying would double."""
    import onnx

    # Beyond two gibibytes a message cannot even say its size.
    if sum(tensor.ByteSize() for tensor in model.graph.initializer) <= most_bytes:
        return model
    path = folder / _SCRATCH / "floats.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="floats.data")
    return str(path)


def _only_matmuls(model: Any, matrices: Sequence[Matrix], *, convolutions: bool) -> set[str]:
    """Makes every product that is to be quantized a MatMul, and hides the others.

    A MatMul that must stay becomes the same operator under another name; gives the names of those
    nodes. Inner graphs stay as they are.
    """
    import numpy as np
    import onnx

    graph = model.graph
    wanted = {m.operator.outputs[0]: m for m in matrices}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    upright: dict[str, str] = {}
    hidden: set[str] = set()
    nodes: list[Any] = []
    for number, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
        nodes.append(node)
        matrix = wanted.get(node.output[0]) if node.output else None
        if matrix is None:
            if node.op_type == "MatMul" and not convolutions and node.input[1] in constants:
                node.op_type, node.domain = "FusedMatMul", FUSED_DOMAIN
                hidden.add(node.name)
            continue
        name = matrix.weight.name
        if matrix.upright and name in constants:
            if name not in upright:
                upright[name] = f"{name}_transposed"
                values = onnx.numpy_helper.to_array(constants[name]).T
                new = onnx.numpy_helper.from_array(np.ascontiguousarray(values), upright[name])
                graph.initializer.append(new)
            name = upright[name]
        made = node.output[0] + ("_product" if matrix.bias else "")
        node.op_type, node.domain = "MatMul", ""
        product = (node.input[0], name)
        y = node.output[0]
        del node.attribute[:], node.input[:], node.output[:]
        node.input.extend(product)
        node.output.append(made)
        if matrix.bias:
            add = onnx.helper.make_node("Add", [made, matrix.bias], [y], name=f"{node.name}_bias")
            nodes.append(add)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)
    return hidden


def _drop_unread(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input}
    read.update(value.name for value in graph.output)
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return  # an inner graph may read what nobody reads out here
    stays = [tensor for tensor in graph.initializer if tensor.name in read]
    gone = {tensor.name for tensor in graph.initializer} - read
    inputs = [value for value in graph.input if value.name not in gone]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(stays)
    graph.input.extend(inputs)
