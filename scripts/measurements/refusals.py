"""Why a row is not taken: one sentence each, and the arithmetic behind it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

from profiles.published import PublishedRow

from .devices import DeviceFacts
from .models import embedding_share
from .names import least_bits

CACHE_BYTES = 128 * 2**20
"""Weights of this size and below may stay in a cache and escape the memory's bandwidth: the largest
last-level caches of consumer processors and graphics cards are of 96 to 128 MiB."""

MOST_DRAFTED = 16
"""Tokens that drafting may add to each reading of the weights: no setting seen drafts more."""

COMPUTE_MARGIN = 4.0
"""How many times the stated FP16 rate a prefill may seem to need: int8 arithmetic doubles it, and
data sheets differ by a factor of two in what they count."""

CONTRADICTION = 2.0
"""How far two published values of one row that follow from each other may lie apart."""

REPEATS_APART = 5.0
"""How far a row may lie from the median of at least two other runs of the very same thing."""


class NotTakenError(ValueError):
    """Why a raw row is not taken: the rule it breaks, and the reason in a sentence."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


def check(row: PublishedRow, device: DeviceFacts) -> None:
    """Raises NotTakenError for the first rule that the row breaks by itself."""
    for rule, reason in (
        ("placeholder", placeholder(row)),
        ("wrong-accelerator", wrong_accelerator(row, device)),
        ("contradiction", contradicts_itself(row)),
        ("bandwidth-roof", above_bandwidth_roof(row, device)),
        ("compute-roof", above_compute_roof(row, device)),
    ):
        if reason:
            raise NotTakenError(rule, reason)


def read_bytes_per_token(row: PublishedRow) -> float | None:
    """The fewest bytes of weights that decoding one token must read; None when nothing bounds it.

    The published size, or parameters x the fewest bits of the level; of that the share of active
    parameters in a mixture and in per-layer embeddings, and without an input embedding that is
    not the output matrix too. The KV cache only adds to it.
    """
    share = 1.0 - (embedding_share(row.model_id) if row.model_id else 0.0)
    if row.model_type in ("moe", "ple", "unknown"):
        if not (row.active_parameters and row.parameters):
            return None
        share = row.active_parameters / row.parameters
    bits = least_bits(row.level)
    sizes = []
    if row.weights_bytes and "embedding-twice" not in row.conditions:
        sizes.append(float(row.weights_bytes))
    if row.parameters and bits:
        sizes.append(row.parameters * bits / 8)
    # A mixture keeps its attention and embeddings finer than its experts: only the experts' bits
    # are sure to be read for each active parameter.
    return min(sizes) * share if sizes else None


def above_bandwidth_roof(row: PublishedRow, device: DeviceFacts) -> str:
    """A sentence when the row decodes faster than the device can read the weights, else ""."""
    bandwidth, rate = device.bandwidth_bytes_per_s, row.decode_tokens_per_s
    read = read_bytes_per_token(row)
    if bandwidth is None or rate is None or read is None or read <= CACHE_BYTES:
        return ""
    drafted = MOST_DRAFTED if row.has("speculative") or row.has("mtp-model") else 0
    if rate * read <= bandwidth * (1 + drafted):
        return ""
    return (
        f"Physically impossible: {rate:g} tok/s x at least {read / 1e9:.2f} GB per token is "
        f"{rate * read / 1e9:.0f} GB/s, and the device's memory gives {bandwidth / 1e9:g} GB/s."
    )


def above_compute_roof(row: PublishedRow, device: DeviceFacts) -> str:
    """A sentence when prefill needs far more arithmetic than the device has, else "".

    Two operations per active parameter and token.
    """
    peak, rate = device.fp16_flop_per_s, row.prefill_tokens_per_s
    parameters = row.active_parameters or row.parameters
    if peak is None or rate is None or parameters is None or row.model_type == "unknown":
        return ""
    needed = 2 * parameters * rate
    if needed <= COMPUTE_MARGIN * peak:
        return ""
    return (
        f"Physically impossible: a prefill of {rate:g} tok/s needs {needed / 1e12:.0f} TFLOP/s, "
        f"and the device is listed with {peak / 1e12:g} at 16 bits."
    )


def wrong_accelerator(row: PublishedRow, device: DeviceFacts) -> str:
    """A sentence when a row names the CPU and its device is a graphics card, else ""."""
    if device.card and row.accelerator == "cpu":
        return (
            "Says that a CPU ran it, but its device is a graphics card: either the accelerator "
            "or the device is wrong."
        )
    return ""


def contradicts_itself(row: PublishedRow) -> str:
    """A sentence when the row's own numbers cannot all be true, else ""."""
    decode, prefill, ttft = row.decode_tokens_per_s, row.prefill_tokens_per_s, row.ttft_s
    weighty = not (row.has("short-prompt") or row.has("custom-engine") or row.has("wall-time"))
    if decode and prefill and weighty and prefill * CONTRADICTION < decode:
        return (
            f"Contradicts itself: prefill at {prefill:g} tok/s is slower than decoding at "
            f"{decode:g}, and reading a prompt is never the harder of the two."
        )
    if (
        ttft
        and prefill
        and row.prompt_tokens
        and ttft * CONTRADICTION < row.prompt_tokens / prefill
    ):
        return (
            f"Contradicts itself: a first token after {ttft:g} s, but prefill alone of "
            f"{row.prompt_tokens} tokens at {prefill:g} tok/s takes "
            f"{row.prompt_tokens / prefill:.2g} s."
        )
    return ""


def placeholder(row: PublishedRow) -> str:
    """A sentence when the row holds 1 or one number where measurements should be, else ""."""
    values = [
        v
        for v in (
            row.prefill_tokens_per_s,
            row.decode_tokens_per_s,
            row.ttft_s and row.ttft_s * 1e3,
        )
        if v is not None
    ]
    if len(values) > 1 and len(set(values)) == 1:
        return f"Holds {values[0]:g} for several different quantities, which is a placeholder."
    return ""


def energy_contradicts(row: PublishedRow) -> bool:
    """Whether energy per token is not about the power over the rate of the same row.

    Twofold: power may be of another window than the rate.
    """
    if not (row.energy_j_per_token and row.power_w and row.decode_tokens_per_s):
        return False
    follows = row.power_w / row.decode_tokens_per_s
    return not 1 / CONTRADICTION <= row.energy_j_per_token / follows <= CONTRADICTION


def same_setting(row: PublishedRow) -> tuple[object, ...]:
    """What two rows share that measured the very same thing."""
    return (
        row.device, row.engine, row.accelerator, row.api, row.model, row.level, row.threads,
        row.prompt_tokens, row.depth_tokens, row.conditions,
    )  # fmt: skip


def same_measurement(row: PublishedRow) -> tuple[object, ...]:
    """What two rows share that are one measurement told twice; the rates identify it.

    Two rates, one of them with five digits, cannot coincide: then the name of the model may differ,
    for a vendor gives one measurement to every fine-tune of a model.
    """
    rates = (row.prefill_tokens_per_s, row.decode_tokens_per_s, row.ttft_s)
    digits = max(len(f"{rate:.6g}".replace(".", "").strip("0")) for rate in rates if rate)
    two = sum(rate is not None for rate in rates) > 1
    model = f"{row.parameters:.1g}" if two and digits >= 5 and row.parameters else row.model
    return (
        row.device, row.engine, row.accelerator, model, row.level, row.threads, row.depth_tokens,
        *rates,
    )  # fmt: skip


def far_from_repeats(rows: Iterable[PublishedRow]) -> Mapping[int, str]:
    """Which of the rows lie far below the other runs of the same thing, with the sentence for each.

    Only below: a run that swapped or shared the machine is slow, and none is fast by accident.
    """
    groups: dict[tuple[object, ...], list[tuple[int, float]]] = {}
    for index, row in enumerate(rows):
        if row.decode_tokens_per_s:
            groups.setdefault(same_setting(row), []).append((index, row.decode_tokens_per_s))
    found: dict[int, str] = {}
    for group in groups.values():
        for index, rate in group:
            others = [other for at, other in group if at != index]
            if len(others) < 2:
                continue
            middle = statistics.median(others)
            if rate * REPEATS_APART < middle:
                found[index] = (
                    f"{rate:g} tok/s, where {len(others)} other runs of the same model, level and "
                    f"engine on this device had {min(others):g} to {max(others):g}: not a run that "
                    "had its memory and the machine to itself."
                )
    return found
