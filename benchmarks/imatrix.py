"""Importance matrices: ours against llama-imatrix, and what one buys at low levels.

    python benchmarks/imatrix.py [--llama-imatrix BIN] [--model F16.gguf --calibrate TEXT]
                                 [--evaluate TEXT] [--shape qwen2.5-0.5b --rounds 3]

The shipped model is calibrated on stories that neither its training nor its held-out text has. Both
tools read the same text in the same passages; `llama-imatrix` runs twice, with one passage to a
batch as here (`-b`) and with its own batches. Compared are the counts, the sums (largest relative
difference of any column) and the wall time of the whole process, in turns. With `--shape` the time
is also taken on a model of that shape with random weights, whose sums mean nothing.

Then every level is made without and with the matrix and scored on the evaluation text against the
F16 file: mean KL divergence in nats with its standard error, the difference of the two token by
token, perplexity, and how often the likeliest token is the same. A level that needs a matrix says
so where there is none.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import shapes

from edge_runtime import statistics
from edge_runtime.artifact import Artifact
from edge_runtime.comparison.quality_statistics import quality_of
from edge_runtime.errors import UnsupportedError
from edge_runtime.quality.evaluate import score
from edge_runtime.quality.text import Text, held_out_stories, read_text
from quantize import QuantizeOptions, calibrate, check_apart, convert, imatrix, requantize

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "edge_runtime" / "tiny_model"
LEVELS = ("Q2_K_S", "Q2_K", "IQ2_XS", "IQ3_XXS", "Q3_K_M", "IQ3_S", "IQ4_XS", "Q4_K_M")
SEED, STORIES = 987_654, 60
CONTEXT = 512
SHAPE_TOKENS = 2 * CONTEXT


def stories(path: Path) -> Path:
    """Stories of a seed that neither the training nor the held-out text has."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import tiny_corpus

    path.write_text(tiny_corpus.collection(random.Random(SEED), STORIES), "utf-8")
    return path


def ours(model: Path, text: Path, out: Path, threads: int) -> float:
    """Seconds from starting our child process until the file is read back."""
    started = time.perf_counter()
    calibrate(model, text, out, context_tokens=CONTEXT, threads=threads, overwrite=True)
    return time.perf_counter() - started


def theirs(binary: Path, model: Path, text: Path, out: Path, threads: int, *more: str) -> float:
    """Seconds of llama-imatrix from its start to its end; it leaves perplexity alone, as we do."""
    command = [binary, "-m", model, "-f", text, "-o", out, "-c", CONTEXT, "-t", threads, "--no-ppl"]
    started = time.perf_counter()
    subprocess.run([*map(str, command), *more], check=True, capture_output=True)
    return time.perf_counter() - started


def difference(one: Path, other: Path) -> dict:
    """How far two matrices are apart."""
    a, b = ({e.name: e for e in imatrix.read(path).entries} for path in (one, other))
    apart = 0.0
    for name in a.keys() & b.keys():
        left, right = a[name].sums.astype(float), b[name].sums.astype(float)
        apart = max(apart, float(np.max(np.abs(left - right) / np.maximum(right, 1e-30))))
    counts = all(np.array_equal(a[name].counts, b[name].counts) for name in a.keys() & b.keys())
    return {
        "entries": len(a),
        "same_names": a.keys() == b.keys(),
        "same_counts": counts,
        "largest_relative_difference_of_a_sum": apart,
    }


def against(binary: Path, model: Path, text: Path, work: Path, given: argparse.Namespace) -> dict:
    """Both tools on one model, in turns."""
    one, same, usual = (work / f"{name}-imatrix.gguf" for name in ("ours", "same", "usual"))
    pairs = [
        (
            ours(model, text, one, given.threads),
            theirs(binary, model, text, usual, given.threads),
        )
        for _ in range(given.rounds)
    ]
    theirs(binary, model, text, same, given.threads, "-b", str(CONTEXT))
    return {
        "one_passage_a_batch": difference(one, same),
        "its_own_batches": difference(one, usual),
        "ours_s": statistics.median([a for a, _ in pairs]),
        "llama_imatrix_s": statistics.median([b for _, b in pairs]),
        "ours_over_llama_imatrix": statistics.median([a / b for a, b in pairs]),
        "ratios": [a / b for a, b in pairs],
    }


def random_model(name: str, work: Path) -> Path:
    """A model of a shape that passes for a trained one: calibrating refuses random weights."""
    bare = shapes.artifact(name, "F16", work)
    made = shapes.with_vocabulary(bare, work / f"{name}-words.gguf")
    bare.path.unlink()
    with made.path.open("r+b") as file:
        head = file.read(1 << 16)
        at = head.index(b"edge_runtime.synthetic")
        file.seek(at)
        file.write(b"edge_runtime.benchmark")
    return made.path


def bought(model: Path, matrix: Path, evaluation: Text, work: Path, threads: int) -> list[dict]:
    """Every level without and with the matrix, scored against the model."""
    reference = work / "reference.bin"
    score(Artifact.open(model), evaluation, context_tokens=CONTEXT, make_reference=reference)
    rows = []
    for level in LEVELS:
        row: dict = {"level": level}
        losses = {}
        for key, path in (("without", None), ("with", matrix)):
            options = QuantizeOptions(imatrix=path, threads=threads)
            out = work / f"{level}-{key}.gguf"
            try:
                made = requantize(model, out, level, options=options)
            except UnsupportedError as error:
                row[key] = error.fact
                continue
            scores = score(made, evaluation, context_tokens=CONTEXT, reference=reference)
            quality = quality_of(scores)
            losses[key] = np.array(scores.divergence.kl.values())
            row[key] = {
                "size_bytes": made.size_bytes,
                "kl": quality.kl.value,
                "kl_standard_error": quality.kl.standard_error,
                "perplexity": quality.perplexity.value,
                "top1_agreement": quality.top1_agreement.value,
            }
            out.unlink()
        if len(losses) == 2:
            gain = losses["without"] - losses["with"]
            row["kl_saved"] = float(gain.mean())
            row["kl_saved_standard_error"] = float(gain.std(ddof=1) / len(gain) ** 0.5)
            row["kl_with_over_without"] = row["with"]["kl"] / row["without"]["kl"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-imatrix", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--calibrate", type=Path)
    parser.add_argument("--evaluate", type=Path)
    parser.add_argument("--shape")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if (given.model is None) != (given.calibrate is None):
        parser.error("--model and --calibrate go together")
    with tempfile.TemporaryDirectory(prefix="imatrix-") as scratch:
        work = Path(scratch)
        model = given.model or convert(TINY, work / "tiny-F16.gguf", level="F16").path
        text = given.calibrate or stories(work / "stories.txt")
        evaluation = read_text(given.evaluate) if given.evaluate else held_out_stories()
        names = (text.name, evaluation.name)
        check_apart(text.read_text("utf-8"), evaluation.content, names=names)
        matrix = work / "imatrix.gguf"
        made = calibrate(model, text, matrix, context_tokens=CONTEXT, threads=given.threads)
        found: dict = {"passages": made.chunks, "context_tokens": made.chunk_tokens}
        if given.llama_imatrix:
            found["against_llama_imatrix"] = against(given.llama_imatrix, model, text, work, given)
        found["levels"] = bought(model, matrix, evaluation, work, given.threads)
        if given.shape and given.llama_imatrix:
            large = random_model(given.shape, work)
            letters = work / "letters.txt"
            letters.write_text(text.read_text("utf-8")[: SHAPE_TOKENS + 64], "utf-8")
            found[given.shape] = against(given.llama_imatrix, large, letters, work, given)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
