"""What becomes of a rate over time: made-up devices that hold it, fall, ramp and shiver."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence

import pytest
from records import measurement

from edge_runtime.basis import Unavailable
from edge_runtime.heat import Heat, Start, ThrottleEvent, Zone
from edge_runtime.measurement import Measurement, Run, Workload
from edge_runtime.report.rows import row
from edge_runtime.report.sustained import heat_words
from edge_runtime.sustained import Sustained, sustained, throttle_during, warming
from edge_runtime.timeline import Series
from edge_runtime.verdict import Target, VerdictKind, judge

S = 1_000_000_000
START = 5 * S
UNKNOWN = Start(kind="unknown", words="no temperature can be read here")
MINUTES_10 = 600.0


def record(
    rate: Callable[[float], float],
    *,
    seconds: float = MINUTES_10,
    tokens: int = 128,
    **more: object,
) -> Measurement:
    """tgN repeated for some seconds at a rate that depends on the seconds since the start."""
    runs = []
    now = START
    while now < START + seconds * S:
        step = round(S / rate((now - START) / S))
        stamps = tuple(now + step * (i + 1) for i in range(tokens))
        runs.append(Run(started_ns=now, prefilled_ns=None, prefill_tokens=0, token_ns=stamps))
        now = stamps[-1] + 1_000_000
    return dataclasses.replace(measurement(tuple(runs)), sustain_s=seconds, **more)  # type: ignore[arg-type]


def found(kept_up: Measurement) -> Sustained:
    result = sustained(kept_up)
    assert isinstance(result, Sustained)
    return result


def heat(
    celsius: Sequence[tuple[float, float]] = (),
    throttle: tuple[ThrottleEvent, ...] | Unavailable = (),
) -> Heat:
    zone = Zone(
        celsius=Series(
            name="cpu-thermal",
            stamps_ns=tuple(START + round(t * S) for t, _ in celsius),
            values=tuple(c for _, c in celsius),
        ),
        trip_celsius=85.0,
    )
    return Heat(zones=(zone,) if celsius else (), clock_hz=None, throttle=throttle, start=UNKNOWN)


def test_a_steady_device_holds_its_burst() -> None:
    result = found(record(lambda _t: 20.0))
    assert result.phase == "decode"
    assert result.burst_tokens_per_s == pytest.approx(20.0)
    assert result.steady_tokens_per_s.value == pytest.approx(20.0)
    assert result.ratio == pytest.approx(1.0)
    assert not result.slowed
    assert not result.still_falling
    assert result.time_to_throttle_s is None
    # 6.4 s a run: 94 of them in sixty bins, from the first tenth of a minute to the last.
    assert len(result.series) == 60
    assert result.series[0][0] == pytest.approx(3.2, abs=0.1)
    assert result.series[-1][0] > 590
    assert 25 < result.burst_s < 40
    assert 190 < result.steady_s < 215


def test_a_step_down_is_found_where_it_happened() -> None:
    result = found(record(lambda t: 20.0 if t < 150 else 11.0))
    assert result.burst_tokens_per_s == pytest.approx(20.0)
    assert result.steady_tokens_per_s.value == pytest.approx(11.0)
    assert result.ratio == pytest.approx(0.55)
    assert result.slowed
    assert result.time_to_throttle_s == pytest.approx(150, abs=20)
    assert all(rate > 18 for t, rate in result.series if t < (result.time_to_throttle_s or 0))
    assert all(rate < 18 for t, rate in result.series if t > (result.time_to_throttle_s or 0))
    assert not result.still_falling


def test_a_ramp_crosses_nine_tenths_of_the_burst_and_is_still_falling() -> None:
    result = found(record(lambda t: 20.0 * (1 - 0.4 * t / 600)))
    # The burst is the mean of the first half minute: 1 % down. Nine tenths of it: at 163 s.
    assert result.time_to_throttle_s == pytest.approx(163, abs=25)
    assert result.still_falling
    assert result.slowed


def test_a_hiccup_and_a_fall_that_was_recovered_from_are_no_throttling() -> None:
    assert found(record(lambda t: 5.0 if 100 < t < 140 else 20.0)).time_to_throttle_s is None
    recovered = found(record(lambda t: 12.0 if 100 < t < 350 else 20.0))
    assert recovered.time_to_throttle_s is None
    assert not recovered.slowed


def test_noise_alone_is_seldom_slower_and_never_throttled() -> None:
    slower = 0
    for seed in range(60):
        source = random.Random(seed)
        result = found(record(lambda _t: source.gauss(20.0, 1.6)))  # noqa: B023
        slower += result.slowed
        assert result.time_to_throttle_s is None
    assert slower <= 3


def test_the_steady_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(100):
        source = random.Random(seed)
        steady = found(record(lambda _t: source.gauss(20.0, 1.6))).steady_tokens_per_s  # noqa: B023
        hits += steady.low <= 20.0 <= steady.high
    assert 88 <= hits <= 100


@pytest.mark.parametrize("seed", range(5))
def test_a_fall_is_found_through_noise(seed: int) -> None:
    source = random.Random(seed)
    result = found(record(lambda t: (20.0 if t < 200 else 13.0) * math.exp(source.gauss(0, 0.08))))
    assert result.slowed
    assert result.time_to_throttle_s == pytest.approx(200, abs=40)


def test_bins_that_depend_on_each_other_widen_the_interval() -> None:
    # The same last twenty values, once in waves as a fan makes them and once shuffled.
    waves = [18.0 + 2.0 * math.sin(i / 2) for i in range(20)]
    shuffled = random.Random(4).sample(waves, len(waves))

    def width(last: list[float]) -> float:
        left = iter([20.0] * 40 + last)
        seconds = sum(64 / rate for rate in [20.0] * 40 + last) - 0.1
        result = found(record(lambda _t: next(left), seconds=seconds, tokens=64))
        assert 18 <= len([t for t, _ in result.series if t >= result.duration_s * 2 / 3]) <= 23
        return result.steady_tokens_per_s.relative_half_width

    assert width(waves) > 2 * width(shuffled)


def test_a_filling_context_is_no_heat() -> None:
    # Each step of a repetition is slower than the one before, each repetition like the others.
    runs = []
    now = START
    for _ in range(30):
        stamps = []
        for i in range(100):
            now += round(0.02 * S * (1 + i / 50))
            stamps.append(now)
        begun = stamps[0] - round(0.02 * S)
        runs.append(
            Run(started_ns=begun, prefilled_ns=None, prefill_tokens=0, token_ns=tuple(stamps))
        )
    result = found(dataclasses.replace(measurement(tuple(runs)), sustain_s=100.0))
    assert result.ratio == pytest.approx(1.0)
    assert result.time_to_throttle_s is None


def test_too_few_repetitions_say_so() -> None:
    result = sustained(record(lambda _t: 20.0, seconds=40))
    assert isinstance(result, Unavailable)
    assert "7 whole repetitions" in result.reason
    assert "-n" in result.remedy
    # The record itself stays what it is.
    kept_up = record(lambda _t: 20.0, seconds=40)
    assert kept_up.decode_tokens_per_s is not None
    assert row(kept_up)["steady_tokens_per_s"] is None
    assert row(kept_up)["sustain_s"] == 40.0
    assert (
        judge(kept_up, Target(decode_tokens_per_s=5)).notes[0].startswith("steady rate: too short")
    )


def test_a_record_that_was_not_sustained_has_no_steady_rate() -> None:
    usual = dataclasses.replace(record(lambda _t: 20.0), sustain_s=None)
    assert sustained(usual) is None
    assert heat_words(usual) == ()


def test_a_repetition_cut_short_does_not_count() -> None:
    whole = record(lambda _t: 20.0)
    last = whole.runs[-1]
    cut = dataclasses.replace(last, token_ns=tuple(t // 2 + START for t in last.token_ns[:3]))
    result = found(dataclasses.replace(whole, runs=(*whole.runs[:-1], cut)))
    assert result.ratio == pytest.approx(1.0)


def test_prompts_are_sustained_by_their_prefill() -> None:
    runs = tuple(
        Run(started_ns=START + i * 2 * S, prefilled_ns=START + (i * 2 + 1) * S if i < 20 else
            START + i * 2 * S + 2 * S, prefill_tokens=512, token_ns=())
        for i in range(60)
    )  # fmt: skip
    kept_up = dataclasses.replace(
        measurement(runs, workload=Workload(name="pp512", prompt_tokens=512)), sustain_s=120.0
    )
    result = found(kept_up)
    assert result.phase == "prefill"
    assert result.burst_tokens_per_s == pytest.approx(512)
    assert result.steady_tokens_per_s.value == pytest.approx(256)
    assert result.time_to_throttle_s == pytest.approx(40, abs=2)
    # Decoding is what is judged, and none of it was measured.
    assert judge(kept_up).kind is VerdictKind.BORDERLINE


def test_the_raw_interval_stays_that_of_all_repetitions() -> None:
    kept_up = record(lambda t: 20.0 if t < 300 else 10.0)
    assert kept_up.decode_tokens_per_s is not None
    assert 10.5 < kept_up.decode_tokens_per_s.value < 19.5


def test_a_device_is_judged_by_the_rate_it_holds() -> None:
    event = ThrottleEvent(seen_ns=START + 160 * S, evidence="cooling went up: cpufreq 0 -> 2")
    kept_up = record(lambda t: 24.0 if t < 150 else 12.0, heat=heat(throttle=(event,)))
    verdict = judge(kept_up, Target(decode_tokens_per_s=20))
    assert verdict.kind is VerdictKind.NOT_VIABLE
    assert verdict.cause.startswith("heat: 12.0 of 24.0 tok/s are left after 2 min")
    assert "cooling went up" in verdict.cause
    assert verdict.next_step
    assert any("steady rate: that of the last" in note for note in verdict.notes)
    # The same repetitions not kept up on purpose are judged by their mean, of 60 and of 34 runs.
    usual = judge(dataclasses.replace(kept_up, sustain_s=None), Target(decode_tokens_per_s=13.5))
    assert usual.kind is VerdictKind.VIABLE
    assert judge(kept_up, Target(decode_tokens_per_s=13.5)).kind is VerdictKind.NOT_VIABLE


def test_heat_nobody_saw_is_likely_and_no_more() -> None:
    unseen = heat(throttle=Unavailable(reason="not observable: no counter"))
    verdict = judge(record(lambda t: 24.0 if t < 150 else 12.0, heat=unseen))
    assert verdict.cause.startswith("heat, most likely: ")
    assert "not observable" in verdict.cause
    verdict = judge(record(lambda t: 24.0 if t < 150 else 12.0, heat=heat()))
    assert "no throttling was seen" in verdict.cause


def test_a_weak_supply_is_not_called_heat() -> None:
    weak = ThrottleEvent(seen_ns=START + 151 * S, evidence="Raspberry Pi firmware: under-voltage")
    hot = ThrottleEvent(seen_ns=START + 160 * S, evidence="cooling went up: cpufreq 0 -> 1")
    verdict = judge(record(lambda t: 24.0 if t < 150 else 12.0, heat=heat(throttle=(weak,))))
    assert verdict.cause.startswith("power: ")
    assert "stronger supply" in verdict.next_step
    both = heat(throttle=(weak, hot))
    assert judge(record(lambda t: 24.0 if t < 150 else 12.0, heat=both)).cause.startswith("heat: ")


def test_a_device_too_slow_from_the_start_is_not_put_down_to_heat() -> None:
    verdict = judge(record(lambda t: 10.0 if t < 150 else 6.0))
    assert "heat" not in verdict.cause


def test_one_that_holds_is_viable() -> None:
    verdict = judge(record(lambda _t: 30.0))
    assert verdict.kind is VerdictKind.VIABLE
    assert verdict.cause == "reads at 30.0 tok/s"


def test_temperatures_and_throttling_of_the_timed_runs_alone_are_told() -> None:
    celsius = [(-60, 40.0), (-2, 50.0), (10, 70.0), (300, 92.0), (599, 90.0), (700, 45.0)]
    events = tuple(
        ThrottleEvent(seen_ns=START + round(t * S), evidence=f"at {t}") for t in (-30, 100, 650)
    )
    kept_up = record(lambda t: 20.0 if t < 100 else 14.0, heat=heat(celsius, events))
    warmed = warming(kept_up)
    assert warmed is not None
    assert (warmed.start_celsius, warmed.end_celsius, warmed.highest_celsius) == (50.0, 90.0, 92.0)
    assert [e.evidence for e in throttle_during(kept_up)] == ["at 100"]  # type: ignore[union-attr]
    flat = row(kept_up)
    assert flat["temperature_start_c"] == 50.0
    assert flat["temperature_end_c"] == 90.0
    assert flat["throttled"] is True
    assert flat["burst_tokens_per_s"] == pytest.approx(20.0)
    assert flat["time_to_throttle_s"] == pytest.approx(100, abs=15)
    text = "\n".join(heat_words(kept_up))
    assert "ratio 0.70" in text
    assert "cpu-thermal: 50.0 -> 90.0 °C, at most 92.0 °C (slows down from 85 °C)" in text
    assert "throttle: seen after 100 s: at 100" in text


def test_what_slows_a_device_since_before_the_runs_is_no_news_and_yet_told() -> None:
    event = ThrottleEvent(seen_ns=START - 3 * S, evidence="at the start: under-voltage")
    slow = record(lambda _t: 20.0, heat=heat(throttle=(event,)))
    slow = dataclasses.replace(slow, noise=dataclasses.replace(slow.noise, throttled=True))
    assert row(slow)["throttled"] is True
    assert "throttle: since before the runs: at the start: under-voltage" in heat_words(slow)


def test_the_clock_at_both_ends_of_the_runs_is_told() -> None:
    stamps = tuple(START + t * S for t in (-5, 0, 300, 590, 900))
    clock = Series(name="CPU clock", stamps_ns=stamps, values=(3e9, 2.4e9, 2e9, 1.2e9, 3e9))
    kept_up = record(lambda _t: 20.0, heat=dataclasses.replace(heat(), clock_hz=clock))
    assert "CPU clock: 2.40 -> 1.20 GHz" in heat_words(kept_up)
    prompts = tuple(
        dataclasses.replace(run, prefilled_ns=run.token_ns[-1], prefill_tokens=8, token_ns=())
        for run in kept_up.runs
    )
    assert "CPU clock: 2.40 -> 1.20 GHz" in heat_words(dataclasses.replace(kept_up, runs=prompts))


def test_stamps_that_run_backwards_are_no_rate_and_no_traceback() -> None:
    kept_up = record(lambda _t: 20.0)
    backwards = tuple(
        dataclasses.replace(run, started_ns=run.token_ns[-1] + 1) if i % 2 else run
        for i, run in enumerate(kept_up.runs)
    )
    told = found(dataclasses.replace(kept_up, runs=backwards))
    assert told.steady_tokens_per_s.value == pytest.approx(20.0, rel=0.01)


def test_what_nobody_could_see_is_no_false() -> None:
    unseen = record(lambda _t: 20.0, heat=heat(throttle=Unavailable(reason="not observable here")))
    assert row(unseen)["throttled"] is None
    assert row(unseen)["temperature_start_c"] is None
    assert "throttle: not observable here" in heat_words(unseen)
    none_seen = record(lambda _t: 20.0, heat=heat())
    assert row(none_seen)["throttled"] is False
    assert "throttle: observable, none seen" in heat_words(none_seen)


def test_a_hot_start_is_told_of_any_measurement() -> None:
    hot = dataclasses.replace(heat(), start=Start(kind="hot", words="cpu at 81.0 °C", celsius=81.0))
    usual = dataclasses.replace(record(lambda _t: 20.0, heat=hot), sustain_s=None)
    assert heat_words(usual) == ("start: hot, cpu at 81.0 °C",)
