"""How long `edge --help`, `import edge_runtime` and opening a large vocabulary take.

    python benchmarks/startup.py [--rounds 15]

Wall time of whole processes, the bare interpreter's own start beside them; and, inside one process,
`Artifact.open` of a file with 152k tokens, merges and types.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import shapes

from edge_runtime import statistics
from edge_runtime.artifact import Artifact, ModelShape
from quantize import synthesize

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import edge_runtime": [sys.executable, "-c", "import edge_runtime"],
    "edge --help": [sys.executable, "-m", "edge_runtime", "--help"],
}


def opening_ms(rounds: int) -> float:
    """Median time to open a file with as many tokens, merges and types as Qwen has tokens."""
    config = {**shapes.STORIES_15M, "hidden_size": 64, "num_attention_heads": 1,
              "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 151_936}  # fmt: skip
    shape = ModelShape.from_config(config, name="large-vocabulary")
    with tempfile.TemporaryDirectory() as scratch:
        plain = synthesize(shape, "Q8_0", Path(scratch) / "plain.gguf")
        path = shapes.with_vocabulary(plain, Path(scratch) / "words.gguf", merges=151_936).path
        spent = []
        for _ in range(rounds):
            started = time.perf_counter()
            Artifact.open(path)
            spent.append(time.perf_counter() - started)
    return 1e3 * statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(given.rounds):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=os.environ)
            seconds[name].append(time.perf_counter() - started)
    bare = statistics.median(seconds["python"])
    print(
        json.dumps(
            {
                "benchmark": "startup",
                "median_ms": {n: 1e3 * statistics.median(s) for n, s in seconds.items()},
                "import_above_bare_ms": 1e3
                * (statistics.median(seconds["import edge_runtime"]) - bare),
                "best_ms": {name: 1e3 * min(s) for name, s in seconds.items()},
                "open_152k_tokens_ms": opening_ms(given.rounds),
            }
        )
    )


if __name__ == "__main__":
    main()
