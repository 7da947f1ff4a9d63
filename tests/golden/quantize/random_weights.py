"""Tensors as transformers 4.57 names and shapes them, family by family, filled by a seed.

Nothing of torch or transformers: names and shapes are written down here, and
scripts/reference_digests.py checks them against transformers itself. The numbers come from a bit
generator's raw bits by exact arithmetic, so that they are the same on every machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt

Config = dict
Dims = tuple[int, ...]
Named = Iterator[tuple[str, Dims]]

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _heads(config: Config) -> tuple[int, int, int]:
    """Query heads, key and value heads, numbers per head."""
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    return heads, config.get("num_key_value_heads", heads), size


def _attention(config: Config, at: str, *, bias: str = "", out: str = "o_proj") -> Named:
    hidden = config["hidden_size"]
    heads, groups, size = _heads(config)
    rows = {"q_proj": heads * size, "k_proj": groups * size, "v_proj": groups * size}
    for name, count in rows.items():
        yield f"{at}{name}.weight", (count, hidden)
        if name[0] in bias:
            yield f"{at}{name}.bias", (count,)
    yield f"{at}{out}.weight", (hidden, heads * size)
    if "o" in bias:
        yield f"{at}{out}.bias", (hidden,)


def _gated(hidden: int, wide: int, at: str, *, bias: bool = False) -> Named:
    for name, dims in (
        ("gate_proj", (wide, hidden)), ("up_proj", (wide, hidden)), ("down_proj", (hidden, wide)),
    ):  # fmt: skip
        yield f"{at}{name}.weight", dims
        if bias:
            yield f"{at}{name}.bias", dims[:1]


def _norm(at: str, size: int, *, bias: bool = False) -> Named:
    yield f"{at}.weight", (size,)
    if bias:
        yield f"{at}.bias", (size,)


def _decoder(config: Config, layer: Callable[[str], Named], *, norm_bias: bool = False) -> Named:
    """What stands around the layers of most decoders."""
    hidden, words = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (words, hidden)
    for i in range(config["num_hidden_layers"]):
        yield from layer(f"model.layers.{i}.")
    yield from _norm("model.norm", hidden, bias=norm_bias)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (words, hidden)


def _llama(config: Config, *, qkv_bias: str = "", head_norms: bool = False) -> Named:
    """Llama and what differs from it by a bias, norms of heads or experts."""
    hidden, kind = config["hidden_size"], config["model_type"]
    _, _, size = _heads(config)
    bias = "qkvo" if config.get("attention_bias") else qkv_bias

    def layer(at: str) -> Named:
        yield from _attention(config, f"{at}self_attn.", bias=bias)
        if head_norms:
            yield from _norm(f"{at}self_attn.q_norm", size)
            yield from _norm(f"{at}self_attn.k_norm", size)
        if kind == "mixtral":
            yield f"{at}block_sparse_moe.gate.weight", (config["num_local_experts"], hidden)
            for e in range(config["num_local_experts"]):
                for name, dims in (
                    ("w1", (config["intermediate_size"], hidden)),
                    ("w2", (hidden, config["intermediate_size"])),
                    ("w3", (config["intermediate_size"], hidden)),
                ):
                    yield f"{at}block_sparse_moe.experts.{e}.{name}.weight", dims
        elif "num_experts" in config:
            yield f"{at}mlp.gate.weight", (config["num_experts"], hidden)
            for e in range(config["num_experts"]):
                yield from _gated(hidden, config["moe_intermediate_size"], f"{at}mlp.experts.{e}.")
            if kind == "qwen2_moe":
                shared = config["shared_expert_intermediate_size"]
                yield from _gated(hidden, shared, f"{at}mlp.shared_expert.")
                yield f"{at}mlp.shared_expert_gate.weight", (1, hidden)
        else:
            wide = config["intermediate_size"]
            yield from _gated(hidden, wide, f"{at}mlp.", bias=config.get("mlp_bias", False))
        yield from _norm(f"{at}input_layernorm", hidden)
        yield from _norm(f"{at}post_attention_layernorm", hidden)

    yield from _decoder(config, layer)


def _gemma(config: Config) -> Named:
    hidden, kind = config["hidden_size"], config["model_type"]
    _, _, size = _heads(config)

    def layer(at: str) -> Named:
        yield from _attention(config, f"{at}self_attn.")
        if kind == "gemma3_text":
            yield from _norm(f"{at}self_attn.q_norm", size)
            yield from _norm(f"{at}self_attn.k_norm", size)
        yield from _gated(hidden, config["intermediate_size"], f"{at}mlp.")
        yield from _norm(f"{at}input_layernorm", hidden)
        yield from _norm(f"{at}post_attention_layernorm", hidden)
        if kind != "gemma":
            yield from _norm(f"{at}pre_feedforward_layernorm", hidden)
            yield from _norm(f"{at}post_feedforward_layernorm", hidden)

    yield from _decoder(config, layer)


def _phi2(config: Config) -> Named:
    hidden, wide = config["hidden_size"], config["intermediate_size"]

    def layer(at: str) -> Named:
        yield from _attention(config, f"{at}self_attn.", bias="qkvo", out="dense")
        yield from _linear(f"{at}mlp.fc1", wide, hidden)
        yield from _linear(f"{at}mlp.fc2", hidden, wide)
        yield from _norm(f"{at}input_layernorm", hidden, bias=True)

    for name, dims in _decoder(config, layer):
        yield name.replace("model.norm.", "model.final_layernorm."), dims
    yield "model.final_layernorm.bias", (hidden,)
    yield "lm_head.bias", (config["vocab_size"],)


def _linear(at: str, rows: int, row: int) -> Named:
    yield f"{at}.weight", (rows, row)
    yield f"{at}.bias", (rows,)


def _phi3(config: Config) -> Named:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    heads, groups, size = _heads(config)

    def layer(at: str) -> Named:
        yield f"{at}self_attn.qkv_proj.weight", ((heads + 2 * groups) * size, hidden)
        yield f"{at}self_attn.o_proj.weight", (hidden, heads * size)
        yield f"{at}mlp.gate_up_proj.weight", (2 * wide, hidden)
        yield f"{at}mlp.down_proj.weight", (hidden, wide)
        yield from _norm(f"{at}input_layernorm", hidden)
        yield from _norm(f"{at}post_attention_layernorm", hidden)

    yield from _decoder(config, layer)


def _stablelm(config: Config) -> Named:
    hidden = config["hidden_size"]
    heads, groups, size = _heads(config)

    def layer(at: str) -> Named:
        bias = "qkv" if config["use_qkv_bias"] else ""
        yield from _attention(config, f"{at}self_attn.", bias=bias)
        if config.get("qk_layernorm"):
            for kind, count in (("q", heads), ("k", groups)):
                for i in range(count):
                    yield f"{at}self_attn.{kind}_layernorm.norms.{i}.weight", (size,)
        yield from _gated(hidden, config["intermediate_size"], f"{at}mlp.")
        yield from _norm(f"{at}input_layernorm", hidden, bias=True)
        if not config["use_parallel_residual"]:
            yield from _norm(f"{at}post_attention_layernorm", hidden, bias=True)

    yield from _decoder(config, layer, norm_bias=True)


def _olmoe(config: Config) -> Named:
    hidden = config["hidden_size"]
    heads, groups, size = _heads(config)

    def layer(at: str) -> Named:
        yield from _attention(config, f"{at}self_attn.")
        yield from _norm(f"{at}self_attn.q_norm", heads * size)
        yield from _norm(f"{at}self_attn.k_norm", groups * size)
        yield f"{at}mlp.gate.weight", (config["num_experts"], hidden)
        for e in range(config["num_experts"]):
            yield from _gated(hidden, config["intermediate_size"], f"{at}mlp.experts.{e}.")
        yield from _norm(f"{at}input_layernorm", hidden)
        yield from _norm(f"{at}post_attention_layernorm", hidden)

    yield from _decoder(config, layer)


def _olmo2(config: Config) -> Named:
    hidden = config["hidden_size"]
    heads, groups, size = _heads(config)

    def layer(at: str) -> Named:
        yield from _attention(config, f"{at}self_attn.")
        yield from _norm(f"{at}self_attn.q_norm", heads * size)
        yield from _norm(f"{at}self_attn.k_norm", groups * size)
        yield from _gated(hidden, config["intermediate_size"], f"{at}mlp.")
        yield from _norm(f"{at}post_attention_layernorm", hidden)
        yield from _norm(f"{at}post_feedforward_layernorm", hidden)

    yield from _decoder(config, layer)


def _starcoder2(config: Config) -> Named:
    hidden, wide = config["hidden_size"], config["intermediate_size"]

    def layer(at: str) -> Named:
        yield from _attention(config, f"{at}self_attn.", bias="qkvo")
        yield from _linear(f"{at}mlp.c_fc", wide, hidden)
        yield from _linear(f"{at}mlp.c_proj", hidden, wide)
        yield from _norm(f"{at}input_layernorm", hidden, bias=True)
        yield from _norm(f"{at}post_attention_layernorm", hidden, bias=True)

    yield from _decoder(config, layer, norm_bias=True)


def _gpt2(config: Config) -> Named:
    hidden = config["n_embd"]
    yield "transformer.wte.weight", (config["vocab_size"], hidden)
    yield "transformer.wpe.weight", (config["n_positions"], hidden)
    for i in range(config["n_layer"]):
        at = f"transformer.h.{i}."
        for name, rows, row in (  # stored the other way round: [in, out]
            ("attn.c_attn", hidden, 3 * hidden), ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden), ("mlp.c_proj", 4 * hidden, hidden),
        ):  # fmt: skip
            yield f"{at}{name}.weight", (rows, row)
            yield f"{at}{name}.bias", (row,)
        yield from _norm(f"{at}ln_1", hidden, bias=True)
        yield from _norm(f"{at}ln_2", hidden, bias=True)
    yield from _norm("transformer.ln_f", hidden, bias=True)


def _gptneox(config: Config) -> Named:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    yield "gpt_neox.embed_in.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"gpt_neox.layers.{i}."
        yield from _linear(f"{at}attention.query_key_value", 3 * hidden, hidden)
        yield from _linear(f"{at}attention.dense", hidden, hidden)
        yield from _linear(f"{at}mlp.dense_h_to_4h", wide, hidden)
        yield from _linear(f"{at}mlp.dense_4h_to_h", hidden, wide)
        yield from _norm(f"{at}input_layernorm", hidden, bias=True)
        yield from _norm(f"{at}post_attention_layernorm", hidden, bias=True)
    yield from _norm("gpt_neox.final_layer_norm", hidden, bias=True)
    yield "embed_out.weight", (config["vocab_size"], hidden)


def _bert(config: Config) -> Named:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    yield "embeddings.word_embeddings.weight", (config["vocab_size"], hidden)
    yield "embeddings.position_embeddings.weight", (config["max_position_embeddings"], hidden)
    yield "embeddings.token_type_embeddings.weight", (config["type_vocab_size"], hidden)
    yield from _norm("embeddings.LayerNorm", hidden, bias=True)
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}."
        for name in ("query", "key", "value"):
            yield from _linear(f"{at}attention.self.{name}", hidden, hidden)
        yield from _linear(f"{at}attention.output.dense", hidden, hidden)
        yield from _norm(f"{at}attention.output.LayerNorm", hidden, bias=True)
        yield from _linear(f"{at}intermediate.dense", wide, hidden)
        yield from _linear(f"{at}output.dense", hidden, wide)
        yield from _norm(f"{at}output.LayerNorm", hidden, bias=True)
    yield from _linear("pooler.dense", hidden, hidden)


def _distilbert(config: Config) -> Named:
    hidden, wide = config["dim"], config["hidden_dim"]
    yield "embeddings.word_embeddings.weight", (config["vocab_size"], hidden)
    yield "embeddings.position_embeddings.weight", (config["max_position_embeddings"], hidden)
    yield from _norm("embeddings.LayerNorm", hidden, bias=True)
    for i in range(config["n_layers"]):
        at = f"transformer.layer.{i}."
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            yield from _linear(f"{at}attention.{name}", hidden, hidden)
        yield from _norm(f"{at}sa_layer_norm", hidden, bias=True)
        yield from _linear(f"{at}ffn.lin1", wide, hidden)
        yield from _linear(f"{at}ffn.lin2", hidden, wide)
        yield from _norm(f"{at}output_layer_norm", hidden, bias=True)


FAMILIES: dict[str, Callable[[Config], Named]] = {
    "llama": _llama, "mistral": _llama, "mixtral": _llama, "smollm3": _llama, "granite": _llama,
    "qwen2": lambda config: _llama(config, qkv_bias="qkv"),
    "qwen2_moe": lambda config: _llama(config, qkv_bias="qkv"),
    "qwen3": lambda config: _llama(config, head_norms=True),
    "qwen3_moe": lambda config: _llama(config, head_norms=True),
    "gemma": _gemma, "gemma2": _gemma, "gemma3_text": _gemma, "phi": _phi2, "phi3": _phi3,
    "stablelm": _stablelm, "olmo2": _olmo2, "olmo3": _olmo2, "olmoe": _olmoe,
    "starcoder2": _starcoder2, "gpt2": _gpt2, "gpt_neox": _gptneox, "bert": _bert,
    "distilbert": _distilbert,
}  # fmt: skip
"""The `model_type` of config.json -> its tensors."""


def draw(name: str, dims: Dims, seed: int) -> npt.NDArray[np.float32]:
    """Numbers of about unit spread, the same on every machine, peculiar to the name and the seed.

    Sums of four 16-bit integers, which are nearly normal; exact until the last division.
    """
    bits = np.random.PCG64([seed, crc32(name.encode())]).random_raw(math.prod(dims))
    parts = np.stack([bits >> np.uint64(16 * i) & np.uint64(0xFFFF) for i in range(4)])
    total = parts.astype(np.int64).sum(0) - 2 * 0xFFFF
    return (total / 37837.0).astype(np.float32).reshape(dims)


def values(name: str, dims: Dims, *, seed: int, zero_centred: bool) -> npt.NDArray[np.float32]:
    """A tensor of a trained model's size: gains about 1, or about 0 where the model adds 1."""
    unit = draw(name, dims, seed)
    if "norm" in name.lower() or ".ln_" in name:
        around = np.float32(0.0 if zero_centred or name.endswith("bias") else 1.0)
        return around + np.float32(0.25) * unit
    if len(dims) == 1:
        return np.float32(0.25) * unit
    if "embed" in name or ".wte." in name or ".wpe." in name:
        return _with_hard_cases(unit) if dims[0] > 100 else unit
    gain = (
        2.0
        if any(part in name for part in ("q_proj", "k_proj", "query", "key", "q_lin", "k_lin"))
        else 1.0
    )
    fan_in = dims[0] if ".c_" in name and "transformer." in name else dims[-1]
    return (np.float32(gain / math.sqrt(fan_in)) * unit).astype(np.float32)


def _with_hard_cases(table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The last two rows, tokens nobody uses, hold what rounding gets wrong first.

    Blocks of 32 that are all zero, all subnormal halves or smaller, and ties between neighbours of
    bfloat16, of half precision and of eight bits.
    """
    small = [k * 2.0**-25 for k in range(-4, 5)] + [2.0**-40, -(2.0**-130)]
    ties = [1 + k * 2.0**-9 for k in range(1, 7)] + [1 + k * 2.0**-12 for k in range(1, 7)]
    eighths = [-127.0, *(k + 0.5 for k in range(-16, 15))]
    out = table.copy()
    width = table.shape[-1]
    out[-1] = np.resize(np.array([0.0, -0.0] * 16 + (small * 3)[:32], np.float32), width)
    out[-2] = np.resize(np.array((ties * 3)[:32] + eighths, np.float32), width)
    return out


def as_bfloat16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The nearest bfloat16 numbers, ties to even, as their bits."""
    bits = array.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: dict[str, npt.NDArray[np.float32]], dtype: str) -> None:
    """Writes one file by the format's published layout: length, JSON header, data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    chunks, offset = [], 0
    for name, array in tensors.items():
        stored = as_bfloat16(array) if dtype == "BF16" else array.astype(DTYPES[dtype])
        data = stored.tobytes()
        header[name] = {
            "dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + len(data)]
        }  # fmt: skip
        offset += len(data)
        chunks.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))
