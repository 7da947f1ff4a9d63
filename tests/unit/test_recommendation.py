"""Which level no other beats, and which one is recommended: rules on hand-made tables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

import pytest

from edge_runtime.comparison import Comparison, Rate, compare_records
from edge_runtime.comparison.differences import faster, less_loss, paired_ratio, smaller_need
from edge_runtime.comparison.pareto import Point, pareto
from edge_runtime.measurement import Measurement
from edge_runtime.saved import SavedRecord
from edge_runtime.statistics import Interval
from edge_runtime.verdict import Target
from tests.score_records import (
    LOSSES,
    SPEEDS,
    artifact,
    drawn_scores,
    level_failure,
    rounds,
    scores,
    several_levels,
)

GIB = 1024**3


def tg128(interval: Interval, values: Sequence[float] = (), *, day: int = 1) -> Rate:
    """A rate whose rounds were all measured on one day."""
    return Rate(
        workload="tg128", tokens_per_s=interval, rounds=tuple(enumerate(values)), ratio=None,
        span=(f"2026-01-0{day}T08:00:00+00:00", f"2026-01-0{day}T09:00:00+00:00"),
    )  # fmt: skip


def point(label: str, loss: float, rate: float, need: int) -> Point:
    """A point whose noise is a hundredth of its values."""
    wobble = (0.99, 1.0, 1.01, 1.0, 0.99)
    return Point(
        label=label,
        losses=tuple(loss * w for w in wobble * 4),
        rate=tg128(
            Interval(low=0.98 * rate, value=rate, high=1.02 * rate), [rate * w for w in wobble]
        ),
        need_bytes=need,
    )


BEST = point("best", 0.01, 20.0, 1000)


@pytest.mark.parametrize(
    ("other", "beaten"),
    [
        (point("worse in all", 0.02, 10.0, 2000), True),
        (point("slower only", 0.01, 10.0, 1000), True),
        (point("larger only", 0.01, 20.0, 2000), True),
        (point("loses more only", 0.02, 20.0, 1000), True),
        (point("faster", 0.02, 21.0, 2000), False),
        (point("smaller", 0.02, 10.0, 900), False),
        (point("better", 0.009, 10.0, 2000), False),
        (point("the same", 0.01, 20.0, 1000), False),
        (point("larger within the noise", 0.01, 20.0, 1009), False),
        (point("worse in one, better in one", 0.009, 19.0, 1000), False),
    ],
    ids=lambda value: value.label if isinstance(value, Point) else "",
)
def test_a_level_is_beaten_by_one_that_is_no_worse_and_somewhere_better(
    other: Point, beaten: bool
) -> None:
    front = pareto((BEST, other))
    assert "best" in front or not beaten
    assert (other.label not in front) == beaten


def test_what_the_noise_does_not_resolve_counts_as_equal() -> None:
    shaky = replace(
        BEST, label="shaky",
        losses=tuple(0.012 * w for w in (0.2, 1.9, 0.4, 1.6, 0.9) * 4),
        rate=tg128(
            BEST.rate.tokens_per_s, [18.0 * w for w in (0.7, 1.3, 1.1, 0.9, 1.0)]
        ),
    )  # fmt: skip
    assert pareto((BEST, shaky)) == {"best", "shaky"}


def test_rates_are_told_apart_by_their_rounds_and_else_by_their_intervals() -> None:
    drift = (1.0, 0.5, 1.2, 0.8)
    wide = Interval(low=5, value=10, high=20)
    slow = tg128(wide, [10 * d for d in drift])
    quick = tg128(wide, [10.3 * d for d in drift])
    assert (faster(quick, slow), faster(slow, quick)) == (1, -1)
    # Rounds of two days have the same numbers, and nothing else in common.
    assert faster(tg128(wide, [10.3 * d for d in drift], day=2), slow) == 0
    assert faster(tg128(wide), tg128(wide)) == 0
    far = tg128(Interval(low=21, value=22, high=23))
    assert (faster(far, slow), faster(slow, far)) == (1, -1)


def test_losses_are_told_apart_token_by_token() -> None:
    # Tokens differ a thousandfold; between the levels each differs by a twentieth.
    tokens = [10.0 ** (n % 4) for n in range(40)]
    assert less_loss([0.95 * t for t in tokens], tokens) == -1
    assert less_loss(tokens, [0.95 * t for t in tokens]) == 1
    swapped = [t * (1.05 if n % 2 else 0.95) for n, t in enumerate(tokens[::4])]
    assert less_loss(swapped, tokens[::4]) == 0
    assert paired_ratio([(0, 1.0)], [(1, 1.0)]) is None
    assert [smaller_need(100, 200), smaller_need(200, 100), smaller_need(1000, 1005)] == [-1, 1, 0]


def test_in_a_whole_comparison_the_front_is_marked() -> None:
    # Q2_K loses more and is slower than Q4_K_M, but needs less memory.
    assert marked(compare_records(several_levels())) == {"F16", "Q8_0", "Q4_K_M", "Q2_K"}
    beaten = several_levels(
        speeds={**SPEEDS, "Q6_K": 12.0}, losses={**LOSSES, "Q6_K": 0.2},
    )  # fmt: skip
    found = compare_records(beaten)
    assert not found.row("Q6_K").pareto
    assert marked(found) == {"F16", "Q8_0", "Q4_K_M", "Q2_K"}


def marked(found: Comparison) -> set[str]:
    return {row.label for row in found.rows if row.pareto}


def test_rows_without_a_quality_or_a_speed_are_no_part_of_the_front() -> None:
    records = (*several_levels(), *rounds(artifact("Q6_K"), tg=[99.0, 99.0]),
               drawn_scores(artifact("Q4_0"), 0.001))  # fmt: skip
    found = compare_records(records)
    assert not found.row("Q6_K").pareto
    assert not found.row("Q4_0").pareto


def advice(
    records: tuple[SavedRecord, ...], rate: float = 20.0, memory: int | None = None
) -> tuple[str | None, str]:
    found = compare_records(records, target=Target(decode_tokens_per_s=rate), memory_bytes=memory)
    return found.recommended, found.recommendation


def test_the_smallest_loss_that_reads_is_recommended() -> None:
    label, sentence = advice(several_levels())
    assert label == "Q8_0"
    assert sentence == "Q8_0: the smallest loss that still reads at 20 tok/s"
    label, sentence = advice(several_levels(), 25.0, 6 * GIB)
    assert label == "Q4_K_M"
    assert sentence == "Q4_K_M: the smallest loss that still reads at 25 tok/s within 6 GiB"


def test_a_better_level_that_only_the_noise_keeps_from_reading_is_named() -> None:
    def noisy(*levels: str) -> tuple[SavedRecord, ...]:
        kept = [r for r in several_levels() if not (is_tg(r) and r.artifact.level in levels)]
        for level in levels:
            kept += rounds(artifact(level), tg=[30.0, 19.0, 25.0, 14.0, 33.0])
        return tuple(kept)

    label, sentence = advice(noisy("Q8_0"))
    assert label == "Q4_K_M"
    assert sentence == (
        "Q4_K_M: the smallest loss that still reads at 20 tok/s; Q8_0 loses less and may read too:"
        " its measurement is too noisy"
    )
    label, sentence = advice(noisy("Q8_0", "Q4_K_M"))
    assert label == "Q2_K"
    assert sentence.endswith(
        "; Q8_0, Q4_K_M lose less and may read too: their measurements are too noisy"
    )
    # What loses more is no better choice, and what does not fit is none.
    assert "noisy" not in advice(noisy("Q2_K"))[1]
    need = compare_records(noisy("Q8_0")).row("Q4_K_M").need_bytes
    assert isinstance(need, int)
    assert "noisy" not in advice(noisy("Q8_0"), memory=need)[1]
    need = compare_records(noisy("Q8_0")).row("Q8_0").need_bytes
    assert isinstance(need, int)
    tight = [
        replace(r, host=replace(r.host, ram_available_bytes=int(1.05 * need)))
        if is_tg(r) and r.artifact.level == "Q8_0"
        else r
        for r in noisy("Q8_0")
    ]
    assert "noisy" not in advice(tuple(tight))[1]


def is_tg(record: SavedRecord) -> TypeGuard[Measurement]:
    return isinstance(record, Measurement) and record.workload.name == "tg128"


def test_memory_rules_out_what_needs_more() -> None:
    comparison = compare_records(several_levels())
    needs = {r.label: r.need_bytes for r in comparison.rows if isinstance(r.need_bytes, int)}
    label, _ = advice(several_levels(), memory=needs["Q8_0"] - 1)
    assert label == "Q4_K_M"
    assert advice(several_levels(), memory=needs["Q8_0"])[0] == "Q8_0"
    label, sentence = advice(several_levels(), memory=1024)
    assert label is None
    assert sentence.startswith("Nothing is recommended: Q2_K needs the least memory")
    assert sentence.endswith("and 1.00 KiB are given")


def test_of_levels_that_lose_alike_the_smaller_file_is_taken() -> None:
    close = {"F16": None, "Q8_0": 0.0300, "Q6_K": 0.0302, "Q4_K_M": 0.0600}
    speeds = {"F16": 12.0, "Q8_0": 22.0, "Q6_K": 25.0, "Q4_K_M": 34.0}
    label, sentence = advice(several_levels(losses=close, speeds=speeds))
    assert label == "Q6_K"
    assert sentence == (
        "Q6_K: the smallest loss that still reads at 20 tok/s"
        " (Q8_0 is no better within the noise, and larger)"
    )


def test_the_reference_is_recommended_only_where_nothing_else_qualifies() -> None:
    speeds = {"F16": 40.0, "Q8_0": 22.0}
    losses = {"F16": None, "Q8_0": 0.002}
    assert advice(several_levels(speeds=speeds, losses=losses))[0] == "Q8_0"
    label, sentence = advice(several_levels(speeds=speeds, losses=losses), 30.0)
    assert label == "F16"
    assert sentence == "F16: the reference itself reads at 30 tok/s, and nothing else does"
    noisy = list(several_levels(speeds={"F16": 40.0}, losses=losses))
    noisy += rounds(artifact("Q8_0"), tg=[40.0, 29.0, 35.0, 44.0])
    assert advice(tuple(noisy), 30.0)[1] == (
        "F16: the reference itself reads at 30 tok/s, and nothing else surely does; Q8_0 may read"
        " too: its measurement is too noisy"
    )


def test_where_none_is_viable_the_nearest_is_named_with_its_verdict() -> None:
    label, sentence = advice(several_levels(), 100.0)
    assert label is None
    assert sentence.startswith("Nothing is recommended: no level surely reads at 100 tok/s; Q4_K_M")
    assert "(NOT VIABLE, 33.3 tok/s: " in sentence


def test_without_quality_or_speed_nothing_is_recommended_and_it_says_why() -> None:
    fast = rounds(artifact("Q8_0"), tg=[30.0, 30.0])
    label, sentence = advice(fast)
    assert label is None
    assert sentence == (
        "Nothing is recommended: Q8_0 reads at 20 tok/s, but no quality is known"
        " (it was not scored)"
    )
    assert advice((drawn_scores(artifact("Q8_0"), 0.1),)) == (
        None, "Nothing is recommended: no speed was measured",
    )  # fmt: skip
    assert advice(())[0] is None


def test_it_says_why_the_quality_of_a_level_that_reads_is_not_known() -> None:
    failed = level_failure("Q8_0", task="score", artifact=artifact("Q8_0"), cause="Killed.")
    records = (
        *rounds(artifact("F16"), tg=[30.0, 30.0]), scores(artifact("F16"), nll=[1.0, 2.0] * 255),
        *rounds(artifact("Q8_0"), tg=[30.0, 30.0]), failed,
    )  # fmt: skip
    assert advice(records)[1] == (
        "Nothing is recommended: F16, Q8_0 read at 20 tok/s, but no quality is known"
        " (Q8_0 needs an importance matrix. Killed)"
    )


def test_without_any_reference_the_perplexities_of_the_same_tokens_decide() -> None:
    records: tuple[SavedRecord, ...] = ()
    for level, worse in (("Q8_0", 1.0), ("Q4_K_M", 1.05)):
        of = artifact(level)
        records += (
            *rounds(of, tg=[30.0, 30.0]), scores(of, nll=[worse * (1 + n % 7) for n in range(70)]),
        )  # fmt: skip
    assert advice(records[:3])[1].endswith("but no quality is known (no reference was scored)")
    label, sentence = advice(records)
    assert label == "Q8_0"
    assert sentence == "Q8_0: the lowest perplexity that still reads at 20 tok/s"
