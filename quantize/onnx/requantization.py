"""A finished ONNX model becomes a smaller one, in a new folder; the source is never touched.

The work is done by a process of its own (`requantizer`), whose memory is measured. What it wrote is
read back and its operators are counted before the folder gets its name: quantizers pass over what
they do not know without a word. It refuses to know how blocks are made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import errors
from edge_runtime.artifact import Artifact
from edge_runtime.artifact.onnx.artifact import LEVEL_KEY
from edge_runtime.artifact.onnx.folder import (
    GENAI_CONFIG_NAME,
    genai_config,
    model_in,
    side_file,
)
from edge_runtime.artifact.onnx.graph import OnnxGraph, read_graph
from edge_runtime.errors import (
    BackendError,
    EdgeError,
    FormatError,
    MemoryLimitError,
    UnsupportedError,
    UsageError,
)
from edge_runtime.units import format_bytes

from ..child import Child
from ..writers.folder import check_folder, whole_folder
from ..writers.onnx_folder import MODEL_NAME
from ..writers.whole_file import disk_error
from .algorithms import OFFICIAL, OnnxQuantizeOptions, onnx_quantize_level
from .conversion import COPIED, refuse_around
from .outline import operators_of
from .products import CONVOLUTION, EXCLUDED, Kept, Matrix, is_quantized, products_of, reasons

Progress = Callable[[float], None]
Stage = Callable[[str], None]

_SIDE_FILES = (*COPIED, "processor_config.json", "preprocessor_config.json", "vocab.txt",
               "sentencepiece.bpe.model", "spiece.model")  # fmt: skip
_LEAST_SHARE = 0.5
"""Of the elements of constant weights: with more of them as floats a model is not at its level."""
# Peak memory over the size of the source: dynamic measured with 0.5B parameters at fp32, the others
# counted from the copies they hold.
_MEMORY_FACTORS = {"dynamic": 4.2, "hqq": 2.5, "gptq": 4.0}
_SPARE_BYTES = 256 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Requantized:
    """What quantizing a finished model gave.

    `products` were made integers, of them `elements` weights; `kept` stay as they were. `nodes`
    counts the operators that compute with integers, read back from the disk.
    """

    path: Path
    paths: tuple[Path, ...]
    level: str
    algorithm: str
    nodes: int
    products: int
    elements: int
    kept: tuple[Kept, ...]
    source_bytes: int
    size_bytes: int
    peak_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequantizePlan:
    """What quantizing would do: matrices that become integers, products that stay, and the size."""

    source: Path
    source_bytes: int
    level: str
    options: OnnxQuantizeOptions
    graph: OnnxGraph
    matrices: tuple[Matrix, ...]
    convolutions: tuple[Kept, ...]
    kept: tuple[Kept, ...]
    total_bytes: int

    @property
    def algorithm(self) -> str:
        """How integers are found: an algorithm's name, or `dynamic`."""
        return "dynamic" if self.level == "int8-dynamic" else self.options.algorithm

    @property
    def elements(self) -> int:
        """Weights that become integers; one that is read twice counts once."""
        products = sum({m.weight.name: m.weight.elements for m in self.matrices}.values())
        return products + sum(k.elements for k in self.convolutions)


def plan_onnx(
    source: Path, level: str, *, options: OnnxQuantizeOptions | None = None
) -> RequantizePlan:
    """Reads a model and says what quantizing it to a level would do, without doing it.

    `source` is an ONNX file or a folder that holds one. Raises UsageError for options that do not
    go together and a model that is quantized already, UnsupportedError when too little of it can
    be, FormatError for a config that contradicts the graph, and what `read_graph` raises for a
    damaged one.
    """
    level = onnx_quantize_level(level)
    options = options or OnnxQuantizeOptions()
    options.check(level)
    model = model_in(source) if source.is_dir() else source
    graph = read_graph(model)
    if is_quantized(graph):
        raise UsageError(
            f"{model} is quantized already.",
            cause="It holds integers with scales; quantizing it again loses quality twice.",
            way_out="Start from the model at fp32 or fp16.",
        )
    with contextlib.suppress(UnsupportedError):  # a model of a kind that is not run here
        Artifact.open(model)  # a config that contradicts the graph would go with the new one
    operators = operators_of(model)
    matrices, kept = products_of(graph, operators, options.exclude)
    # Only this level makes integers of them.
    convolutions = tuple(k for k in kept if level == "int8-dynamic" and k.reason == CONVOLUTION)
    _check_excluded(options, {name for o in operators for name in (o.name, o.called)})
    plan = RequantizePlan(
        source=model,
        source_bytes=graph.size_bytes,
        level=level,
        options=options,
        graph=graph,
        matrices=matrices,
        convolutions=convolutions,
        kept=tuple(k for k in kept if k not in convolutions),
        total_bytes=_total_bytes(graph, matrices, options, level)
        - 3 * sum(k.elements for k in convolutions),  # of four bytes each one stays
    )
    _check_share(plan)
    return plan


def requantize_onnx(
    source: Path,
    out: Path,
    level: str,
    *,
    options: OnnxQuantizeOptions | None = None,
    overwrite: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
    stage: Stage | None = None,
) -> Requantized:
    """Quantizes an ONNX model of floats to a level, into the new folder `out`.

    `source` is an ONNX file or a folder that holds one; `level` is `int4`, `int8` or
    `int8-dynamic`, perhaps behind `onnx:`. The folder gets `model.onnx`, its data file, and the
    source's config and tokenizer files. `verify` computes once with the result. `progress` is told
    the part that is done where that is known, `stage` what is begun. Nothing is left under the
    final name unless the folder is whole.

    Raises as `plan_onnx`, and UsageError for a folder that is there unless `overwrite`, DiskError,
    MemoryLimitError when it obviously does not suffice, EngineMissingError naming the packages an
    algorithm needs, BackendError when less became integers than planned, and WorkerError when the
    process that does the work dies.
    """
    source, out = Path(source), Path(out)
    plan = plan_onnx(source, level, options=options)
    refuse_around(plan.source.parent, out)
    check_folder(out, plan.total_bytes, holds=MODEL_NAME, overwrite=overwrite)
    _check_memory(plan)
    settings = _genai_settings(plan.source)
    with whole_folder(out, plan.total_bytes, holds=MODEL_NAME, overwrite=overwrite) as folder:
        peak = _work(plan, folder, out, progress, stage)
        _open_to_all(folder)
        _copy_side_files(plan.source, folder, settings)
        nodes, size = _check_result(plan, folder)
        if verify:
            from .trial import run_once

            if stage is not None:
                stage("verifying")
            run_once(folder / MODEL_NAME)
    made = read_graph(out / MODEL_NAME)
    if progress is not None:
        progress(1.0)
    return Requantized(
        path=made.path,
        paths=made.paths,
        level=plan.level,
        algorithm=plan.algorithm,
        nodes=nodes,
        products=len(plan.matrices),
        elements=plan.elements,
        kept=plan.kept,
        source_bytes=plan.source_bytes,
        size_bytes=size,
        peak_bytes=peak,
    )


def _work(
    plan: RequantizePlan,
    folder: Path,
    out: Path,
    progress: Progress | None,
    stage: Stage | None,
) -> int | None:
    """Has the child write the model into the folder. Gives its peak memory."""
    options = dataclasses.asdict(plan.options)
    calibration = plan.options.calibration
    options["calibration"] = None if calibration is None else str(calibration.absolute())
    job = {
        "source": str(plan.source.absolute()),
        "folder": str(folder.absolute()),
        "level": plan.level,
        "options": options,
        "metadata": dict(_said(plan)),
    }
    answer: Mapping[str, object] = {}
    with Child("onnx.requantizer", engine="The quantizer", package="onnxruntime") as child:
        for answer in child.ask(job):
            if progress is not None and isinstance(share := answer.get("share"), int | float):
                progress(min(float(share), 1.0))
            if stage is not None and isinstance(name := answer.get("stage"), str):
                stage(name)
            if not answer.keys() & {"share", "stage"}:
                break  # the last word; it would wait for another job
        else:
            raise child.death()
    return _judged(answer, plan, out)


def _judged(answer: Mapping[str, object], plan: RequantizePlan, out: Path) -> int | None:
    if isinstance(error := answer.get("error"), list):
        kind = getattr(errors, str(error[0]), EdgeError)
        raise kind(error[1], cause=error[2], way_out=error[3])
    if isinstance(refused := answer.get("os_error"), list):
        raise disk_error(out, plan.total_bytes, OSError(refused[0], refused[1]))
    if "memory" in answer:
        raise MemoryLimitError(
            f"There is too little memory to quantize {plan.source.name}.",
            way_out="Close other programs, or choose --algorithm rtn, which needs little.",
        )
    peak = answer.get("peak_bytes")
    return peak if isinstance(peak, int) else None


def _said(plan: RequantizePlan) -> Iterator[tuple[str, str]]:
    """What the file says of itself."""
    options = plan.options
    yield LEVEL_KEY, plan.level
    if plan.level == "int8-dynamic":
        return
    yield "edge_runtime.algorithm", options.algorithm
    yield "edge_runtime.block_size", str(options.block_size)
    yield "edge_runtime.accuracy_level", str(options.accuracy_level)
    symmetric = options.symmetric
    yield (
        "edge_runtime.symmetric",
        str(options.algorithm not in OFFICIAL if symmetric is None else symmetric),
    )


def _total_bytes(
    graph: OnnxGraph, matrices: tuple[Matrix, ...], options: OnnxQuantizeOptions, level: str
) -> int:
    """About what the new folder weighs; a matrix that others read stays beside its blocks."""
    bits = options.bits(level)
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    total = graph.size_bytes
    for matrix in {m.key: m for m in matrices}.values():
        size = matrix.weight.type.bits // 8
        blocks = matrix.rows * math.ceil(matrix.columns / options.block_size)
        total += blocks * (options.block_size * bits // 8 + size)
        used = sum(m.weight.name == matrix.weight.name for m in matrices)
        if readers.get(matrix.weight.name, 0) <= used:
            total -= matrix.weight.size_bytes
    return max(total, 0)


def _check_excluded(options: OnnxQuantizeOptions, known: set[str]) -> None:
    for name in options.exclude:
        if name not in known:
            raise UsageError(
                f"No operator is called {name[:80]!r}.",
                cause="An exclusion that excludes nothing is a slip.",
                way_out="Operators are named by the graph; see them with a viewer such as Netron.",
            )


def _check_share(plan: RequantizePlan) -> None:
    """Refuses a model of which too little can be quantized to be called so."""
    stays = [k for k in plan.kept if k.elements and k.reason != EXCLUDED]
    whole = plan.elements + sum(k.elements for k in stays)
    if plan.elements and plan.elements >= _LEAST_SHARE * whole:
        return
    why = next((f"{first}: {reason}" for reason, _, first in reasons(stays)), "")
    excluded = any(k.reason == EXCLUDED for k in plan.kept)
    found = "nothing" if not plan.elements else f"{plan.elements / whole:.0%} of its weights"
    convolutions = any(k.op == "Conv" for k in stays)
    raise UnsupportedError(
        f"Of {plan.source.name}, {found} can be stored at {plan.level}.",
        cause="Everything is excluded."
        if excluded and not plan.elements
        else f"Most of it stays floats; {why}."
        if why
        else "It holds no product with a constant matrix.",
        way_out="Try --level int8-dynamic, which quantizes convolutions too."
        if convolutions
        else "",
    )


def _check_memory(plan: RequantizePlan) -> None:
    """Refuses beforehand what obviously does not fit."""
    key = plan.algorithm
    factor = _MEMORY_FACTORS.get(key)
    available = _available_bytes()
    if factor is None or available is None:
        return  # in slabs: some ten megabytes
    needed = int(factor * plan.source_bytes) + _SPARE_BYTES
    if needed > available:
        raise MemoryLimitError(
            f"Quantizing {plan.source.name} with {key} takes about {format_bytes(needed)} of"
            " memory.",
            cause=f"It is held whole, more than once; {format_bytes(available)} are available.",
            way_out="Choose --algorithm rtn or k-quant: those need little.",
        )


def _available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say so plainly."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _open_to_all(folder: Path) -> None:
    """Lets read the data file who may read the graph: some libraries write it for one user only."""
    mode = (folder / MODEL_NAME).stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)


def _copy_side_files(model: Path, folder: Path, settings: bytes | None) -> None:
    for name in _SIDE_FILES:
        path = side_file(model, name)
        if path is not None:
            shutil.copyfile(path, folder / name)
    if settings is not None:
        (folder / GENAI_CONFIG_NAME).write_bytes(settings)


def _genai_settings(model: Path) -> bytes | None:
    """What onnxruntime-genai is to know, as beside the source, but of the new file's name."""
    config = genai_config(model.parent)
    if config is None:
        return None
    stated = config["model"]
    decoder = stated.get("decoder") if isinstance(stated, dict) else None
    if isinstance(decoder, dict):
        decoder["filename"] = MODEL_NAME
    return json.dumps(config, indent=4).encode() + b"\n"


def _check_result(plan: RequantizePlan, folder: Path) -> tuple[int, int]:
    """Counts what became integers, and the bytes of the folder.

    Raises BackendError when less did than was planned.
    """
    try:
        made = read_graph(folder / MODEL_NAME)
    except FormatError as error:
        raise BackendError(
            "The quantizer wrote a file that is not sound.", cause=error.cause or error.fact
        ) from error
    counts = dict(made.operators)
    if plan.level == "int8-dynamic":
        found = sum(
            counts.get(op, 0)
            for op in ("MatMulInteger", "DynamicQuantizeMatMul", "ConvInteger", "QAttention")
        )
        wanted = 1
    else:
        found = counts.get("MatMulNBits", 0)
        wanted = len(plan.matrices)
    if found < wanted:
        raise BackendError(
            f"Only {found} of {wanted} products became integers.",
            cause="The quantizer passed over the others without saying why.",
            way_out=f"Choose --algorithm rtn: edge quantize {shlex.quote(str(plan.source))}"
            f" --level {plan.level}",
        )
    return found, sum(path.stat().st_size for path in folder.iterdir())
