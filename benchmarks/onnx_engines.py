"""One engine that holds one ONNX folder and generates on request: ours, or onnxruntime-genai.

    python benchmarks/onnx_engines.py ours|genai FOLDER --threads 2 --context 2048

A process of its own for each: it answers every line of JSON on stdin with one on stdout, so that
two of them can take turns. Both get token ids, choose greedily, and keep their caches in one buffer
of the context's length. A request is `{"prompt": 128, "generate": 65}`; the prompt's time lasts to
the first token, every later token is one step. Loading and room for the cache are not timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Protocol

STATUS = Path("/proc/self/status")


class Side(Protocol):
    """What generates."""

    def generate(self, prompt: list[int], tokens: int) -> list[float]:
        """Stamps in seconds: the beginning, then one for each token."""


class Ours:
    """The ONNX backend of edge-runtime."""

    def __init__(self, folder: Path, threads: int, context: int) -> None:
        from edge_runtime import Artifact, Sampling
        from edge_runtime.backends import backend_for
        from edge_runtime.measurement import SessionOptions

        artifact = Artifact.open(folder)
        options = SessionOptions(threads=threads, context_tokens=context)
        self.session = backend_for(artifact, "onnx").open(artifact, options)
        self.greedy = Sampling(temperature=0, ignore_eos=True)

    def generate(self, prompt: list[int], tokens: int) -> list[float]:
        self.session.reset()
        stamps = [time.perf_counter()]
        pieces = self.session.stream(prompt, max_tokens=tokens, sampling=self.greedy)
        stamps += [time.perf_counter() for _ in pieces]
        return stamps


class Genai:
    """onnxruntime-genai with as many threads; its buffer is shared, as is its default."""

    def __init__(self, folder: Path, threads: int, context: int) -> None:
        import onnxruntime_genai as og

        config = og.Config(str(folder))
        settings = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": settings}}}))
        self.library = og
        self.model = og.Model(config)
        self.context = context

    def generate(self, prompt: list[int], tokens: int) -> list[float]:
        import numpy as np

        params = self.library.GeneratorParams(self.model)
        # As many tokens as asked for, whatever ends a text.
        params.set_search_options(
            do_sample=False, max_length=self.context, min_length=len(prompt) + tokens
        )
        generator = self.library.Generator(self.model, params)
        ids = np.asarray(prompt, np.int32)
        stamps = [time.perf_counter()]
        generator.append_tokens(ids)
        for _ in range(tokens):
            generator.generate_next_token()
            stamps.append(time.perf_counter())
        return stamps


def memory_mb(field: str) -> float:
    """A figure of this process, in MB: VmRSS is what it holds, VmHWM its most so far."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(field)


def forget_peak() -> None:
    """Lets VmHWM begin anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def ids(count: int) -> list[int]:
    """A prompt that no engine can have seen before: ids of the byte-pair part of a vocabulary."""
    return [300 + i * 7919 % 40_000 for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=("ours", "genai"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    given = parser.parse_args()
    before = memory_mb("VmRSS")
    made = time.perf_counter()
    kind = {"ours": Ours, "genai": Genai}[given.side]
    side: Side = kind(given.folder, given.threads, given.context)
    loaded = {
        "load_s": time.perf_counter() - made,
        "before_mb": before,
        "loaded_mb": memory_mb("VmRSS"),
        "load_peak_mb": memory_mb("VmHWM"),
    }
    print(json.dumps(loaded), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        forget_peak()
        stamps = side.generate(ids(asked["prompt"]), asked["generate"])
        answer = {
            "prefill_s": stamps[1] - stamps[0],
            "decode_s": stamps[-1] - stamps[1],
            "steps": len(stamps) - 2,
            "peak_mb": memory_mb("VmHWM"),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
