"""Options that several verbs read alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ..errors import UnsupportedError, UsageError
from ..measurement import KvType, Limits

if TYPE_CHECKING:
    from ..verdict import Target

PANEL_OUT = "Output"

Force = Annotated[bool, typer.Option("--force", help="Overwrite.", rich_help_panel=PANEL_OUT)]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify", help="Read every value back and decode one token.", rich_help_panel=PANEL_OUT
    ),
]
JsonOutput = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=PANEL_OUT),
]
SaveDocument = Annotated[
    Path | None,
    typer.Option("--save", help="Also write that document to a file.", rich_help_panel=PANEL_OUT),
]

Provider = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="Where ONNX Runtime computes: cpu, cuda, coreml, dml, qnn, webgpu, or NAME=LIBRARY "
        "of a plugin. Several are separated by commas, first choice first.",
        show_default="the first GPU of its build, else cpu",
    ),
]

TargetRate = Annotated[
    str,
    typer.Option("--target", help="Wanted tok/s, or a preset: reading, silent-reading, speech ..."),
]
Language = Annotated[
    str, typer.Option("--language", help="Language of the text, for the preset's rate.")
]
Context = Annotated[
    int, typer.Option("--context", "-c", min=64, help="Context that must fit, tokens.")
]
PromptTokens = Annotated[
    int, typer.Option("--prompt-tokens", "-p", min=1, help="Prompt length, tokens.")
]
KvTypeName = Annotated[
    str, typer.Option("--kv-type", help="Type of the KV cache: f16, q8_0 or q4_0.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", "-t", min=1, help="Threads.", show_default=False)
]

_PANEL_ELSEWHERE = "As if on another device, without running anything"
AcceleratorName = Annotated[
    str | None,
    typer.Option(
        "--accelerator",
        metavar="NAME",
        help="What of the device computes: cpu, gpu or npu.",
        rich_help_panel=_PANEL_ELSEWHERE,
        show_default="the best it has",
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="Inference engine to project for.",
        rich_help_panel=_PANEL_ELSEWHERE,
        show_default="llama.cpp",
    ),
]

_PANEL_DEVICE = "As if on a smaller device"
LimitMemory = Annotated[
    str | None,
    typer.Option(
        "--limit-memory",
        metavar="SIZE",
        help="Memory ceiling, such as 6GiB.",
        rich_help_panel=_PANEL_DEVICE,
        show_default=False,
    ),
]
LimitCores = Annotated[
    int | None,
    typer.Option(
        "--limit-cores",
        min=1,
        help="Processors to run on.",
        rich_help_panel=_PANEL_DEVICE,
        show_default=False,
    ),
]


def read_limits(memory: str | None, cores: int | None) -> Limits | None:
    """The smaller device asked for, None where it is this one.

    Raises UsageError for what is no size, and for a device that cannot be emulated here.
    """
    if memory is None and cores is None:
        return None
    from ..profiler import detect_host
    from ..profiler.limits import checked_limits

    size = read_size(memory, "--limit-memory")
    return checked_limits(Limits(memory_bytes=size, cores=cores), detect_host())


def read_size(text: str | None, option: str) -> int | None:
    """The bytes that an option says, None where it is not given. Raises UsageError."""
    from ..units import parse_bytes

    if text is None:
        return None
    try:
        return parse_bytes(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error.fact}", way_out=error.way_out) from None


def provider_names(asked: Sequence[str] | None) -> tuple[str, ...]:
    """The execution providers asked for, each once.

    Raises UsageError for one that ONNX Runtime does not have here, listing those it has.
    """
    names = tuple(dict.fromkeys(_parts(asked or ())))
    if names:
        from ..backends.onnx.providers import require_known

        require_known(names)
    return names


def target_rate(target: str, language: str = "en") -> tuple[float, str, str]:
    """The rate that is wanted, tokens/s, what it is called, and its source.

    `target` is a number or the name of a use. Raises UsageError.
    """
    from profiles import reading

    try:
        rate = float(target)
    except ValueError:
        try:
            rate, source = reading.needed_tokens_per_s(target, language)
        except ValueError as error:
            raise UsageError(str(error)) from None
        return rate, target if language == "en" else f"{target} in {language}", source
    if not 0 < rate < 1e6:
        raise UsageError(f"A target of {target} tok/s makes no sense.")
    return rate, "as asked", ""


def asked_target(target: str, language: str, context_tokens: int, prompt_tokens: int) -> Target:
    """The target that the options of a check say. Raises UsageError."""
    from ..verdict import Target

    if context_tokens < prompt_tokens:
        raise UsageError(
            f"A prompt of {prompt_tokens} tokens does not fit a context of {context_tokens}."
        )
    rate, name, source = target_rate(target, language)
    return Target(
        decode_tokens_per_s=rate,
        context_tokens=context_tokens,
        prompt_tokens=prompt_tokens,
        name=name,
        source=source,
    )


def kv_type(text: str) -> KvType:
    """The KV cache type of that name. Raises UsageError listing the known ones."""
    if text not in get_args(KvType):
        raise UsageError(
            f"{text!r} is no type of a KV cache.",
            way_out=f"Known: {', '.join(get_args(KvType))}.",
        )
    return cast(KvType, text)


def level_name(text: str) -> str:
    """The GGUF level of that name, as it is written. Raises UsageError with the nearest."""
    from quantize import ONNX_LEVELS

    from ..artifact import level

    try:
        return level(text).name
    except UnsupportedError as error:
        if text.lower() in ONNX_LEVELS:
            raise UsageError(
                f"{text} is a level of ONNX models.", way_out=f"Write onnx:{text.lower()}."
            ) from None
        raise UsageError(error.fact, cause=error.cause, way_out=error.way_out) from None


def any_level_name(text: str) -> str:
    """The level of that name, as it is written, of either format: `Q4_K_M`, or `onnx:int4`.

    Raises UsageError with the nearest.
    """
    from quantize import is_onnx_level, onnx_level

    if not is_onnx_level(text):
        return level_name(text)
    try:
        return f"onnx:{onnx_level(text).name}"
    except UnsupportedError as error:
        raise UsageError(error.fact, cause=error.cause, way_out=error.way_out) from None


def level_names(asked: Sequence[str]) -> tuple[str, ...]:
    """The GGUF levels asked for, each once: repeated options, or names separated by commas."""
    return tuple(dict.fromkeys(map(level_name, _level_parts(asked))))


def any_level_names(asked: Sequence[str]) -> tuple[str, ...]:
    """The levels of either format that are asked for, as `level_names` takes them apart."""
    return tuple(dict.fromkeys(map(any_level_name, _level_parts(asked))))


def _parts(asked: Sequence[str]) -> list[str]:
    return [part.strip() for item in asked for part in item.split(",") if part.strip()]


def _level_parts(asked: Sequence[str]) -> list[str]:
    """Raises UsageError where `--level` is given and empty: it would ask for nothing."""
    found = _parts(asked)
    if asked and not found:
        raise UsageError("--level names no level.", way_out="Write it like Q4_K_M or Q8_0,Q4_0.")
    return found


def complete_device(incomplete: str) -> list[tuple[str, str]]:
    """Names of the devices that begin so and what they are called, for the shell's completion."""
    from profiles.devices import device_names

    from .personal import personal_names

    # Of several devices separated by commas the last is being typed.
    before, comma, begun = incomplete.rpartition(",")
    return [
        (f"{before}{comma}{name}", title)
        for name, title in (*personal_names().items(), *device_names().items())
        if name.startswith(begun.strip().lower())
    ]


def complete_level(incomplete: str) -> list[tuple[str, str]]:
    """Names and descriptions of the GGUF levels that begin so, for the shell's completion."""
    from ..artifact import LEVELS

    begun = incomplete.upper()
    return [(name, lv.description) for name, lv in LEVELS.items() if name.startswith(begun)]


def complete_quantize_level(incomplete: str) -> list[tuple[str, str]]:
    """Names and descriptions of what `edge quantize` makes of either format that begin so."""
    from quantize.onnx.algorithms import LEVELS

    begun = incomplete.lower()
    return [*complete_level(incomplete), *(x for x in LEVELS.items() if x[0].startswith(begun))]


def complete_any_level(incomplete: str) -> list[tuple[str, str]]:
    """Names and descriptions of the levels of either format that begin so."""
    from quantize.onnx.levels import USES

    found = [(f"onnx:{name}", use) for name, use in USES.items()]
    begun = incomplete.lower()
    return [*complete_level(incomplete), *(pair for pair in found if pair[0].startswith(begun))]


Claim = Annotated[
    float | None,
    typer.Option(
        "--claim",
        metavar="RATE",
        help="A rate that somebody claims, tok/s: is it possible there at all?",
        rich_help_panel=_PANEL_ELSEWHERE,
        show_default=False,
    ),
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        "-d",
        metavar="ID",
        help="Devices to project for, such as pixel-9-pro,raspberry-pi-5-8gb; repeat it or "
        "separate by commas. edge devices lists them.",
        rich_help_panel=_PANEL_ELSEWHERE,
        show_default=False,
        autocompletion=complete_device,
    ),
]
