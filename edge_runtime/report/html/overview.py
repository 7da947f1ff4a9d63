"""What a reader should know first: the verdict in a sentence, and the figures it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...basis import Unavailable
from ...comparison.rows import ComparedRow, Comparison
from ...measurement import Engine, Host, Measurement
from ...saved import SavedRecord
from ...scores import Answers, Scores
from ...units import format_bytes, format_count, format_duration, format_rate
from ...verdict import VerdictKind
from ..emulated import record_emulated_words
from ..energy import three_digits
from ..plain import plain
from ..sustained import SYMMETRIC_LIMIT
from .table import TONES
from .wording import interval_words, perplexity_words, share_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure: what it is, its value, and a line that puts it into proportion."""

    name: str
    value: str
    small: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The head of one comparison. `tone` is good, warn or bad; empty where nothing is judged."""

    subject: str
    where: str
    verdict: str
    tone: str
    sentence: str
    next_step: str
    tiles: tuple[Tile, ...]


def overview(comparison: Comparison) -> Overview:
    """The verdict of the recommended level, or of the only one, with its figures."""
    row = _spoken_of(comparison)
    verdict = row.verdict if row is not None and not isinstance(row.verdict, Unavailable) else None
    kind = _best_verdict(comparison) if row is None else None if verdict is None else verdict.kind
    single = len(comparison.rows) == 1
    sentence = comparison.recommendation
    if single and verdict is not None:
        sentence = f"{row.label if row else ''}: {verdict.cause}"
    return Overview(
        subject=_subject(comparison),
        where=_where(comparison.records),
        verdict="" if kind is None else kind.value.capitalize(),
        tone="" if kind is None else TONES[kind],
        sentence=plain(sentence),
        next_step=plain(verdict.next_step) if single and verdict is not None else "",
        tiles=() if row is None else _tiles(row, comparison),
    )


def _spoken_of(comparison: Comparison) -> ComparedRow | None:
    """The recommended row, or the only one there is."""
    for row in comparison.rows:
        if row.label == comparison.recommended:
            return row
    return comparison.rows[0] if len(comparison.rows) == 1 else None


def _best_verdict(comparison: Comparison) -> VerdictKind | None:
    """The best that any level was judged to be."""
    order = (VerdictKind.VIABLE, VerdictKind.BORDERLINE, VerdictKind.NOT_VIABLE)
    judged = [r.verdict.kind for r in comparison.rows if not isinstance(r.verdict, Unavailable)]
    return min(judged, key=order.index, default=None)


def _subject(comparison: Comparison) -> str:
    """The model: its name, its size, and how many levels of it there are."""
    artifacts = [row.artifact for row in comparison.rows if row.artifact is not None]
    if not artifacts:
        return "No model"
    words = model_names(artifact.name for artifact in artifacts)
    if len({artifact.parameters for artifact in artifacts}) == 1:
        words += f" · {format_count(artifacts[0].parameters)} parameters"
    if len(comparison.rows) > 1:
        words += f" · {len(comparison.rows)} levels"
    return words


def model_names(names: Iterable[str]) -> str:
    """What models are called: `tiny`, of `tiny`, `tiny-onnx-int8` and `tiny`; at most three."""
    found = list(dict.fromkeys(plain(name, most=60) for name in names))
    kept = [
        name
        for name in found
        if not any(name != other and name.startswith(f"{other}-") for other in found if other)
    ]
    return ", ".join(kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")


def _where(records: tuple[SavedRecord, ...]) -> str:
    """The machine, as little of it as tells it from others, and when it was measured."""
    measured = [record for record in records if isinstance(record, Measurement)]
    if not measured:
        return ""
    words = host_words(measured[0].host)
    emulated = record_emulated_words(measured[0])
    begun = min(record.created for record in measured)[:16].replace("T", " ")
    return plain(" · ".join(filter(None, (words, emulated, f"{begun} UTC"))))


def host_words(host: Host) -> str:
    """`Some CPU · 4 cores · 16 GiB · Linux`."""
    cores = f"{host.cores_usable} core{'s' * (host.cores_usable != 1)}"
    return plain(f"{host.cpu} · {cores} · {format_bytes(host.ram_bytes)} · {host.system}")


def engines(records: tuple[SavedRecord, ...]) -> tuple[Engine, ...]:
    """Each engine that ran, once; where nodes were placed tells them not apart."""
    found: dict[tuple[str, str], Engine] = {}
    for record in records:
        if isinstance(record, Measurement | Scores | Answers):
            found.setdefault((record.engine.name, record.engine.version), record.engine)
    return tuple(found.values())


def disturbed_words(records: tuple[SavedRecord, ...]) -> tuple[str, ...]:
    """A warning where half of the measurements or more were disturbed."""
    measured = [record for record in records if isinstance(record, Measurement)]
    many = sum(record.noise.disturbed for record in measured)
    if not many or 2 * many < len(measured):
        return ()
    words = (
        f"{many} of {len(measured)} measurements were disturbed: speeds are less certain than on a"
        " quiet machine, and may be higher there."
    )
    return (words,)


def limit_words(row: ComparedRow) -> tuple[str, ...]:
    """What keeps a level from being viable, and what to do about it; nothing of one that is."""
    verdict = row.verdict
    if isinstance(verdict, Unavailable) or verdict.kind is VerdictKind.VIABLE:
        return ()
    words = f"{verdict.kind.value.capitalize()}: {verdict.cause}."
    return (f"{words} {verdict.next_step}".strip(),)


def _tiles(row: ComparedRow, comparison: Comparison) -> tuple[Tile, ...]:
    base = next((other for other in comparison.rows if other.is_baseline), None)
    other = base if base is not None and base is not row else None
    found = [_speed(row, other), _loss(row), _memory(row, comparison), _size(row, other)]
    if not isinstance(row.ttft_s, Unavailable):
        found.append(
            Tile(
                name="First token",
                value=format_duration(row.ttft_s.value),
                small=f"after a prompt of {row.ttft_prompt_tokens} tokens",
            )
        )
    if not isinstance(row.joules_per_token, Unavailable):
        found.append(
            Tile(
                name="Energy",
                value=f"{three_digits(row.joules_per_token.value)} J",
                small="for each generated token, gross",
            )
        )
    return tuple(tile for tile in found if tile is not None)


def _speed(row: ComparedRow, base: ComparedRow | None) -> Tile | None:
    if isinstance(row.decode, Unavailable):
        return None
    rate, ratio = row.decode.tokens_per_s, row.decode.ratio
    small = interval_words(rate, format_rate)
    if row.decode.burst_tokens_per_s is not None:
        small = f"steady, {small}"
    if ratio is not None and base is not None and not ratio.is_hopeless:
        small = f"{ratio.value:.2f} times {plain(base.label)}"
        if ratio.relative_half_width > SYMMETRIC_LIMIT:
            small += f" ({ratio.low:.2f} to {ratio.high:.2f})"
    return Tile(name="Speed", value=f"{format_rate(rate.value)} tok/s", small=small)


def _loss(row: ComparedRow) -> Tile | None:
    if isinstance(row.quality, Unavailable):
        return None
    kl, top1 = row.quality.kl, row.quality.top1_agreement
    if kl is None:
        found = row.quality.perplexity
        error = perplexity_words(found.standard_error)
        return Tile(
            name="Perplexity",
            value=perplexity_words(found.value),
            small=f"± {error}, on {row.quality.scored_tokens:,} tokens",
        )
    small = "nats/token (KL)"
    if top1 is not None:
        small += f", same first choice at {share_words(top1.value)} of tokens"
    return Tile(name="Loss", value=three_digits(kl.value), small=small)


def _memory(row: ComparedRow, comparison: Comparison) -> Tile | None:
    if isinstance(row.need_bytes, Unavailable):
        return None
    free = None if isinstance(row.verdict, Unavailable) else row.verdict.memory.available_bytes
    small = "" if free is None else f"of {format_bytes(free)} free"
    if comparison.memory_bytes is not None:
        small = f"of {format_bytes(comparison.memory_bytes)} allowed"
    return Tile(name="Memory needed", value=format_bytes(row.need_bytes), small=small)


def _size(row: ComparedRow, base: ComparedRow | None) -> Tile | None:
    if row.artifact is None:
        return None
    size = row.artifact.size_bytes
    small = "" if row.bits_per_weight is None else f"{row.bits_per_weight:.2f} bits per weight"
    if base is not None and base.artifact is not None and base.artifact.size_bytes:
        small = f"{size / base.artifact.size_bytes:.0%} of {plain(base.label)}"
    return Tile(name="File", value=format_bytes(size), small=small)
