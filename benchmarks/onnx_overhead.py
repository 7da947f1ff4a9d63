"""What our own loop costs per token beyond `InferenceSession.run`, in one process.

    python benchmarks/onnx_overhead.py FOLDER --threads 2

Answers every line of JSON on stdin with one on stdout. The calls into the engine are timed from
within, so that both parts of a token's time come out of the same tokens. The loops:

    step      one token after the other, none chosen
    greedy    `session.stream`, the likeliest token
    sampling  `session.stream` with top-k, top-p, min-p and temperature
    text      `model.stream` with the same sampling: text comes out

The first token of a stream comes with the prompt and is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import edge_runtime as edge

PROMPT = list(range(300, 332))


class Timed:
    """The engine's session, with a clock around every run."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.seconds = 0.0
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, io: Any, run_options: Any = None) -> None:
        started = time.perf_counter()
        self._session.run_with_iobinding(io, run_options)
        self.seconds += time.perf_counter() - started
        self.runs += 1


def steps(model: edge.Model, tokens: int) -> int:
    """Decodes without choosing."""
    step = model.session.step
    for token in range(400, 400 + tokens):
        step(token)
    return tokens


def spent(model: edge.Model, timed: Timed, loop: str, tokens: int) -> dict[str, float]:
    """Seconds within the engine and around it, for each token."""
    session = model.session
    session.reset()
    sampling = edge.Sampling(seed=7, ignore_eos=True)
    if loop == "step":
        session.prefill(PROMPT)
        pieces = None
    elif loop == "text":
        pieces = model.stream(PROMPT, max_tokens=tokens + 1, sampling=sampling)
    else:
        chosen = edge.Sampling(temperature=0, ignore_eos=True) if loop == "greedy" else sampling
        pieces = session.stream(PROMPT, max_tokens=tokens + 1, sampling=chosen)
    if pieces is not None:
        next(pieces)
    timed.seconds, timed.runs = 0.0, 0
    started = time.perf_counter()
    if pieces is None:
        steps(model, tokens)
    else:
        for _ in pieces:
            pass
    wall_s = time.perf_counter() - started
    return {
        "share": wall_s / timed.seconds - 1,
        "above_us": 1e6 * (wall_s - timed.seconds) / timed.runs,
        "run_us": 1e6 * timed.seconds / timed.runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    with edge.load(given.folder, threads=given.threads, context_tokens=1024) as model:
        decoder = model.session.native.decoder  # what a session of this backend keeps inside
        timed = decoder._session = Timed(decoder._session)
        print("{}", flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(spent(model, timed, asked["loop"], asked["tokens"])), flush=True)


if __name__ == "__main__":
    main()
