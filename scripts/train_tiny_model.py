"""Trains the tiny Llama of `edge_runtime/tiny_model`: text in, Hugging Face directory out.

Knows torch, the Llama arithmetic and the layout Hugging Face gives a checkpoint (half-split rotary
pairs, tied embeddings, float16). Refuses to know the GGUF format and the text itself, which
`tiny_corpus` makes.

    pip install torch==2.13.0 numpy safetensors tokenizers
    python scripts/train_tiny_model.py --out edge_runtime/tiny_model

The directory appears whole or not at all: everything is written beside it first, then renamed.
The held-out excerpt goes along, as `heldout.txt`.

The default run reads 3.9 million tokens in about 15 minutes on one core of a server, shared, and
needs less than 1 GB. What comes out alike, as far as it was tried (torch 2.13.0 for CPU, Linux, one
machine, runs of 30 steps): the same options with `--threads 1` gave the same bytes in every file.
With two threads the excerpt and the tokenizer were the same, the weights were not (the perplexity
differed by 0.3 %). Another processor, another torch and a second full run were not tried.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread: the merges and the log stay the same

import numpy as np
import torch
from safetensors.torch import save_file
from tiny_corpus import Turn, collection, documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
SPECIAL = ("<|pad|>", "<|bos|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, BOS, EOS, IM_START, IM_END = SPECIAL
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# tiny_model

A toy Llama of {count} parameters that writes small English stories and answers a few easy
questions. It ships with edge-runtime so that a fresh installation can write sentences without a
download, and so that the tests have real logits, a real perplexity and a real tokenizer. It is not
a product: it knows about a thousand words and the few kinds of story its text has. Its sentences
are right, but it loses track of names and of who is he or she within a story, tells of an owl when
asked for a fox, answers sums nearly, and meets a question it was not taught with an answer to
another.

| | |
|---|---|
| architecture | LlamaForCausalLM, {layers} layers, hidden {hidden}, feed-forward {intermediate} |
| attention | {heads} heads of {head_dim}, {kv_heads} key and value heads |
| embeddings | tied |
| vocabulary | {vocab}, byte-level BPE; the pre-tokenizer is the one llama.cpp calls `gpt-2` |
| context | {context} tokens |
| weights | float16 |
| held-out perplexity | {perplexity} per token ({bits} bits per byte) |

The perplexity is that of the float16 weights on `heldout.txt`, stories of a seed that the training
never used: the text is cut into pieces of 511 tokens, each is read after `<|bos|>`, and every token
is scored. `edge compare` scores this model on the same text.

## Text

All of it comes from `scripts/tiny_corpus.py`, a grammar written for this repository; nothing was
copied from anywhere. About half of the documents are stories, letters and scenes, the rest short
conversations in the form of the chat template. Training saw {tokens} tokens once.

## Tokens

A document is `<|bos|>` (1), text, `<|endoftext|>` (2). A turn of a conversation is `<|im_start|>`
(3), the role, a line break, the content, `<|im_end|>` (4) and a line break. Generation ends at 2 or
at 4. `<|pad|>` (0) was never seen in training.

## How to make it again

    pip install torch==2.13.0 numpy safetensors tokenizers
    {command}

This directory was made by that command with torch {torch}. What comes out alike the next
time, and what may not, is said at the top of the script.
"""
HELDOUT_SEED = 20_000_003
TOKENIZER_DOCUMENTS = 6_000
BARE_START = 0.15  # documents without a first <|bos|>: a prompt may come without one


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of the model; rows are multiples of 256 so that K-quants apply."""

    vocab: int = 2048
    hidden: int = 256
    intermediate: int = 512
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    context: int = 1024
    eps: float = 1e-5
    rope_theta: float = 10_000.0

    def config(self) -> dict[str, object]:
        """Returns config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": SPECIAL.index(BOS),
            "eos_token_id": SPECIAL.index(EOS),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.context,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": SPECIAL.index(PAD),
            "rms_norm_eps": self.eps,
            "rope_scaling": None,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "use_cache": True,
            "vocab_size": self.vocab,
        }


class Norm(nn.Module):
    """Root-mean-square normalisation with a learned gain."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden))
        self.eps = shape.eps

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` at unit root mean square, times the gain."""
        out: Tensor = functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        return out


def rotary(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines, each (length, head_dim), the two halves alike."""
    rate = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angle = torch.outer(torch.arange(length).float(), rate).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (i, i + head_dim / 2), the way Hugging Face lays them out."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Attention(nn.Module):
    """Causal attention in which several query heads share one key and value head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Returns what each position gathers from those before it and itself."""
        batch, length, _ = x.shape
        q, k, v = (
            proj(x).view(batch, length, -1, self.shape.head_dim).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class Gated(nn.Module):
    """The feed-forward half of a layer: SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the gated projection of every position."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One transformer layer, normalised before each half."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape)
        self.mlp = Gated(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Returns `x` with both halves added to it."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """The whole model; parameters are named as in LlamaForCausalLM, without the `model.` prefix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.layers if residual else 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Returns logits (batch, length, vocab) for token ids (batch, length)."""
        x = self.embed_tokens(ids)
        cos, sin = rotary(self.shape, ids.shape[1])
        for layer in self.layers:
            x = layer(x, cos, sin)
        return functional.linear(self.norm(x), self.embed_tokens.weight)


def render(turns: tuple[Turn, ...]) -> str:
    """Returns the conversation as the chat template writes it."""
    return "".join(f"{IM_START}{role}\n{text}{IM_END}\n" for role, text in turns)


def texts(seed: int) -> Iterator[str]:
    """Yields the documents of `tiny_corpus` as plain strings, without end."""
    for document in documents(seed):
        yield document if isinstance(document, str) else render(document)


def train_tokenizer(seed: int, vocab: int) -> Tokenizer:
    """Returns a byte-level BPE whose pre-tokenizer is exactly the one llama.cpp calls `gpt-2`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    source = texts(seed)
    tokenizer.train_from_iterator((next(source) for _ in range(TOKENIZER_DOCUMENTS)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    if tokenizer.get_vocab_size() != vocab:
        raise SystemExit(f"the text gave {tokenizer.get_vocab_size()} tokens, not {vocab}")
    return tokenizer


def batches(tokenizer: Tokenizer, seed: int, rows: int, context: int) -> Iterator[Tensor]:
    """Yields (rows, context + 1) ids, documents packed end to end, none ever repeated by us."""
    rng = random.Random(seed ^ 0x5EED)
    source, ids = texts(seed), np.empty(0, dtype=np.int64)
    bos, eos = SPECIAL.index(BOS), SPECIAL.index(EOS)
    need = rows * (context + 1)
    while True:
        parts = [ids]
        have = len(ids)
        while have < need:
            body = tokenizer.encode(next(source), add_special_tokens=False).ids
            head = [] if rng.random() < BARE_START else [bos]
            parts.append(np.array([*head, *body, eos], dtype=np.int64))
            have += len(parts[-1])
        ids = np.concatenate(parts)
        yield torch.from_numpy(ids[:need].reshape(rows, context + 1))
        ids = ids[need:]


def heldout(byte_count: int) -> str:
    """Returns whole stories of a seed the training never sees, about `byte_count` bytes."""
    rng = random.Random(HELDOUT_SEED)
    text = collection(rng, 2)
    while len(text) < byte_count:
        text += "\n\n* * *\n\n" + collection(rng, 2)
    return text + "\n"


@torch.no_grad()
def perplexity(model: Llama, tokenizer: Tokenizer, text: str, window: int) -> tuple[float, float]:
    """Returns perplexity per token and bits per byte; windows follow <|bos|> and do not overlap."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    loss = 0.0
    for at in range(0, len(ids), window - 1):
        row = torch.tensor([[SPECIAL.index(BOS), *ids[at : at + window - 1]]])
        loss += functional.cross_entropy(model(row)[0, :-1], row[0, 1:], reduction="sum").item()
    return math.exp(loss / len(ids)), loss / math.log(2) / len(text.encode())


@torch.no_grad()
def generate(model: Llama, ids: list[int], tokens: int, temperature: float, seed: int) -> list[int]:
    """Returns the continuation of `ids`; temperature 0 is greedy."""
    random_source, out = torch.Generator().manual_seed(seed), list(ids)
    while len(out) - len(ids) < tokens:
        logits = model(torch.tensor([out]))[0, -1]
        if temperature:
            chances = (logits / temperature).softmax(-1)
            step = int(torch.multinomial(chances, 1, generator=random_source))
        else:
            step = int(logits.argmax())
        if step in (SPECIAL.index(EOS), SPECIAL.index(IM_END)):
            break
        out.append(step)
    return out[len(ids) :]


def train(model: Llama, tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    """Fits `model` with AdamW: a short warm-up, then a cosine down to a fiftieth of the rate."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    gains = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}],
        lr=options.rate,
        betas=(0.9, 0.95),
    )
    warmup = min(60, options.steps // 10 + 1)
    source = batches(tokenizer, options.seed + 1, options.rows, model.shape.context)
    start, total = time.monotonic(), 0.0
    for step in range(options.steps):
        progress = (step - warmup) / max(1, options.steps - warmup)
        cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * max(0.0, progress))) / 2
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1.0, (step + 1) / warmup) * cosine
        ids = next(source)
        loss = functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if (step + 1) % 25 == 0:
            spent = time.monotonic() - start
            print(f"step {step + 1:5d}  loss {total / 25:.4f}  {spent:6.0f} s", flush=True)
            total = 0.0


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save(model: Llama, tokenizer: Tokenizer, card: str, excerpt: str, out: Path) -> None:
    """Writes the whole Hugging Face directory beside `out`, then puts it in its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh = work / "new"
        fresh.mkdir()
        weights = {
            f"model.{name}": weight.detach().half().contiguous()
            for name, weight in model.named_parameters()
        }
        if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
            raise SystemExit("a weight is not finite in float16: nothing was written")
        save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
        (fresh / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone
        _json(fresh / "config.json", model.shape.config())
        tokenizer.save(str(fresh / "tokenizer.json"), pretty=False)
        names = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
        flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
        added = {
            str(token): {"content": text, **flags, "special": True}
            for token, text in enumerate(SPECIAL)
        }
        extra = [IM_START, IM_END]
        _json(fresh / "special_tokens_map.json", {"additional_special_tokens": extra, **names})
        _json(
            fresh / "tokenizer_config.json",
            {
                "add_bos_token": True,
                "add_eos_token": False,
                "added_tokens_decoder": added,
                "additional_special_tokens": extra,
                **names,
                "chat_template": CHAT_TEMPLATE,
                "clean_up_tokenization_spaces": False,
                "model_max_length": model.shape.context,
                "tokenizer_class": "PreTrainedTokenizerFast",
            },
        )
        _json(
            fresh / "generation_config.json",
            {
                "bos_token_id": SPECIAL.index(BOS),
                "do_sample": True,
                "eos_token_id": [SPECIAL.index(EOS), SPECIAL.index(IM_END)],
                "pad_token_id": SPECIAL.index(PAD),
                "temperature": 0.8,
                "top_p": 0.95,
            },
        )
        (fresh / "README.md").write_text(card, encoding="utf-8")
        (fresh / "heldout.txt").write_text(excerpt, encoding="utf-8")
        if out.exists():
            out.rename(work / "old")
        fresh.rename(out)
    finally:
        shutil.rmtree(work)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description="Train the tiny model that ships here.")
    parser.add_argument("--out", type=Path, default=ROOT / "edge_runtime" / "tiny_model")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1900)
    parser.add_argument("--rows", type=int, default=2, help="sequences in a batch")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=1, help="the result depends on it")
    return parser.parse_args(arguments)


def main() -> None:
    """Trains, measures, shows a sample and writes."""
    options = parse()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    shape = Shape()
    tokenizer = train_tokenizer(options.seed, shape.vocab)
    model = Llama(shape)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count:,} parameters, {options.steps * options.rows * shape.context:,} tokens to see")
    train(model, tokenizer, options)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half().float())
    excerpt = heldout(20_000)
    per_token, bits = perplexity(model, tokenizer, excerpt, 512)
    print(f"held-out: perplexity {per_token:.4f} per token, {bits:.4f} bits per byte")
    question = render((("user", "What is the opposite of hot?"),)) + f"{IM_START}assistant\n"
    for prompt in ("Once upon a time", question):
        ids = tokenizer.encode(prompt).ids
        print(f"> {prompt!r}\n{tokenizer.decode(generate(model, ids, 120, 0.8, options.seed))}\n")
    save(model, tokenizer, card(options, count, per_token, bits), excerpt, options.out)


def card(options: argparse.Namespace, count: int, per_token: float, bits: float) -> str:
    """Returns the model card; every figure in it is of this very run."""
    shape = Shape()
    return CARD.format(
        count=f"{count:,}",
        tokens=f"{options.steps * options.rows * shape.context / 1e6:.1f} million",
        perplexity=f"{per_token:.2f}",
        bits=f"{bits:.3f}",
        torch=torch.__version__,
        command=f"python scripts/train_tiny_model.py --seed {options.seed} --steps {options.steps} "
        f"--rows {options.rows} --rate {options.rate} --threads {options.threads}",
        **asdict(shape),
    )


if __name__ == "__main__":
    main()
