"""The arithmetic behind the validation of projections: errors, coverage, flips, rivals, choices."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import projection
from benchmarks.projection_validation import tables
from benchmarks.projection_validation.baselines import (
    FIXED_SHARE,
    Experts,
    Roofed,
    llmfit_rate,
    roof_times_constant,
    scaled_run,
)
from benchmarks.projection_validation.cases import (
    after_runs,
    candidate_of,
    cases_of,
    family_of,
    llmfit_of,
    roof_of,
)
from benchmarks.projection_validation.document import by_backend, goals_of, phase_of
from benchmarks.projection_validation.runs import Candidate, calibrating_runs
from benchmarks.projection_validation.scores import (
    Case,
    accuracy,
    by_device,
    coverage,
    flips,
    score,
    worst,
)
from edge_runtime.projection.features import FAMILY_OF
from edge_runtime.projection.observations import Observation, observe_decode
from edge_runtime.projection.supply import Typical
from edge_runtime.statistics import Interval, median
from profiles.devices import DeviceProfile, read_device
from profiles.published import COLUMNS, PublishedRow
from scripts.clean_measurements import table


def case(
    projected: float,
    measured: float,
    *,
    device: str = "one",
    half: float = 1.25,
    path: str = "gpu/llama.cpp/cuda",
    **other: object,
) -> Case:
    return dataclasses.replace(
        Case(
            phase="decode",
            device=device,
            device_class="gpu",
            path=path,
            architecture="dense",
            family="k",
            model="a model",
            level="Q4_K_M",
            depth_tokens=0,
            source="S",
            measured=measured,
            projected=Interval(low=projected / half, value=projected, high=projected * half),
        ),
        **other,  # type: ignore[arg-type]
    )


class TestErrors:
    def test_are_relative_to_what_was_measured(self) -> None:
        found = accuracy([("one", 30.0, 20.0)])
        assert found.median_error == found.mean_error == pytest.approx(0.5)
        assert found.median_ratio == pytest.approx(1.5)

    def test_count_as_within_at_the_very_edge(self) -> None:
        found = accuracy([("one", 25.0, 20.0), ("two", 15.0, 20.0), ("three", 10.0, 20.0)])
        assert found.within_quarter == pytest.approx(2 / 3)
        assert found.within_twice == 1.0

    def test_a_third_is_no_factor_of_two_though_its_error_is_below_one(self) -> None:
        assert accuracy([("one", 20 / 3, 20.0)]).within_twice == 0.0

    def test_devices_count_once_however_many_rows_they_have(self) -> None:
        rows = [("many", 40.0, 20.0)] * 9 + [("few", 20.0, 20.0)]
        found = accuracy(rows)
        assert (found.rows, found.devices) == (10, 2)
        assert found.mean_error == pytest.approx(0.9)
        assert found.device_mean_error == pytest.approx(0.5)
        assert found.median_error == pytest.approx(1.0)
        assert found.device_median_error == pytest.approx(0.5)
        assert found.within_quarter == pytest.approx(0.1)
        assert found.device_within_quarter == pytest.approx(0.5)

    def test_by_device_keeps_the_order_of_first_sight(self) -> None:
        assert by_device([("b", 1.0), ("a", 5.0), ("b", 3.0)], median) == [2.0, 5.0]


class TestCoverage:
    def test_counts_the_ends_as_inside(self) -> None:
        edge = case(20.0, 25.0)
        outside = case(20.0, 25.1, device="two")
        found = coverage([edge, outside])
        assert found.rows == found.devices == pytest.approx(0.5)
        assert found.median_width == pytest.approx(1.25**2)

    def test_over_devices_one_with_many_rows_is_still_one(self) -> None:
        found = coverage([case(20, 20, device="many")] * 9 + [case(20, 90, device="few")])
        assert found.rows == pytest.approx(0.9)
        assert found.devices == pytest.approx(0.5)


class TestFlips:
    def test_only_decided_verdicts_can_flip(self) -> None:
        rows = [
            case(30, 19),  # surely fast enough, and is not
            case(10, 21),  # surely too slow, and is not
            case(20, 5),  # may or may not
            case(30, 31),
        ]
        found = flips(rows, 20)
        assert (found.too_good, found.too_bad) == (1, 1)
        assert found.share == pytest.approx(0.5)
        assert found.share_of_decided == pytest.approx(2 / 3)
        assert found.borderline == pytest.approx(0.25)

    @pytest.mark.parametrize(
        ("projected", "measured", "flipped", "borderline"),
        [
            (25.0, 20.0, False, False),  # the low end just meets the target, so does the rate
            (25.0, 19.9, True, False),
            (16.0, 20.0, False, True),  # the high end just meets it
            (15.9, 20.0, True, False),
            (15.9, 19.9, False, False),
        ],
    )
    def test_the_target_itself_is_met(
        self, projected: float, measured: float, flipped: bool, borderline: bool
    ) -> None:
        found = flips([case(projected, measured)], 20)
        assert found.too_good + found.too_bad == int(flipped)
        assert found.borderline == float(borderline)

    def test_all_borderline_flips_none(self) -> None:
        assert flips([case(20, 1)], 20).share_of_decided == 0.0

    @given(st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(1.0, 5.0))
    def test_nothing_inside_its_interval_is_flipped(
        self, projected: float, measured: float, half: float
    ) -> None:
        one = case(projected, measured, half=half)
        found = flips([one], 20)
        assert not (one.covered and found.share)


class TestGroups:
    def test_a_rival_is_held_against_the_projection_on_its_own_rows(self) -> None:
        rows = [
            case(20, 20, rivals=(("rival", 40.0),)),
            case(60, 20, device="two"),
        ]
        group = score("both", rows, target=20)
        (rival,) = group.rivals
        assert (rival.accuracy.rows, rival.accuracy.median_error) == (1, pytest.approx(1.0))
        assert rival.ours.median_error == pytest.approx(0.0)
        assert group.accuracy.rows == 2

    def test_a_rival_without_an_interval_has_no_borderline(self) -> None:
        group = score("one", [case(20, 10, rivals=(("rival", 21.0),))], target=20)
        (rival,) = group.rivals
        assert rival.flips is not None
        assert (rival.flips.too_good, rival.flips.borderline) == (1, 0.0)
        assert group.flips is not None
        assert group.flips.borderline == 1.0

    def test_backends_are_told_apart_by_class_engine_and_api(self) -> None:
        rows = [case(1, 1), case(1, 1, path="cpu/llama.cpp"), case(1, 1, path="npu/rkllm/rknn")]
        assert list(by_backend(rows)) == [
            "gpu: llama.cpp cuda",
            "gpu: llama.cpp cpu",
            "gpu: rkllm rknn",
        ]

    def test_the_worst_are_the_furthest_off_either_way(self) -> None:
        rows = [case(20, 20), case(20, 100, device="slow"), case(60, 20, device="fast")]
        found = worst([*rows, case(90, 20, device="fast")], 2)
        assert [miss.case.device for miss in found] == ["slow", "fast"]
        assert found[1].rows == 2
        assert found[1].median_ratio == pytest.approx(3.75)

    def test_goals_follow_from_the_groups_they_name(self) -> None:
        rows = [case(20, 20), case(5, 20, device="two", path="cpu/llama.cpp")]
        phase = phase_of(rows, target=20, misses=3)
        goals = {goal.figure: goal for goal in goals_of(phase, phase)}
        assert goals["CPU, all: median error"].value == pytest.approx(0.75)
        assert not goals["CPU, all: median error"].met
        covered = goals["80 % intervals that cover, rows"]
        assert covered.value == pytest.approx(0.5)
        assert not covered.met

    def test_every_group_stands_in_the_tables(self) -> None:
        rows = [case(20, 20, rivals=(("rival", 40.0),)), case(5, 20, device="two", path="cpu/x")]
        phase = phase_of(rows, target=20, misses=3)
        text = tables.validation(tuple(goals_of(phase, phase)), {"decode": phase}, {})
        for words in ("GPU, all", "CPU, all", "gpu: x cpu", "rival", "| two |", "**no**"):
            assert words in text
        (backends,) = (block for block in text.split("\n\n") if "| class and backend |" in block)
        last_cells = [line.split("|")[-2].strip() for line in backends.splitlines()[2:]]
        assert last_cells == ["100 %", ""], "a rival's error only where it has a rate for each row"
        widths = {
            block: {line.count("|") for line in block.splitlines()}
            for block in text.split("\n\n")
            if block.startswith("|")
        }
        assert all(len(counts) == 1 for counts in widths.values())


class TestRoofTimesConstant:
    def rows(self) -> list[Roofed]:
        return [
            Roofed(device="a", group="x", measured=50.0, roof=100.0),
            Roofed(device="b", group="x", measured=80.0, roof=100.0),
            Roofed(device="b", group="x", measured=80.0, roof=100.0),
            Roofed(device="c", group="y", measured=10.0, roof=100.0),
        ]

    def test_a_device_is_never_told_its_own_share(self) -> None:
        found = roof_times_constant(self.rows(), self.rows(), lambda row: row.group)
        assert found[:3] == pytest.approx([80.0, 50.0, 50.0])

    def test_a_group_of_one_device_asks_all_others(self) -> None:
        found = roof_times_constant(self.rows(), self.rows(), lambda row: row.group)
        assert found[3] == pytest.approx(65.0)

    def test_devices_weigh_alike(self) -> None:
        asked = Roofed(device="new", group="x", measured=1.0, roof=10.0)
        assert roof_times_constant([asked], self.rows(), lambda row: row.group) == pytest.approx(
            [6.5]
        )

    def test_without_any_other_device_the_fixed_share_serves(self) -> None:
        alone = self.rows()[:1]
        assert roof_times_constant(alone, alone, lambda row: row.group) == pytest.approx(
            [100 * FIXED_SHARE]
        )


def llmfit(**changed: object) -> float | None:
    given: dict[str, object] = {
        "accelerator": "gpu", "level": "Q4_K_M", "parameters": 8e9, "active_parameters": None,
        "is_moe": False, "bandwidth_bytes_per_s": 936e9, "memory_bytes": 24 * 2**30, "cores": 8,
        "is_arm": False,
    }  # fmt: skip
    return llmfit_rate(**(given | changed))  # type: ignore[arg-type]


class TestLlmfit:
    def test_a_gpu_is_its_bandwidth_over_nominal_bytes(self) -> None:
        assert llmfit() == pytest.approx(0.55 * 936 / (8 * 0.5))
        assert llmfit(level="Q8_0") == pytest.approx(0.55 * 936 / 8)
        assert llmfit(level="F16") == pytest.approx(0.55 * 936 / 16)

    def test_unsloth_levels_are_those_of_their_bits_and_unknown_ones_four_bits(self) -> None:
        assert llmfit(level="UD-Q6_K_XL") == llmfit(level="Q6_K")
        assert llmfit(level="IQ2_XS") == llmfit()

    def test_a_cpu_is_a_constant_whatever_its_memory(self) -> None:
        rate = llmfit(accelerator="cpu")
        assert rate == pytest.approx(70 / 8 * 1.15 * 1.1 * 0.3)
        assert llmfit(accelerator="cpu", bandwidth_bytes_per_s=1e9) == rate
        assert llmfit(accelerator="cpu", is_arm=True, cores=4) == pytest.approx(90 / 8 * 1.15 * 0.3)

    def test_it_knows_no_npu(self) -> None:
        assert llmfit(accelerator="npu") is None

    def test_a_mixture_of_unknown_layers_goes_by_its_active_parameters(self) -> None:
        rate = llmfit(is_moe=True, parameters=20e9, active_parameters=4e9, memory_bytes=None)
        assert rate == pytest.approx(0.55 * 936 / (4 * 0.58) * 0.6)

    def test_a_mixture_of_known_layers_reads_experts_and_a_fixed_rest(self) -> None:
        experts = Experts(count=64, used=8, used_parameters=1e9, other_parameters=0.5e9)
        rate = llmfit(
            is_moe=True, parameters=7e9, active_parameters=1.3e9, experts=experts, memory_bytes=None
        )
        assert rate == pytest.approx(936 / (1 * 0.58 + 0.5 * 3.2))

    def test_experts_that_fill_the_memory_slow_it_down(self) -> None:
        experts = Experts(count=64, used=8, used_parameters=1e9, other_parameters=0.5e9)
        free = llmfit(is_moe=True, parameters=7e9, experts=experts, memory_bytes=None)
        full = llmfit(
            is_moe=True, parameters=7e9, experts=experts, memory_bytes=int(7e9 * 0.58 / 0.8)
        )
        assert free is not None
        assert full == pytest.approx(free * (1 - (0.8 - 0.6) * (1 - 8 / 64)), rel=1e-6)

    def test_tiny_models_count_as_a_tenth_of_a_billion(self) -> None:
        assert llmfit(parameters=1e6) == llmfit(parameters=1e8)


class TestCalibratingRuns:
    def rows(self) -> list[Candidate]:
        def run(place: str, family: str, model: str) -> Candidate:
            return Candidate(place=(place,), family=family, file=(model, family))

        return [
            run("here", "k", "a"), run("here", "k", "b"), run("here", "int8", "a"),
            run("here", "int8", "b"), run("here", "float", "a"), run("there", "k", "a"),
            run("there", "k", "a"),
        ]  # fmt: skip

    def test_are_one_per_family_of_the_place_the_rows_own_first(self) -> None:
        rows = self.rows()
        for index, runs in calibrating_runs(rows):
            assert [rows[run].place for run in runs] == [rows[index].place] * len(runs)
            families = [rows[run].family for run in runs]
            assert families[0] == rows[index].family
            assert len(set(families)) == len(families)

    def test_never_are_of_the_file_asked_about(self) -> None:
        rows = self.rows()
        chosen = dict(calibrating_runs(rows))
        assert all(rows[run].file != rows[i].file for i, runs in chosen.items() for run in runs)
        assert set(chosen) == {0, 1, 2, 3}, "a family with one file there calibrates nobody"

    def test_a_long_context_calibrates_nobody(self) -> None:
        rows = [dataclasses.replace(row, short=row.file[0] != "b") for row in self.rows()]
        assert set(dict(calibrating_runs(rows))) == {1, 3}

    def test_are_the_same_in_every_call(self) -> None:
        assert list(calibrating_runs(self.rows())) == list(calibrating_runs(self.rows()))

    def test_scale_with_the_work(self) -> None:
        assert scaled_run(40.0, 2e9, 4e9) == pytest.approx(20.0)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0.01, 1e3), st.floats(0.01, 1e3)), min_size=1
    )
)
def test_shares_lie_between_none_and_all(rows: list[tuple[str, float, float]]) -> None:
    found = accuracy(rows)
    for share in (found.within_quarter, found.within_twice, found.device_within_twice):
        assert 0 <= share <= 1
    assert found.within_twice >= found.within_quarter
    assert math.isfinite(found.mean_error)


CARD = """
id = "made-up-card"
name = "A card nobody makes"
class = "gpu"
os = ["Linux"]
as_of = "2026-11-22"
[accelerators.gpu]
name = "Made-up GPU"
apis = ["cuda"]
memory = ["12 GB"]
bandwidth = { value = "400 GB/s", kind = "stated", source = "here" }
fp32 = { value = "15 TFLOP/s", kind = "stated", source = "here" }
[sources]
here = "https://example.org (made up for a test)"
"""


@pytest.fixture
def card(tmp_path: Path) -> Path:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "made-up-card.toml").write_text(CARD, encoding="utf-8")
    return tmp_path / "devices"


def published(**changed: object) -> PublishedRow:
    known: dict[str, object] = dict.fromkeys(COLUMNS)
    known |= {
        "device": "made-up-card", "engine": "llama.cpp", "accelerator": "gpu", "api": "cuda",
        "model": "Llama 3.1 8B", "model_id": "llama-3.1-8b", "model_type": "dense",
        "parameters": 8.03e9, "level": "Q4_K_M", "decode_tokens_per_s": 60.0, "depth_tokens": 0,
        "prefill_tokens_per_s": 1500.0, "prompt_tokens": 512, "conditions": (),
        "date": "2026", "source": "https://example.org", "source_id": "EX",
    }  # fmt: skip
    return PublishedRow(**(known | changed))  # type: ignore[arg-type]


class TestCases:
    def seen(self, card: Path, **changed: object) -> tuple[Observation, DeviceProfile]:
        device = read_device(card / "made-up-card.toml")
        typical = {"gpu": Typical(per_byte=30.0, spread=0.4)}
        found = observe_decode(published(**changed), device, typical)
        assert found is not None
        return found, device

    def test_the_roof_is_the_bandwidth_over_what_a_token_reads(self, card: Path) -> None:
        one, _ = self.seen(card)
        assert roof_of("decode", one) == pytest.approx(400e9 / one.demand.bytes_read)
        assert 60 < roof_of("decode", one) < 110

    def test_the_family_is_that_of_the_level_a_file_is_called_by(self, card: Path) -> None:
        families = {
            level: family_of(self.seen(card, level=level)[0])
            for level in ("Q4_0", "Q8_0", "Q3_K_M", "F16", "IQ2_XS", "UD-Q6_K_XL")
        }
        assert families == {
            level: FAMILY_OF[kind]
            for level, kind in zip(
                families, ("Q4_0", "Q8_0", "Q3_K", "F16", "IQ2_XS", "Q6_K"), strict=True
            )
        }

    def test_runs_calibrate_only_where_source_and_threads_are_the_same(self, card: Path) -> None:
        places = {
            candidate_of(self.seen(card, **changed)[0]).place
            for changed in ({}, {"source_id": "OTHER"}, {"threads": 2}, {"engine": "vLLM"})
        }
        assert len(places) == 4
        assert not candidate_of(self.seen(card, depth_tokens=4096)[0]).short

    def test_llmfit_is_asked_with_the_facts_of_the_profile(self, card: Path) -> None:
        assert llmfit_of(*self.seen(card)) == pytest.approx(0.55 * 400 / (8.03 * 0.5))
        assert llmfit_of(*self.seen(card, parameters=None)) is None

    def test_a_case_carries_the_rivals_and_what_may_explain_a_miss(self, card: Path) -> None:
        one, device = self.seen(card, conditions=("vendor",))
        interval = Interval(low=40.0, value=55.0, high=70.0)
        (case,) = cases_of("decode", [(one, interval)], {device.id: device})
        assert case.measured == pytest.approx(60.0)
        assert case.covered
        assert {name for name, _ in case.rivals} >= {"llmfit", "roof x 0.6"}
        assert {"no other devices on this path", "vendor"} <= set(case.remarks)

    def test_the_share_of_a_run_carries_over_by_bytes(self, card: Path) -> None:
        run, _ = self.seen(card)
        other, _ = self.seen(card, level="Q8_0", decode_tokens_per_s=1.0)
        ((_, rate),) = after_runs("decode", [run, other], 1, [0])
        assert rate == pytest.approx(60 * run.demand.bytes_read / other.demand.bytes_read)


class TestFurtherMeasurements:
    """Rows of devices that are not shipped, against the shipped coefficients."""

    def run(self, *arguments: object) -> int:
        return projection.main([str(argument) for argument in arguments])

    def test_are_projected_and_scored(
        self, card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [published(), published(device="apple-m1", decode_tokens_per_s=10.0)]
        (tmp_path / "rows.csv").write_text(table(COLUMNS, rows), encoding="utf-8")
        code = self.run("--measurements", tmp_path / "rows.csv", "--devices", card, "--rows")
        found = json.loads(capsys.readouterr().out)
        assert code == 0
        assert found["rows"]["of_known_devices"] == 1
        assert found["rows"]["decode"]["used"] == 1
        (decode,) = (one for one in found["cases"] if one["phase"] == "decode")
        assert decode["device"] == "made-up-card"
        assert decode["projected"]["low"] < decode["projected"]["value"]
        assert decode["projected"]["high"] <= 400e9 / 4.5e9

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("a,b\n1,2\n", "neither the columns"),
            (",".join(COLUMNS) + "\nx\n", "1 cells"),
            (",".join(COLUMNS) + "\n", "no row on a device that the shipped table lacks"),
        ],
    )
    def test_a_file_that_is_none_is_named_in_one_sentence(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
    ) -> None:
        (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
        assert self.run("--measurements", tmp_path / "rows.csv") == 2
        told = capsys.readouterr().err
        assert says in told
        assert told.count("\n") == 1

    def test_a_file_that_is_not_there(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run("--measurements", tmp_path / "none.csv") == 2
        assert "none.csv" in capsys.readouterr().err
