"""One checkpoint on llama.cpp and on ONNX Runtime: python examples/two_engines.py [CHECKPOINT].

A level names its engine. Everything after the conversion is the same for both. Without an argument
the tiny checkpoint that ships is taken.
"""

import sys
import tempfile
from pathlib import Path

import edge_runtime as edge
import quantize

LEVELS = ("Q8_0", "Q4_K_M", "onnx:int8", "onnx:int4")
PROMPT = "Once upon a time"

shipped = Path(edge.__file__).with_name("tiny_model")
checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else shipped
with tempfile.TemporaryDirectory() as folder:
    for level in LEVELS:
        out = Path(folder) / (level.replace(":", "-") if ":" in level else f"{level}.gguf")
        artifact = quantize.convert(checkpoint, out, level=level)
        with edge.load(artifact.path, context_tokens=256) as model:
            text = model.generate(PROMPT, max_tokens=16, sampling=edge.Sampling(temperature=0))
        record = edge.measure(artifact, edge.decode_workload(64), plan=edge.Plan(budget_s=1))
        rate = record.decode_tokens_per_s
        assert rate is not None
        size = artifact.size_bytes / 2**20
        print(f"{level:9} {size:4.1f} MiB {rate.value:7.0f} tokens/s  {PROMPT}{text}")
