"""What others measured and published: the rows of `measurements.csv`, each with where it stands.

The table is made by `scripts/clean_measurements.py` from a raw collection; docs/measurements.md
says how, and what was refused. This module reads it. It knows columns and units; it knows neither
devices nor models, so a device or a model of a row is a plain name here.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files

ACCELERATORS = ("cpu", "gpu", "npu", "")
"""What ran the model. Empty where the source does not say."""

MODEL_TYPES = ("dense", "moe", "hybrid", "ple", "unknown")
"""Dense transformers; mixtures of experts; layers of another kind among those of attention (no
mixture); per-layer embeddings, most of which a token does not read; not known."""

CONDITIONS: Mapping[str, str] = {
    "api-inferred": "the source names no API; the device and the engine leave one only",
    "approximate": "printed as an approximate value",
    "best-case": "the best of several, as quoted by the source",
    "clock-limited": "clocks held below the highest",
    "custom-engine": "an engine of the author's own, or a changed one",
    "dropped": "a published value was left out as impossible or as contradicting the others",
    "deep-context": "a long prompt, of a length the source does not state, stood before decoding",
    "driver": "the driver of the API, where a device has several",
    "embedding-twice": "`weights_bytes` counts a shared embedding twice; a token reads it once",
    "integer": "rounded to whole tokens per second at the source",
    "level-inferred": "the level is the tool's default or follows from the context, not stated",
    "mapped-device": "the source leaves open which variant of the device it was",
    "mtp-model": "the weights can predict several tokens at once; whether they did is not stated",
    "nominal-size": "parameters as in the model's name, a rounded number",
    "old-build": "an engine of 2023, or the first version of a backend",
    "partial-offload": "only some layers ran on the accelerator named",
    "pcie-x1": "a card behind one PCIe lane",
    "power-meter": "what was metered: wall, board, rails, package, gpu, device, battery",
    "power-mode": "the device's power mode",
    "prefill-threads": "prefill ran with this number of threads; `threads` is that of decoding",
    "secondary": "quoted by the source from somewhere else",
    "short-prompt": "the prompt was too short for the prefill rate to mean much",
    "size-computed": "size of the weights computed, or of another file of the same model and level",
    "size-rounded": "size of the weights printed with one or two digits",
    "speculative": "speculative decoding: more than one token for each reading of the weights",
    "speculative-binary": "a speculative decoder with drafting off, slower than llama-bench",
    "split-accelerators": "prefill and decoding ran on different accelerators",
    "sustained": "the mean of minutes of continuous decoding",
    "thread-limited": "at most half as many threads as there are fast cores",
    "throttled": "the source saw the device slow down with heat, or call its heat serious",
    "user-submitted": "sent in by a user, not checked by the source",
    "vendor": "published by the maker of the device or the engine",
    "wall-time": "tokens over the whole time of the request, prefill included",
}
"""Every condition a row may have, and what it says. Some carry a value: `power-mode:30W`."""

VALUED = frozenset(
    ("dropped", "driver", "power-meter", "power-mode", "prefill-threads"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """One published measurement.

    None and the empty text mean that the source does not say. `parameters` are those of one copy of
    the model; `active_parameters` those that one token reads, None where they are all or unknown.
    `weights_bytes` is the published size of the weights, `peak_memory_bytes` what the source calls
    the peak. `prompt_tokens` is the length of the prompt behind `prefill_tokens_per_s`,
    `depth_tokens` the context that stood before decoding began. `power_w` and `energy_j_per_token`
    are of what the condition `power-meter` names; meters differ, so never mix them.
    """

    device: str
    engine: str
    accelerator: str
    api: str
    model: str
    model_id: str
    model_type: str
    parameters: float | None
    active_parameters: float | None
    level: str
    weights_bytes: int | None
    threads: int | None
    prompt_tokens: int | None
    generate_tokens: int | None
    depth_tokens: int | None
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    ttft_s: float | None
    peak_memory_bytes: int | None
    power_w: float | None
    energy_j_per_token: float | None
    conditions: tuple[str, ...]
    date: str
    source: str
    source_id: str

    def has(self, condition: str) -> bool:
        """Whether the row has that condition, with whatever value."""
        return any(own.partition(":")[0] == condition for own in self.conditions)


COLUMNS = tuple(field.name for field in fields(PublishedRow))
_REQUIRED = ("device", "engine", "model", "model_type", "source", "source_id")
_WHOLE = frozenset(
    ("weights_bytes", "threads", "prompt_tokens", "generate_tokens", "depth_tokens",
     "peak_memory_bytes")
)  # fmt: skip
_REAL = frozenset(
    ("parameters", "active_parameters", "prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s",
     "power_w", "energy_j_per_token")
)  # fmt: skip
_LARGEST = 1e21
"""No column holds more, and a number of thousands of digits is none."""
_MAY_BE_ZERO = frozenset(("prompt_tokens", "depth_tokens"))


@functools.cache
def published_rows() -> tuple[PublishedRow, ...]:
    """The rows of the shipped table, in its order.

    Raises ValueError naming the line and the column when the table is malformed.
    """
    text = (files(__package__ or "profiles") / "measurements.csv").read_text(encoding="utf-8")
    return read_published(text.splitlines(), "measurements.csv")


def read_published(lines: Iterable[str], name: str) -> tuple[PublishedRow, ...]:
    """Reads a table of that form from its lines.

    Raises ValueError naming `name`, the line and the column.
    """
    reader = csv.reader(lines, strict=True)
    try:
        header = tuple(next(reader, ()))
        if header != COLUMNS:
            raise ValueError(f"{name}: its columns must be {', '.join(COLUMNS)}.")
        return tuple(_row(name, reader.line_num, cells) for cells in reader)
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: no CSV ({error}).") from error


def _row(name: str, line: int, cells: list[str]) -> PublishedRow:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{name}, line {line}: {len(cells)} cells for {len(COLUMNS)} columns.")
    try:
        values = {column: _value(column, cell) for column, cell in zip(COLUMNS, cells, strict=True)}
    except ValueError as error:
        raise ValueError(f"{name}, line {line}: {error}") from None
    return PublishedRow(**values)  # type: ignore[arg-type]  # each column has been read by its kind


def _value(column: str, cell: str) -> str | int | float | tuple[str, ...] | None:
    if column in _WHOLE or column in _REAL:
        return _number(column, cell)
    if column == "conditions":
        return _conditions(cell)
    if column in _REQUIRED and not cell:
        raise ValueError(f"{column} is empty.")
    for names in (ACCELERATORS if column == "accelerator" else (),
                  MODEL_TYPES if column == "model_type" else ()):  # fmt: skip
        if names and cell not in names:
            raise ValueError(
                f"{column} is {cell[:40]!r}, not one of {', '.join(filter(None, names))}."
            )
    return cell


def _number(column: str, cell: str) -> int | float | None:
    if not cell:
        return None
    kind = int if column in _WHOLE else float
    try:
        value: int | float = kind(cell)
    except ValueError:
        raise ValueError(f"{column} is {cell[:40]!r}, no {kind.__name__}.") from None
    if not 0 <= value <= _LARGEST or (value == 0 and column not in _MAY_BE_ZERO):
        raise ValueError(f"{column} is {cell[:40]}, which no measurement gives.")
    return value


def _conditions(cell: str) -> tuple[str, ...]:
    found = tuple(cell.split(" ")) if cell else ()
    for condition in found:
        name, _, value = condition.partition(":")
        if name not in CONDITIONS or (name in VALUED) != bool(value):
            raise ValueError(f"conditions has {condition[:40]!r}, which nothing defines.")
    return found
