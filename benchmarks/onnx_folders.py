"""Checkpoints of random weights and the ONNX folders made of them, kept in a work folder.

    python benchmarks/onnx_folders.py --work FOLDER [--models 135m,0.5b] [--layers N]

A checkpoint has the shape and the size of SmolLM2 135M or Qwen2.5 0.5B, in bf16, and a made-up
tokenizer of the right size. What lies in the work folder already is taken as it is.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import convert

LEVELS = ("int4", "int8", "fp32")
CONFIGS = {
    "135m": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49_152, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "rope_theta": 1e5, "tie_word_embeddings": True,
        "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 49_149,
        "eos_token_id": 49_151,
    },
    "0.5b": convert.SMALL,
}  # fmt: skip
"""What is measured, by name."""


def checkpoint(work: Path, model: str, layers: int | None = None) -> Path:
    """The checkpoint of a model, made once; `layers` are fewer ones, to try a script out."""
    path = work / f"checkpoint-{model}-{layers or 'all'}"
    if not path.exists():
        config = CONFIGS[model] | ({"num_hidden_layers": layers} if layers else {})
        unfinished = path.with_name(f"{path.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        convert.write_checkpoint(unfinished, config, sparse=False)
        unfinished.rename(path)
    return path


def folder(work: Path, model: str, level: str, layers: int | None = None) -> Path:
    """The ONNX folder of a model at a level, converted once."""
    import quantize

    path = work / f"onnx-{model}-{level}-{layers or 'all'}"
    if not path.exists():
        quantize.convert(checkpoint(work, model, layers), path, level=f"onnx:{level}")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", default=",".join(CONFIGS))
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--layers", type=int, help="fewer layers, to try a script out")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    for model in given.models.split(","):
        for level in given.levels.split(","):
            print(folder(given.work, model, level, given.layers))


if __name__ == "__main__":
    main()
