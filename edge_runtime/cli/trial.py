"""A toy model run on an engine, to see that it computes here: what `edge doctor` believes.

An engine that is installed may still die of an instruction this processor lacks, so the trial is a
measurement like any other, in a child process. Its speed means nothing and is not kept.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..artifact import ModelShape
from ..basis import Unavailable
from ..errors import EdgeError
from ..measurement import SessionOptions, Workload

LEVELS = {"llama_cpp": "Q4_0", "onnx": "onnx:int4"}
"""The level the toy has for each engine: one whose kernels a real model would use."""

_TIMEOUT_S = 60.0


def toy_shape() -> ModelShape:
    """A llama of one layer."""
    return ModelShape.from_config(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 256,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
        name="toy",
    )


def try_engine(name: str) -> Unavailable | None:
    """Evaluates a few tokens on the engine of that name; why it does not compute, or None."""
    from quantize import synthesize

    from ..profiler import Plan, measure

    plan = Plan(
        warmups=0, min_runs=1, max_runs=1, budget_s=5, instruments=False, timeout_s=_TIMEOUT_S
    )
    workload = Workload(name="toy", prompt_tokens=8, generate_tokens=4)
    suffix = ".gguf" if name == "llama_cpp" else ""
    try:
        with tempfile.TemporaryDirectory(prefix="edge-doctor-") as folder:
            toy = synthesize(toy_shape(), LEVELS[name], Path(folder) / f"toy{suffix}")
            measure(toy, workload, SessionOptions(backend=name, threads=1), plan=plan)
    except EdgeError as error:
        return Unavailable(reason=f"{error.fact} {error.cause}".strip(), remedy=error.way_out)
    except OSError as error:
        return Unavailable(
            reason=f"no temporary folder for a trial: {error.strerror}",
            remedy="Set TMPDIR to a folder that can be written.",
        )
    return None
