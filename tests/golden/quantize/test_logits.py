"""Converted at F32, a checkpoint computes in llama.cpp what it computes in transformers.

reference.json has the logits of transformers, eager and in float32, for each case of `cases`: an
early and the last position, past the original context where positions are scaled. The second half
shows that the comparison sees: what a wrong conversion would have written fails it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from golden.quantize.cases import CASES, Case

from quantize import convert

pytestmark = pytest.mark.engine

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text("utf-8"))["cases"]
BY_NAME = {case.name: case for case in CASES}
Convert = Callable[[str], Path]
Array = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Converts each case at F32 once."""
    folder = tmp_path_factory.mktemp("logits")

    def at_f32(name: str) -> Path:
        out = folder / f"{name}.gguf"
        if not out.exists():
            convert(BY_NAME[name].write(folder / name), out, level="F32")
        return out

    return at_f32


def error(engine, path: Path, case: Case, length: int, scratch: Path) -> float:
    """The largest normalized mean squared error of a kept position."""
    entries = REFERENCE[case.twin or case.name]["logits"]
    (entry,) = (entry for entry in entries if entry["length"] == length)
    out = scratch / "logits.npy"
    engine(
        path, tokens=case.sequence(length), logits=str(out), exact=True,
        embedding="bert" in case.config["model_type"],
    )  # fmt: skip
    found = np.load(out)[entry["positions"]].astype(np.float64)
    stored = np.frombuffer(base64.b64decode(entry["float32"]), "<f4")
    wanted = stored.astype(np.float64).reshape(found.shape)
    return float((((found - wanted) ** 2).sum(1) / (wanted**2).sum(1)).max())


@pytest.mark.parametrize(
    ("name", "length"), [(case.name, length) for case in CASES for length in case.lengths]
)
def test_logits_are_those_of_transformers(
    engine, converted: Convert, tmp_path: Path, name: str, length: int
) -> None:
    case = BY_NAME[name]
    assert error(engine, converted(name), case, length, tmp_path) <= case.limit


def halves(heads: int) -> Callable[[Array], Array]:
    """Rows as the checkpoint has them: the two halves of a head one after the other."""
    return lambda w: w.reshape(heads, -1, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def mixed_up(heads: int) -> Callable[[Array], Array]:
    """Rows interleaved once more, as for so many heads."""
    return lambda w: w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def first_two_swapped(w: Array) -> Array:
    return w[[1, 0, *range(2, len(w))]]


def back_to_heads(w: Array) -> Array:
    """Queries, keys and values by head, as GPT-NeoX stores them."""
    return w.reshape(3, 4, 16, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)


def without_one(w: Array) -> Array:
    return w - 1


def flat(w: Array) -> Array:
    return np.ones_like(w)


MUTATIONS: dict[str, tuple[str, int, str, object]] = {
    "queries not interleaved": ("llama-1", 40, "blk.*.attn_q.weight", halves(4)),
    "keys of the wrong head count": ("tinyllama", 40, "blk.*.attn_k.weight", mixed_up(4)),
    "keys not interleaved": ("mistral", 16, "blk.*.attn_k.weight", halves(2)),
    "bias not interleaved": ("llama-linear", 40, "blk.*.attn_k.bias", halves(2)),
    "queries interleaved needlessly": ("qwen2", 40, "blk.*.attn_q.weight", mixed_up(4)),
    "linear factor lost": ("llama-linear", 100, "llama.rope.scaling.factor", 1.0),
    "llama 3 factors lost": ("llama-3", 300, "rope_freqs.weight", flat),
    "base lost": ("smollm2", 40, "llama.rope.freq_base", 10000.0),
    "yarn factor lost": ("qwen2-yarn", 300, "qwen2.rope.scaling.factor", 1.0),
    "yarn context lost": (
        "qwen2-yarn", 300, "qwen2.rope.scaling.original_context_length", 512
    ),
    "longrope attention factor lost": ("phi-3.5", 40, "phi3.rope.scaling.attn_factor", 1.0),
    "long factors lost": ("phi-3.5", 400, "rope_factors_long.weight", flat),
    "short factors lost": ("phi-3.5", 40, "rope_factors_short.weight", flat),
    "partial rotation lost": ("phi-2", 40, "phi2.rope.dimension_count", 16),
    "experts swapped": ("mixtral", 40, "blk.*.ffn_down_exps.weight", first_two_swapped),
    "experts swapped, Qwen": ("qwen3-moe", 40, "blk.*.ffn_gate_exps.weight", first_two_swapped),
    "gate of the shared expert": ("qwen2-moe", 40, "blk.*.ffn_gate_inp_shexp.weight", flat),
    "experts used": ("qwen2-moe", 40, "qwen2moe.expert_used_count", 1),
    "norms without the one": ("gemma", 40, "*_norm.weight", without_one),
    "last norm without the one": ("gemma-3", 40, "output_norm.weight", without_one),
    "attention cap": ("gemma-2", 40, "gemma2.attn_logit_softcapping", 50.0),
    "final cap": ("gemma-2", 40, "gemma2.final_logit_softcapping", 30.0),
    "window": ("gemma-2", 40, "gemma2.attention.sliding_window", 64),
    "window, Gemma 3": ("gemma-3", 100, "gemma3.attention.sliding_window", 512),
    "base of the window": ("gemma-3", 40, "gemma3.rope.freq_base_swa", 1e6),
    "square matrix not transposed": ("gpt-2", 40, "blk.*.attn_output.weight", np.transpose),
    "positions": ("gpt-2", 40, "position_embd.weight", first_two_swapped),
    "heads interleaved": ("gpt-neox", 40, "blk.*.attn_qkv.weight", back_to_heads),
    "bias of heads interleaved": ("gpt-neox", 40, "blk.*.attn_qkv.bias", back_to_heads),
    "parallel residual": ("gpt-neox", 40, "gptneox.use_parallel_residual", False),
    "base of GPT-NeoX": ("gpt-neox-sequential", 40, "gptneox.rope.freq_base", 10000.0),
    "norms of heads swapped": ("stablelm-2-12b", 40, "blk.*.attn_q_norm.weight",
                               first_two_swapped),
    "logit scale": ("granite", 40, "granite.logit_scale", 1.0),
    "residual scale": ("granite", 40, "granite.residual_scale", 1.0),
    "embedding scale": ("granite", 40, "granite.embedding_scale", 1.0),
    "attention scale": ("granite", 40, "granite.attention.scale", 0.25),
    "types of tokens swapped": ("bert", 40, "token_types.weight", first_two_swapped),
}  # fmt: skip
"""What a wrong conversion would write: case, tokens, tensors or key, and how it goes wrong."""


def mutate(path: Path, target: str, change: object) -> int:
    """Overwrites tensors or a key of a GGUF file in place; returns how many."""
    file = gguf.GGUFReader(path, "r+")
    if not callable(change):
        field = file.fields[target]
        field.parts[field.data[0]][0] = change
        return 1
    first, _, last = target.partition("*")
    found = [
        tensor
        for tensor in file.tensors
        if tensor.name == target
        or (first != target and tensor.name.startswith(first) and tensor.name.endswith(last))
    ]
    for tensor in found:
        tensor.data[...] = change(np.array(tensor.data))
    return len(found)


@pytest.mark.parametrize("wrong", MUTATIONS)
def test_a_wrong_conversion_is_seen(engine, converted: Convert, tmp_path: Path, wrong: str) -> None:
    name, length, target, change = MUTATIONS[wrong]
    path = tmp_path / "wrong.gguf"
    path.write_bytes(converted(name).read_bytes())
    assert mutate(path, target, change) > 0
    assert error(engine, path, BY_NAME[name], length, tmp_path) > 1000 * BY_NAME[name].limit
