"""Lets transformers continue a prompt greedily for each tiny checkpoint and writes down the tokens.

    PYTHONPATH=tests python scripts/reference_continuations.py [--only NAME ...]

Needs an environment with numpy, safetensors, torch and transformers 4.57.6; nothing of this project
but the table of cases. The outcome is `tests/golden/quantize/continuations.json`: for every decoder
a prompt's length and shift, 64 tokens, and the logits the last of them was chosen by. The golden
tests compare what the ONNX writer's graphs continue with.

Two logits that are nearly equal could change places in another order of additions: of several
prompts the one is kept whose closest choice was the clearest, and the script fails when the largest
logit never stood clear of the second by 1e-5 of the logits' range.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from golden.quantize.cases import CASES, Case

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "quantize" / "continuations.json"
STEPS = 64
SHIFTS = 8
"""Prompts tried."""
CLEAR, CLEAR_ENOUGH = 1e-5, 1e-4
ELSEWHERE = ("phi", "stablelm", "gpt_neox", "starcoder2", "bert", "distilbert")
"""Families that are not written as ONNX."""
SATURATED = ("gemma-2",)
"""Cases whose largest logits a low cap makes equal; gemma-2-defaults has a usual one."""


def prompts(case: Case) -> tuple[int, ...]:
    """How long the prompts are: a usual one, and for long contexts one that lies beyond."""
    if case.config["model_type"] == "gpt2":
        return (1,)  # its table has as many positions as there are steps
    return (40, *(length for length in case.lengths if length > 40))


def continued(case: Case, checkpoint: Path, length: int) -> dict[str, object]:
    """The clearest of some continuations."""
    model_class = getattr(transformers, case.config["architectures"][0])
    model = model_class.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.generation_config.eos_token_id = None
    found = []
    for shift in range(SHIFTS):
        prompt = torch.tensor([case.sequence(length + shift)[shift:]])
        with torch.no_grad():
            made = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                max_new_tokens=STEPS, min_new_tokens=STEPS, pad_token_id=0,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        rows = torch.stack(made.logits)[:, 0]
        best = rows.topk(2).values
        clear = float(((best[:, 0] - best[:, 1]) / (rows.amax(1) - rows.amin(1))).min())
        last = base64.b64encode(rows[-1].numpy().astype("<f4").tobytes()).decode()
        tokens = made.sequences[0, length:].tolist()
        found.append((clear, {"length": length, "shift": shift, "tokens": tokens, "last": last}))
        if clear >= CLEAR_ENOUGH:
            break
    clear, entry = max(found, key=lambda item: item[0])
    if clear < CLEAR:
        raise RuntimeError(f"{case.name}: no choice is clearer than {clear:.1e}")
    return entry


def main() -> None:
    """Writes the file, or the cases asked for into it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="renew these cases, keep the others")
    given = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    kept = json.loads(OUT.read_text("utf-8"))["cases"] if given.only and OUT.exists() else {}
    names = {case.name for case in CASES}
    entries = {name: entry for name, entry in kept.items() if name in names}
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            if case.twin or case.name in SATURATED or case.config["model_type"] in ELSEWHERE:
                continue
            if given.only and case.name not in given.only:
                continue
            checkpoint = case.write(Path(scratch) / case.name)
            entries[case.name] = [continued(case, checkpoint, n) for n in prompts(case)]
            print(case.name, file=sys.stderr)
    about = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
    }
    lines = [
        f"  {json.dumps(name)}: [\n"
        + ",\n".join(f"   {json.dumps(entry)}" for entry in entries[name])
        + "\n  ]"
        for name in sorted(entries)
    ]
    text = ",\n".join(lines)
    OUT.write_text(f'{{\n "about": {json.dumps(about)},\n "cases": {{\n{text}\n }}\n}}\n', "utf-8")


if __name__ == "__main__":
    main()
