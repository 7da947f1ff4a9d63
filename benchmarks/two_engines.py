"""Both engines on the same model: how far their levels are from the unquantized model.

    python benchmarks/two_engines.py                  # KL and top-1 of every level, as JSON
    python benchmarks/two_engines.py --memory         # what ONNX Runtime holds, by shape and level

Quality is that of the shipped tiny model on its own `heldout.txt`, against its unquantized
GGUF: the mean Kullback-Leibler divergence of the next token's distribution in nats, the share of
positions where the likeliest token is the same, and perplexity. It is a small model, trained on
little; the order of the levels says more than the numbers.

`--memory` makes synthetic models and reads the measuring child's anonymous memory: the figures
behind `edge_runtime/memory_needs.py`.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import profiles
import quantize
from edge_runtime.artifact import Artifact, ModelShape
from edge_runtime.backends import backend_for
from edge_runtime.measurement import SessionOptions, Workload
from edge_runtime.memory import Memory
from edge_runtime.profiler import Plan, measure

LEVELS = ("F32", "F16", "Q8_0", "Q4_K_M", "Q4_0",
          "onnx:fp32", "onnx:fp16", "onnx:int8", "onnx:int4")  # fmt: skip
HELDOUT = Path(str(importlib.resources.files("edge_runtime") / "tiny_model" / "heldout.txt"))
CHUNK_TOKENS = 256
SHAPES = (("smollm2-135m", None), ("qwen2.5-0.5b", None), ("llama-3.2-1b", 8))
MIB = 1024**2

Logits = npt.NDArray[np.float64]


def main() -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory", action="store_true", help="ONNX Runtime's memory instead")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of text to compare on")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = memory(Path(folder)) if asked.memory else quality(Path(folder), asked.tokens)
        json.dump(list(rows), sys.stdout, indent=1)
    sys.stdout.write("\n")


def quality(folder: Path, tokens: int) -> Iterator[dict[str, object]]:
    """A row per level: what it stores and what that costs."""
    source = Path(str(importlib.resources.files("edge_runtime") / "tiny_model"))
    right: list[Logits] = []
    for name, level in levels():
        suffix = "" if quantize.is_onnx_level(level) else ".gguf"
        out = folder / (name.replace(":", "-").replace(" ", "-") + suffix)
        artifact = quantize.convert(source, out, level=level)
        found = list(distributions(artifact, tokens))
        right = right or found
        yield {
            "level": name,
            "engine": "onnx" if artifact.format == "onnx" else "llama_cpp",
            "bytes": artifact.size_bytes,
            **compared(right, found),
        }


def levels() -> Iterator[tuple[str, str | quantize.OnnxLevel]]:
    """Levels by name; then int4 with what it can be made better by."""
    yield from ((name, name) for name in LEVELS)
    int4 = quantize.onnx_level("onnx:int4")
    yield "onnx:int4 head 8", int4.with_options(head_bits=8)
    yield "onnx:int4 k_quant head 8", int4.with_options(algorithm="k_quant", head_bits=8)
    yield (
        "onnx:int4 k_quant mixed",
        int4.with_options(algorithm="k_quant", head_bits=8, sensitive_bits=8),
    )


def distributions(artifact: Artifact, tokens: int) -> Iterator[Logits]:
    """Log-probabilities after each token of the text, in chunks, shape (tokens, vocabulary)."""
    options = SessionOptions(context_tokens=CHUNK_TOKENS)
    session = backend_for(artifact, options.backend).open(artifact, options)
    text = session.tokenize(HELDOUT.read_text("utf-8"))[:tokens]
    for start in range(0, len(text) - 1, CHUNK_TOKENS):
        session.reset()
        rows = []
        for token in text[start : start + CHUNK_TOKENS]:
            session.step(token)
            rows.append(np.asarray(session.logits(), np.float64))
        logits = np.array(rows)
        logits -= logits.max(axis=1, keepdims=True)
        yield logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    session.close()


def compared(right: list[Logits], found: list[Logits]) -> dict[str, float]:
    """The divergence of what is found from what is right, and how often both choose alike."""
    kl = np.concatenate(
        [(np.exp(r) * (r - f)).sum(axis=1) for r, f in zip(right, found, strict=True)]
    )
    same = np.concatenate(
        [r.argmax(axis=1) == f.argmax(axis=1) for r, f in zip(right, found, strict=True)]
    )
    return {
        "kl_mean": float(kl.mean()),
        "kl_p99": float(np.percentile(kl, 99)),
        "top1": float(same.mean()),
        "positions": len(kl),
    }


def memory(folder: Path) -> Iterator[dict[str, object]]:
    """A row per shape and level: anonymous memory while loading, in a prompt and decoding."""
    workload = Workload(name="pp512+tg16", prompt_tokens=512, generate_tokens=16)
    plan = Plan(warmups=0, min_runs=1, max_runs=1, budget_s=1)
    for name, layers in SHAPES:
        shape = ModelShape.from_config(profiles.models()[name].config, name=name)
        for level in LEVELS:
            if not quantize.is_onnx_level(level):
                continue
            artifact = quantize.synthesize(shape, level, folder / "model", layers=layers)
            options = SessionOptions(backend="onnx", context_tokens=2048)
            found = measure(artifact, workload, options, plan=plan).memory
            if not isinstance(found, Memory):
                raise SystemExit(f"no memory readings here: {found.reason}")
            cache = artifact.kv_bytes(workload.total_tokens)
            anonymous = {phase.phase: phase.anonymous_bytes / MIB for phase in found.phases}
            yield {
                "shape": name,
                "layers": artifact.shape.layers,
                "level": level,
                "weights_mib": artifact.weight_bytes / MIB,
                "idle_mib": found.baseline_bytes / MIB,
                "cache_run_mib": cache / MIB,
                "anonymous_mib": anonymous,
                "held_by_weights": math.nan
                if not artifact.weight_bytes
                else (anonymous["load"] - found.baseline_bytes / 2 / MIB)
                * MIB
                / artifact.weight_bytes,
            }


if __name__ == "__main__":
    main()
