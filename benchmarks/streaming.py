"""`model.stream` with sampling against llama-cpp-python's `Llama.generate`, interleaved.

    python benchmarks/streaming.py [--models 15m,qwen2.5-0.5b] [--tokens 96] [--rounds 7]

Both sides hold one loaded model and generate as many tokens from the same prompt with the same
sampling settings (top-k 40, top-p 0.95, min-p 0.05, temperature 0.8, a fixed seed). Ours also turns
the tokens into text, which `generate` does not. The figure is the median of ours / theirs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import shapes
from llama_cpp import Llama

import edge_runtime as edge
from edge_runtime import statistics

PROMPT = list(range(300, 332))


def ours(model: edge.Model, tokens: int) -> float:
    """Tokens per second from the second token on."""
    sampling = edge.Sampling(seed=7, ignore_eos=True)
    model.session.reset()
    pieces = model.session.stream(PROMPT, max_tokens=tokens, sampling=sampling)
    stamps = [time.perf_counter() for _ in pieces]
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])


def theirs(llama: Llama, tokens: int) -> float:
    """The same for `Llama.generate`."""
    llama.reset()
    generated = llama.generate(
        PROMPT, top_k=40, top_p=0.95, min_p=0.05, temp=0.8, repeat_penalty=1.0
    )
    stamps = [time.perf_counter() for _ in itertools.islice(generated, tokens)]
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="15m,qwen2.5-0.5b")
    parser.add_argument("--level", default="Q4_K_M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.models.split(","):
            plain = shapes.artifact(name, given.level, Path(scratch))
            artifact = shapes.with_vocabulary(plain, Path(scratch) / f"{name}-words.gguf")
            llama = Llama(
                str(artifact.path), n_ctx=512, n_threads=given.threads,
                n_threads_batch=given.threads, verbose=False, seed=7,
            )  # fmt: skip
            with edge.load(artifact.path, context_tokens=512, threads=given.threads) as model:
                pairs = []
                for turn in range(given.rounds + 1):
                    sides = [lambda m=model: ours(m, given.tokens),
                             lambda m=llama: theirs(m, given.tokens)]  # fmt: skip
                    order = (0, 1) if turn % 2 == 0 else (1, 0)
                    rates = {side: sides[side]() for side in order}
                    if turn:  # the first round warms both up
                        pairs.append((rates[0], rates[1]))
            llama.close()
            ratios = [a / b for a, b in pairs]
            figures.append(
                {
                    "model": name, "level": given.level, "threads": given.threads,
                    "ratio_ours_over_llama_cpp_python": statistics.median(ratios),
                    "ratios": ratios,
                    "ours_tokens_per_s": [a for a, _ in pairs],
                    "llama_cpp_python_tokens_per_s": [b for _, b in pairs],
                }
            )  # fmt: skip
    print(json.dumps({"benchmark": "streaming", "figures": figures}))


if __name__ == "__main__":
    main()
