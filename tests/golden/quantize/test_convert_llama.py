"""A converted Llama computes what the checkpoint computes and tokenizes as its tokenizer does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.artifact import LEVELS, Artifact
from quantize import convert

pytestmark = pytest.mark.engine

DIRECT = ("F32", "F16", "BF16", "Q8_0")
USUAL = (*DIRECT, "Q5_K_M", "Q4_K_M", "Q4_0", "Q2_K")
OFFERED = [
    pytest.param(name, marks=() if name in USUAL else pytest.mark.slow)
    for name, level in LEVELS.items()
    if not level.needs_imatrix
]
TOKENS = [int(t) for t in np.random.default_rng(3).integers(5, 400, 48)]


def forward(path: Path, tokens: list[int]) -> np.ndarray:
    """The checkpoint's logits in float64: an independent Llama, written for this test."""
    from safetensors.numpy import load_file

    config = json.loads((path / "config.json").read_text())
    weights = {n: w.astype(np.float64) for n, w in load_file(path / "model.safetensors").items()}
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size, count = config["head_dim"], len(tokens)
    rates = config["rope_theta"] ** (-np.arange(0, size, 2) / size)
    angles = np.outer(np.arange(count), np.concatenate([rates, rates]))
    mask = np.triu(np.full((count, count), -np.inf), 1)

    def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * gain

    def rotate(x: np.ndarray) -> np.ndarray:
        low, high = x[..., : size // 2], x[..., size // 2 :]
        return x * np.cos(angles) + np.concatenate([-high, low], -1) * np.sin(angles)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0.0)

    def split(x: np.ndarray, parts: int) -> np.ndarray:
        return x.reshape(count, parts, size).swapaxes(0, 1)

    x = weights["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        h = norm(x, weights[at + "input_layernorm.weight"])
        q = rotate(split(linear(h, at + "self_attn.q_proj"), heads))
        k = rotate(split(linear(h, at + "self_attn.k_proj"), groups)).repeat(heads // groups, 0)
        v = split(linear(h, at + "self_attn.v_proj"), groups).repeat(heads // groups, 0)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(size) + mask
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (chances / chances.sum(-1, keepdims=True)) @ v
        x = x + linear(mixed.swapaxes(0, 1).reshape(count, -1), at + "self_attn.o_proj")
        h = norm(x, weights[at + "post_attention_layernorm.weight"])
        gate = linear(h, at + "mlp.gate_proj")
        x = x + linear(
            gate / (1 + np.exp(-gate)) * linear(h, at + "mlp.up_proj"), at + "mlp.down_proj"
        )
    x = norm(x, weights["model.norm.weight"])
    return x @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T


def nmse(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(((found - wanted) ** 2).sum() / (wanted**2).sum())


@pytest.mark.parametrize(("tied", "bias"), [(True, False), (False, True)])
def test_logits_equal_an_independent_forward_pass(
    engine, make_checkpoint, tmp_path: Path, tied: bool, bias: bool
) -> None:
    path = make_checkpoint(tied=tied, bias=bias, dtype="F32")
    artifact = convert(path, tmp_path / "f32.gguf", level="F32")
    engine(artifact.path, tokens=TOKENS, logits=str(tmp_path / "l.npy"), exact=True)
    assert nmse(np.load(tmp_path / "l.npy"), forward(path, TOKENS)) < 1e-9


@pytest.mark.parametrize(
    ("level", "limit"), [("F16", 1e-5), ("BF16", 1e-3), ("Q8_0", 5e-3), ("Q4_K_M", 0.15)]
)
def test_levels_lose_no_more_than_their_bits(
    engine, checkpoint: Path, tmp_path: Path, level: str, limit: float
) -> None:
    artifact = convert(checkpoint, tmp_path / "m.gguf", level=level)
    engine(artifact.path, tokens=TOKENS, logits=str(tmp_path / "l.npy"), exact=True)
    assert nmse(np.load(tmp_path / "l.npy"), forward(checkpoint, TOKENS)) < limit


@pytest.mark.parametrize("level", OFFERED)
def test_every_level_converts_and_runs(
    engine, checkpoint: Path, tmp_path: Path, level: str
) -> None:
    artifact = convert(checkpoint, tmp_path / "m.gguf", level=level)
    assert artifact.level == level or level == "MXFP4_MOE"  # a dense model has no experts for it
    assert not artifact.synthetic
    assert engine(artifact.path, tokens=TOKENS)["finite"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("level", DIRECT)
def test_direct_levels_hold_the_bytes_the_c_quantizer_writes(
    checkpoint: Path, tmp_path: Path, level: str
) -> None:
    from quantize import requantize

    ours = convert(checkpoint, tmp_path / "ours.gguf", level=level)
    full = convert(checkpoint, tmp_path / "full.gguf", level="F32")
    theirs = requantize(full.path, tmp_path / "theirs.gguf", level)
    left, right = (
        {t.name: (t.dims, t.type.name, t.size_bytes, t.offset_bytes) for t in a.tensors}
        for a in (ours, theirs)
    )
    assert left == right
    assert tensor_data(ours) == tensor_data(theirs)


def tensor_data(artifact: Artifact) -> bytes:
    first = min(t.offset_bytes for t in artifact.tensors)
    return artifact.path.read_bytes()[first:]


NASTY = (
    "", " ", "  ", "a", " a", "a ", "\n", "\n\n\n", "\t\t x", "hello world", "Hello, World!!!",
    "it's we've I'll they'd 'S 'VE", "1234567890", "3.14159", "1,000,000", "x1y2z3", "     indent",
    "trailing   ", "a\r\nb\rc", "\u00a0no-break\u00a0", "\u3000wide", "naïve café",
    "e\u0301 combining", "न\u0940मस\u094dत\u0947", "Привет, мир", "你好\uff0c世界",
    "こんにちは世界",
    "한국어", "שלום עולם", "👋🏽 👨\u200d👩\u200d👧\u200d👦 🇩🇪", "\u200b\u200dzero width",
    "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>", "a<|pad|>b", "<|im_start",
    "<think>x</think>", "<<think>>", "def f(x):\n    return x**2  # yes",
    "http://example.org/?q=1&r=2", "\x00\x01\x7f", "\ufb01 ligature Ⅷ ½",
    "\U0001d518\U0001d52b\U0001d526", "ÅÄÖ" * 20, "\ufeffbom",
)  # fmt: skip


def tokenizes_alike(engine, path: Path, gguf: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    for add_special in (False, True):
        wanted = [tokenizer.encode(text, add_special_tokens=add_special).ids for text in NASTY]
        found = engine(gguf, texts=NASTY, add_special=add_special)["tokens"]
        assert dict(zip(NASTY, found, strict=True)) == dict(zip(NASTY, wanted, strict=True))


def test_texts_tokenize_as_the_tokenizers_library_does(
    engine, checkpoint: Path, tmp_path: Path
) -> None:
    artifact = convert(checkpoint, tmp_path / "m.gguf")
    tokenizes_alike(engine, checkpoint, artifact.path)
    answer = engine(artifact.path, texts=[], add_special=True)
    assert (answer["bos"], answer["eos"]) == (1, 2)
    assert answer["chat_template"] == "{% for m in messages %}{{ m['content'] }}{% endfor %}"


TINY = Path(__file__).parents[3] / "edge_runtime" / "tiny_model"


def test_the_shipped_model_converts_exactly(engine, tmp_path: Path) -> None:
    artifact = convert(TINY, tmp_path / "tiny.gguf", level="F32")
    engine(artifact.path, tokens=TOKENS, logits=str(tmp_path / "l.npy"), exact=True)
    assert nmse(np.load(tmp_path / "l.npy"), forward(TINY, TOKENS)) < 1e-9
    tokenizes_alike(engine, TINY, artifact.path)
