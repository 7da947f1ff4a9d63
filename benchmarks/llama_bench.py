"""Our pp512 and tg128 against llama-bench's, same file, same threads, in interleaved rounds.

    python benchmarks/llama_bench.py --llama-bench PATH [--models 15m,qwen2.5-0.5b] [--rounds 7]

Both sides run the same protocol in a process of their own. The figure is the median over rounds of
ours / theirs; the rounds alternate who goes first, so that drift of the machine hits both alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import shapes

from edge_runtime import statistics
from edge_runtime.artifact import Artifact
from edge_runtime.measurement import SessionOptions, Workload, decode_workload, prefill_workload
from edge_runtime.profiler import Plan, measure


def ours(artifact: Artifact, workload: Workload, threads: int, repeats: int) -> float:
    """Mean rate of a few repetitions in one child process."""
    plan = Plan(min_runs=repeats, max_runs=repeats, budget_s=600)
    record = measure(artifact, workload, SessionOptions(threads=threads), plan=plan)
    rates = record.decode_samples or record.prefill_samples
    return statistics.mean(rates)


def theirs(
    binary: str, artifact: Artifact, workload: Workload, threads: int, repeats: int
) -> float:
    """llama-bench's mean rate of as many repetitions."""
    command = [
        binary, "-m", str(artifact.path), "-t", str(threads), "-r", str(repeats), "-o", "json",
        "-p", str(workload.prompt_tokens), "-n", str(workload.generate_tokens),
    ]  # fmt: skip
    out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return float(json.loads(out)[0]["avg_ts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--models", default="15m,qwen2.5-0.5b")
    parser.add_argument("--level", default="Q4_K_M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.models.split(","):
            artifact = shapes.artifact(name, given.level, Path(scratch))
            for workload in (decode_workload(128), prefill_workload(512)):
                pairs = []
                for turn in range(given.rounds):
                    sides = [
                        lambda a=artifact, w=workload: ours(a, w, given.threads, given.repeats),
                        lambda a=artifact, w=workload: theirs(
                            given.llama_bench, a, w, given.threads, given.repeats
                        ),
                    ]
                    order = (0, 1) if turn % 2 == 0 else (1, 0)
                    rates = {side: sides[side]() for side in order}
                    pairs.append((rates[0], rates[1]))
                ratios = [a / b for a, b in pairs]
                figures.append(
                    {
                        "model": name, "level": given.level, "workload": workload.name,
                        "threads": given.threads,
                        "ratio_ours_over_llama_bench": statistics.median(ratios),
                        "ratios": ratios,
                        "ours_tokens_per_s": [a for a, _ in pairs],
                        "llama_bench_tokens_per_s": [b for _, b in pairs],
                    }
                )  # fmt: skip
    print(json.dumps({"benchmark": "llama_bench", "figures": figures}))


if __name__ == "__main__":
    main()
