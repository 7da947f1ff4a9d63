"""How long `edge --help` and `import edge_runtime` take in a fresh interpreter.

    python benchmarks/startup.py [--rounds 15]

Wall time of whole processes; the bare interpreter's own start is reported beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from edge_runtime import statistics

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import edge_runtime": [sys.executable, "-c", "import edge_runtime"],
    "edge --help": [sys.executable, "-m", "edge_runtime", "--help"],
}


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
            }
        )
    )


if __name__ == "__main__":
    main()
