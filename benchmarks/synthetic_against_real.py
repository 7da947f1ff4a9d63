"""Speed of a synthetic artifact against one with other weights, same shape and level, interleaved.

    python benchmarks/synthetic_against_real.py [--model qwen2.5-0.5b] [--levels Q8_0,Q4_K_M,Q4_0]

"Real" here is a file that llama.cpp's own quantizer made from Gaussian F16 weights of the shape:
its blocks have the statistics of a quantized model's, not those of our random bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import shapes
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from edge_runtime import statistics
from edge_runtime.artifact import Artifact, ModelShape
from edge_runtime.artifact.keys import metadata_of
from edge_runtime.measurement import SessionOptions, Workload
from edge_runtime.profiler import Plan, measure
from quantize import requantize, synthesize

WORKLOAD = Workload(name="pp128+tg32", prompt_tokens=128, generate_tokens=32)


def gaussian(shape: ModelShape, out: Path) -> Path:
    """An F16 GGUF of the shape with Gaussian weights of the usual scale, by the gguf package."""
    rng = np.random.default_rng(0)
    writer = GGUFWriter(out, shape.architecture)
    for pair in metadata_of(shape):
        if pair.key != f"{shape.architecture}.vocab_size":
            listed = isinstance(pair.value, tuple)
            writer.add_key_value(
                pair.key,
                list(pair.value) if listed else pair.value,
                GGUFValueType(int(pair.type)),
                sub_type=GGUFValueType.BOOL if listed else None,
            )
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    writer.add_uint32(f"{shape.architecture}.vocab_size", shape.vocabulary_tokens)
    writer.add_file_type(1)
    for tensor in shape.tensors:
        dims = tuple(reversed(tensor.dims))
        if len(dims) == 1:
            values = (
                np.zeros(dims, np.float32) if "bias" in tensor.name else np.ones(dims, np.float32)
            )
            writer.add_tensor(tensor.name, values)
        else:
            values = rng.standard_normal(dims, np.float32) * 0.02
            writer.add_tensor(
                tensor.name, values.astype(np.float16), raw_dtype=GGMLQuantizationType.F16
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-0.5b")
    parser.add_argument("--levels", default="Q8_0,Q4_K_M,Q4_0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    shape = shapes.shape(given.model)
    options = SessionOptions(threads=given.threads)
    plan = Plan(min_runs=2, max_runs=2, budget_s=600)
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        f16 = gaussian(shape, folder / "f16.gguf")
        for level in given.levels.split(","):
            real = requantize(f16, folder / f"real-{level}.gguf", level)
            synthetic = synthesize(shape, level, folder / f"synthetic-{level}.gguf")
            same = [(t.name, t.type.name, t.dims) for t in sorted_tensors(real)] == [
                (t.name, t.type.name, t.dims) for t in sorted_tensors(synthetic)
            ]
            decode, prefill = [], []
            for turn in range(given.rounds):
                order = (synthetic, real) if turn % 2 == 0 else (real, synthetic)
                records = {a.path: measure(a, WORKLOAD, options, plan=plan) for a in order}
                ours, theirs = records[synthetic.path], records[real.path]
                decode.append(
                    statistics.mean(ours.decode_samples) / statistics.mean(theirs.decode_samples)
                )
                prefill.append(
                    statistics.mean(ours.prefill_samples) / statistics.mean(theirs.prefill_samples)
                )
            for what, ratios in (("decode", decode), ("prefill", prefill)):
                figures.append(
                    {
                        "model": given.model, "level": level, "what": what, "same_tensors": same,
                        "ratio_synthetic_over_real": statistics.median(ratios), "ratios": ratios,
                    }
                )  # fmt: skip
            for artifact in (real, synthetic):
                artifact.path.unlink()
    print(json.dumps({"benchmark": "synthetic_against_real", "figures": figures}))


def sorted_tensors(artifact: Artifact) -> list:
    """Tensors by name: the quantizer's order in the file is its own."""
    return sorted(artifact.tensors, key=lambda tensor: tensor.name)


if __name__ == "__main__":
    main()
