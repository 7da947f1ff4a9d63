"""Measures one model at two levels and compares: python examples/compare_levels.py [MODEL].

Two intervals that do not overlap differ; two that do may not. Give a GGUF of high precision: it is
quantized here to both levels.
"""

import tempfile
from pathlib import Path

from tiny import model_path

import edge_runtime as edge
import quantize

LEVELS = ("Q8_0", "Q4_0")
PLAN = edge.Plan(budget_s=3)

source = Path(model_path())
rates = {}
with tempfile.TemporaryDirectory() as folder:
    for level in LEVELS:
        artifact = quantize.requantize(source, Path(folder) / f"{level}.gguf", level)
        record = edge.measure(artifact, edge.decode_workload(64), plan=PLAN)
        rate = record.decode_tokens_per_s
        assert rate is not None
        rates[level] = rate
        print(f"{level}: {rate.value:7.1f} tokens/s ({rate.low:.1f} to {rate.high:.1f})")

one, other = (rates[level] for level in LEVELS)
apart = one.high < other.low or other.high < one.low
times = f"{LEVELS[1]} runs at {other.value / one.value:.2f} times the rate of {LEVELS[0]}"
print(times + ("." if apart else "; the intervals overlap, so this may be chance."))
