"""Writes small ONNX models with the `onnx` package, an independent hand: for reading, not running.

Graphs have the inputs, operators and tensors that exporters write; their attention is one operator
and their arithmetic is no model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, WIDE, HEADS, KV_HEADS, HEAD_DIM, LAYERS, TOKENS, CONTEXT = 64, 96, 4, 2, 16, 2, 40, 128
CONFIG: Mapping[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": TOKENS,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
}
GENAI: Mapping[str, object] = {
    "model": {
        "bos_token_id": 1,
        "eos_token_id": [2],
        "context_length": CONTEXT,
        "type": "llama",
        "vocab_size": TOKENS,
        "decoder": {
            "filename": "model.onnx",
            "head_size": HEAD_DIM,
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": KV_HEADS,
            "inputs": {
                "input_ids": "input_ids",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {"logits": "logits"},
        },
    }
}
TOKENIZER: Mapping[str, object] = {
    "model": {"type": "BPE", "vocab": {"<s>": 1, "</s>": 2, "a": 3}, "merges": ["a a"]},
    "added_tokens": [{"id": 2, "content": "</s>"}],
}


class Decoder:
    """A decoder's graph under construction; matrices are stored as `level` says.

    `level` is fp32, fp16, int4, int8 (blocks of 32), q4f16 or dynamic (int8 per tensor). `tied`
    shares embedding and output; `cache` leaves the past out when False.
    """

    def __init__(
        self,
        level: str = "fp32",
        *,
        tied: bool = True,
        layers: int = LAYERS,
        cache: bool = True,
        window: int = -1,
        zero_points: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.level, self.tied, self.zero_points = level, tied, zero_points
        self.float = np.float16 if level in ("fp16", "q4f16") else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        state = self._embedding()
        for layer in range(layers):
            state = self._layer(layer, state, cache, window)
        self._output(state)
        self.model = self._model(layers, cache, metadata or {})

    def _add(self, name: str, array: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def _random(self, name: str, *dims: int) -> str:
        return self._add(name, self.random.standard_normal(dims).astype(self.float))

    def _node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        domain = (
            "" if op in ("Gather", "MatMul", "Reshape", "Transpose", "Add") else "com.microsoft"
        )
        self.nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def _blocks(self, name: str, rows: int, columns: int, bits: int) -> list[str]:
        """The tensors of a [columns -> rows] matrix in blocks of 32."""
        blocks = columns // 32
        made = [
            self._add(f"{name}.q", np.zeros((rows, blocks, 4 * bits), np.uint8)),
            self._random(f"{name}.scales", rows, blocks),
        ]
        if self.zero_points:
            made.append(self._add(f"{name}.zp", np.zeros((rows, -(-blocks * bits // 8)), np.uint8)))
        return made

    def _matrix(self, value: str, name: str, rows: int, columns: int) -> str:
        bits = {"int4": 4, "q4f16": 4, "int8": 8}.get(self.level)
        if bits:
            return self._node(
                "MatMulNBits", [value, *self._blocks(name, rows, columns, bits)], f"{name}.out",
                K=columns, N=rows, bits=bits, block_size=32, accuracy_level=4,
            )  # fmt: skip
        if self.level == "dynamic":
            self._add(f"{name}.weight", np.zeros((columns, rows), np.int8))
            self._add(f"{name}.scale", np.ones((), np.float32))
            self._add(f"{name}.zero", np.zeros((), np.int8))
            names = [value, *(f"{name}.{end}" for end in ("weight", "scale", "zero"))]
            return self._node("DynamicQuantizeMatMul", names, f"{name}.out")
        return self._node("MatMul", [value, self._random(name, columns, rows)], f"{name}.out")

    def _embedding(self) -> str:
        if self.tied and self.level in ("int4", "int8", "q4f16"):
            bits = 8 if self.level == "int8" else 4
            names = self._blocks("lm_head", TOKENS, HIDDEN, bits)
            shape = self._add("flat", np.array([TOKENS, HIDDEN * bits // 8]))
            flat = self._node("Reshape", [names[0], shape], "table")
            return self._node(
                "GatherBlockQuantized", [flat, "input_ids", *names[1:]], "embedded",
                bits=bits, block_size=32,
            )  # fmt: skip
        return self._node(
            "Gather", [self._random("embed", TOKENS, HIDDEN), "input_ids"], "embedded"
        )

    def _layer(self, layer: int, state: str, cache: bool, window: int) -> str:
        p = f"layers.{layer}"
        normed = self._node(
            "SimplifiedLayerNormalization",
            [state, self._random(f"{p}.norm", HIDDEN)],
            f"{p}.normed",
        )
        mixed = self._matrix(normed, f"{p}.qkv", (HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN)
        past = [f"past_key_values.{layer}.{kind}" if cache else "" for kind in ("key", "value")]
        if layer == 0:
            self._random("cos_cache", CONTEXT, HEAD_DIM // 2)
            self._random("sin_cache", CONTEXT, HEAD_DIM // 2)
        seen = self._node(
            "GroupQueryAttention",
            [mixed, "", "", *past, "attention_mask", "total", "cos_cache", "sin_cache"],
            f"{p}.attention", num_heads=HEADS, kv_num_heads=KV_HEADS, do_rotary=1,
            local_window_size=window if layer % 2 == 0 else -1,
        )  # fmt: skip
        out = self._matrix(seen, f"{p}.o", HIDDEN, HEADS * HEAD_DIM)
        up = self._matrix(self._node("Add", [state, out], f"{p}.mid"), f"{p}.up", WIDE, HIDDEN)
        return self._matrix(up, f"{p}.down", HIDDEN, WIDE)

    def _output(self, state: str) -> None:
        if not self.tied:
            made = self._matrix(state, "head", TOKENS, HIDDEN)
        elif self.level in ("int4", "int8", "q4f16"):
            names = ["lm_head.q", "lm_head.scales", *(["lm_head.zp"] if self.zero_points else [])]
            made = self._node(
                "MatMulNBits", [state, *names], "scores",
                K=HIDDEN, N=TOKENS, bits=8 if self.level == "int8" else 4, block_size=32,
            )  # fmt: skip
        else:
            turned = self._node("Transpose", ["embed"], "turned", perm=[1, 0])
            made = self._node("MatMul", [state, turned], "scores")
        self.nodes.append(helper.make_node("Cast", [made], ["logits"], to=TensorProto.FLOAT))

    def _model(self, layers: int, cache: bool, metadata: Mapping[str, str]) -> onnx.ModelProto:
        kind = TensorProto.FLOAT16 if self.float is np.float16 else TensorProto.FLOAT
        inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
        ]
        for layer in range(layers if cache else 0):
            inputs += [
                helper.make_tensor_value_info(
                    f"past_key_values.{layer}.{name}", kind, ["batch", KV_HEADS, "past", HEAD_DIM]
                )
                for name in ("key", "value")
            ]
        outputs = [
            helper.make_tensor_value_info(
                "logits", TensorProto.FLOAT, ["batch", "sequence", TOKENS]
            )
        ]
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.tensors)
        model = helper.make_model(graph, producer_name="test", ir_version=10)
        helper.set_model_props(model, dict(metadata))
        return model


def encoder() -> onnx.ModelProto:
    """A network that makes one vector a token: token ids in, no cache, no logits."""
    table = numpy_helper.from_array(np.ones((TOKENS, HIDDEN), np.float32), "words")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["words", "input_ids"], ["last_hidden_state"])],
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "s", HIDDEN])],
        [table],
    )
    return helper.make_model(graph, ir_version=10)


def picture_model() -> onnx.ModelProto:
    """A network that sees pictures and knows no token."""
    kernel = numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "kernel")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["pixels", "kernel"], ["out"])],
        "vision",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8, 30, 30])],
        [kernel],
    )
    return helper.make_model(graph, ir_version=10)


def save(
    model: onnx.ModelProto,
    path: Path,
    *,
    external: bool = False,
    config: Mapping[str, object] | None = None,
    genai: Mapping[str, object] | None = None,
    tokenizer: bool = False,
) -> Path:
    """Writes a model, its data beside it if asked, and the small files given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if external:
        onnx.save(
            model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=64
        )
    else:
        onnx.save(model, path)
    for name, content in (("config.json", config), ("genai_config.json", genai)):
        if content is not None:
            (path.parent / name).write_text(json.dumps(content))
    if tokenizer:
        (path.parent / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return path
