"""Folders of the ONNX writer, run by plain onnxruntime, and the cases that are written at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.artifact import ModelShape
from edge_runtime.errors import EdgeError
from quantize.onnx.details import DECODERS

from .cases import CASES, Case

Array = npt.NDArray[np.float32]
Convert = Callable[..., Path]
BY_NAME = {case.name: case for case in CASES}


def shape_of(case: Case) -> ModelShape | None:
    try:
        return ModelShape.from_config(case.config, name=case.name)
    except EdgeError:
        return None


WRITTEN = [
    case.name
    for case in CASES
    if (shape := shape_of(case)) is not None and shape.architecture in DECODERS
]
"""Cases of families whose graph is known."""


class Model:
    """A folder's graph, run by plain onnxruntime."""

    def __init__(self, folder: Path) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self.defaults = [value.name for value in self.session.get_overridable_initializers()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def empty(self) -> dict[str, np.ndarray]:
        return {
            value.name: np.zeros(
                (1, value.shape[1], 0, value.shape[3]),
                np.float16 if "float16" in value.type else np.float32,
            )
            for value in self.session.get_inputs()
            if value.name.startswith("past_key_values.")
        }

    def run(
        self, tokens: list[int], past: dict[str, np.ndarray] | None = None, **more: int
    ) -> tuple[Array, dict[str, np.ndarray]]:
        """Logits of the tokens, and the keys and values after them."""
        past = self.empty() if past is None else past
        seen = next(iter(past.values())).shape[2]
        feeds = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, seen + len(tokens)), np.int64),
            **{name: np.array(value, np.int64) for name, value in more.items()},
        }
        logits, *present = self.session.run(self.outputs, {**feeds, **past})
        return logits[0], dict(zip(past, present, strict=True))
