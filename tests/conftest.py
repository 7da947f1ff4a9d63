"""Model files the tests share: a random one that speaks bytes, and the shipped one converted."""

from __future__ import annotations

import importlib
import importlib.resources
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

# Idle engine threads sleep instead of spinning: on a machine that is busy with something else the
# tests run some thirty times faster. Read by the OpenMP library when the engine is loaded, here and
# in every child process.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell starts what it puts in the background with interrupts ignored, every child inherits that,
# and tests of what Ctrl-C does would wait for nothing.
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|end|>", "<|im_start|>", "<|im_end|>")


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return [table[byte] for byte in range(256)]


def write_random_gguf(
    path: Path,
    *,
    context: int = 512,
    seed: int = 7,
    bos: bool = False,
    template: str | None = CHATML,
) -> Path:
    """A llama of two layers with random weights whose tokens are the 256 bytes and three specials.

    Token ids are the bytes themselves; the ids after 255 are those of `SPECIALS`. With `bos` the
    tokenizer puts the second of them before every text.
    """
    import gguf

    hidden, heads, layers, inner = 64, 4, 2, 128
    tokens = [*byte_alphabet(), *SPECIALS]
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random bytes")
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] * len(SPECIALS))
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(256)
    if bos:
        writer.add_bos_token_id(257)
    writer.add_add_bos_token(bos)
    if template is not None:
        writer.add_chat_template(template)

    def add(name: str, *shape: int, scale: float = 0.3) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float32))

    add("token_embd.weight", len(tokens), hidden, scale=1.0)
    for layer in range(layers):
        at = f"blk.{layer}."
        writer.add_tensor(f"{at}attn_norm.weight", np.ones(hidden, np.float32))
        writer.add_tensor(f"{at}ffn_norm.weight", np.ones(hidden, np.float32))
        add(f"{at}attn_q.weight", hidden, hidden)
        add(f"{at}attn_k.weight", hidden // 2, hidden)
        add(f"{at}attn_v.weight", hidden // 2, hidden)
        add(f"{at}attn_output.weight", hidden, hidden)
        add(f"{at}ffn_gate.weight", inner, hidden)
        add(f"{at}ffn_up.weight", inner, hidden)
        add(f"{at}ffn_down.weight", hidden, inner)
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    add("output.weight", len(tokens), hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True, scope="session")
def nobodys_devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps devices that whoever runs the tests has calibrated out of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CONFIG_DIR", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def random_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random byte-level model, written once per test session."""
    return write_random_gguf(tmp_path_factory.mktemp("random") / "random-bytes.gguf")


@pytest.fixture
def make_random_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Writes random byte-level models of one's own into the test's folder."""
    return lambda name="model.gguf", **options: write_random_gguf(tmp_path / name, **options)


@pytest.fixture(scope="session")
def tiny_model_dir() -> Path:
    """The trained model that ships with the package, in Hugging Face layout."""
    return Path(str(importlib.resources.files("edge_runtime") / "tiny_model"))


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model converted at F16, once per test session."""
    import quantize

    out = tmp_path_factory.mktemp("tiny") / "tiny-f16.gguf"
    return quantize.convert(tiny_model_dir, out, level="F16").path


@pytest.fixture
def children_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures in this process, without a child: for the backend without an engine."""
    from children_here import ChildHere

    module = importlib.import_module("edge_runtime.profiler.measure")
    monkeypatch.setattr(module, "Child", ChildHere)
