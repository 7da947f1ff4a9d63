"""A graph in the making: nodes in order, the weights they name, and the small constants.

Knows how one matrix product, one norm, one rotation is said in ONNX Runtime's operators, at any
level. Which of them a decoder has, and in what order, is `decoder`'s knowledge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..writers.onnx import Attribute, Element, Initializer, Node
from .blocks import BlockFormat
from .weights import Rows, StoredTensor, StoredWeights, block_tensors, float_tensor

FUSED = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


class Graph:
    """Nodes, weights and constants as they come to be; `element` is the type of activations."""

    def __init__(self, element: Element) -> None:
        self.element = element
        self.nodes: list[Node] = []
        self.weights: list[StoredWeights] = []
        self.constants: dict[str, Initializer] = {}

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        out: str | Sequence[str],
        domain: str = "",
        **attributes: Attribute,
    ) -> str:
        """Adds a node; returns the name of its first output."""
        outputs = (out,) if isinstance(out, str) else tuple(out)
        self.nodes.append(
            Node(
                op=op,
                inputs=tuple(inputs),
                outputs=outputs,
                domain=domain,
                attributes=tuple(attributes.items()),
            )
        )
        return outputs[0]

    def store(self, weights: StoredWeights) -> str:
        """Takes weights into the data file; returns the name of their first tensor."""
        self.weights.append(weights)
        return weights.tensors[0].name

    def numbers(self, *values: int, scalar: bool = False) -> str:
        """A constant of whole numbers: a vector, or one number alone."""
        name = "const." + "_".join(str(value) for value in values) + (".scalar" if scalar else "")
        data = np.array(values, "<i8").tobytes()
        dims = () if scalar else (len(values),)
        self.constants[name] = Initializer(name=name, element=Element.INT64, dims=dims, data=data)
        return name

    def factor(self, value: float) -> str:
        """A constant number of the activations' type."""
        name = f"factor.{value:.9g}"
        kind = "<f4" if self.element is Element.FLOAT else "<f2"
        self.constants[name] = Initializer(
            name=name, element=self.element, dims=(), data=np.array(value, kind).tobytes()
        )
        return name

    def constant32(self, value: float) -> str:
        """A constant number of float32, whatever the activations are."""
        name = f"factor.{value:.9g}.float32"
        self.constants[name] = Initializer(
            name=name, element=Element.FLOAT, dims=(), data=np.array(value, "<f4").tobytes()
        )
        return name

    def vector32(self, name: str, values: npt.NDArray[np.float32]) -> str:
        """A constant vector of float32."""
        self.constants[name] = Initializer(
            name=name,
            element=Element.FLOAT,
            dims=values.shape,
            data=values.astype("<f4").tobytes(),
        )
        return name

    def name_last_output(self, name: str) -> None:
        """Calls the first output of the last node otherwise."""
        last = self.nodes[-1]
        self.nodes[-1] = dataclasses.replace(last, outputs=(name, *last.outputs[1:]))

    def vector(self, name: str, source: Rows) -> str:
        """A vector of weights, in the activations' type."""
        size = source.rows * source.columns
        return self.store(float_tensor(name, source, self.element, (size,)))

    def product(
        self,
        x: str,
        name: str,
        source: Rows,
        blocks: BlockFormat | None,
        *,
        bias: Rows | None = None,
        accuracy_level: int = 0,
    ) -> str:
        """Multiplies by a matrix whose rows are the outputs, and adds a bias."""
        if blocks is None:
            dims = (source.rows, source.columns)
            weight = self.store(float_tensor(f"{name}.weight", source, self.element, dims))
            return self.biased(self.float_product(x, name, weight), name, bias)
        stored = block_tensors(f"{name}.weight", source, blocks)
        self.store(stored)
        y = self.block_product(
            x, name, stored.tensors, blocks, source.columns, accuracy_level=accuracy_level
        )
        return self.biased(y, name, bias)

    def float_product(self, x: str, name: str, weight: str) -> str:
        """Multiplies by a stored matrix of floats whose rows are the outputs."""
        return self.add("FusedMatMul", (x, weight), f"{name}.product", FUSED, transB=1)

    def block_product(
        self,
        x: str,
        name: str,
        stored: Sequence[StoredTensor],
        blocks: BlockFormat,
        columns: int,
        *,
        accuracy_level: int,
    ) -> str:
        """Multiplies by a stored matrix of blocks."""
        return self.add(
            "MatMulNBits",
            (x, *(tensor.name for tensor in stored)),
            f"{name}.product",
            FUSED,
            K=columns,
            N=stored[0].dims[0],
            bits=blocks.bits,
            block_size=blocks.block_size,
            accuracy_level=accuracy_level,
        )

    def biased(self, y: str, name: str, bias: Rows | None) -> str:
        """Adds a bias, where there is one."""
        if bias is None:
            return y
        return self.add("Add", (y, self.vector(f"{name}.bias", bias)), f"{name}.biased")

    def split(self, x: str, name: str, sizes: Sequence[int]) -> list[str]:
        """The last dimension of x in parts of these sizes."""
        outs = [f"{name}.part{i}" for i in range(len(sizes))]
        self.add("Split", (x, self.numbers(*sizes)), outs, axis=-1)
        return outs

    def gated(self, gate: str, up: str, name: str, activation: str) -> str:
        """The activation of the gate, times the other half."""
        return self.add("Mul", (self.activated(gate, name, activation), up), f"{name}.gated")

    def activated(self, x: str, name: str, activation: str) -> str:
        """An activation function."""
        out = f"{name}.activated"
        if activation == "silu":
            return self.add("QuickGelu", (x,), out, FUSED, alpha=1.0)
        if activation == "gelu_tanh":
            return self.add("FastGelu", (x,), out, FUSED)
        return self.add("Gelu", (x,), out, FUSED)
