"""The compact reference: how much room it takes, and how wrong the KL divergence becomes by it.

    python benchmarks/reference_size.py [--seeds 8]

For several numbers of tokens kept and drawn, as JSON:

- `vocabulary`: MiB of 1,000 scored tokens at 151,936 tokens, beside two bytes for each token of the
  vocabulary, which is what llama-perplexity's file takes.
- `shipped`: the shipped model at several levels against its F16, on its held-out text. The
  divergence found through the reference is compared with the one over the whole vocabulary in
  float64: `kl_error` is the root mean square over seeds of the relative error of the mean,
  `least_share` what the certain lower bound has of it.
- `made_up`: the same on made-up distributions over 151,936 tokens, with a long tail: token
  frequencies by Zipf's law, a direction for each token and one for each position, by whose length
  the entropies of text come out. A level's error is half its own for each token, half a turn of the
  position's direction. Entropy and the share beside the 224 likeliest are printed: the flattest are
  worse than any text.
- `ms_per_token`: what packing one distribution and holding another against it takes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import quantize
from edge_runtime import backends
from edge_runtime.artifact import Artifact
from edge_runtime.measurement import SessionOptions
from edge_runtime.quality.divergence import diverge
from edge_runtime.quality.kept import kept, pack, row_type, unpack
from edge_runtime.quality.logprobs import log_normalizers
from edge_runtime.quality.passages import cut
from edge_runtime.quality.text import Text, read_text

TINY = Path(__file__).resolve().parent.parent / "edge_runtime" / "tiny_model"
VOCABULARY = 151_936
SHAPES = ((224, 32), (224, 0), (256, 64), (128, 32), (64, 16))
LEVELS = ("Q8_0", "Q4_K_M", "Q2_K")
CONTEXT_TOKENS = 512
LENGTHS = {"certain": 9.0, "as text": 6.0, "flat": 3.0}
NOISES = {"as Q8_0": 0.02, "as Q4_K_M": 0.1, "as Q2_K": 0.5}
POSITIONS, DIRECTIONS = 256, 48

Pair = tuple[np.ndarray, np.ndarray]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """By the definition, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


def whole_kl(reference: np.ndarray, model: np.ndarray) -> float:
    """The mean divergence over the whole vocabulary, a few positions at a time."""
    total = 0.0
    for start in range(0, len(reference), 16):
        rows = slice(start, start + 16)
        log_p, log_q = log_softmax(reference[rows]), log_softmax(model[rows])
        total += float((np.exp(log_p) * (log_p - log_q)).sum())
    return total / len(reference)


def errors(pairs: dict[str, Pair], seeds: int) -> list[dict]:
    """How far each shape of reference is off, for each pair of a reference's and a level's."""
    found = []
    for name, (reference, model) in pairs.items():
        truth = whole_kl(reference, model)
        normalizers, theirs = log_normalizers(reference), log_normalizers(model)
        targets = np.zeros(len(reference), np.int64)
        for top, drawn in SHAPES:
            kind = row_type(reference.shape[1], top, drawn)
            estimates = []
            for seed in range(seeds):
                at = np.random.default_rng(seed).random(len(reference))
                rows = unpack(pack(reference, normalizers, targets, kind, draw_at=at))
                held = diverge(rows, model, theirs, targets)
                estimates.append(float(held.kl.mean()))
            off = np.array(estimates) / truth - 1
            found.append(
                {
                    "level": name,
                    "kl_nats": truth,
                    "top": top,
                    "drawn": drawn,
                    "kl_error": float(np.sqrt((off**2).mean())),
                    "kl_error_worst": float(np.abs(off).max()),
                    "least_share": float(held.kl_least.mean()) / truth,
                }
            )
    return found


def shipped(seeds: int) -> list[dict]:
    """The shipped model's levels against its F16."""
    text = read_text(TINY / "heldout.txt")
    with tempfile.TemporaryDirectory(prefix="reference-") as folder:
        source = Path(folder) / "F16.gguf"
        quantize.convert(TINY, source)
        reference = scored_logits(source, text)
        pairs = {}
        for level in LEVELS:
            made = Path(folder) / f"{level}.gguf"
            quantize.requantize(source, made, level)
            pairs[level] = (reference, scored_logits(made, text))
    return errors(pairs, seeds)


def scored_logits(path: Path, text: Text) -> np.ndarray:
    """The logits of all scored positions, (positions, vocabulary)."""
    artifact = Artifact.open(path)
    options = SessionOptions(context_tokens=CONTEXT_TOKENS)
    session = backends.backend_for(artifact, options.backend).open(artifact, options)
    blocks = []
    for passage in cut(session, text, CONTEXT_TOKENS):
        session.reset()
        blocks += (
            np.array(block)
            for block in session.all_logits(passage.tokens[:-1], first=passage.first)
        )
    session.close()
    return np.concatenate(blocks)


def made_up(length: float) -> Iterator[tuple[str, Pair]]:
    """Distributions over a large vocabulary, and a level's for each noise."""
    random = np.random.default_rng(11)
    tokens = random.standard_normal((DIRECTIONS, VOCABULARY), np.float32) / DIRECTIONS**0.5
    places = random.standard_normal((POSITIONS, DIRECTIONS), np.float32)
    places *= length * random.lognormal(0, 0.35, (POSITIONS, 1)).astype(np.float32)
    frequencies = -np.log(np.arange(VOCABULARY, dtype=np.float32) + 10)
    reference = places @ tokens + frequencies
    for name, noise in NOISES.items():
        turn = random.standard_normal(places.shape, np.float32) * noise * 0.7
        own = random.standard_normal(reference.shape, np.float32) * np.float32(noise * 0.7)
        yield name, (reference, (places + turn) @ tokens + frequencies + own)


def described(reference: np.ndarray) -> dict:
    """How uncertain distributions are, and what lies beside the 224 likeliest."""
    entropies, rests = [], []
    for start in range(0, len(reference), 16):
        log_p = log_softmax(reference[start : start + 16])
        p = np.exp(log_p)
        entropies.append(-(p * log_p).sum(axis=1))
        rests.append(1 - np.partition(p, -224, axis=1)[:, -224:].sum(axis=1))
    return {
        "entropy_nats": float(np.concatenate(entropies).mean()),
        "beside_224": float(np.concatenate(rests).mean()),
    }


def timed(reference: np.ndarray, model: np.ndarray) -> dict[str, float]:
    """Milliseconds for a distribution at the default shape, the best of five."""
    kind = row_type(VOCABULARY, *kept(VOCABULARY))
    targets = np.zeros(len(reference), np.int64)
    at = np.full(len(reference), 0.5)
    best = {}
    for _ in range(5):
        began = time.perf_counter()
        normalizers = log_normalizers(reference)
        after = time.perf_counter()
        rows = pack(reference, normalizers, targets, kind, draw_at=at)
        packed = time.perf_counter()
        diverge(unpack(rows), model, normalizers, targets)
        ended = time.perf_counter()
        taken = {"normalizer": after - began, "pack": packed - after, "diverge": ended - packed}
        best = {name: min(s, best.get(name, s)) for name, s in taken.items()}
    return {name: 1000 * seconds / len(reference) for name, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=8)
    seeds = parser.parse_args().seeds
    figures: dict[str, object] = {
        "vocabulary": {
            "tokens": VOCABULARY,
            "default": kept(VOCABULARY),
            "mib_per_1000_tokens": {
                f"{top}+{drawn}": row_type(VOCABULARY, top, drawn).itemsize * 1000 / 2**20
                for top, drawn in SHAPES
            },
            "two_bytes_each_mib": 2 * VOCABULARY * 1000 / 2**20,
        },
        "shipped": shipped(seeds),
    }
    made = []
    for name, length in LENGTHS.items():
        for level, pair in made_up(length):
            about = {"distributions": name, **described(pair[0])}
            made += [{**about, **row} for row in errors({level: pair}, seeds)]
    figures["made_up"] = made
    figures["ms_per_token"] = timed(*pair)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
