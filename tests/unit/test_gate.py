"""The gate: what the noise resolves, what is refused, and the exit codes."""

import math
import random
from dataclasses import replace

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.comparison.differences import (
    independent_ratio,
    paired_mean_ratio,
    welch_ratio,
)
from edge_runtime.comparison.gate import Check, CheckKind, Gate, run_gate
from edge_runtime.comparison.rule import parse_rule
from edge_runtime.errors import UsageError
from edge_runtime.measurement import Engine, SessionOptions, Workload
from edge_runtime.report.gate import gate_text
from edge_runtime.saved import SavedRecord
from edge_runtime.statistics import Interval
from tests.energy_records import recorded
from tests.score_records import (
    TG128,
    artifact,
    cell_failure,
    drawn_scores,
    kept_up,
    level_failure,
    reference_of,
    rounds,
    scores,
    several_levels,
    text,
)

F16, Q8, Q4 = artifact("F16"), artifact("Q8_0"), artifact("Q4_K_M")
Records = tuple[SavedRecord, ...]


def held(old: Records, new: Records, *rules: str) -> Gate:
    return run_gate(old, new, [parse_rule(rule) for rule in rules])


def only(gate: Gate) -> Check:
    (check,) = gate.checks
    return check


# The noise of speeds.


def speeds(level: float, noise: float, seed: int, count: int = 5) -> Records:
    drawn = random.Random(seed)
    return rounds(Q4, tg=[level * (1 + drawn.gauss(0, noise)) for _ in range(count)])


def test_a_loss_beyond_the_threshold_and_the_noise_fails() -> None:
    gate = held(speeds(30, 0.005, 1), speeds(27, 0.005, 2), "tg128 < -5%")
    check = only(gate)
    assert check.kind is CheckKind.FAILED
    assert check.found is not None
    assert check.found.value == pytest.approx(-0.10, abs=0.01)
    assert check.found.high < -0.05
    assert check.old == pytest.approx(30, rel=0.01)
    assert (gate.exit_code(), gate.exit_code(strict=True)) == (1, 1)


def test_a_loss_that_the_noise_may_have_made_is_a_warning_and_strictly_a_failure() -> None:
    gate = held(speeds(30, 0.1, 1), speeds(27, 0.1, 2), "tg128 < -5%")
    check = only(gate)
    assert check.kind is CheckKind.UNRESOLVED
    assert check.found is not None
    assert check.found.value < -0.05 < check.found.high
    assert (gate.exit_code(), gate.exit_code(strict=True)) == (0, 1)


def test_a_loss_within_the_threshold_passes_also_strictly() -> None:
    gate = held(speeds(30, 0.002, 1), speeds(29.4, 0.002, 2), "tg128 < -5%")
    assert only(gate).kind is CheckKind.PASSED
    assert gate.exit_code(strict=True) == 0


@pytest.mark.parametrize(("old", "new"), [(1, 5), (5, 1), (1, 1)])
def test_one_round_on_either_side_is_open_to_half_and_double(old: int, new: int) -> None:
    def kind(rate: float) -> CheckKind:
        gate = held(speeds(30, 0.001, 1, old), speeds(rate, 0.001, 2, new), "tg128 < -5%")
        return only(gate).kind

    assert kind(15) is CheckKind.UNRESOLVED
    assert kind(3) is CheckKind.FAILED


def test_disturbed_rounds_widen_the_interval() -> None:
    quiet = held(speeds(30, 0.02, 1), speeds(27, 0.02, 2), "tg128 < -5%")
    flagged = tuple(
        replace(r, noise=replace(r.noise, flags=("busy",)))  # type: ignore[union-attr]
        for r in speeds(27, 0.02, 2)
    )
    noisy = held(speeds(30, 0.02, 1), flagged, "tg128 < -5%")
    assert only(quiet).kind is CheckKind.FAILED
    assert only(noisy).kind is CheckKind.UNRESOLVED
    other_way = held(flagged, speeds(24.6, 0.02, 1), "tg128 < -5%")
    assert only(other_way).kind is CheckKind.UNRESOLVED
    assert only(held(speeds(27, 0.02, 2), speeds(24.6, 0.02, 1), "tg128 < -5%")).kind is (
        CheckKind.FAILED
    )


def test_runs_that_were_kept_up_are_held_against_each_other_by_their_steady_rates() -> None:
    old, new = (kept_up(Q4, TG128, 30.0, steady) for steady in (20.0, 15.0))
    check = only(held((old,), (new,), "tg128 < -20%"))
    assert check.kind is CheckKind.FAILED
    assert (check.old, check.new) == pytest.approx((20.0, 15.0))
    assert check.found is not None
    assert check.found.value == pytest.approx(-0.25)
    one = Interval(low=9.0, value=10.0, high=12.0)
    both = independent_ratio(one, one)
    # Both distances of each side count: ln 1.2 and ln 10/9.
    half = math.hypot(math.log(1.2), math.log(10 / 9))
    assert (math.log(both.high), math.log(both.low)) == pytest.approx((half, -half))


def test_welchs_interval_is_that_of_a_textbook() -> None:
    # Logs chosen so that variances are 1 and 4 (n = 3 each): se^2 = 5/3,
    # df = (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.94, rounded down to 2, t = 4.303.
    of, to = [math.exp(x) for x in (0, 1, 2)], [math.exp(x) for x in (-2, 0, 2)]
    found = welch_ratio(of, to)
    half = 4.303 * math.sqrt(5 / 3)
    assert found.value == pytest.approx(sum(of) / sum(to))
    assert math.log(found.high / found.value) == pytest.approx(half)
    assert math.log(found.value / found.low) == pytest.approx(half)
    exact = welch_ratio([2.0, 2.0], [1.0, 1.0])
    assert (exact.low, exact.high) == pytest.approx((2.0, 2.0))
    alone = welch_ratio([2.0], [1.0, 1.0])
    assert (alone.low, alone.high) == pytest.approx((1.0, 4.0))


def test_an_unchanged_program_seldom_fails_and_a_slower_one_does() -> None:
    # 400 pairs of runs of 5 rounds with 3 % noise; the change has 5 % of false claims at most.
    drawn = random.Random(11)

    def run(rate: float) -> list[float]:
        return [rate * math.exp(drawn.gauss(0, 0.03)) for _ in range(5)]

    claims = found = 0
    for _ in range(400):
        same, slower = welch_ratio(run(30), run(30)), welch_ratio(run(25), run(30))
        claims += not same.low <= 1 <= same.high
        found += slower.high < 0.95
    assert claims / 400 <= 0.06
    assert found / 400 >= 0.95


def test_a_change_of_all_rows_alike_is_put_down_to_the_machine_as_a_hint() -> None:
    def run(factor: float, seed: int) -> Records:
        drawn = random.Random(seed)
        return tuple(
            record
            for of, rate in ((F16, 10.0), (Q8, 20.0), (Q4, 30.0))
            for record in rounds(
                of, tg=[rate * factor * (1 + drawn.gauss(0, 0.002)) for _ in range(5)]
            )
        )

    gate = held(run(1.0, 1), run(0.9, 2), "tg128 < -5%")
    assert gate.exit_code() == 1
    assert any("may be the machine" in note for note in gate.notes)
    assert not held(run(1.0, 1), run(1.0, 2), "tg128 < -5%").notes


# The noise of quality.


def test_a_value_fails_only_when_its_whole_interval_is_beyond() -> None:
    records = (drawn_scores(F16, None), drawn_scores(Q4, 0.05))
    error = 1.96 * 0.0035  # what 510 tokens of such weights leave open, about
    kinds = [
        only(held(records, records, f"kl > {threshold}")).kind
        for threshold in (0.05 - 3 * error, 0.0485, 0.05 + 3 * error)
    ]
    assert kinds == [CheckKind.FAILED, CheckKind.UNRESOLVED, CheckKind.PASSED]


def test_the_reference_has_no_divergence_and_is_not_asked_for_it() -> None:
    gate = held(several_levels(), several_levels(), "kl > 0.05", "ppl > +1%")
    assert [c.label for c in gate.checks] == [
        "Q8_0", "Q4_K_M", "Q2_K", "F16", "Q8_0", "Q4_K_M", "Q2_K",
    ]  # fmt: skip
    assert gate.notes == ()


def test_divergence_is_compared_token_by_token() -> None:
    # The tokens' divergences differ by orders of magnitude, the levels' at one token by a fifth.
    old = (drawn_scores(F16, None), drawn_scores(Q4, 0.050, own=1))
    new = (drawn_scores(F16, None), drawn_scores(Q4, 0.060, own=2))
    check = only(held(old, new, "kl > +10%"))
    assert check.found is not None
    assert check.kind is CheckKind.FAILED
    assert check.found.high - check.found.low < 0.08
    unpaired = only(held(old, new, "kl > 0.05")).found
    assert unpaired is not None
    assert (unpaired.high - unpaired.low) / unpaired.value > 0.2
    assert only(held(old, new, "kl > +20%")).kind is CheckKind.UNRESOLVED


def test_the_ratio_of_paired_means_covers_the_truth_in_19_of_20_cases() -> None:
    drawn, hits = random.Random(7), 0
    for _ in range(300):
        weights = [drawn.lognormvariate(0, 1) for _ in range(200)]
        old = [w * drawn.uniform(0.5, 1.5) for w in weights]
        new = [1.2 * w * drawn.uniform(0.5, 1.5) for w in weights]
        found = paired_mean_ratio(new, old)
        assert found is not None
        hits += found.low <= 1.2 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


@pytest.mark.parametrize("rule", ["ppl > +1%", "kl_p99 > +10%", "top1 < -1%", "kl > +5%"])
def test_the_same_scores_have_not_changed(rule: str) -> None:
    records = several_levels()
    gate = held(records, records, rule)
    assert {check.kind for check in gate.checks} == {CheckKind.PASSED}
    for check in gate.checks:
        assert check.found is not None
        assert check.found.value == pytest.approx(0.0, abs=1e-12)
        # Paired token by token: what is hard for both is no difference.
        assert check.found.high - check.found.low < 1e-9 or rule.startswith("kl_p99")


def test_the_reference_itself_loses_nothing_and_is_not_missed() -> None:
    new = (drawn_scores(F16, None), drawn_scores(Q4, 0.03))
    gate = held((drawn_scores(Q4, 0.03),), new, "kl > 0.5")
    assert [check.label for check in gate.checks] == ["Q4_K_M"]
    assert gate.exit_code() == 0


def test_percentiles_of_the_same_hard_tokens_are_told_apart_better_than_of_others() -> None:
    drawn = random.Random(5)
    kl = [drawn.expovariate(10) for _ in range(2000)]
    old, same, other = ((scores(Q4, nll=[1.0] * 2000, kl=found),) for found in (kl, kl, kl[::-1]))
    widths = []
    for new in (same, other):
        found = only(held(old, new, "kl_p99 > +10%")).found
        assert found is not None
        widths.append(found.high - found.low)
    assert widths[0] < 0.5 * widths[1]


@pytest.mark.parametrize("rule", ["ppl > +1%", "kl_p99 > +10%", "top1 < -1%"])
def test_every_metric_of_quality_notices_a_worse_level(rule: str) -> None:
    old = (drawn_scores(F16, None, tokens=2040), drawn_scores(Q4, 0.03, tokens=2040))
    new = (drawn_scores(F16, None, tokens=2040), drawn_scores(Q4, 0.3, tokens=2040))
    gate = held(old, new, rule)
    (check,) = (c for c in gate.checks if c.label == "Q4_K_M")
    assert check.kind is CheckKind.FAILED


def test_a_share_of_agreement_has_a_width_also_where_all_agree() -> None:
    records = (scores(Q4, nll=[1.0] * 20, kl=[0.1] * 20),)
    check = only(held(records, records, "top1 < 0.999"))
    assert check.kind is CheckKind.PASSED
    assert check.found is not None
    assert check.found.low < 0.9
    assert check.found.high == 1.0


# Sizes, memory, times, energy.


def test_sizes_are_exact_and_memory_nearly() -> None:
    larger = replace(Q4, size_bytes=Q4.size_bytes + 1)
    old, new = rounds(Q4, tg=[9.0, 9.0]), rounds(larger, tg=[9.0, 9.0])
    assert only(held(old, new, "size > 0%")).kind is CheckKind.FAILED
    assert only(held(old, old, "size > 0%")).kind is CheckKind.PASSED
    assert only(held(old, new, "memory > 0%")).kind is not CheckKind.FAILED
    assert only(held(old, new, "memory > 1MiB")).kind is CheckKind.FAILED
    assert only(held(old, new, "memory > 6GiB")).kind is CheckKind.PASSED


def test_times_to_first_token_grow_where_prefill_slows() -> None:
    old, new = (rounds(Q4, pp=[rate * f for f in (1, 1.001, 0.999)]) for rate in (512, 256))
    check = only(held(old, new, "ttft > +50%"))
    assert check.kind is CheckKind.FAILED
    assert (check.old, check.new) == pytest.approx((1.0, 2.0), rel=1e-3)
    assert only(held(old, new, "ttft > 1500ms")).kind is CheckKind.FAILED


def test_energy_is_held_against_energy_and_said_to_be_missing_where_it_is() -> None:
    record = recorded()
    powered = tuple(replace(record, round=n) for n in range(3))
    assert only(held(powered, powered, "j/token > +5%")).kind is CheckKind.PASSED
    with pytest.raises(UsageError, match=r"no row.*no sensor"):
        held(rounds(Q4, tg=[9.0]), rounds(Q4, tg=[9.0]), "j/token > +5%")


def test_an_estimate_is_never_held_against_a_measurement_and_keeps_its_band() -> None:
    powered = tuple(replace(recorded(), round=n) for n in range(3))
    bare = Unavailable(reason="no sensor")
    stated = [
        tuple(replace(record, energy=bare, stated_power_w=watts) for record in powered)
        for watts in (10.0, 12.0)
    ]
    check = only(held(powered, stated[0], "j/token > +5%"))
    assert check.kind is CheckKind.MISSING
    assert "10 W as stated" in check.reason
    assert only(held(stated[0], stated[1], "j/token > +5%")).kind is CheckKind.MISSING
    assert only(held(stated[0], stated[0], "j/token > +5%")).kind is CheckKind.PASSED
    found = only(held(stated[0], stated[0], "j/token > 100")).found
    assert found is not None
    assert (found.low, found.high) == pytest.approx((found.value / 2, 1.5 * found.value))


# What is missing, and what is refused.


def test_a_row_that_failed_in_the_new_file_is_no_pass() -> None:
    old = (*rounds(Q8, tg=[9.0, 9.0]), *rounds(Q4, tg=[9.0, 9.0]))
    new = (*rounds(Q8, tg=[9.0, 9.0]), cell_failure(Q4))
    gate = held(old, new, "tg128 < -5%")
    assert [c.kind for c in gate.checks] == [CheckKind.PASSED, CheckKind.MISSING]
    assert gate.exit_code() == 4
    assert "The measuring process died" in gate_text(gate)
    slower = (*rounds(Q8, tg=[4.0, 4.0]), cell_failure(Q4))
    assert held(old, slower, "tg128 < -5%").exit_code() == 1
    unmade = (*rounds(Q8, tg=[9.0, 9.0]), level_failure("Q4_K_M"))
    for rule in ("tg128 < -5%", "size > +1%", "tg128 < 5"):
        assert held(old, unmade, rule).exit_code() == 4


def test_what_failed_before_may_fail_again_but_is_said() -> None:
    records = (*rounds(Q8, tg=[9.0, 9.0]), level_failure("IQ2_XXS"))
    gate = held(records, records, "tg128 < -5%")
    assert gate.exit_code() == 0
    assert gate.notes == ("IQ2_XXS was left out: the baseline has no tg128 of it",)


def test_rows_of_one_file_only_are_said() -> None:
    old = (*rounds(Q8, tg=[9.0, 9.0]), *rounds(F16, tg=[9.0, 9.0]))
    new = (*rounds(Q8, tg=[9.0, 9.0]), *rounds(Q4, tg=[3.0, 3.0]))
    gate = held(old, new, "tg128 < -5%", "tg128 < 4")
    assert [(c.label, c.rule.relative, c.kind) for c in gate.checks] == [
        ("Q8_0", True, CheckKind.PASSED), ("Q8_0", False, CheckKind.PASSED),
        ("Q4_K_M", False, CheckKind.FAILED),
    ]  # fmt: skip
    assert "F16 is in the baseline only" in gate.notes
    assert any(note.startswith("Q4_K_M is in the new file only") for note in gate.notes)


BASE = (*rounds(Q4, tg=[9.0, 9.0], pp=[90.0, 90.0]), drawn_scores(F16, None), drawn_scores(Q4, 0.1))


def changed(**changes: object) -> Records:
    return tuple(
        replace(r, **changes) if hasattr(r, "workload") else r  # type: ignore[arg-type]
        for r in BASE
    )


def scored(**changes: object) -> Records:
    return (*BASE[:4], drawn_scores(F16, None, **changes), drawn_scores(Q4, 0.1, **changes))  # type: ignore[arg-type]


ELSEWHERE = changed(host=replace(BASE[0].host, cpu="Other"))
UNLIKE: dict[str, tuple[Records, str, str]] = {
    "host": (ELSEWHERE, "tg128 < -5%", "Other, .* for the new file"),
    "host for time": (ELSEWHERE, "ttft > 9", "machines"),
    "threads": (changed(requested=SessionOptions(threads=4)), "tg128 < -5%", "threads: 2 for"),
    "engine": (
        changed(requested=SessionOptions(backend="fake", threads=2)), "pp512 < -5%", "engines",
    ),
    "workload": (
        tuple(
            replace(r, workload=Workload(name="tg128", generate_tokens=64))
            for r in rounds(Q4, tg=[9.0, 9.0])
        ),
        "tg128 < -5%", "not the same one",
    ),
    "text": (scored(on=text(tokens_sha256="f" * 64)), "kl > 0.5", "different texts"),
    "cache": (scored(options=SessionOptions(kv_type_v="q8_0")), "ppl > 99", "KV cache"),
    "reference": (
        (drawn_scores(Q4, 0.1, reference=Q8),), "kl > 0.5", "references of different levels",
    ),
    "model": (rounds(replace(Q4, parameters=7), tg=[9.0, 9.0]), "size > +1%", "not of one model"),
    "nothing in common": (rounds(Q8, tg=[9.0]), "tg128 < -5%", "no row in common"),
    "empty": ((), "tg128 < -5%", "no records"),
    "metric": (BASE, "tg64 < -5%", r"no metric 'tg64'.*tg128"),
    "mixed": ((*BASE, replace(BASE[0], requested=SessionOptions(), round=9)), "kl > 0.5", "own"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNLIKE)
def test_unlike_files_are_refused(case: str) -> None:
    new, rule, words = UNLIKE[case]
    held(BASE, BASE, "tg128 < -5%", "kl > 0.5")
    with pytest.raises(UsageError, match=words) as caught:
        held(BASE, new, rule)
    assert caught.value.exit_code == 2


def test_what_no_rule_is_about_may_differ() -> None:
    assert held(BASE, ELSEWHERE, "kl > 0.5", "size > +1%").exit_code() == 0
    assert held(BASE, scored(on=text(sha256="f" * 64, tokens_sha256="f" * 64)),
                "tg128 < -5%").exit_code() == 0  # fmt: skip


def test_a_gate_without_a_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a rule"):
        run_gate(BASE, BASE, [])


def test_a_level_made_anew_by_a_new_engine_is_compared_and_both_are_said() -> None:
    anew = replace(Q4, fingerprint="9" * 64)
    again = replace(F16, fingerprint="8" * 64)
    new = (
        *(replace(r, artifact=anew, engine=Engine(name="llama.cpp", version="2"))
          for r in BASE[:4]),
        drawn_scores(again, None), drawn_scores(anew, 0.1, reference=again),
    )  # fmt: skip
    gate = held(BASE, new, "tg128 < -5%", "kl > +1%")
    assert gate.exit_code() == 0
    assert "llama.cpp: 1 before, 2 and 1 now" in gate.notes
    assert any("reference was made anew" in note for note in gate.notes)
    assert reference_of(again).artifact == again
