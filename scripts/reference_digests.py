"""Runs llama.cpp's converter and transformers on tiny checkpoints and writes down what came out.

    PYTHONPATH=tests python scripts/reference_digests.py --reference LLAMA_CPP [--only NAME ...]

LLAMA_CPP is a source tree of llama.cpp (llama-cpp-python's source archive carries one in
`vendor/llama.cpp`). Needs an environment with numpy, safetensors, sentencepiece, torch and
transformers 4.57.6; nothing of this project but the table of cases. The outcome is
`tests/golden/quantize/reference.json`, which the golden tests compare our converter with: digests
and made-up numbers, nothing of anybody's.

For every case it checks that transformers finds each tensor it expects and no other, converts at
F32, F16, BF16 and Q8_0, and computes logits in float32. The reference is helped in four places,
where it would refuse what is made up or trip over its own feet: it is told the pre-tokenizer's
name, because it knows published vocabularies by their hash and these are made up; StableLM's norms
of heads, which it collects and then loses (a `return` in a generator), are handed on; the masks in
GPT-2's published checkpoint, which it finds no name for, are left out; and a case
that transformers 4.57 would misread (the config spelled as transformers 5 does, experts in one
tensor) takes its logits from the case of the same weights spelled as 4.57 does.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers
from golden.quantize.cases import CASES, Case
from golden.quantize.digests import LEVELS, digest

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "quantize" / "reference.json"
LIBRARIES = ("torch", "transformers", "sentencepiece", "tokenizers", "numpy")


def load_converter(tree: Path) -> object:
    """Imports the converter of a llama.cpp tree and mends what keeps it from running."""
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    import convert_hf_to_gguf
    from conversion.gpt2 import GPT2Model
    from conversion.stablelm import StableLMModel

    collect = StableLMModel.modify_tensors

    def handed_on(self: object, *given: object) -> Iterator[object]:
        stacked = yield from collect(self, *given)
        if stacked is not None:
            yield from stacked

    StableLMModel.modify_tensors = handed_on
    choose = GPT2Model.filter_tensors.__func__

    def without_masks(cls: type, item: tuple[str, object]) -> object:
        return None if item[0].endswith((".attn.bias", ".attn.masked_bias")) else choose(cls, item)

    GPT2Model.filter_tensors = classmethod(without_masks)
    return convert_hf_to_gguf


def convert(converter: object, case: Case, checkpoint: Path, out: Path, level: str) -> None:
    """Runs the converter as its command line does."""
    from conversion.base import TextModel

    if case.pre:
        TextModel.get_vocab_base_pre = lambda *_: case.pre
    sys.argv = ["convert", str(checkpoint), "--outtype", level.lower(), "--outfile", str(out)]
    converter.main()
    logging.disable(logging.WARNING)


def load_model(case: Case, checkpoint: Path) -> torch.nn.Module:
    """Loads a checkpoint in float32 and checks the names of its tensors.

    Raises RuntimeError when transformers misses a tensor, or finds one that the case does not list
    as lying beside the model's.
    """
    model_class = getattr(transformers, case.config["architectures"][0])
    model, told = model_class.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    unexpected = set(told["unexpected_keys"]) - set(case.beside)
    if told["missing_keys"] or told["mismatched_keys"] or unexpected:
        raise RuntimeError(f"{case.name}: {told}")
    return model.eval()


def rows_of(length: int) -> list[int]:
    """Positions whose logits are kept: one early, the last."""
    return [length // 4, length - 1]


def packed(rows: np.ndarray) -> str:
    """Float32 numbers as text."""
    return base64.b64encode(rows.astype("<f4").tobytes()).decode()


def logits(case: Case, checkpoint: Path) -> list[dict[str, object]]:
    """What transformers computes: logits of some positions; BERT's embedding of the first token."""
    model = load_model(case, checkpoint)
    found = []
    for length in case.lengths:
        with torch.no_grad():
            answer = model(torch.tensor([case.sequence(length)]))
        if "bert" in case.config["model_type"]:
            rows, at = answer.last_hidden_state[0, :1], [0]
        else:
            at = rows_of(length)
            rows = answer.logits[0, at]
        found.append({"length": length, "positions": at, "float32": packed(rows.numpy())})
    return found


def described(case: Case, converter: object, folder: Path) -> dict[str, object]:
    """Everything reference.json says about a case."""
    checkpoint = case.write(folder / "cases" / case.name)
    files = {}
    (folder / "ref").mkdir(exist_ok=True)
    for level in LEVELS:
        out = folder / "ref" / f"{case.name}.{level}.gguf"
        convert(converter, case, checkpoint, out, level)
        files[level] = digest(out)
    first = files["F32"]
    entry: dict[str, object] = {
        "metadata": first.metadata,
        "metadata_by_level": {
            level: {k: v for k, v in file.metadata.items() if first.metadata.get(k) != v}
            for level, file in files.items()
        },
        "tensors": {
            name: {
                "dims": list(first.tensors[name].dims),
                **{level: file.tensors[name].text for level, file in files.items()},
            }
            for name in sorted(first.tensors)
        },
    }
    if any(file.tensors.keys() != first.tensors.keys() for file in files.values()):
        raise RuntimeError(f"{case.name}: tensors differ by level")
    if case.twin is None:
        entry["logits"] = logits(case, checkpoint)
    return entry


def lines(value: object, depth: int = 0) -> str:
    """JSON with one line for each key or tensor, so that a change reads well."""
    if depth == 5 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    pad = " " * (depth + 1)
    inner = ",\n".join(f"{pad}{json.dumps(k)}: {lines(value[k], depth + 1)}" for k in sorted(value))
    return "{\n" + inner + "\n" + " " * depth + "}"


def main() -> None:
    """Writes the file, or the cases asked for into it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, help="a source tree of llama.cpp")
    parser.add_argument("--only", nargs="*", help="renew these cases, keep the others")
    parser.add_argument("--keep", type=Path, help="leave checkpoints and GGUF files here")
    parser.add_argument(
        "--source", default="llama-cpp-python 0.3.36", help="where the tree is from"
    )
    given = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    converter = load_converter(given.reference)
    names = {case.name for case in CASES}
    kept = json.loads(OUT.read_text("utf-8"))["cases"] if given.only and OUT.exists() else {}
    entries = {name: entry for name, entry in kept.items() if name in names}
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        for case in CASES:
            if given.only and case.name not in given.only:
                continue
            try:
                entries[case.name] = described(case, converter, folder)
            except (Exception, SystemExit) as error:  # whatever stops one case: the others go on
                failed.append(case.name)
                print(f"{case.name}: {type(error).__name__}: {error}", file=sys.stderr)
    about = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "converter": f"convert_hf_to_gguf.py of the llama.cpp that {given.source} carries",
        **{name: version(name) for name in LIBRARIES},
    }
    OUT.write_text(lines({"about": about, "cases": entries}) + "\n", "utf-8")
    print(f"{len(entries)} cases, {OUT.stat().st_size} bytes", *failed, file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
