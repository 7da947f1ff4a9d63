"""Lays two levels of one model on one table: python examples/compare_levels.py [MODEL].

Give a GGUF of high precision: it is quantized here to both levels, and they are held against it.
"""

import tempfile
from pathlib import Path

from tiny import model_path

import edge_runtime as edge
import quantize

source = Path(model_path())
with tempfile.TemporaryDirectory() as folder:
    levels = (
        quantize.requantize(source, Path(folder) / f"{level}.gguf", level).path
        for level in ("Q8_0", "Q2_K")
    )
    comparison = edge.compare([source, *levels], rounds=2, workloads=[edge.decode_workload(64)])

for row in comparison.to_records():
    if row["kl"] is not None:
        print(f"{row['label']}: KL {row['kl']:.5f}, {row['decode_ratio']:.2f} times the rate")
print(comparison.recommendation)
