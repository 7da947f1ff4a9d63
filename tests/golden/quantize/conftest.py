"""llama.cpp as a witness, and random checkpoints, for the tests of this directory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from golden.quantize.onnx_graphs import BY_NAME, Convert

from quantize.onnx.conversion import convert_onnx
from quantize.onnx.levels import onnx_level

pytest.importorskip("llama_cpp")

Engine = Callable[..., dict]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Asks llama.cpp, in a process that is started again when a file has ended it."""
    children: list[subprocess.Popen[str]] = []

    def ask(path: Path, **job: object) -> dict:
        if not children or children[-1].poll() is not None:
            script = Path(__file__).with_name("llama_child.py")
            children.append(
                subprocess.Popen(
                    [sys.executable, str(script)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        child = children[-1]
        child.stdin.write(json.dumps({"path": str(path), **job}) + "\n")
        child.stdin.flush()
        line = child.stdout.readline()
        if not line:
            pytest.fail(f"llama.cpp died of {path.name}: {child.stderr.read()[-600:]}")
        answer = json.loads(line)
        assert "error" not in answer, f"{path.name}: {answer['error']}"
        return answer

    yield ask
    for child in children:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            pipe.close()


LETTERS = (
    "the quick brown fox jumps over a lazy dog while 1234 small rivers run to 56 wide seas; "
    "it's what they've said, isn't it? naïve café, señor, Straße, Привет мир, 你好世界, "
    "こんにちは, 한국어 문장, \n\n  indented\ttext  with   runs of spaces"
)


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Makes random Llama checkpoints to order."""

    def make(**options: object) -> Path:
        path = tmp_path / "checkpoint"
        path.mkdir()
        return write_checkpoint(path, **options)

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama checkpoint (tied, grouped queries) with a byte-level BPE tokenizer."""
    path = tmp_path_factory.mktemp("checkpoint")
    return write_checkpoint(path, tied=True)


def write_checkpoint(
    path: Path,
    *,
    tied: bool,
    dtype: str = "F16",
    bias: bool = False,
    pre_tokenizer: dict | None = None,
    ignore_merges: bool = False,
) -> Path:
    """Writes a random Llama checkpoint in the Hugging Face layout, by the safetensors library."""
    from safetensors.numpy import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing

    special = ["<|pad|>", "<|bos|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre_tokenizer is not None:
        described = json.loads(tokenizer.to_str())
        tokenizer = Tokenizer.from_str(json.dumps({**described, "pre_tokenizer": pre_tokenizer}))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [LETTERS] * 4,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B", special_tokens=[("<|bos|>", 1)]
    )
    described = json.loads(tokenizer.to_str())
    described["model"]["ignore_merges"] = ignore_merges
    (path / "tokenizer.json").write_text(json.dumps(described))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": None, "tie_word_embeddings": tied, "attention_bias": bias,
        "mlp_bias": bias, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float16",
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": "<|bos|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>",
                "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
            }
        )
    )  # fmt: skip
    kind = {"F16": np.float16, "F32": np.float32}[dtype]
    save_file(
        {name: w.astype(kind) for name, w in random_weights(config).items()},
        path / "model.safetensors",
    )
    return path


def random_weights(config: dict) -> dict[str, np.ndarray]:
    """Weights of a trained model's size: the two halves of each head differ, norms are not 1."""
    rng = np.random.default_rng(7)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    dims = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    if not config["tie_word_embeddings"]:
        dims["lm_head.weight"] = (config["vocab_size"], hidden)
    gains = ["model.norm.weight"]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        gains += [layer + "input_layernorm.weight", layer + "post_attention_layernorm.weight"]
        for name, rows, row in (
            ("self_attn.q_proj", queries, hidden), ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden), ("self_attn.o_proj", hidden, queries),
            ("mlp.gate_proj", wide, hidden), ("mlp.up_proj", wide, hidden),
            ("mlp.down_proj", hidden, wide),
        ):  # fmt: skip
            dims[f"{layer}{name}.weight"] = (rows, row)
            biased = config["attention_bias"] if "attn" in name else config["mlp_bias"]
            if biased:
                dims[f"{layer}{name}.bias"] = (rows,)
    weights = {name: rng.normal(0, 0.08, shape) for name, shape in dims.items()}
    return {**weights, **{name: rng.uniform(0.5, 1.5, hidden) for name in gains}}


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Converts a case once at each level."""
    folder = tmp_path_factory.mktemp("onnx")

    def at(name: str, level: str = "fp32", **options: object) -> Path:
        out = folder / f"{name}.{level}.{'.'.join(map(str, options.values()))}"
        if not out.exists():
            checkpoint = folder / name
            if not checkpoint.exists():
                BY_NAME[name].write(checkpoint)
            convert_onnx(checkpoint, out, level=onnx_level(level).with_options(**options))
        return out

    return at
