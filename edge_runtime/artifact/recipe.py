"""Which type each tensor gets at a level: llama.cpp's own choice, tensor by tensor.

Mirrors what `llama_model_quantize` of llama.cpp as shipped with llama-cpp-python 0.3.36 decides
without an importance matrix (rules of its `llama-quant.cpp`); a golden test compares the two. It
knows nothing of how values are packed, and chooses nothing by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..errors import UnsupportedError
from .ggml import GGML_TYPES, GGMLType
from .layout import tensors_of
from .levels import Level
from .shape import ModelShape, TensorShape

_BLOCKLESS = ("F32", "F16", "BF16")
_LATTICE_LOW = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ1_S", "IQ1_M")
_LATTICE_2S = ("IQ2_S", "IQ2_M")
# Types whose blocks do not divide a row give way to these, and these to F16.
_FALLBACK = {
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"
    ),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}


@functools.lru_cache(maxsize=256)
def types_for(shape: ModelShape, level: Level) -> Mapping[str, GGMLType]:
    """The type of every tensor of a model of this shape at a level, by tensor name.

    Norms, biases and other tensors that are never quantized are F32, as converted files have them.
    Raises UnsupportedError where llama.cpp has no type for a row: at Q1_0, whose blocks are large.
    """
    chooser = _Chooser(shape, level)
    return MappingProxyType({t.name: chooser.type_of(t) for t in tensors_of(shape)})


def is_quantized(tensor: TensorShape) -> bool:
    """Whether a level applies to a tensor at all; the others stay F32."""
    return (
        len(tensor.dims) > 1
        and tensor.name.endswith(".weight")
        and not tensor.name.endswith(
            ("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
        )
        and tensor.name not in ("position_embd.weight", "token_types.weight")
    )


class _Chooser:
    """Goes through a model's tensors in order, counting layers as the quantizer does."""

    def __init__(self, shape: ModelShape, level: Level) -> None:
        self._shape = shape
        self._level = level
        self._name = level.name
        self._wide_groups = shape.heads // shape.kv_heads >= 4
        self._eight_experts = shape.experts == 8
        self._values_done = 0
        self._downs_done = 0
        self._gates_done = 0
        self._ups_done = 0
        # Published as 70B: 80 layers of grouped queries, whose value matrices are small.
        self._seventy = shape.layers == 80 and (
            shape.architecture == "qwen2"
            or (
                shape.architecture == "llama"
                and shape.experts != 8
                and shape.heads != shape.kv_heads
            )
        )

    def type_of(self, tensor: TensorShape) -> GGMLType:
        """The type of the next tensor."""
        if not is_quantized(tensor):
            return GGML_TYPES["F32"]
        if self._level.default.name in _BLOCKLESS:
            return self._level.default
        return _fitting(GGML_TYPES[self._wanted(tensor)], tensor.dims[0])

    def _wanted(self, tensor: TensorShape) -> str:
        name = tensor.name
        if name == "output.weight" or (name == "token_embd.weight" and self._shape.tied_embeddings):
            return self._output(tensor)
        if self._name == "MXFP4_MOE":
            return "MXFP4" if len(tensor.dims) == 3 else "Q8_0"
        if name == "token_embd.weight":
            return _EMBEDDINGS.get(self._name, self._level.default.name)
        rule = next((rule for part, rule in _RULES if part in name), None)
        if rule is None:
            return self._level.default.name
        return rule(self, name) or self._level.default.name

    def _output(self, tensor: TensorShape) -> str:
        default = self._level.default
        if self._name == "MXFP4_MOE" or tensor.dims[0] % default.block_elements:
            return "Q8_0"
        if self._name in _LATTICE_LOW or self._name == "IQ3_XXS":
            return "Q5_K"
        return "Q8_0" if default.name == "Q8_0" else "Q6_K"

    def _more_bits(self, layer: int, layers: int) -> bool:
        eighth = layers // 8
        return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2

    def _layer_of(self, name: str, done: int) -> int:
        """The layer a feed-forward tensor counts as: its own among experts, else the n-th seen."""
        return int(name.split(".")[1]) if self._shape.experts > 1 else done

    def values(self, name: str) -> str | None:
        """The value projection, or queries, keys and values in one."""
        done = self._values_done
        self._values_done += 1
        level = self._name
        if level in _LATTICE_LOW:
            if self._wide_groups or self._shape.experts >= 4:
                return "Q4_K"
            return "IQ3_S" if level in _LATTICE_2S else "Q2_K"
        chosen = self._values_by_level(level, done)
        if self._seventy and (chosen or self._level.default.name) in ("Q3_K", "Q4_K"):
            chosen = "Q5_K"
        return "Q8_0" if self._eight_experts else chosen

    def _values_by_level(self, level: str, done: int) -> str | None:
        wide = self._wide_groups
        always = {
            "Q2_K": "Q4_K" if wide else "Q3_K",
            "IQ3_XXS": "Q4_K" if wide else "IQ3_S",
            "IQ3_M": "Q4_K",
            "Q3_K_M": "Q5_K" if done < 2 else "Q4_K",
            "Q3_K_L": "Q5_K",
        }
        if level in always:
            return always[level]
        if wide and level in ("Q2_K_S", "IQ3_XS", "IQ3_S"):
            return "Q4_K"
        if wide and level in ("IQ4_NL", "IQ4_XS"):
            return "Q5_K"
        if level in ("Q4_K_M", "Q5_K_M") and self._more_bits(done, self._shape.layers):
            return "Q6_K"
        if level == "Q4_K_S" and done < 4:
            return "Q5_K"
        return None

    def keys(self, name: str) -> str | None:
        """The key projection."""
        del name
        if self._eight_experts:
            return "Q4_K" if self._name in _LATTICE_LOW else "Q8_0"
        return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(self._name)

    def queries(self, name: str) -> str | None:
        """The query projection."""
        del name
        return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(self._name)

    def attention_output(self, name: str) -> str | None:
        """The projection that leaves attention."""
        del name
        level = self._name
        if self._eight_experts:
            return "Q5_K" if level in _LATTICE_LOW or level in _EXPERT_OUTPUT_5 else None
        return {
            "IQ1_S": "IQ2_XXS",
            "IQ1_M": "IQ2_XXS",
            "IQ2_S": "IQ3_S",
            "IQ2_M": "IQ3_S",
            "Q2_K": "Q3_K",
            "IQ3_XXS": "IQ3_S",
            "Q3_K_M": "Q4_K",
            "Q3_K_L": "Q5_K",
            "IQ3_M": "Q4_K",
        }.get(level)

    def down(self, name: str) -> str | None:
        """The feed-forward projection back to the hidden size."""
        done = self._downs_done
        self._downs_done += 1
        level, layers = self._name, self._shape.layers
        if level in _LATTICE_LOW:
            if done >= layers // 8:
                return None
            return "IQ3_S" if level in _LATTICE_2S else "Q2_K"
        layer = self._layer_of(name, done)
        early = layer < layers // 8
        more = self._more_bits(layer, layers)
        if level == "IQ3_M":
            return "Q4_K" if early or (self._eight_experts and more) else None
        return {
            "Q2_K": "Q3_K",
            "Q2_K_S": "Q4_K" if early else None,
            "IQ3_XXS": "Q4_K" if early else "Q3_K",
            "Q3_K_M": "Q5_K" if layer < layers // 16 else "Q4_K",
            "Q3_K_L": "Q5_K",
            "Q4_K_M": "Q6_K" if more else None,
            "Q5_K_M": "Q6_K" if more else None,
            "IQ4_NL": "Q5_K" if early else None,
            "IQ4_XS": "Q5_K" if early else None,
            "Q4_K_S": "Q5_K" if early else None,
        }.get(level)

    def gate(self, name: str) -> str | None:
        """The feed-forward gate."""
        layer = self._layer_of(name, self._gates_done)
        self._gates_done += 1
        return self._in_the_middle(layer)

    def up(self, name: str) -> str | None:
        """The feed-forward projection to the wide side."""
        layer = self._layer_of(name, self._ups_done)
        self._ups_done += 1
        return self._in_the_middle(layer)

    def _in_the_middle(self, layer: int) -> str | None:
        layers = self._shape.layers
        middle = layers // 8 <= layer < 7 * layers // 8
        return "IQ3_XXS" if self._name == "IQ3_XS" and middle else None


def _fitting(kind: GGMLType, row: int) -> GGMLType:
    if row % kind.block_elements == 0:
        return kind
    if kind.block_elements > 32 and kind.name not in _FALLBACK:
        raise UnsupportedError(
            f"Rows of {row} cannot be {kind.name}.",
            cause=f"Its blocks hold {kind.block_elements} elements, and llama.cpp has no other type"
            " for the rows they do not divide.",
            way_out="Choose another level, such as Q2_K or Q4_0.",
        )
    instead = GGML_TYPES[_FALLBACK.get(kind.name, kind.name)]
    return GGML_TYPES["F16"] if row % instead.block_elements else instead


_EMBEDDINGS = {
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"), "Q2_K"),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
    **dict.fromkeys(("Q2_0", "TQ1_0", "TQ2_0"), "Q4_K"),
}
_EXPERT_OUTPUT_5 = frozenset(
    {
        "Q2_K",
        "IQ3_XS",
        "IQ3_XXS",
        "Q3_K_S",
        "Q3_K_M",
        "IQ4_NL",
        "Q4_K_S",
        "Q4_K_M",
        "IQ3_S",
        "IQ3_M",
        "IQ4_XS",
    }
)
_Rule = Callable[[_Chooser, str], str | None]
# The first part found in a tensor's name decides, in the quantizer's own order.
_RULES: tuple[tuple[str, _Rule], ...] = (
    ("attn_qkv.weight", _Chooser.values),
    ("attn_v.weight", _Chooser.values),
    ("attn_k.weight", _Chooser.keys),
    ("attn_q.weight", _Chooser.queries),
    ("attn_output.weight", _Chooser.attention_output),
    ("ffn_up", _Chooser.up),
    ("ffn_gate", _Chooser.gate),
    ("ffn_down", _Chooser.down),
)
