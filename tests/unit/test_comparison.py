"""The table of a comparison: which records make a row, ratios by round, what is refused."""

import contextlib
import io
import json
import random
from dataclasses import replace

import pytest
from rich.console import Console

from edge_runtime.basis import Basis, Unavailable
from edge_runtime.codec import to_jsonable
from edge_runtime.comparison import (
    ComparedRow,
    Quality,
    Rate,
    alike_lots,
    compare_records,
    row_labels,
)
from edge_runtime.comparison.differences import paired_ratio, welch_ratio
from edge_runtime.comparison.lots import runs_of
from edge_runtime.errors import FormatError, UsageError
from edge_runtime.measurement import (
    Emulation,
    Engine,
    Limits,
    SessionOptions,
    Workload,
    decode_workload,
)
from edge_runtime.saved import SavedRecord, read_saved
from edge_runtime.verdict import Target, Verdict, VerdictKind
from tests.energy_records import recorded
from tests.score_records import (
    PP512,
    TG128,
    answers,
    artifact,
    cell_failure,
    drawn_scores,
    kept_up,
    level_failure,
    onnx_artifact,
    round_of,
    rounds,
    several_levels,
    text,
)

F16, Q8, Q4 = artifact("F16"), artifact("Q8_0"), artifact("Q4_K_M")


def rate(row: ComparedRow) -> Rate:
    assert isinstance(row.decode, Rate)
    return row.decode


def test_a_row_for_each_level_in_order_of_appearance_and_the_reference_is_the_baseline() -> None:
    found = compare_records(several_levels())
    assert [row.label for row in found.rows] == ["F16", "Q8_0", "Q4_K_M", "Q2_K"]
    assert [row.label for row in found.rows if row.is_baseline and row.is_reference] == ["F16"]
    first, row = found.row("F16"), found.row("Q4_K_M")
    assert rate(first).ratio is None
    assert row.bits_per_weight == pytest.approx(4.85)
    assert isinstance(row.quality, Quality)
    assert row.quality.kl is not None
    assert isinstance(row.verdict, Verdict)
    assert [r.workload for r in row.rates] == ["pp512", "tg128"]
    with pytest.raises(KeyError):
        found.row("Q5_K_M")


def test_records_read_back_from_json_give_the_same_table() -> None:
    records = several_levels()
    again = tuple(read_saved(json.loads(json.dumps(r.to_json()))) for r in records)
    assert compare_records(again) == compare_records(records)


def test_drift_that_meets_all_levels_alike_drops_out_of_the_ratio() -> None:
    drift = [1.0, 0.6, 1.1, 0.5, 0.9]
    records = (
        *rounds(F16, tg=[10 * d for d in drift]), *rounds(Q8, tg=[19 * d for d in drift]),
    )  # fmt: skip
    row = compare_records(records).row("Q8_0")
    ratio = rate(row).ratio
    assert ratio is not None
    assert ratio.low == pytest.approx(1.9, rel=1e-6)
    assert ratio.high == pytest.approx(1.9, rel=1e-6)
    spread = rate(row).tokens_per_s
    assert spread.high / spread.low > 1.5


def test_the_ratio_is_the_t_interval_of_the_logarithms_of_rounds_that_both_have() -> None:
    # By hand: logs of 2.0, 2.2, 1.9 about their mean; t(2) = 4.303. The base lacks round 3.
    records = (
        *rounds(F16, tg=[10.0, 10.0, 10.0]), *rounds(Q8, tg=[20.0, 22.0, 19.0, 99.0]),
    )  # fmt: skip
    ratio = rate(compare_records(records).row("Q8_0")).ratio
    assert ratio is not None
    centre = (2.0 * 2.2 * 1.9) ** (1 / 3)
    assert ratio.value == pytest.approx(centre, rel=1e-6)
    assert ratio.high / ratio.value == pytest.approx(1.2030, rel=1e-3)
    assert ratio.value / ratio.low == pytest.approx(1.2030, rel=1e-3)


def test_a_single_common_round_gives_a_ratio_that_resolves_nothing() -> None:
    records = (*rounds(F16, tg=[10.0]), *rounds(Q8, tg=[15.0]))
    ratio = rate(compare_records(records).row("Q8_0")).ratio
    assert ratio is not None
    assert (ratio.low, ratio.high) == pytest.approx((0.75, 3.0))


def test_rounds_of_another_day_have_the_same_numbers_and_are_no_pairs() -> None:
    days = (1.0, 1.3, 0.8)
    base = rounds(F16, tg=[10 * day for day in days])
    later = [
        replace(record, created=f"2026-01-02T0{n}:00:00+00:00")
        for n, record in enumerate(rounds(Q8, tg=[20 * day for day in days]))
    ]
    row = compare_records((*base, *later)).row("Q8_0")
    found, means = rate(row).ratio, welch_ratio([20 * d for d in days], [10 * d for d in days])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((means.low, means.high), rel=1e-6)
    (note,) = row.notes
    assert note.startswith("not measured in turns with F16: the ratio is that of the means")
    # One round of each is one after the other in any case, and its ratio is that of the pair.
    assert compare_records((base[0], later[0])).row("Q8_0").notes == ()
    paired = compare_records((*base, *rounds(Q8, tg=[20 * day for day in days]))).row("Q8_0")
    assert rate(paired).ratio != rate(row).ratio
    assert paired.notes == ()


def test_a_run_that_was_kept_up_has_its_steady_rate_everywhere() -> None:
    record = kept_up(Q8, TG128, 20.0, 12.0)
    prompts = kept_up(Q8, PP512, 512.0, 256.0)
    comparison = compare_records([record, prompts], target=Target(decode_tokens_per_s=15.0))
    row, flat = comparison.rows[0], comparison.to_records()[0]
    assert rate(row).tokens_per_s.value == pytest.approx(12.0)
    assert rate(row).burst_tokens_per_s == pytest.approx(20.0)
    assert isinstance(row.verdict, Verdict)
    assert row.verdict.decode_tokens_per_s == rate(row).tokens_per_s
    assert flat["decode_tokens_per_s"] == pytest.approx(12.0)
    assert flat["decode_burst_tokens_per_s"] == pytest.approx(20.0)
    assert flat["prefill_tokens_per_s"] == pytest.approx(256.0)
    assert flat["ttft_s"] == pytest.approx(2.0)
    assert " steady" in str(comparison)
    assert "Steady: the rate of the last third" in str(comparison)
    usual = compare_records([replace(record, sustain_s=None)]).rows[0]
    assert rate(usual).burst_tokens_per_s is None
    assert rate(usual).tokens_per_s.value > 13


def test_a_disturbed_level_just_below_the_target_is_not_ruled_out() -> None:
    busy = rounds(Q8, tg=[18.0, 18.1, 18.2], flags=("another program",))
    (row,) = compare_records(busy).rows
    assert isinstance(row.verdict, Verdict)
    assert row.verdict.kind is VerdictKind.BORDERLINE
    assert row.verdict.cause.startswith("disturbed: another program")
    (row,) = compare_records(rounds(Q8, tg=[18.0, 18.1, 18.2])).rows
    assert isinstance(row.verdict, Verdict)
    assert row.verdict.kind is VerdictKind.NOT_VIABLE


def test_a_rounds_value_is_the_mean_of_its_repetitions() -> None:
    records = [
        round_of(Q8, TG128, rates, number=n) for n, rates in enumerate([(10, 14), (20, 20, 26)])
    ]
    found = rate(compare_records(records).rows[0])
    assert [value for _, value in found.rounds] == pytest.approx([12.0, 22.0], rel=1e-6)
    assert found.tokens_per_s.value == pytest.approx(17.0, rel=1e-6)


def test_records_of_no_round_have_the_interval_of_their_repetitions_and_no_ratio() -> None:
    records = [round_of(of, TG128, (10.0, 11.0, 12.0), number=None) for of in (F16, Q8)]
    found = rate(compare_records(records).row("Q8_0"))
    assert found.rounds == ()
    assert found.ratio is None
    assert found.tokens_per_s == records[1].decode_tokens_per_s


def test_the_interval_is_twice_as_wide_where_half_of_the_rounds_were_disturbed() -> None:
    def width(disturbed: int) -> float:
        records = [
            round_of(Q8, TG128, (10.0 + n,), number=n, flags=("busy",) if n < disturbed else ())
            for n in range(4)
        ]
        row = compare_records(records).rows[0]
        said = f"disturbed: busy (so in {disturbed} of 4 measurements)"
        assert row.notes == ((said,) if disturbed else ())
        assert rate(row).disturbed == (disturbed >= 2)
        return rate(row).tokens_per_s.high / rate(row).tokens_per_s.value

    assert width(1) == width(0)
    assert width(2) == pytest.approx(width(0) ** 2)


def test_the_time_to_first_token_is_that_of_the_prompts_workload() -> None:
    row = compare_records(rounds(Q8, pp=[512.0, 256.0], tg=[10.0, 10.0])).rows[0]
    assert row.ttft_prompt_tokens == 512
    assert not isinstance(row.ttft_s, Unavailable)
    assert row.ttft_s.value == pytest.approx(1.5, rel=1e-6)


def test_of_several_workloads_the_columns_take_the_one_that_most_levels_have() -> None:
    deep = decode_workload(128, depth=4096)
    records = (
        round_of(F16, deep, (5.0,), number=0), *rounds(F16, tg=[10.0]), *rounds(Q8, tg=[20.0]),
    )  # fmt: skip
    found = compare_records(records)
    assert rate(found.row("F16")).workload == "tg128"
    assert [r.workload for r in found.row("F16").rates] == ["tg128 @ d4096", "tg128"]


def test_what_was_not_measured_says_why() -> None:
    records = (
        *rounds(F16, tg=[10.0, 10.0]), cell_failure(Q8), level_failure("IQ2_XXS"),
        level_failure("Q8_0", task="score", artifact=Q8, fact="Another vocabulary."),
    )  # fmt: skip
    found = compare_records(records)
    row = found.row("Q8_0")
    assert isinstance(row.decode, Unavailable)
    assert row.decode.reason == "The measuring process died. Signal 11"
    assert row.decode.remedy == "Try another level."
    assert isinstance(row.prefill, Unavailable)
    assert isinstance(row.quality, Unavailable)
    assert row.quality.reason.startswith("Another vocabulary.")
    assert len(row.failures) == 2
    made = found.row("IQ2_XXS")
    assert made.artifact is None
    assert "importance matrix" in made.failures[0]
    for missing in (made.decode, made.quality, made.verdict, made.need_bytes):
        assert isinstance(missing, Unavailable)
        assert "importance matrix" in missing.reason
    # The energy of these records is Unavailable, too: never zero.
    assert found.row("F16").joules_per_token == Unavailable(reason="no sensor")
    to_jsonable(found.rows)


def test_the_last_record_of_a_thing_counts_and_no_success_is_undone() -> None:
    late = (
        *rounds(Q8, tg=[10.0, 10.0]), cell_failure(Q8, round=1), *rounds(Q8, tg=[20.0, 20.0]),
        drawn_scores(Q8, 0.5), drawn_scores(Q8, 0.1), level_failure("Q8_0", task="score",
        artifact=Q8), level_failure("Q8_0"),
    )  # fmt: skip
    row = compare_records(late).rows[0]
    assert rate(row).tokens_per_s.value == pytest.approx(20.0, rel=1e-6)
    assert row.failures == ()
    assert row.quality == compare_records([drawn_scores(Q8, 0.1)]).rows[0].quality


def test_labels_are_levels_told_apart_by_file_and_by_fingerprint() -> None:
    twins = (
        Q4, replace(Q4, file="other.gguf", fingerprint="1" * 64), onnx_artifact("int4"),
        artifact("Q4_K_M", imatrix=True), artifact("Q6_K"),
        artifact("Q6_K", fingerprint="abcdefgh" * 8),
    )  # fmt: skip
    assert row_labels(twins) == (
        "Q4_K_M (model-Q4_K_M.gguf)", "Q4_K_M (other.gguf)", "onnx:int4", "Q4_K_M+imatrix",
        f"Q6_K (model-Q6_K.gguf) ({artifact('Q6_K').fingerprint[:8]})",
        "Q6_K (model-Q6_K.gguf) (abcdefgh)",
    )  # fmt: skip
    found = compare_records([record for of in twins for record in rounds(of, tg=[9.0, 9.0])])
    assert tuple(row.label for row in found.rows) == row_labels(twins)


def test_energy_is_taken_over_rounds_by_decoded_token() -> None:
    # The record of tests/energy_records: 56 J of decoding for 80 tokens, by hand.
    record = recorded()
    row = compare_records([replace(record, round=n) for n in range(3)]).rows[0]
    assert not isinstance(row.joules_per_token, Unavailable)
    assert row.joules_per_token.value == pytest.approx(56 / 80)
    assert row.energy_basis is Basis.MEASURED


def test_answers_are_counted_against_the_references() -> None:
    records = (
        *several_levels(), answers(F16, ("a", "b", "c")), answers(Q8, ("a", "b", "x")),
        answers(Q4, ("a", "b"), prompts_sha256="d" * 64),
    )  # fmt: skip
    found = compare_records(records)
    assert found.row("F16").same_answers is None
    assert found.row("Q8_0").same_answers == 2
    assert found.row("Q8_0").answers is not None
    other = found.row("Q4_K_M")
    assert other.answers is other.same_answers is None
    assert any("other prompts" in note for note in other.notes)


def test_the_baseline_may_be_chosen() -> None:
    found = compare_records(several_levels(), baseline="Q8_0")
    assert found.row("Q8_0").is_baseline
    assert found.row("F16").is_reference
    ratio = rate(found.row("F16")).ratio
    assert ratio is not None
    assert ratio.high < 1
    with pytest.raises(UsageError, match=r"no row 'Q9'.*Q4_K_M"):
        compare_records(several_levels(), baseline="Q9")


def test_without_scores_the_baseline_is_the_first_of_floats() -> None:
    records = [record for of in (Q8, F16, Q4) for record in rounds(of, tg=[9.0, 9.0])]
    assert [row.is_baseline for row in compare_records(records).rows] == [False, True, False]
    assert compare_records(records[:2]).rows[0].is_baseline
    assert compare_records([]).rows == ()


def other_host(record: SavedRecord) -> SavedRecord:
    return replace(record, host=replace(record.host, cpu="Another CPU"))  # type: ignore[union-attr]


SPEEDS = rounds(Q8, tg=[9.0, 9.0])
FOUR = SessionOptions(threads=4)
UNLIKE: dict[str, tuple[SavedRecord, str]] = {
    "host": (other_host(SPEEDS[0]), "different machines"),
    "virtual": (
        replace(SPEEDS[0], host=replace(SPEEDS[0].host, virtualization="kvm")),
        "virtualization: none for Q8_0, kvm for Q4_K_M",
    ),
    "threads": (replace(SPEEDS[0], requested=FOUR), "threads: 2 for .* 4 for"),
    "limits": (
        replace(SPEEDS[0], emulated=Emulation(limits=Limits(cores=1), means="x")), "1 cores",
    ),
    "kept busy": (replace(SPEEDS[0], sustain_s=600.0), "kept up"),
    "failed under limits": (cell_failure(Q4, limits=Limits(memory_bytes=1)), "limits"),
    "engine": (
        replace(SPEEDS[0], requested=SessionOptions(backend="fake", threads=2)), "engines",
    ),
    "workload": (
        replace(SPEEDS[0], workload=Workload(name="tg128", generate_tokens=64)), "not the same",
    ),
    "text": (drawn_scores(Q4, 0.1, on=text(tokens_sha256="e" * 64)), "different texts"),
    "cut": (drawn_scores(Q4, 0.1, on=text(context_tokens=256)), "different texts"),
    "reference": (drawn_scores(Q4, 0.1, reference=Q8), "different references"),
    "cache": (
        drawn_scores(Q4, 0.1, options=SessionOptions(kv_type_k="q8_0")), "different ways",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNLIKE)
def test_unlike_records_are_refused_with_the_difference(case: str) -> None:
    odd, words = UNLIKE[case]
    artifact_of = getattr(odd, "artifact", None)
    assert artifact_of is not None
    odd = replace(odd, artifact=Q4)  # type: ignore[call-arg]
    alike: tuple[SavedRecord, ...] = (*SPEEDS, drawn_scores(F16, None), drawn_scores(Q8, 0.1))
    compare_records(alike)
    with pytest.raises(UsageError, match=words):
        compare_records((*alike, odd))
    lots = alike_lots((*alike, odd))
    assert len(lots) == 2
    assert len(lots[0]) == len(alike)
    assert odd in lots[1]
    for lot in lots:
        compare_records(lot)


def test_a_record_of_another_machine_replaces_none_of_the_same_round() -> None:
    with pytest.raises(UsageError, match="different machines"):
        compare_records((*SPEEDS, other_host(SPEEDS[0])))


def test_engines_of_two_formats_stand_on_one_table() -> None:
    graph = onnx_artifact()
    theirs = [
        replace(
            record, engine=Engine(name="onnxruntime", version="1"),
            requested=SessionOptions(backend="onnx", threads=2, providers=("cpu",)),
        )
        for record in rounds(graph, tg=[30.0, 30.0])
    ]  # fmt: skip
    found = compare_records((*SPEEDS, *theirs))
    assert [row.label for row in found.rows] == ["Q8_0", "onnx:int4"]
    assert found.notes == ()


def test_lots_keep_what_belongs_together() -> None:
    here = several_levels()
    there = tuple(other_host(record) for record in rounds(Q8, tg=[50.0, 50.0]))
    lots = alike_lots((*here, *there, level_failure()))
    assert [len(lot) for lot in lots] == [len(here) + 1, 5]
    # Scores hold on any machine: they stand on both tables.
    for lot in lots:
        assert isinstance(compare_records(lot).row("Q8_0").quality, Quality)


def test_the_same_round_in_two_files_is_of_two_runs() -> None:
    first, again = (rounds(Q8, tg=[50.0, rate]) for rate in (60.0, 70.0))
    more = rounds(F16, tg=[20.0, 20.0])
    there = [other_host(record) for record in again]
    assert runs_of([first, [*more, *first], there]) == ((*first, *more, *there),)
    # Paired with the first file's, this second round would give a ratio that never was.
    assert runs_of([[*first, *more], again]) == ((*first, *more), tuple(again))


def test_scores_of_another_text_have_a_table_of_their_own_with_the_same_speeds() -> None:
    there = text(tokens_sha256="e" * 64)
    others = (drawn_scores(F16, None, on=there), drawn_scores(Q8, 0.2, on=there))
    lots = alike_lots((*several_levels(), *others))
    assert [len(lot) for lot in lots] == [len(several_levels()), 2 + 2 * 10]
    first, second = (compare_records(lot).row("Q8_0") for lot in lots)
    assert first.decode == second.decode
    assert first.quality != second.quality


def test_different_models_have_tables_of_their_own_and_are_never_mixed_silently() -> None:
    one = several_levels()
    made_up = (artifact(level, name="other", file=f"other-{level}.gguf", parameters=7,
                        fingerprint=level * 8) for level in ("F16", "Q8_0"))  # fmt: skip
    other = tuple(record for of in made_up for record in rounds(of, tg=[50.0, 50.0]))
    later = "2026-01-02T00:00:00+00:00"
    other = tuple(replace(record, created=later) for record in other)
    failed = level_failure(), level_failure("IQ1_S", created=later)
    lots = alike_lots((*one, failed[0], *other, failed[1]))
    assert [len(lot) for lot in lots] == [len(one) + 1, len(other) + 1]
    assert all(compare_records(lot).notes == () for lot in lots)
    notes = compare_records((*one, *other)).notes
    assert any("different models" in note and "llama of 7 parameters" in note for note in notes)
    unmeasured = drawn_scores(other[0].artifact, None)
    assert [len(lot) for lot in alike_lots((*SPEEDS, unmeasured))] == [len(SPEEDS), 1]
    # What somebody held against another model's reference stays beside it, with that note.
    crossed = drawn_scores(other[0].artifact, 0.5, reference=F16)
    assert len(alike_lots((*one, *rounds(other[0].artifact, tg=[9.0]), crossed))) == 1


def test_a_shipped_text_and_two_versions_of_an_engine_are_said() -> None:
    records = (
        *SPEEDS, drawn_scores(Q8, None, on=text(shipped=True)),
        replace(rounds(Q4, tg=[9.0])[0], engine=Engine(name="llama.cpp", version="2")),
    )  # fmt: skip
    notes = compare_records(records).notes
    assert any("small text" in note for note in notes)
    assert any("llama.cpp 1, llama.cpp 2" in note for note in notes)


def test_the_verdict_rests_on_all_rounds_and_names_a_level_that_reads() -> None:
    found = compare_records(several_levels(), target=Target(decode_tokens_per_s=25.0))
    kinds = {row.label: row.verdict.kind for row in found.rows if isinstance(row.verdict, Verdict)}
    assert kinds == {
        "F16": VerdictKind.NOT_VIABLE, "Q8_0": VerdictKind.NOT_VIABLE,
        "Q4_K_M": VerdictKind.VIABLE, "Q2_K": VerdictKind.VIABLE,
    }  # fmt: skip
    slow = found.row("F16").verdict
    assert isinstance(slow, Verdict)
    assert slow.next_step.startswith("Q4_K_M would read")
    assert slow.decode_tokens_per_s == rate(found.row("F16")).tokens_per_s
    assert found.row("F16").need_bytes == slow.memory.need_bytes


def test_flat_records_have_the_same_names_in_every_row_and_si_units() -> None:
    records = (*several_levels(), level_failure())
    flat = compare_records(records).to_records()
    assert len(flat) == 5
    assert len({tuple(row) for row in flat}) == 1
    row = flat[2]
    assert row["label"] == "Q4_K_M"
    assert row["decode_workload"] == "tg128"
    assert row["kl"] == pytest.approx(0.03, rel=0.2)
    assert isinstance(row["kl_se"], float)
    assert flat[4]["unavailable"]
    assert flat[4]["decode_tokens_per_s"] is None
    json.dumps(flat, allow_nan=False)


def test_a_comparison_shows_itself_in_a_terminal_and_in_a_notebook() -> None:
    found = compare_records(several_levels())
    page = io.StringIO()
    Console(file=page, width=100).print(found)
    assert found.recommendation in page.getvalue()
    assert "Q4_K_M" in found._repr_html_()


def test_whatever_a_file_holds_is_refused_or_gives_a_table_that_can_be_written() -> None:
    # A hundred files of one record with one value replaced, those among them that can be read.
    drawn, read = random.Random(4), 0
    good = [record.to_json() for record in (*rounds(Q8, tg=[9.0]), drawn_scores(Q8, 0.1, tokens=12),
                                            cell_failure(Q4), answers(Q8, ("a",)))]  # fmt: skip
    for _ in range(100):
        data = json.loads(json.dumps(drawn.choice(good)))
        place = data
        while True:
            key = drawn.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or not place[key]:
                break
            place = place[key]
        place[key] = drawn.choice((None, 0, -1, 2**63, 1e300, -1e300, 1e-300, True, "", "\x1b", []))
        with contextlib.suppress(FormatError, UsageError):
            record = read_saved(data)
            read += 1
            found = compare_records((*rounds(F16, tg=[9.0]), drawn_scores(F16, None), record))
            to_jsonable(found.rows)
            json.dumps(found.to_records(), allow_nan=False)
    assert read > 5


def test_the_interval_of_paired_ratios_covers_the_truth_in_19_of_20_cases() -> None:
    # 400 comparisons of 5 rounds: drift of 20 %, own noise of 3 %, a true ratio of 2.
    drawn, hits = random.Random(5), 0
    for _ in range(400):
        drift = [drawn.gauss(0, 0.2) for _ in range(5)]
        pairs = [
            (2.718**d * (1 + drawn.gauss(0, 0.03)), 2 * 2.718**d * (1 + drawn.gauss(0, 0.03)))
            for d in drift
        ]
        base, other = zip(*pairs, strict=True)
        found = paired_ratio(list(enumerate(other)), list(enumerate(base)))
        assert found is not None
        hits += found.low <= 2 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_pp512_alone_has_no_verdict_but_a_rate() -> None:
    row = compare_records([round_of(Q8, PP512, (100.0, 101.0))]).rows[0]
    assert isinstance(row.prefill, Rate)
    assert row.verdict == Unavailable(reason="no decoding was measured")
