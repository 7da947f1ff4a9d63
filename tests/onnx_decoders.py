"""Small ONNX models with random weights that speak bytes, in the layouts found in the wild.

The same seed gives the same weights in every layout, so that layouts can be held against each
other. Token ids are the bytes themselves; the ids after 255 are those of `SPECIALS`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SPECIALS = ("<|end|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 256 + len(SPECIALS)
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a decoder's graph is written down; the function it computes is always the same."""

    fused: bool = True
    """GroupQueryAttention, whose cache may be shared; else plain operators that concatenate."""
    counts_cache: bool = False
    """Positions follow from the length of the cache, as where rotation is not the operator's: such
    a cache must not be shared, fused or not."""
    position_ids: bool = False
    kv: str = "float32"
    """The cache's type; where it is `float16`, exports give logits of that type too."""
    logits: str = "all"
    """`all` positions, the `last` one, or those an input `asked` for."""
    hidden_states: bool = True
    branch: bool = False
    """The input by which merged exports tell a first run from a later one."""
    tokens: int = VOCABULARY
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    inner: int = 128
    context: int = 512
    int4: bool = False
    """MatMulNBits of 4 bits and random blocks instead of MatMul."""
    blind: bool = False
    """Whether plain operators mask the future only where there is no past, as in exports that were
    traced with one token after a past."""
    window: int = -1
    """How far the fused operator sees back."""
    short_cache: bool = False
    """Whether the fused operator's cache may be as short as the window, and no shorter."""
    past: str = "past_key_values.{}.{}"
    present: str = "present.{}.{}"

    @property
    def head(self) -> int:
        return self.hidden // self.heads


@dataclass
class Writer:
    """Collects nodes and weights of one graph."""

    layout: Layout
    seed: int
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def node(self, kind: str, *inputs: str, domain: str = "", outputs: Any = 1, **attributes: Any):
        import onnx

        self.count += 1
        names = outputs if isinstance(outputs, list) else [f"t{self.count}"]
        made = onnx.helper.make_node(
            kind, list(inputs), names, name=f"{kind}_{self.count}", domain=domain, **attributes
        )
        self.nodes.append(made)
        return names[0]

    def weight(self, value: Any, name: str | None = None) -> str:
        import onnx

        self.count += 1
        name = name or f"w{self.count}"
        self.weights.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.weight(np.array(values, np.int64))

    def one(self, value: int) -> str:
        return self.weight(np.array(value, np.int64))

    def drawn(self, *shape: int, scale: float = 0.3) -> str:
        return self.weight((self.random.standard_normal(shape) * scale).astype(np.float32))

    def linear(self, x: str, width: int, out: int) -> str:
        if not self.layout.int4:
            return self.node("MatMul", x, self.drawn(width, out))
        block = 32
        blocks = self.random.integers(0, 256, (out, width // block, block // 2), np.uint8)
        scales = np.full((out, width // block), 0.02 / 4, np.float32)
        return self.node(
            "MatMulNBits", x, self.weight(blocks), self.weight(scales), domain=MICROSOFT,
            K=width, N=out, bits=4, block_size=block, accuracy_level=4,
        )  # fmt: skip

    def norm(self, x: str) -> str:
        ones = self.weight(np.ones(self.layout.hidden, np.float32))
        return self.node("SimplifiedLayerNormalization", x, ones, axis=-1, epsilon=1e-5)


def rotary_tables(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    frequencies = 10000.0 ** -(np.arange(0, layout.head, 2) / layout.head)
    angles = np.outer(np.arange(layout.context), frequencies)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _split(w: Writer, x: str, count: int) -> str:
    shaped = w.node("Reshape", x, w.ints(0, 0, count, w.layout.head))
    return w.node("Transpose", shaped, perm=[0, 2, 1, 3])


def _rotate(w: Writer, x: str, shared: dict[str, str]) -> str:
    half = w.layout.head // 2
    first = w.node("Slice", x, w.ints(0), w.ints(half), w.ints(3))
    second = w.node("Slice", x, w.ints(half), w.ints(2 * half), w.ints(3))
    cos, sin = shared["cos_now"], shared["sin_now"]
    left = w.node("Sub", w.node("Mul", first, cos), w.node("Mul", second, sin))
    right = w.node("Add", w.node("Mul", second, cos), w.node("Mul", first, sin))
    return w.node("Concat", left, right, axis=3)


def _rotated(w: Writer, x: str, count: int, shared: dict[str, str]) -> str:
    turned = w.node("Transpose", _rotate(w, _split(w, x, count), shared), perm=[0, 2, 1, 3])
    return w.node("Reshape", turned, w.ints(0, 0, count * w.layout.head))


def _fused_attention(w: Writer, q: str, k: str, v: str, layer: int, shared: dict[str, str]) -> str:
    layout = w.layout
    past = [layout.past.format(layer, kind) for kind in ("key", "value")]
    present = [layout.present.format(layer, kind) for kind in ("key", "value")]
    half = layout.kv == "float16"
    if half:
        q, k, v = (w.node("Cast", x, to=10) for x in (q, k, v))
    if layout.counts_cache:
        q, k = _rotated(w, q, layout.heads, shared), _rotated(w, k, layout.kv_heads, shared)
    tables = [] if layout.counts_cache else [shared["cos"], shared["sin"]]
    short = {"sliding_window_cache": 1} if layout.short_cache else {}
    out = w.node(
        "GroupQueryAttention", q, k, v, *past, shared["seqlens"], shared["total"], *tables,
        domain=MICROSOFT, outputs=[f"attention.{layer}", *present],
        num_heads=layout.heads, kv_num_heads=layout.kv_heads,
        do_rotary=0 if layout.counts_cache else 1, rotary_interleaved=0,
        local_window_size=layout.window, **short,
    )  # fmt: skip
    return w.node("Cast", out, to=1) if half else out


def _plain_attention(w: Writer, q: str, k: str, v: str, layer: int, shared: dict[str, str]) -> str:
    layout = w.layout
    heads, kv_heads, head = layout.heads, layout.kv_heads, layout.head

    def grown(x: str, kind: str) -> str:
        name = layout.present.format(layer, kind)
        if layout.kv == "float16":
            x = w.node("Cast", x, to=10)
        w.node("Concat", layout.past.format(layer, kind), x, axis=2, outputs=[name])
        whole = w.node("Cast", name, to=1) if layout.kv == "float16" else name
        # Each key and value head serves heads / kv_heads query heads.
        spread = w.node("Unsqueeze", whole, w.ints(2))
        spread = w.node("Expand", spread, w.ints(1, 1, heads // kv_heads, 1, 1))
        return w.node("Reshape", spread, w.ints(0, heads, -1, head))

    keys = grown(_rotate(w, _split(w, k, kv_heads), shared), "key")
    values = grown(_split(w, v, kv_heads), "value")
    queries = w.node(
        "Mul", _rotate(w, _split(w, q, heads), shared), w.weight(np.array(head**-0.5, np.float32))
    )
    scores = w.node("MatMul", queries, w.node("Transpose", keys, perm=[0, 1, 3, 2]))
    probabilities = w.node("Softmax", w.node("Add", scores, shared["causal"]), axis=-1)
    mixed = w.node("Transpose", w.node("MatMul", probabilities, values), perm=[0, 2, 1, 3])
    return w.node("Reshape", mixed, w.ints(0, 0, heads * head))


def _shared_by_layers(w: Writer) -> dict[str, str]:
    layout = w.layout
    cos, sin = rotary_tables(layout)
    found: dict[str, str] = {}
    if layout.fused:
        kind = np.float16 if layout.kv == "float16" else np.float32
        held = w.node("ReduceSum", "attention_mask", w.ints(1), keepdims=0)
        last = w.node("Sub", held, w.one(1))
        length = w.node("Gather", w.node("Shape", "attention_mask"), w.one(1), axis=0)
        found = {
            "seqlens": w.node("Cast", last, to=6),
            "total": w.node("Cast", length, to=6),
            "cos": w.weight(cos.astype(kind)),
            "sin": w.weight(sin.astype(kind)),
        }
        if not layout.counts_cache:
            return found
    shape = w.node("Shape", layout.past.format(0, "key"))
    past = w.node("Gather", shape, w.one(2), axis=0)
    length = w.node("Gather", w.node("Shape", "input_ids"), w.one(1), axis=0)
    total = w.node("Add", past, length)
    rows = w.node("Range", past, total, w.one(1))
    columns = w.node("Range", w.one(0), total, w.one(1))
    seen = w.node("LessOrEqual", columns, w.node("Unsqueeze", rows, w.ints(1)))
    if layout.blind:
        seen = w.node("Or", seen, w.node("Greater", past, w.one(0)))
    zero, low = (w.weight(np.array(x, np.float32)) for x in (0.0, -1e9))
    positions = w.node("Squeeze", "position_ids", w.ints(0)) if layout.position_ids else rows
    now = [w.node("Gather", w.weight(table), positions, axis=0) for table in (cos, sin)]
    return {
        **found,
        "causal": w.node("Where", seen, zero, low),
        "cos_now": now[0],
        "sin_now": now[1],
    }


def write_decoder(path: Path, layout: Layout, *, seed: int = 7, name: str = "model.onnx") -> Path:
    """Writes one graph with its weights inside and gives its path."""
    import onnx
    from onnx import TensorProto, helper

    w = Writer(layout, seed)
    x = w.node("Gather", w.drawn(layout.tokens, layout.hidden, scale=1.0), "input_ids")
    shared = _shared_by_layers(w)
    width = layout.kv_heads * layout.head
    attention = _fused_attention if layout.fused else _plain_attention
    for layer in range(layout.layers):
        normed = w.norm(x)
        q = w.linear(normed, layout.hidden, layout.hidden)
        k = w.linear(normed, layout.hidden, width)
        v = w.linear(normed, layout.hidden, width)
        mixed = attention(w, q, k, v, layer, shared)
        x = w.node("Add", x, w.linear(mixed, layout.hidden, layout.hidden))
        normed = w.norm(x)
        gate = w.linear(normed, layout.hidden, layout.inner)
        up = w.linear(normed, layout.hidden, layout.inner)
        gated = w.node("Mul", w.node("Mul", gate, w.node("Sigmoid", gate)), up)
        x = w.node("Add", x, w.linear(gated, layout.inner, layout.hidden))
    final = w.norm(x)
    w.node("Identity", final, outputs=["hidden_states"])
    if layout.logits == "last":
        final = w.node("Slice", final, w.ints(-1), w.ints(2**62), w.ints(1))
    elif layout.logits == "asked":
        begin = w.node("Unsqueeze", w.node("Neg", "num_logits_to_keep"), w.ints(0))
        final = w.node("Slice", final, begin, w.ints(2**62), w.ints(1))
    half_logits = layout.kv == "float16" and not layout.fused
    head = w.linear(final, layout.hidden, layout.tokens)
    w.node("Cast", head, outputs=["logits"], to=10 if half_logits else 1)

    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[layout.kv]
    int64 = TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info("input_ids", int64, ["batch", "sequence"]),
        helper.make_tensor_value_info("attention_mask", int64, ["batch", "total"]),
    ]
    if layout.position_ids:
        inputs.append(helper.make_tensor_value_info("position_ids", int64, ["batch", "sequence"]))
    if layout.logits == "asked":
        inputs.append(helper.make_tensor_value_info("num_logits_to_keep", int64, []))
    if layout.branch:
        inputs.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
        w.node("Cast", "use_cache_branch", to=1)
    rows = 1 if layout.logits == "last" else "rows"
    outputs = [
        helper.make_tensor_value_info(
            "logits", kind if half_logits else TensorProto.FLOAT, ["batch", rows, layout.tokens]
        )
    ]
    for layer in range(layout.layers):
        for part in ("key", "value"):
            for names, among, axis in (
                (layout.past, inputs, "past"),
                (layout.present, outputs, "total"),
            ):
                dims = ["batch", layout.kv_heads, axis, layout.head]
                among.append(helper.make_tensor_value_info(names.format(layer, part), kind, dims))
    if layout.hidden_states:
        outputs.append(
            helper.make_tensor_value_info(
                "hidden_states", TensorProto.FLOAT, ["batch", "sequence", layout.hidden]
            )
        )
    graph = helper.make_graph(w.nodes, "decoder", inputs, outputs, w.weights)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)],
        ir_version=10,
    )
    path.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path / name))
    return path / name


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def write_byte_tokenizer(folder: Path, *, template: str | None = CHATML, bos: bool = False) -> None:
    """A byte-level tokenizer without merges: every byte is the token of that number."""
    vocabulary = {char: byte for byte, char in enumerate(byte_alphabet())}
    added = [
        {"id": 256 + i, "content": text, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for i, text in enumerate(SPECIALS)
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    begin = {"SpecialToken": {"id": SPECIALS[1], "type_id": 0}}
    body = {"Sequence": {"id": "A", "type_id": 0}}
    post: dict[str, Any] = {**level, "use_regex": True}
    if bos:
        post = {
            "type": "TemplateProcessing",
            "single": [begin, body],
            "pair": [begin, body, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                SPECIALS[1]: {"id": SPECIALS[1], "ids": [257], "tokens": [SPECIALS[1]]}
            },
        }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": post,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "vocab": vocabulary, "merges": [],
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    config = {"eos_token": SPECIALS[0], "bos_token": SPECIALS[1] if bos else None}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def config_of(layout: Layout) -> dict[str, Any]:
    """A decoder's `config.json`."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": layout.hidden,
        "intermediate_size": layout.inner,
        "num_hidden_layers": layout.layers,
        "num_attention_heads": layout.heads,
        "num_key_value_heads": layout.kv_heads,
        "vocab_size": layout.tokens,
        "max_position_embeddings": layout.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": 256,
    }


def write_configs(folder: Path, layout: Layout) -> None:
    """The `config.json` and `genai_config.json` of a decoder."""
    genai = {
        "model": {
            "type": "llama",
            "bos_token_id": 257,
            "eos_token_id": [256],
            "pad_token_id": 256,
            "vocab_size": layout.tokens,
            "context_length": layout.context,
            "decoder": {
                "filename": "model.onnx",
                "head_size": layout.head,
                "hidden_size": layout.hidden,
                "num_attention_heads": layout.heads,
                "num_key_value_heads": layout.kv_heads,
                "num_hidden_layers": layout.layers,
                "session_options": {"provider_options": []},
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": layout.context, "past_present_share_buffer": layout.fused},
    }
    (folder / "config.json").write_text(json.dumps(config_of(layout)), "utf-8")
    (folder / "genai_config.json").write_text(json.dumps(genai), "utf-8")


def write_folder(folder: Path, layout: Layout | None = None, **tokenizer: Any) -> Path:
    """A whole folder as onnxruntime-genai wants it; gives the path of its `model.onnx`."""
    layout = layout or Layout()
    path = write_decoder(folder, layout)
    write_byte_tokenizer(folder, **tokenizer)
    write_configs(folder, layout)
    return path


def write_synthetic(folder: Path, *, level: str = "fp32", **changes: Any) -> Path:
    """A folder of our own writer with random weights that speaks bytes; gives its `model.onnx`.

    `changes` are keys of the config.
    """
    from edge_runtime.artifact import ModelShape
    from quantize.onnx.synthesis import synthesize_onnx

    shape = ModelShape.from_config({**config_of(Layout()), **changes}, name="random")
    path = synthesize_onnx(shape, level, folder).path
    write_byte_tokenizer(folder)
    return path
