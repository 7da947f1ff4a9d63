"""ONNX: this project against onnxruntime-genai, on the same folders and in the same call.

    python benchmarks/genai.py [speed depth memory overhead convert quality] [--work FOLDER]

    speed     prefill and decode rates at a prompt of 128 and 64 steps
    depth     decode rates behind 128 and behind 1,024 tokens
    memory    the largest resident size of a prefill of 1,024 tokens, in fresh processes
    overhead  our loop's time per token beyond `InferenceSession.run`
    convert   a bf16 checkpoint to int4, against genai's model builder: wall and peak memory
    quality   KL divergence and top-1 agreement with fp32 on held-out text, against genai's builder

Without a part, all of them; one JSON document on stdout. Rates are compared as ratios of runs that
take turns; the first round is not counted. Every engine is a process of its own, `--loads` times.

Models have random weights (quality: the trained one that ships). Folders are made in `--work` when
they are not there, and kept; without it they lie in a scratch folder. The builder needs torch and
transformers: `--builder-python` is an interpreter that has it, `--builder-path` what goes in front
of its `sys.path`; without either, `convert` gives our side only and `quality` likewise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import onnx_builder
import onnx_folders
import onnx_quality
from convert import ROOT

from edge_runtime import statistics

HERE = Path(__file__).resolve().parent
SIDES = ("ours", "genai")


class Child:
    """A process that answers each request, see onnx_engines.py."""

    def __init__(self, script: str, *arguments: object) -> None:
        command = [sys.executable, HERE / script, *arguments]
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=onnx_builder.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.loaded = self._answer()

    def ask(self, **request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._process.args} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


def turns(round_: int) -> tuple[str, ...]:
    """Who goes first changes."""
    return SIDES if round_ % 2 == 0 else SIDES[::-1]


def engine(side: str, folder: Path, given: argparse.Namespace, context: int) -> Child:
    """An engine with a folder, loaded."""
    asked = ("--threads", given.threads, "--context", context)
    return Child("onnx_engines.py", side, folder, *asked)


def raced(folder: Path, given: argparse.Namespace, requests: list[dict[str, int]]) -> list[dict]:
    """For each request the answers of both sides, in turns: one entry per counted round."""
    context = max(asked["prompt"] + asked["generate"] for asked in requests)
    rounds: list[dict] = []
    for load in range(given.loads):
        with ExitStack() as running:
            # Both stay loaded: an idle engine's threads sleep after some milliseconds.
            children = {
                side: running.enter_context(engine(side, folder, given, context))
                for side in turns(load)
            }
            for turn in range(given.rounds + 1):
                answers: dict = {}
                for at, asked in enumerate(requests):
                    for side in turns(turn + at):
                        answers.setdefault(at, {})[side] = children[side].ask(**asked)
                if turn:
                    rounds.append(answers)
    return rounds


def rates(rounds: list[dict], at: int, what: str, tokens: str | int) -> dict[str, Any]:
    """Tokens per second of both sides and their ratios: medians and every sample."""

    def rate(answer: dict) -> float:
        count = answer[tokens] if isinstance(tokens, str) else tokens
        return float(count / answer[what])

    samples = {side: [rate(answers[at][side]) for answers in rounds] for side in SIDES}
    ratios = [a / b for a, b in zip(*samples.values(), strict=True)]
    return {
        "ratio_ours_over_genai": statistics.median(ratios),
        **{f"{side}_tokens_per_s": statistics.median(samples[side]) for side in SIDES},
        "ratios": ratios,
        **{f"{side}_samples": samples[side] for side in SIDES},
    }


def speed(work: Path, given: argparse.Namespace) -> list[dict]:
    """Prefill and decode of each model at each level."""
    figures = []
    for model in given.models.split(","):
        for level in given.levels.split(","):
            folder = onnx_folders.folder(work, model, level, given.layers)
            asked = {"prompt": given.prompt, "generate": given.steps + 1}
            rounds = raced(folder, given, [asked])
            figures.append(
                {
                    "model": model, "level": level,
                    "prefill": rates(rounds, 0, "prefill_s", given.prompt),
                    "decode": rates(rounds, 0, "decode_s", "steps"),
                }
            )  # fmt: skip
    return figures


def depth(work: Path, given: argparse.Namespace) -> list[dict]:
    """Decode behind a short prompt and a long one, in the same processes."""
    figures = []
    for model in given.models.split(","):
        folder = onnx_folders.folder(work, model, "int4", given.layers)
        depths = (128, given.depth)
        asked = [{"prompt": tokens, "generate": given.depth_steps + 1} for tokens in depths]
        rounds = raced(folder, given, asked)
        behind = {
            tokens: rates(rounds, at, "decode_s", "steps") for at, tokens in enumerate(depths)
        }
        kept = {
            side: statistics.median(
                [answers[0][side]["decode_s"] / answers[1][side]["decode_s"] for answers in rounds]
            )
            for side in SIDES
        }
        figures.append(
            {
                "model": model, "level": "int4", "rate_kept_at_depth": kept,
                "decode_behind": {str(tokens): found for tokens, found in behind.items()},
                "prefill_of_depth": rates(rounds, 1, "prefill_s", given.depth),
            }
        )  # fmt: skip
    return figures


def memory(work: Path, given: argparse.Namespace) -> list[dict]:
    """The largest resident size of a process that loads and prefills, MB; medians of each side."""
    figures = []
    for level in given.levels.split(","):
        folder = onnx_folders.folder(work, given.large, level, given.layers)
        found: dict[str, list[dict]] = {side: [] for side in SIDES}
        for load in range(given.loads):
            for side in turns(load):
                with engine(side, folder, given, given.depth + 1) as child:
                    answer = child.ask(prompt=given.depth, generate=1)
                    found[side].append({**child.loaded, **answer})
        each = {
            side: {
                "peak_mb": statistics.median(
                    [max(one["load_peak_mb"], one["peak_mb"]) for one in answers]
                ),
                "while_loading_mb": statistics.median([one["load_peak_mb"] for one in answers]),
                "while_prefilling_mb": statistics.median([one["peak_mb"] for one in answers]),
                "held_after_loading_mb": statistics.median([one["loaded_mb"] for one in answers]),
                "load_s": statistics.median([one["load_s"] for one in answers]),
            }
            for side, answers in found.items()
        }
        ratio = each["ours"]["peak_mb"] / each["genai"]["peak_mb"]
        figures.append(
            {"model": given.large, "level": level, "prompt": given.depth,
             "peak_ratio_ours_over_genai": ratio, **each}
        )  # fmt: skip
    return figures


def overhead(work: Path, given: argparse.Namespace) -> list[dict]:
    """Time of the whole loop beyond the engine's own, in one process."""
    folder = onnx_folders.folder(work, given.small, "int4", given.layers)
    with Child("onnx_overhead.py", folder, "--threads", given.threads) as child:
        figures = []
        for loop in ("step", "greedy", "sampling", "text"):
            shares = [child.ask(loop=loop, tokens=256) for _ in range(given.rounds + 1)][1:]
            figures.append(
                {
                    "model": given.small, "level": "int4", "loop": loop,
                    "share_above_run": statistics.median([one["share"] for one in shares]),
                    "above_run_us": statistics.median([one["above_us"] for one in shares]),
                    "run_us": statistics.median([one["run_us"] for one in shares]),
                    "shares": [one["share"] for one in shares],
                }
            )  # fmt: skip
    return figures


PARTS = {
    "speed": speed,
    "depth": depth,
    "memory": memory,
    "overhead": overhead,
    "convert": onnx_builder.convert_compared,
    "quality": onnx_quality.compared,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART")
    parser.add_argument("--work", type=Path, help="a folder on a disk with room, kept")
    parser.add_argument("--models", default=",".join(onnx_folders.CONFIGS))
    parser.add_argument("--levels", default=",".join(onnx_folders.LEVELS))
    parser.add_argument("--small", default="135m", help="model of the overhead")
    parser.add_argument("--large", default="0.5b", help="model of memory and conversion")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--depth", type=int, default=1024)
    parser.add_argument("--depth-steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4, help="counted ones, for each load")
    parser.add_argument("--loads", type=int, default=2, help="how often each engine is started")
    parser.add_argument("--builder-python", help="an interpreter that can run genai's builder")
    parser.add_argument("--builder-path", help="PYTHONPATH of the builder")
    parser.add_argument("--layers", type=int, help="fewer layers, to try the script out")
    given = parser.parse_args()
    with ExitStack() as scratch:
        work = given.work
        if work is None:
            work = Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="genai-")))
        work.mkdir(parents=True, exist_ok=True)
        settings = {
            name: getattr(given, name)
            for name in ("threads", "prompt", "steps", "depth", "rounds", "loads", "layers")
        }
        figures = {name: PARTS[name](work, given) for name in given.parts or PARTS}
    print(json.dumps({"benchmark": "genai", "settings": settings, "figures": figures}))


if __name__ == "__main__":
    main()
