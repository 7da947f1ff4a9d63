"""Writes models that are none of language with the `onnx` package: a vision network, an encoder.

The vision network is of MobileNetV3's kind (Howard et al., 2019): inverted residuals of a pointwise
expansion, a depthwise convolution and a pointwise projection, hard-swish or ReLU6 between them,
squeeze-and-excite in some, global pooling and a classifier. Weights are random with a fixed seed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# expansion, channels, kernel, stride, activation, squeeze-and-excite: MobileNetV3-Small's table,
# with the channels for a width of 1.
BLOCKS = (
    (16, 16, 3, 2, "relu6", True),
    (72, 24, 3, 2, "relu6", False),
    (88, 24, 3, 1, "relu6", False),
    (96, 40, 5, 2, "hardswish", True),
    (240, 40, 5, 1, "hardswish", True),
    (120, 48, 5, 1, "hardswish", True),
    (288, 96, 5, 2, "hardswish", True),
    (576, 96, 5, 1, "hardswish", True),
)
CLASSES = 100


class Network:
    """A graph under construction, with seeded weights."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        values = self.random.standard_normal(shape) / np.sqrt(fan_in)
        self.tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(
            helper.make_node(op, list(inputs), [f"{name}.out"], name=name, **attributes)
        )
        return f"{name}.out"

    def convolution(
        self, name: str, value: str, channels: tuple[int, int], kernel: int = 1, stride: int = 1,
        *, depthwise: bool = False,
    ) -> str:  # fmt: skip
        before, after = channels
        weight = self.weight(f"{name}.weight", after, 1 if depthwise else before, kernel, kernel)
        bias = self.weight(f"{name}.bias", after)
        pad = kernel // 2
        return self.node(
            "Conv", name, value, weight, bias,
            kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[pad] * 4,
            group=before if depthwise else 1,
        )  # fmt: skip

    def activation(self, name: str, value: str, kind: str) -> str:
        if kind == "hardswish":
            return self.node("HardSwish", name, value)
        low, high = f"{name}.low", f"{name}.high"
        self.constant(low, np.float32(0))
        self.constant(high, np.float32(6))
        return self.node("Clip", name, value, low, high)

    def model(
        self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "network", inputs, outputs, self.tensors)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="tests"
        )


def write_vision_model(path: Path, *, width: float = 0.5, batch: str | int = "batch") -> Path:
    """A MobileNetV3-like classifier of images; `width` multiplies the channels."""
    net = Network()

    def wide(channels: int) -> int:
        return max(8, int(channels * width + 4) // 8 * 8)

    before = wide(16)
    value = net.convolution("features.0.conv", "image", (3, before), 3, 2)
    value = net.activation("features.0.act", value, "hardswish")
    for number, (expansion, channels, kernel, stride, act, squeeze) in enumerate(BLOCKS, start=1):
        name, inner, after, start = f"features.{number}", wide(expansion), wide(channels), value
        value = net.convolution(f"{name}.expand", value, (before, inner))
        value = net.activation(f"{name}.expand.act", value, act)
        value = net.convolution(
            f"{name}.depthwise", value, (inner, inner), kernel, stride, depthwise=True
        )
        value = net.activation(f"{name}.depthwise.act", value, act)
        if squeeze:
            less = max(8, inner // 4)
            scale = net.node("GlobalAveragePool", f"{name}.squeeze.pool", value)
            scale = net.convolution(f"{name}.squeeze.reduce", scale, (inner, less))
            scale = net.node("Relu", f"{name}.squeeze.act", scale)
            scale = net.convolution(f"{name}.squeeze.expand", scale, (less, inner))
            scale = net.node("HardSigmoid", f"{name}.squeeze.gate", scale, alpha=1 / 6, beta=0.5)
            value = net.node("Mul", f"{name}.squeeze.scale", value, scale)
        value = net.convolution(f"{name}.project", value, (inner, after))
        if stride == 1 and before == after:
            value = net.node("Add", f"{name}.add", value, start)
        before = after
    last = wide(576)
    value = net.convolution("head.conv", value, (before, last))
    value = net.activation("head.act", value, "hardswish")
    value = net.node("GlobalAveragePool", "head.pool", value)
    value = net.node("Flatten", "head.flatten", value)
    value = net.node(
        "Gemm", "classifier", value, net.weight("classifier.weight", CLASSES, last),
        net.weight("classifier.bias", CLASSES), transB=1,
    )  # fmt: skip
    net.nodes[-1].output[0] = "classes"
    model = net.model(
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 224, 224])],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, [batch, CLASSES])],
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_encoder(path: Path, *, tokens: int = 50, hidden: int = 32) -> Path:
    """An encoder of text with two inputs: token ids looked up in a table, and a mask."""
    net = Network()
    table = net.weight("embedding", tokens, hidden)
    value = net.node("Gather", "embed", table, "input_ids")
    for layer in range(2):
        weight = net.weight(f"layer.{layer}.weight", hidden, hidden)
        value = net.node("MatMul", f"layer.{layer}.dense", value, weight)
        value = net.node("Tanh", f"layer.{layer}.act", value)
    mask = net.node("Cast", "mask.cast", "attention_mask", to=TensorProto.FLOAT)
    last = net.constant("last", np.array([2], np.int64))
    mask = net.node("Unsqueeze", "mask.unsqueeze", mask, last)
    net.node("Mul", "masked", value, mask)
    net.nodes[-1].output[0] = "last_hidden_state"
    dims = ["batch_size", "sequence_length"]
    model = net.model(
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, dims),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, dims),
        ],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*dims, hidden])],
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_matmuls(path: Path, *, size: int, count: int, rows: int | str = 64) -> Path:
    """A chain of square matrix products: its time is proportional to their number."""
    net = Network()
    value = "x"
    for number in range(count):
        value = net.node("MatMul", f"m{number}", value, net.weight(f"w{number}", size, size))
    net.nodes[-1].output[0] = "y"
    model = net.model(
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, size])],
    )
    onnx.save(model, path)
    return path
