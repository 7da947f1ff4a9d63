"""What levels cost in quality, on a small trained model: ours against genai's model builder.

    python benchmarks/onnx_quality.py REFERENCE FOLDER...

Each level is made twice from the shipped model: here, and by the builder with the same block size
and algorithm. Every folder then reads the same held-out text in windows of 256 tokens, and its
distribution at every position is compared with that of our fp32: the mean KL divergence in nats,
and how often the likeliest token is the same. Graphs run in plain ONNX Runtime, all positions at
once, so that no engine of either side takes part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx_builder
from convert import ROOT

TINY = ROOT / "edge_runtime" / "tiny_model"
TEXT = TINY / "heldout.txt"
WINDOW = 256

Options = dict[str, Any]
LEVELS: dict[str, tuple[str, Options, tuple[str, ...]]] = {
    "int8": ("int8", {}, ()),
    "int4 rtn": ("int4", {}, ("algo_config=rtn",)),
    "int4 k_quant": ("int4", {"algorithm": "k_quant"}, ("algo_config=k_quant",)),
    "int4 k_quant, 8-bit head": (
        "int4",
        {"algorithm": "k_quant", "head_bits": 8},
        ("algo_config=k_quant", "matmul_mixed_precision=last_matmul:int8"),
    ),
    "int4 k_quant mixed": (
        "int4",
        {"algorithm": "k_quant", "head_bits": 8, "sensitive_bits": 8},
        ("algo_config=k_quant", "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8"),
    ),
}
"""By name: the level, our options, the builder's."""
BLOCK_SIZES = (32, 128)


def compared(_: Path, given: argparse.Namespace) -> list[dict]:
    """Every level at every block size by both sides."""
    from quantize.onnx.conversion import convert_onnx
    from quantize.onnx.levels import onnx_level

    with tempfile.TemporaryDirectory(prefix="quality-") as scratch:
        work = Path(scratch)
        convert_onnx(TINY, work / "fp32", level="fp32")
        made: list[tuple[str, str, int, Path]] = []
        for name, (level, options, theirs) in LEVELS.items():
            for size in BLOCK_SIZES:
                out = work / f"{len(made)}"
                chosen = onnx_level(level).with_options(**options, block_size=size)
                convert_onnx(TINY, out, level=chosen)
                made.append(("ours", name, size, out))
                if onnx_builder.offered(given):
                    out = work / f"{len(made)}"
                    asked = (*theirs, f"block_size={size}")
                    onnx_builder.build(given, TINY, out, level, asked)
                    made.append(("builder", name, size, out))
        command = [sys.executable, Path(__file__).resolve(), work / "fp32", *(m[3] for m in made)]
        done = subprocess.run(
            [str(part) for part in command],
            env=onnx_builder.environment(),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = json.loads(done.stdout)
        figures: dict[tuple[str, int], dict] = {}
        for (side, name, size, out), figure in zip(made, found, strict=True):
            files = sum(path.stat().st_size for path in out.glob("model.onnx*"))
            entry = figures.setdefault((name, size), {"level": name, "block_size": size})
            entry[side] = {**figure, "kib": files / 1024}
        return list(figures.values())


def log_probabilities(folder: Path, windows: list[list[int]]) -> Any:
    """What a folder's model expects after every token, float64 (tokens, vocabulary)."""
    import numpy as np
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3  # errors
    session = ort.InferenceSession(
        str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"]
    )
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    rows = []
    for window in windows:
        feeds = {}
        for item in session.get_inputs():
            if item.name == "input_ids":
                feeds[item.name] = np.array([window])
            elif item.name in ("attention_mask", "position_ids"):
                ones = np.ones((1, len(window)), np.int64)
                feeds[item.name] = ones if item.name == "attention_mask" else ones.cumsum(1) - 1
            elif item.name.startswith("past"):
                feeds[item.name] = empty
        (logits,) = session.run(["logits"], feeds)
        rows.append(logits[0].astype(np.float64))
    logits = np.concatenate(rows)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def main() -> None:
    import numpy as np
    from tokenizers import Tokenizer

    reference, *folders = map(Path, sys.argv[1:])
    ids = Tokenizer.from_file(str(reference / "tokenizer.json")).encode(TEXT.read_text("utf-8")).ids
    windows = [ids[at : at + WINDOW] for at in range(0, len(ids) - WINDOW + 1, WINDOW)]
    wanted = log_probabilities(reference, windows)
    figures = []
    for folder in folders:
        found = log_probabilities(folder, windows)
        divergence = (np.exp(wanted) * (wanted - found)).sum(axis=1)
        agree = wanted.argmax(axis=1) == found.argmax(axis=1)
        figures.append(
            {
                "kl_nats": float(divergence.mean()),
                "top1": float(agree.mean()),
                "positions": len(agree),
            }
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
