"""Our scores of a text against llama-perplexity's: the same numbers, and how long they take.

    python benchmarks/perplexity.py --llama-perplexity PATH [--speeds 15m,qwen2.5-0.5b] [--rounds 5]

First the shipped model at a few levels, its F16 artifact the reference: both sides score the same
text in the same passages, ours through `edge_runtime.quality.score` with the compact reference and
with an exact one, theirs with --kl-divergence. Then the shipped model and synthetic shapes for
speed: both sides score the same tokens in processes of their own, in rounds that alternate who goes
first; loading and tokenizing are left out on both sides. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import shapes

import quantize
from edge_runtime import backends, statistics
from edge_runtime.artifact import Artifact
from edge_runtime.comparison.quality_statistics import quality_of
from edge_runtime.comparison.rows import Quality
from edge_runtime.measurement import SessionOptions
from edge_runtime.quality.evaluate import score
from edge_runtime.quality.passages import cut
from edge_runtime.quality.scoring import score_passages
from edge_runtime.quality.text import Text, read_text

TINY = Path(__file__).parents[1] / "edge_runtime" / "tiny_model"
CONTEXT = 512
_FIGURES = {
    "perplexity": r"Mean PPL\(Q\)\s*:\s*(\S+) ±\s*(\S+)",
    "ln_ppl_ratio": r"Mean ln\(PPL\(Q\)/PPL\(base\)\)\s*:\s*(\S+) ±\s*(\S+)",
    "kl": r"Mean\s+KLD:\s*(\S+) ±\s*(\S+)",
    "kl_median": r"Median\s+KLD:\s*(\S+)",
    "kl_p99": r"99\.0%\s+KLD:\s*(\S+)",
    "kl_max": r"Maximum KLD:\s*(\S+)",
    "p_change_mean": r"Mean\s+Δp:\s*(\S+) ±\s*(\S+) %",
    "p_change_rms": r"RMS Δp\s*:\s*(\S+) ±\s*(\S+) %",
    "top1_agreement": r"Same top p:\s*(\S+) ±\s*(\S+) %",
}
_TRIES = 9
_PER_CENT = ("p_change_mean", "p_change_rms", "top1_agreement")
_STAMP = r"(\d+)\.(\d+)\.(\d+)\.(\d+) I "


class Theirs:
    """llama-perplexity with the options that both sides share."""

    def __init__(self, binary: str, text: Path, threads: int) -> None:
        self._command = [binary, "-f", str(text), "-t", str(threads), "-c", str(CONTEXT)]
        # Its libraries lie beside it where it was built and not installed.
        folder = str(Path(binary).resolve().parent)
        self._environment = {**os.environ, "LD_LIBRARY_PATH": folder}

    def _run(self, model: Path, *options: str, last: str) -> str:
        """All it says, up to and with what it says last.

        Now and then it ends before its log is written out: then it is run again.
        """
        command = [*self._command, "-m", str(model), "--log-timestamps", "--log-prefix", *options]
        for _ in range(_TRIES):
            done = subprocess.run(
                command, capture_output=True, check=True, text=True, env=self._environment
            )
            said = done.stdout + done.stderr
            if re.search(last, said):
                return said
        raise SystemExit(f"llama-perplexity never said {last!r}:\n{said[-2000:]}")

    def reference(self, model: Path, out: Path) -> list[float]:
        """Writes the logits of a reference; its perplexity with the standard error."""
        last = r"Final estimate: PPL = (\S+) \+/- (\S+)"
        return _numbers(last, self._run(model, "--kl-divergence-base", str(out), last=last))

    def figures(self, model: Path, base: Path) -> dict[str, list[float]]:
        """What it says of a model against a reference: values, standard errors behind them."""
        last = _FIGURES["top1_agreement"]
        said = self._run(model, "--kl-divergence", "--kl-divergence-base", str(base), last=last)
        found = {name: _numbers(pattern, said) for name, pattern in _FIGURES.items()}
        return {
            name: [number / 100 for number in numbers] if name in _PER_CENT else numbers
            for name, numbers in found.items()
        }

    def duration_s(self, model: Path, chunks: int) -> float:
        """How long evaluating and scoring so many chunks takes, by its own time stamps."""
        said = self._run(model, "--chunks", str(chunks), last="Final estimate")
        ends = [
            re.search(_STAMP + text, said)
            for text in ("perplexity: calculating perplexity over", "Final estimate")
        ]
        stamps = [tuple(map(int, end.groups())) for end in ends if end is not None]
        first, last = (60 * m + s + ms / 1e3 + us / 1e6 for m, s, ms, us in stamps)
        return last - first


def _numbers(pattern: str, said: str) -> list[float]:
    match = re.search(pattern, said)
    if match is None:
        raise SystemExit(f"llama-perplexity did not say {pattern!r}:\n{said[-2000:]}")
    return [float(number) for number in match.groups()]


def numbers(theirs: Theirs, text: Text, levels: list[str], threads: int, folder: Path) -> object:
    """Our figures beside theirs for some levels of the shipped model."""
    options = SessionOptions(threads=threads)
    whole = quantize.convert(TINY, folder / "F16.gguf", level="F16")
    base = folder / "base.logits"
    rows = [{"level": "F16", "theirs": {"perplexity": theirs.reference(whole.path, base)}}]
    kept = {"compact": folder / "compact.reference", "exact": folder / "exact.reference"}
    for name, path in kept.items():
        scores = score(
            whole, text, options, context_tokens=CONTEXT, make_reference=path,
            exact=name == "exact",
        )  # fmt: skip
        rows[0][name] = _plain(quality_of(scores))
    for level in levels:
        artifact = quantize.requantize(whole.path, folder / f"{level}.gguf", level)
        row = {"level": level, "theirs": theirs.figures(artifact.path, base)}
        for name, path in kept.items():
            scores = score(artifact, text, options, context_tokens=CONTEXT, reference=path)
            row[name] = _plain(quality_of(scores))
            row[f"{name}_over_theirs"] = {
                figure: row[name][figure][0] / value[0] for figure, value in row["theirs"].items()
            }
        rows.append(row)
    sizes = {name: path.stat().st_size for name, path in {**kept, "theirs": base}.items()}
    return {"levels": rows, "reference_bytes": sizes, "scored_tokens": scores.text.scored_tokens}


def _plain(quality: object) -> dict[str, list[float]]:
    assert isinstance(quality, Quality), quality
    found = {}
    for name in _FIGURES:
        value = getattr(quality, name)
        if value is not None:
            found[name] = (
                [value] if isinstance(value, float) else [value.value, value.standard_error]
            )
    return found


def score_once(path: Path, text: Path, chunks: int, threads: int) -> None:
    """Prints how long evaluating and scoring so many passages takes in this process."""
    options = SessionOptions(threads=threads, context_tokens=CONTEXT)
    with backends.backend("llama_cpp").open(Artifact.open(path), options) as session:
        session.step(0)  # the other side warms itself up too
        passages = cut(session, read_text(text), CONTEXT)[:chunks]
        begun = time.perf_counter()
        score_passages(session, passages)
        print(time.perf_counter() - begun)


def speed(theirs: Theirs, path: Path, text: Path, chunks: int, threads: int, rounds: int) -> object:
    """Their duration over ours for the same passages, in interleaved rounds."""
    command = [
        sys.executable, __file__, "--once", str(path), "--text", str(text),
        "--chunks", str(chunks), "--threads", str(threads),
    ]  # fmt: skip

    def ours() -> float:
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    sides = (ours, lambda: theirs.duration_s(path, chunks))
    pairs = []
    for turn in range(rounds):
        found = {side: sides[side]() for side in ((0, 1) if turn % 2 == 0 else (1, 0))}
        pairs.append((found[0], found[1]))
    ratios = [them / us for us, them in pairs]
    tokens = chunks * CONTEXT
    return {
        "model": path.name,
        "tokens": tokens,
        "threads": threads,
        "speed_ours_over_llama_perplexity": statistics.median(ratios),
        "ratios": ratios,
        "ours_tokens_per_s": [tokens / us for us, _ in pairs],
        "llama_perplexity_tokens_per_s": [tokens / them for _, them in pairs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-perplexity")
    parser.add_argument("--levels", default="Q8_0,Q4_K_M,Q4_0,Q2_K")
    parser.add_argument("--speeds", default="tiny,15m,qwen2.5-0.5b")
    parser.add_argument("--speed-level", default="Q4_K_M")
    parser.add_argument("--text", type=Path, default=TINY / "heldout.txt")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        score_once(given.once, given.text, given.chunks, given.threads)
        return
    theirs = Theirs(given.llama_perplexity, given.text, given.threads)
    figures: dict[str, object] = {"context_tokens": CONTEXT}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        levels = [level for level in given.levels.split(",") if level]
        if levels:
            text = read_text(given.text)
            figures["numbers"] = numbers(theirs, text, levels, given.threads, folder)
        figures["speeds"] = speeds = []
        for name in filter(None, given.speeds.split(",")):
            if name == "tiny":
                path = folder / "tiny.gguf"
                quantize.convert(TINY, path, level="F16")
            else:
                plain = shapes.artifact(name, given.speed_level, folder)
                path = shapes.with_vocabulary(plain, folder / f"{name}-words.gguf").path
                plain.path.unlink()
            speeds.append(
                speed(theirs, path, given.text, given.chunks, given.threads, given.rounds)
            )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
