"""Families this program does not write itself, by onnxruntime-genai's own model builder.

The builder needs torch and transformers and takes the memory of the whole model, so it runs in a
process of its own, offline, on a folder of links in which there is neither code nor a pickle. It is
known to write wrong graphs without an error (onnxruntime-genai 0.18): what can be checked of its
output is checked here before it gets its name. It refuses to know what is in a graph.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edge_runtime.artifact import Artifact
from edge_runtime.artifact.onnx.graph import OnnxGraph, read_graph
from edge_runtime.errors import (
    ArtifactError,
    BackendError,
    EngineMissingError,
    FormatError,
    UnsupportedError,
    UsageError,
)

from ..checkpoint import INDEX_NAME, Checkpoint
from ..child import Child
from ..writers.folder import check_folder, whole_folder
from ..writers.onnx_folder import MODEL_NAME
from .conversion import COPIED, refuse_around
from .levels import OnnxLevel, onnx_level
from .trial import run_once

EXTRA = "genai-builder"
"""What of this package's extras brings the builder and all it needs."""

Progress = Callable[[float], None]

_KNOWN = frozenset(
    ("ChatGLMForConditionalGeneration", "ChatGLMModel", "Ernie4_5ForCausalLM",
     "GptOssForCausalLM", "GraniteMoeHybridForCausalLM", "HunYuanDenseV1ForCausalLM",
     "InternLM2ForCausalLM", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "NemotronForCausalLM",
     "Phi3SmallForCausalLM", "PhiForCausalLM", "PhiMoEForCausalLM")
)  # fmt: skip
"""Classes that onnxruntime-genai 0.18's builder lists, of those that are not written here."""

_CODE_KEY = "auto_map"
_CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json")
_LAYER = re.compile(r"Reading decoder layer (\d{1,4})")
_READING_SHARE = 0.6
"""What part of the work reading the layers is, before they are quantized and written."""
_BLOCK_PRODUCTS = frozenset({"MatMulNBits", "QMoE"})
_FLOATS = {"FP32": "<f4", "FP16": "<f2"}
_SLAB_BYTES = 8 * 1024**2


def build_with_genai(
    checkpoint: Path,
    out: Path,
    *,
    level: str | OnnxLevel = "int4",
    overwrite: bool = False,
    verify: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Has onnxruntime-genai's builder convert a checkpoint directory, and opens the folder.

    Before the folder gets its name it is read back, its layers, vocabulary and quantized products
    are counted, and ONNX Runtime computes one token; with `verify` every float in it is read too.
    Raises UnsupportedError for what the builder is known to get wrong, for a checkpoint that wants
    to run code of its own and for options it has not, EngineMissingError when the builder is not
    installed, BackendError for what it refuses or gets wrong, and else as `convert_onnx`.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    chosen = level if isinstance(level, OnnxLevel) else onnx_level(level)
    options = _options(chosen)
    refuse_around(checkpoint, out)
    check_folder(out, 0, holds=MODEL_NAME, overwrite=overwrite)
    source = Checkpoint.open(checkpoint)
    _refuse_known_faults(source)
    _refuse_code(source)
    if chosen.symmetric and chosen.head_bits is None and _is_tied(source):
        options.append("shared_embeddings=true")
    elements = sum(math.prod(tensor.dims) for tensor in source.tensors.values())
    needed = elements * max(chosen.bits, 8) // 8
    with whole_folder(out, needed, holds=MODEL_NAME, overwrite=overwrite) as folder:
        with _links(source) as (links, scratch):
            _run(
                {
                    "folder": str(links),
                    "out": str(folder.absolute()),
                    "scratch": str(scratch),
                    "precision": chosen.name,
                    "options": options,
                    "threads": threads,
                },
                layers=_count(source, "num_hidden_layers") or 1,
                progress=progress,
            )
        for name in ("config.json", "generation_config.json"):
            data = source.data(name)
            if data is not None:  # the builder leaves them out; its own settings say less
                (folder / name).write_bytes(data)
        check(folder, source, chosen, verify=verify)
    if progress is not None:
        progress(1.0)
    return Artifact.open(out)


def genai_notes(artifact: Artifact) -> tuple[str, ...]:
    """What whoever runs a model of the builder's must know."""
    graph = read_graph(artifact.path)
    told = (
        f"The graph is {graph.producer or 'onnxruntime-genai'}'s, which has written wrong ones"
        " without an error; edge counted its parts and computed one token, no more. Compare what it"
        " says with the original before you rely on it."
    )
    notes = [told]
    floats = _float_products(graph)
    if floats and any(node.op in _BLOCK_PRODUCTS for node in graph.nodes):
        notes.append(f"{floats} of its matrices stay floats.")
    return tuple(notes)


def offer(checkpoint: Path, config: Mapping[str, object], level: OnnxLevel) -> str:
    """The sentence that offers the builder for a family that is not written here."""
    stated = config.get("architectures")
    known = isinstance(stated, list) and not _KNOWN.isdisjoint(map(str, stated))
    said = "knows it" if known else "may know it, in a version after 0.18"
    return (
        f"onnxruntime-genai's own builder {said}:"
        f" edge convert {shlex.quote(str(checkpoint))} --level onnx:{level.name} --builder genai"
        f" (it needs: pip install 'edge-runtime[{EXTRA}]'). Or convert the model to GGUF."
    )


def check(folder: Path, source: Checkpoint, level: OnnxLevel, *, verify: bool = False) -> None:
    """Checks what can be checked of a folder the builder wrote.

    Raises BackendError for one that is not what was asked for, FormatError for values that are no
    finite numbers, and what `run_once` raises.
    """
    try:
        artifact = Artifact.open(folder)
        graph = read_graph(artifact.path)
    except ArtifactError as error:
        raise _wrong(f"{error.fact} {error.cause}".strip()) from error
    layers, tokens = _count(source, "num_hidden_layers"), _count(source, "vocab_size")
    if layers is not None and artifact.shape.layers != layers:
        raise _wrong(f"It has {artifact.shape.layers} layers, the checkpoint {layers}.")
    if tokens is not None and artifact.vocabulary_tokens != tokens:
        raise _wrong(f"It knows {artifact.vocabulary_tokens} tokens, the checkpoint {tokens}.")
    blocks = sum(node.op in _BLOCK_PRODUCTS for node in graph.nodes)
    if level.quantized and blocks < 2 * artifact.shape.layers:
        raise _wrong(
            f"It has {blocks} quantized products (MatMulNBits) in {artifact.shape.layers} layers."
        )
    if verify:
        _require_finite(graph)
    try:
        run_once(artifact.path)
    except BackendError as error:
        raise _wrong(f"{error.fact} {error.cause}") from error


def _options(level: OnnxLevel) -> list[str]:
    """The level in the builder's words."""
    if level.bits == 16:
        raise UnsupportedError(
            "onnxruntime-genai's builder makes no fp16 for processors.",
            cause="Its fp16 graphs are for GPUs; ONNX Runtime's processor kernels fail on them.",
            way_out="Choose onnx:int4, onnx:int8 or onnx:fp32.",
        )
    options = ["hf_token=false", "hf_remote=false"]
    if not level.quantized:
        return options
    if level.embedding_bits is not None:
        raise UsageError(
            "onnxruntime-genai's builder has no choice of the embedding's bits.",
            way_out="Leave --embedding-bits out.",
        )
    mixed = []
    for bits, group in ((level.head_bits, "last_matmul"), (level.sensitive_bits, "mixed_layers")):
        if bits is not None and bits != level.bits:
            if level.bits == 8:
                raise UsageError(
                    "onnxruntime-genai's builder makes no part of an int8 model smaller.",
                    way_out="Choose onnx:int4 with 8 bits for those parts.",
                )
            mixed.append(f"{group}:int{bits}")
    if mixed:
        options.append(f"matmul_mixed_precision={','.join(mixed)}")
    return [
        *options,
        f"block_size={level.block_size}",
        f"is_symmetric={str(level.symmetric).lower()}",
        f"accuracy_level={level.accuracy_level}",
        f"algo_config={'k_quant' if level.algorithm == 'k_quant' else 'default'}",
    ]


def _refuse_known_faults(source: Checkpoint) -> None:
    """Refuses what onnxruntime-genai 0.18 was seen to convert wrongly without saying so."""
    kind = source.config.get("model_type")
    if kind == "mistral" and source.config.get("sliding_window"):
        raise UnsupportedError(
            "onnxruntime-genai's builder gets Mistral models with a sliding window wrong.",
            cause="Its graph computes other tokens than the model, without an error.",
            way_out="Leave --builder out: edge writes this family itself.",
        )
    if kind == "olmo":
        raise UnsupportedError(
            "onnxruntime-genai's builder gets OLMo 1 models wrong.",
            cause="Its graph computes other tokens than the model, without an error.",
            way_out="Convert it to GGUF, or take OLMo 2.",
        )


def _refuse_code(source: Checkpoint) -> None:
    for name in _CONFIGS:
        if _CODE_KEY in (source.json(name) or {}):
            raise UnsupportedError(
                f"{source.path / name} asks for code of the checkpoint's own.",
                cause=f"Its {_CODE_KEY} names Python files, and running those would run anything.",
                way_out=f"Remove {_CODE_KEY} from a copy of it if transformers knows the family.",
            )


@contextmanager
def _links(source: Checkpoint) -> Iterator[tuple[Path, Path]]:
    """Lends a folder of links to the checkpoint's data and nothing else, and one to work in."""
    weights = {tensor.path.name for tensor in source.tensors.values()}
    with tempfile.TemporaryDirectory(prefix="edge-builder-") as made:
        scratch = Path(made).resolve()
        folder = scratch / "checkpoint" / (Path(source.name).name or "model")
        folder.mkdir(parents=True)
        for name in sorted({*COPIED, INDEX_NAME, *weights}):
            path = source.file(name)
            if path is not None:
                _link(path.resolve(), folder / name)
        yield folder, scratch


def _link(target: Path, link: Path) -> None:
    try:
        link.symlink_to(target)
    except OSError:  # Windows lets few make symbolic links
        os.link(target, link)


def _run(job: dict[str, object], *, layers: int, progress: Progress | None) -> None:
    line = ""
    answer: dict[str, object] = {}
    engine, package = "onnxruntime-genai's builder", "onnxruntime-genai"
    with Child("onnx.builder_child", engine=engine, package=package) as child:
        for told in child.ask(job):
            answer = dict(told)
            if "line" not in answer:
                break
            line = str(answer["line"])
            found = _LAYER.search(line)
            if found is not None and progress is not None:
                progress(_READING_SHARE * min((int(found[1]) + 1) / layers, 1.0))
        else:
            raise child.death(line)
    if "missing" in answer:
        raise EngineMissingError(
            "onnxruntime-genai's builder is not installed.",
            cause=f"There is no module {answer['missing']}.",
            way_out=f"Install what it needs: pip install 'edge-runtime[{EXTRA}]'",
        )
    if "failed" in answer:
        raise BackendError(
            "onnxruntime-genai's builder does not convert this checkpoint.",
            # Where the links to the checkpoint were helps nobody.
            cause="It says: "
            + str(answer["failed"]).replace(str(job["folder"]), Path(str(job["folder"])).name),
            way_out="Convert the model to GGUF, or use a GGUF file of it.",
        )


def _require_finite(graph: OnnxGraph) -> None:
    """Reads all floats of a graph, in slabs."""
    for tensor in graph.initializers:
        kind = _FLOATS.get(tensor.type.name)
        if kind is None or tensor.offset_bytes is None:
            continue
        with graph.paths[tensor.part].open("rb") as file:
            file.seek(tensor.offset_bytes)
            left = tensor.size_bytes
            while left:
                data = file.read(min(left, _SLAB_BYTES))
                left -= len(data)
                if not data or not np.isfinite(np.frombuffer(data, kind)).all():
                    raise FormatError(
                        f"The tensor {tensor.name} holds values that are no finite numbers.",
                        cause="The checkpoint is damaged, or its values overflow the level's type.",
                    )


def _float_products(graph: OnnxGraph) -> int:
    """Products with a stored matrix of floats."""
    stored = {tensor.name for tensor in graph.initializers if len(tensor.dims) == 2}
    return sum(
        node.op in ("MatMul", "Gemm", "FusedMatMul") and node.inputs[1:2][0] in stored
        for node in graph.nodes
        if len(node.inputs) > 1
    )


def _is_tied(source: Checkpoint) -> bool:
    return (
        source.config.get("tie_word_embeddings") is True and "lm_head.weight" not in source.tensors
    )


def _count(source: Checkpoint, key: str) -> int | None:
    """A whole number of the config, or of its text part."""
    text = source.config.get("text_config")
    for config in (source.config, text if isinstance(text, dict) else {}):
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
            return value
    return None


def _wrong(cause: str) -> BackendError:
    return BackendError(
        "onnxruntime-genai's builder did not write the model that was asked for.",
        cause=cause,
        way_out="Nothing was kept. Try another level, or convert the model to GGUF.",
    )
