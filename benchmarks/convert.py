"""Converting and quantizing a checkpoint of 0.5B parameters: ours against llama.cpp's converter.

    python benchmarks/convert.py [--rounds 3] [--reference-tree LLAMA_CPP --reference-python PYTHON]

A checkpoint of Qwen2.5 0.5B's shape (bf16, two shards, random weights, 151k made-up tokens) becomes
F16, Q8_0 and Q4_K_M. Every conversion is a process of its own; ours and the reference's take turns.
The reference is `convert_hf_to_gguf.py` of LLAMA_CPP, run by a PYTHON that has torch and
transformers; for Q4_K_M llama.cpp's quantizer follows it, in a process of its own. Wall and
processor seconds are the sums of those processes, memory is the largest peak among them.

At F16 and Q8_0 the tensors of both are compared, byte for byte; at Q4_K_M they differ, because ours
quantizes the bf16 numbers and the reference's way leads over F16.

Memory is also measured for a checkpoint eight times as large: Qwen3 4B's shape, all zeros in sparse
files, ours only. It needs room for what is written (4.3 GB at Q8_0, 8 GB at F16).

The figures are medians. Everything written is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import statistics

ROOT = Path(__file__).resolve().parent.parent

SMALL = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896,
    "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 151_936, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32_768, "rope_theta": 1e6, "tie_word_embeddings": True,
    "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 151_643,
    "eos_token_id": 151_645,
}  # fmt: skip
LARGE = {
    **SMALL, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 2560,
    "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip

REFERENCE = """
import runpy, sys
tree = {tree!r}
sys.path[:0] = [tree, tree + "/gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda *_: "qwen2"  # it knows published vocabularies only
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[1:]]
runpy.run_path(tree + "/convert_hf_to_gguf.py", run_name="__main__")
"""
QUANTIZER = """
import ctypes, sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = 15, int(sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(),
                                        ctypes.byref(params)))
"""


COMPARISON = """
import sys
from gguf import GGUFReader
ours, theirs = ({t.name: (t.tensor_type, tuple(t.shape), t.data) for t in GGUFReader(path).tensors}
                for path in sys.argv[1:])
same = ours.keys() == theirs.keys() and all(
    ours[name][:2] == theirs[name][:2] and (ours[name][2] == theirs[name][2]).all()
    for name in ours)
print("identical" if same else "different")
"""
DIRECT = {"F16", "Q8_0"}


def tensors(config: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, as transformers saves them."""
    hidden, wide, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            yield f"{at}self_attn.{name}.weight", (rows, hidden)
            if config["model_type"] == "qwen2":
                yield f"{at}self_attn.{name}.bias", (rows,)
        if config["model_type"] == "qwen3":
            yield f"{at}self_attn.q_norm.weight", (size,)
            yield f"{at}self_attn.k_norm.weight", (size,)
        yield f"{at}self_attn.o_proj.weight", (hidden, queries)
        yield f"{at}mlp.gate_proj.weight", (wide, hidden)
        yield f"{at}mlp.up_proj.weight", (wide, hidden)
        yield f"{at}mlp.down_proj.weight", (hidden, wide)
        yield f"{at}input_layernorm.weight", (hidden,)
        yield f"{at}post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (config["hidden_size"],)


def write_shard(path: Path, shapes: list[tuple[str, tuple[int, ...]]], *, sparse: bool) -> None:
    """Writes a safetensors file of bf16: random numbers of a trained model's size, or a hole."""
    import numpy as np

    header, offset = {}, 0
    for name, dims in shapes:
        end = offset + 2 * math.prod(dims)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(len(shapes))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if sparse:
            file.truncate(8 + len(text) + offset)
            return
        for _, dims in shapes:
            left = math.prod(dims)
            while left:
                count = min(left, 1 << 22)
                numbers = random.standard_normal(count, np.float32) * np.float32(0.02)
                file.write((numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                left -= count


def byte_alphabet() -> list[str]:
    """The printable stand-ins of byte-level BPE for the 256 bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def write_tokenizer(path: Path, size: int = 151_643) -> None:
    """Byte-level BPE of a size (Qwen2's): every pair of bytes is a token, then pairs and a byte."""
    letters = byte_alphabet()
    merges = [(a, b) for a in letters for b in letters]
    merges += [(a + b, c) for a in letters for b in letters for c in ("e", "t")]
    merges = list(dict.fromkeys(merges))[: size - len(letters)]
    vocabulary = {token: i for i, token in enumerate([*letters, *(a + b for a, b in merges)])}
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
             "use_regex": False}  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    described = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": {"type": "NFC"},
        "added_tokens": [
            {"id": len(vocabulary) + i, "content": name, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True}
            for i, name in enumerate(names)
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, plain]},
        "post_processor": plain, "decoder": plain,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": names[2],
            "pad_token": names[0], "add_bos_token": False}  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(described))
    (path / "tokenizer_config.json").write_text(json.dumps(told))


def write_checkpoint(path: Path, config: dict, *, sparse: bool) -> None:
    """Writes a checkpoint of two shards of about the same size."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    write_tokenizer(path, min(151_643, config["vocab_size"] - 3))  # three names follow
    shapes = list(tensors(config))
    half, shards = sum(math.prod(dims) for _, dims in shapes) // 2, [[], []]
    seen = 0
    for name, dims in shapes:
        shards[seen >= half].append((name, dims))
        seen += math.prod(dims)
    where = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-00002.safetensors"
        where |= {name: file for name, _ in shard}
        write_shard(path / file, shard, sparse=sparse)
    index = {"metadata": {"total_size": 2 * seen}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a process took."""

    wall_s: float
    cpu_s: float
    peak_rss_mb: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            wall_s=self.wall_s + other.wall_s,
            cpu_s=self.cpu_s + other.cpu_s,
            peak_rss_mb=max(self.peak_rss_mb, other.peak_rss_mb),
        )


def run(command: list[str | Path], log: Path, env: dict[str, str] | None = None) -> Cost:
    """Runs a command to its end; its peak is that of its largest process.

    A child counts the memory of the process that started it, which is why this one stays small and
    has its checkpoints built by another.
    """
    started = time.perf_counter()
    with log.open("wb") as out:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=env,
        )
        _, status, used = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command}\n{log.read_text('utf-8', 'replace')[-2000:]}")
    return Cost(
        wall_s=wall_s, cpu_s=used.ru_utime + used.ru_stime, peak_rss_mb=used.ru_maxrss * 1024 / 1e6
    )


class Sides:
    """The two ways to a GGUF file, in a work directory."""

    def __init__(self, work: Path, given: argparse.Namespace) -> None:
        self.work = work
        self.log = work / "log.txt"
        self.threads = os.cpu_count() or 1
        python = given.reference_python
        # Not resolved: what a link in a virtual environment points to is another interpreter.
        self.python = Path(python).absolute() if os.sep in python else python
        self.wrapper = work / "reference.py"
        if given.reference_tree:
            tree = str(given.reference_tree.resolve())
            self.wrapper.write_text(REFERENCE.format(tree=tree))

    def ours(self, checkpoint: Path, level: str, out: Path) -> Cost:
        """One command."""
        command = [sys.executable, "-m", "edge_runtime", "convert", checkpoint, "--level", level,
                   "-o", out]  # fmt: skip
        return run(command, self.log)

    def reference(self, checkpoint: Path, level: str, out: Path) -> Cost:
        """The converter, and the quantizer for what the converter does not write."""
        full = out if level in DIRECT else self.work / "full.gguf"
        command = [self.python, self.wrapper, checkpoint, "--outtype",
                   level.lower() if level in DIRECT else "f16", "--outfile", full]  # fmt: skip
        cost = run(command, self.log)
        if level not in DIRECT:
            cost += run([sys.executable, "-c", QUANTIZER, full, out, self.threads], self.log)
            full.unlink()
        return cost

    def timed(self, side: str, checkpoint: Path, level: str) -> Cost:
        """One conversion; its file is removed, so that writing it back disturbs no later run."""
        out = self.work / "out.gguf"
        cost = getattr(self, side)(checkpoint, level, out)
        out.unlink()
        return cost

    def same_tensors(self, checkpoint: Path, level: str) -> str:
        """Whether both sides write the same tensors, byte for byte."""
        outs = [self.work / "ours.gguf", self.work / "theirs.gguf"]
        self.ours(checkpoint, level, outs[0])
        self.reference(checkpoint, level, outs[1])
        run([sys.executable, "-c", COMPARISON, *outs], self.log)
        for out in outs:
            out.unlink()
        return self.log.read_text("utf-8").strip()


def median_of(costs: list[Cost]) -> dict[str, float]:
    """Medians of each figure."""
    return {
        name: statistics.median([getattr(cost, name) for cost in costs])
        for name in Cost.__dataclass_fields__
    }


def compared(sides: Sides, checkpoint: Path, level: str, rounds: int, both: bool) -> dict:
    """One level: rounds in which the two sides take turns, the first in turn changing."""
    costs: dict[str, list[Cost]] = {"ours": [], "reference": []}
    for turn in range(rounds):
        order = ["ours", "reference"] if both else ["ours"]
        for side in order if turn % 2 == 0 else reversed(order):
            costs[side].append(sides.timed(side, checkpoint, level))
    figure: dict[str, object] = {"level": level}
    for side, found in costs.items():
        if found:
            figure[side] = {**median_of(found), "wall_s_each": [cost.wall_s for cost in found]}
    if both:
        ours, theirs = median_of(costs["ours"]), median_of(costs["reference"])
        figure["ratio_ours_over_reference"] = {name: ours[name] / theirs[name] for name in ours}
        if level in DIRECT:
            figure["tensors"] = sides.same_tensors(checkpoint, level)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference-tree", type=Path, help="a source tree of llama.cpp")
    parser.add_argument("--reference-python", default=sys.executable)
    parser.add_argument("--levels", default="F16,Q8_0,Q4_K_M")
    parser.add_argument("--large-levels", default="F16,Q8_0", help="of the large one; '' for none")
    parser.add_argument("--layers", type=int, help="fewer layers, to try the script out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="a folder on a disk with room")
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    changes = {"num_hidden_layers": given.layers} if given.layers else {}
    if given.build:  # in a process of its own, see run()
        name, where = given.build
        config = {"small": SMALL, "large": LARGE}[name]
        write_checkpoint(Path(where), {**config, **changes}, sparse=name == "large")
        return
    work = Path(tempfile.mkdtemp(prefix="convert-", dir=given.work))
    try:
        sides = Sides(work, given)
        layers = ["--layers", str(given.layers)] if given.layers else []
        build = [sys.executable, Path(__file__).resolve(), *layers, "--build"]
        run([*build, "small", work / "small"], sides.log)
        both = given.reference_tree is not None
        figures = [
            compared(sides, work / "small", level, given.rounds, both)
            for level in given.levels.split(",")
        ]
        shutil.rmtree(work / "small")
        large = []
        if given.large_levels:
            run([*build, "large", work / "large"], sides.log)
            large = [
                compared(sides, work / "large", level, 1, both=False)
                for level in given.large_levels.split(",")
            ]
    finally:
        shutil.rmtree(work)
    answer = {"benchmark": "convert", "layers": given.layers, "figures": figures}
    print(json.dumps({**answer, "eight_times_as_large": large}))


if __name__ == "__main__":
    main()
