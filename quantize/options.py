"""What can be asked of llama.cpp's quantizer beside a level, and the levels there are.

A request that makes no sense is refused here, in a sentence, before any process is started. Which
tensor a request then applies to is the quantizer's decision.
"""

from __future__ import annotations

import difflib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.artifact import GGML_TYPES, LEVELS, GGMLType, Level
from edge_runtime.errors import UsageError

_NOT_MADE = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
"""Types ggml computes with, or keeps numbers in, that its quantizer does not make."""

TARGET_TYPES = tuple(name for name in GGML_TYPES if name not in _NOT_MADE)
"""Names of the tensor types that can be asked for."""

_CAPITALS = re.compile(r"\\.|[A-Z]+", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """How a level is departed from.

    `imatrix` is the path of an importance matrix. `tensor_types` are pairs of a pattern and a type
    name: the first pattern found anywhere in a tensor's name decides, as with `llama-quantize
    --tensor-type`; patterns are ECMAScript regular expressions. `pure` gives every matrix the
    level's main type. `leave_output_tensor` keeps `output.weight` as it is, `allow_requantize`
    accepts a source that is quantized already, and `threads` None takes all cores.
    Raises UsageError for an unknown type, a broken pattern or an impossible number of threads.
    """

    imatrix: Path | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    pure: bool = False
    allow_requantize: bool = False
    leave_output_tensor: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot quantize.", way_out="Give 1 or more.")
        for pattern, name in self.tensor_types:
            _check_pattern(pattern)
            target_type(name)
        for given in (self.output_tensor_type, self.token_embedding_type):
            if given is not None:
                target_type(given)
        if self.leave_output_tensor and self.output_tensor_type is not None:
            raise UsageError(
                f"The output tensor cannot be left as it is and made {self.output_tensor_type}.",
                way_out="Ask for one of the two.",
            )

    @property
    def overrides(self) -> tuple[tuple[str, GGMLType], ...]:
        """The tensor types asked for, patterns in lower case as tensor names are."""
        return tuple((lowered(pattern), target_type(name)) for pattern, name in self.tensor_types)


def levels() -> tuple[Level, ...]:
    """Every level that can be asked for, largest first: the one list all commands use."""
    return tuple(LEVELS.values())


def parse_tensor_type(text: str) -> tuple[str, str]:
    """Takes `PATTERN=TYPE` apart, as in `ffn_down=q6_k`. The type is what follows the last `=`.

    Raises UsageError when there are not two parts.
    """
    pattern, _, name = text.rpartition("=")
    if not pattern or not name:
        raise UsageError(
            f"{text!r} says no tensor and type.", way_out="Write it like ffn_down=q6_k."
        )
    return pattern, name


def target_type(name: str) -> GGMLType:
    """The tensor type of that name, in either case, if the quantizer can make it.

    Raises UsageError with the nearest names, and all of them.
    """
    wanted = name.strip().upper()
    if wanted in TARGET_TYPES:
        return GGML_TYPES[wanted]
    near = difflib.get_close_matches(wanted, TARGET_TYPES, n=2)
    cause = f"Nearest: {' or '.join(near)}." if near else ""
    if wanted in GGML_TYPES:
        cause = "It exists, but not as a type to quantize to."
    elif any(level.name == wanted for level in LEVELS.values()):
        cause = f"It is a level, a mix of types; its main one is {LEVELS[wanted].default.name}."
    raise UsageError(
        f"{name!r} is no tensor type.", cause=cause, way_out=f"Known: {', '.join(TARGET_TYPES)}."
    )


def lowered(pattern: str) -> str:
    r"""The pattern in lower case but for escapes, whose case is their meaning (`\D`)."""
    return _CAPITALS.sub(lambda m: m[0] if m[0].startswith("\\") else m[0].lower(), pattern)


def _check_pattern(pattern: str) -> None:
    """Refuses what no dialect reads; the quantizer itself refuses what only its own does not."""
    if not pattern or "\0" in pattern:
        raise UsageError(
            f"{pattern!r} is no pattern of tensor names.", way_out="Write one like ffn_down."
        )
    if "[[:" in pattern:  # POSIX classes are known to ECMAScript, not to Python
        return
    try:
        with warnings.catch_warnings():
            # What Python's own dialect may mean by [[ one day concerns nobody here.
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{pattern!r} is no regular expression.",
            cause=f"{str(error).capitalize()}.",
            way_out=r"Write one like ffn_down or blk\.[0-3]\.attn_v.",
        ) from None
