"""Takes raw rows apart into rows of the table and refused ones.

The rules stand in `scripts/clean_measurements.py`; what is known of names, models and sources in
the files beside this one. Nothing is read or written here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from profiles.published import COLUMNS, PublishedRow

from . import refusals
from .conditions import conditions, not_one_measurement
from .devices import DeviceFacts
from .models import KnownModel, known_model
from .names import always_on_gpu, backend, inferred_api, level
from .refusals import NotTakenError
from .sources import context, untrusted

RAW_COLUMNS = (
    "device_id", "backend", "model", "params_b", "quant", "file_size_gb", "threads",
    "prompt_tokens", "gen_tokens", "context_depth", "prefill_tok_s", "decode_tok_s", "ttft_ms",
    "peak_mem_mb", "power_w", "energy_j_per_token", "date", "source", "notes", "model_type",
    "source_id",
)  # fmt: skip
_COUNTS = ("threads", "prompt_tokens", "gen_tokens", "context_depth")
_MEASURES = (
    "params_b", "file_size_gb", "prefill_tok_s", "decode_tok_s", "ttft_ms", "peak_mem_mb",
    "power_w", "energy_j_per_token",
)  # fmt: skip
_LARGEST = 1e12
"""No column of the raw schema holds more, in its own unit."""
_LARGEST_MEMORY_MB = 8 * 2**20
"""8 TiB: no machine of these classes has more, and kibibytes written as mebibytes exceed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A raw row that was not taken, as far as it is needed to find it, and why."""

    device: str
    backend: str
    model: str
    level: str
    prefill_tokens_per_s: str
    decode_tokens_per_s: str
    date: str
    source: str
    source_id: str
    rule: str
    reason: str


def clean(
    rows: Iterable[Mapping[str, object]], devices: Mapping[str, DeviceFacts | float]
) -> tuple[tuple[PublishedRow, ...], tuple[Refused, ...]]:
    """Takes raw rows (dictionaries by `RAW_COLUMNS`) apart into those kept and those refused.

    `devices` gives what is known of each device by its id: facts, or only the bandwidth of its
    memory in bytes/s. A device it lacks is taken as one of which nothing is known. Never raises for
    what a row holds.
    """
    facts = {
        name: known if isinstance(known, DeviceFacts) else DeviceFacts(bandwidth_bytes_per_s=known)
        for name, known in devices.items()
    }
    read: list[tuple[PublishedRow, Mapping[str, str]]] = []
    refused: list[Refused] = []
    for cells in map(_texts, rows):
        device = facts.get(cells["device_id"], DeviceFacts())
        try:
            row = _read(cells, device)
            refusals.check(row, device)
        except refusals.NotTakenError as fault:
            refused.append(_refusal(cells, fault.rule, str(fault)))
        else:
            read.append((row, cells))
    told_twice = _told_twice([row for row, _ in read])
    once = [pair for index, pair in enumerate(read) if index not in told_twice]
    far = refusals.far_from_repeats(row for row, _ in once)
    refused += [_refusal(read[at][1], "told-twice", why) for at, why in told_twice.items()]
    refused += [_refusal(once[at][1], "far-from-repeats", why) for at, why in far.items()]
    kept = [row for index, (row, _) in enumerate(once) if index not in far]
    kept.sort(key=_order)
    refused.sort(
        key=lambda one: (
            one.rule, one.device, one.source, one.backend, one.model, one.reason, str(one)
        )
    )  # fmt: skip
    return tuple(kept), tuple(refused)


def _texts(row: Mapping[str, object]) -> Mapping[str, str]:
    cells = {}
    for column in RAW_COLUMNS:
        value = row.get(column)
        text = "" if value is None else str(value)
        cells[column] = " ".join(text.split())
    return cells


def _read(cells: Mapping[str, str], device: DeviceFacts) -> PublishedRow:
    """One raw row as a row of the table; raises NotTakenError for one that cannot be."""
    numbers = {column: _number(cells[column], column) for column in (*_COUNTS, *_MEASURES)}
    model = known_model(cells["model"], numbers["params_b"], cells["model_type"])
    _check_readable(cells, numbers, model)
    said = conditions(cells)
    around = context(cells)
    ran = backend(cells["backend"])
    said |= {*ran.conditions, *around.conditions}
    engine = _engine(around.engine or ran.engine, cells["model"])
    measured = level(cells["quant"], engine, cells["model"])
    accelerator = ran.accelerator or around.accelerator
    if not accelerator and always_on_gpu(engine, cells["device_id"]):
        accelerator = "gpu"
    stated = ran.api or around.api
    api = stated or inferred_api(engine, accelerator, cells["device_id"])
    said |= _further_conditions(cells, model, measured.inferred, api != stated)
    threads = _whole(numbers["threads"])
    if _few_threads(accelerator, threads, device):
        said.add("thread-limited")
    row = PublishedRow(
        device=device.id or cells["device_id"],
        engine=engine,
        accelerator=accelerator,
        api=api,
        model=model.name or cells["model"],
        model_id=model.model_id,
        model_type=_type(model, cells, said),
        parameters=_digits(model.parameters),
        active_parameters=_digits(model.active_parameters),
        level=around.level or measured.name,
        weights_bytes=_whole((numbers["file_size_gb"] or 0.0) * 1e9) or None,
        threads=threads or None,
        prompt_tokens=_whole(numbers["prompt_tokens"]),
        generate_tokens=_whole(numbers["gen_tokens"]) or None,
        depth_tokens=_whole(numbers["context_depth"]),
        prefill_tokens_per_s=_digits(numbers["prefill_tok_s"]) or None,
        decode_tokens_per_s=_digits(numbers["decode_tok_s"]) or None,
        ttft_s=_digits((numbers["ttft_ms"] or 0.0) / 1e3) or None,
        peak_memory_bytes=_whole((numbers["peak_mem_mb"] or 0.0) * _megabyte(cells)) or None,
        power_w=_digits(numbers["power_w"]) or None,
        energy_j_per_token=_digits(numbers["energy_j_per_token"]) or None,
        conditions=(),
        date=cells["date"],
        source=_address(cells["source"]),
        source_id=cells["source_id"] or "unnamed",
    )
    return _without_the_impossible(row, said, numbers, cells["notes"].lower())


def _check_readable(
    cells: Mapping[str, str], numbers: Mapping[str, float | None], model: KnownModel
) -> None:
    rates = (numbers[name] for name in ("prefill_tok_s", "decode_tok_s", "energy_j_per_token"))
    missing = [name for name in ("device_id", "model", "source") if not cells[name]]
    unnamed = _UNNAMED.search(cells["model"].lower())
    for rule, reason in (
        ("incomplete", f"Does not say its {missing[0].removesuffix('_id')}." if missing else ""),
        (
            "incomplete",
            "" if any(rates) else "Gives neither a rate of prefill or decoding nor an energy.",
        ),
        ("untrusted", untrusted(cells)),
        ("not-one-measurement", not_one_measurement(cells)),
        (
            "unnamed-model",
            "The source, as far as it is known, does not name the model." if unnamed else "",
        ),
        (
            "unknown-size",
            ""
            if model.parameters or numbers["file_size_gb"]
            else "Neither the row nor the model's name tells how large the model is.",
        ),
    ):
        if reason:
            raise NotTakenError(rule, reason)


_UNNAMED = re.compile(r"not (visible|stated|named|given)|unknown|^\d+(\.\d+)?\s*[bm]$")


def _engine(engine: str, model: str) -> str:
    """The engine whose kernels ran: Ollama runs the models it calls `-mlx` through MLX."""
    return "mlx" if engine == "ollama" and re.search(r"[-:]mlx(-|$)", model.lower()) else engine


def _further_conditions(
    cells: Mapping[str, str], model: KnownModel, level_inferred: bool, api_inferred: bool
) -> set[str]:
    found = set()
    if level_inferred:
        found.add("level-inferred")
    if api_inferred:
        found.add("api-inferred")
    if model.nominal:
        found.add("nominal-size")
    size = cells["file_size_gb"].lstrip("0.").replace(".", "")
    if 0 < len(size.rstrip("0")) <= 2 and cells["file_size_gb"]:
        found.add("size-rounded")
    if cells["file_size_gb"] and _embedding_twice(cells, model):
        found.add("embedding-twice")
    return found


def _embedding_twice(cells: Mapping[str, str], model: KnownModel) -> bool:
    """Whether the size counts a shared embedding as input and once more as output.

    llama.cpp loads such a matrix into two buffers, so their sum has it twice; some files store it
    twice, and then the number of parameters that the source counts has it twice too.
    """
    if model.tied and "loaded weight buffers" in cells["notes"]:
        return True
    said = _number(cells["params_b"], "params_b")
    if not (said and model.model_id and model.parameters):
        return False
    return 1.1 < said * 1e9 / model.parameters < 1.3


def _type(model: KnownModel, cells: Mapping[str, str], said: set[str]) -> str:
    """The type of the model; a user's list calls every model dense, so there it says nothing."""
    described = model.model_id or model.model_type != "dense" or not model.nominal
    if model.model_type == "dense" and "user-submitted" in said and not described:
        return "dense" if _DENSE.search(cells["model"].lower()) else "unknown"
    return model.model_type


_DENSE = re.compile(
    r"qwen-?2|qwen-?3-(8|14|32)b|llama|gemma-?[23]-|gemma-?4[-:](12|31)b|mistral-(7b|nemo|small-(24b|3))|"
    r"phi-|yi-1\.5|internlm|aya-expanse|command-r7b|glm-4-9b|glm-z1-32b|olmo-2|falcon3|exaone-3\.5|"
    r"granite-?[34]\.1|devstral|magistral|codestral-22b|ministral|apertus|afm-4\.5b|deepseek-r1-distill"
)


def _few_threads(accelerator: str, threads: int | None, device: DeviceFacts) -> bool:
    if accelerator != "cpu" or not threads:
        return False
    return threads * 2 <= (device.fast_cores or 4)


def _without_the_impossible(
    row: PublishedRow, said: set[str], numbers: Mapping[str, float | None], notes: str
) -> PublishedRow:
    changes: dict[str, object] = {}
    if (numbers["peak_mem_mb"] or 0) > _LARGEST_MEMORY_MB:
        changes["peak_memory_bytes"] = None
        said.add("dropped:memory")
    if "sustained energy task" in notes:
        changes |= {"prompt_tokens": None, "generate_tokens": None}
        said.add("dropped:tokens")
    if refusals.energy_contradicts(row):
        changes["energy_j_per_token"] = None
        said.add("dropped:energy")
    if not (row.power_w or changes.get("energy_j_per_token", row.energy_j_per_token)):
        said = {one for one in said if not one.startswith("power-meter")}
    return dataclasses.replace(row, conditions=tuple(sorted(said)), **changes)  # type: ignore[arg-type]


def _told_twice(rows: Sequence[PublishedRow]) -> Mapping[int, str]:
    first: dict[tuple[object, ...], int] = {}
    found: dict[int, str] = {}
    for index in sorted(
        range(len(rows)), key=lambda at: (-_filled(rows[at]), len(rows[at].model), _order(rows[at]))
    ):
        row = rows[index]
        if row.decode_tokens_per_s is None and row.prefill_tokens_per_s is None:
            continue
        key = refusals.same_measurement(row)
        if key in first:
            found[index] = f"The same measurement as the one kept from {rows[first[key]].source}."
        else:
            first[key] = index
    return found


def _filled(row: PublishedRow) -> int:
    return sum(getattr(row, column) not in (None, "") for column in COLUMNS)


def _order(row: PublishedRow) -> tuple[str, ...]:
    return tuple(
        f"{value:020.6f}" if isinstance(value, float) else str(value)
        for value in (
            row.device, row.source_id, row.engine, row.accelerator, row.api, row.model, row.level,
            row.source, float(row.threads or 0), float(row.depth_tokens or 0),
            float(row.prompt_tokens or 0), row.decode_tokens_per_s or 0.0,
            row.prefill_tokens_per_s or 0.0, row.conditions, row.power_w or 0.0, row,
        )
    )  # fmt: skip


def _number(text: str, column: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise NotTakenError("no-number", f"{column} is {text[:40]!r}, no number.") from None
    if not 0 <= value <= _LARGEST:
        raise NotTakenError("no-number", f"{column} is {text[:40]}, which no measurement gives.")
    return value


def _megabyte(cells: Mapping[str, str]) -> float:
    """What the row's source means by a megabyte of memory: 2**20 bytes where its notes say MiB."""
    return 2.0**20 if re.search(r"peak_mem_mb = [^;]*mib", cells["notes"].lower()) else 1e6


def _address(source: str) -> str:
    """A source without a collector's own number of the file, which leads nobody anywhere."""
    return re.sub(r" ?\(stored [^()]*\)", "", source)


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _whole(value: float | None) -> int | None:
    return None if value is None else round(float(f"{value:.6g}"))


def _refusal(cells: Mapping[str, str], rule: str, reason: str) -> Refused:
    return Refused(
        device=cells["device_id"],
        backend=cells["backend"],
        model=cells["model"],
        level=cells["quant"],
        prefill_tokens_per_s=cells["prefill_tok_s"],
        decode_tokens_per_s=cells["decode_tok_s"],
        date=cells["date"],
        source=_address(cells["source"]),
        source_id=cells["source_id"],
        rule=rule,
        reason=reason,
    )
