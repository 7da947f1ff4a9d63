"""Logs of USB and bench meters: what is read, what is refused by line, what a measurement gets."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import measurement, tg_run

from edge_runtime.basis import Unavailable
from edge_runtime.energy import Energy, EnergySeries, Scope, SensorInfo
from edge_runtime.errors import EdgeError, FormatError
from edge_runtime.measurement import Emulation, Limits, Measurement
from edge_runtime.profiler.energy.meter_log import MeterLog, attach, read_log
from edge_runtime.timeline import ClockAnchor, Timeline, Window

NS = 1_000_000_000
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
BOOT_NS = 7_000 * NS
"""The measurement's monotonic clock at noon."""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    numbers = itertools.count()

    def put(text: str | bytes, name: str = "") -> Path:
        path = tmp_path / (name or f"log{next(numbers)}.csv")
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return put


def table(header: str, rows: Sequence[Sequence[object]], separator: str = ",") -> str:
    return "\n".join([header, *(separator.join(map(str, row)) for row in rows)]) + "\n"


def steady(watts: float, seconds: float = 60.0, hz: int = 10, start: float = NOON) -> str:
    rows = [(f"{start + i / hz:.3f}", watts) for i in range(round(seconds * hz) + 1)]
    return table("timestamp,power_W", rows)


def measured(seconds: float = 60.0, *, jump_s: float = 0.0) -> Measurement:
    """A measurement from noon on, its runs from the tenth to the twentieth second."""
    windows = (
        Window(name="idle_a", started_ns=BOOT_NS, ended_ns=BOOT_NS + 10 * NS),
        Window(name="runs", started_ns=BOOT_NS + 10 * NS, ended_ns=BOOT_NS + 20 * NS),
        Window(name="idle_b", started_ns=BOOT_NS + 20 * NS, ended_ns=BOOT_NS + round(seconds * NS)),
    )
    noon_ns = round(NOON * NS)
    anchors = (
        ClockAnchor(monotonic_ns=BOOT_NS, unix_ns=noon_ns),
        ClockAnchor(
            monotonic_ns=BOOT_NS + round(seconds * NS),
            unix_ns=noon_ns + round((seconds + jump_s) * NS),
        ),
    )
    return replace(
        measurement((tg_run(4, 10),)), timeline=Timeline(windows=windows, anchors=anchors)
    )


def series_of(got: Measurement) -> EnergySeries:
    assert isinstance(got.energy, Energy), got.energy
    return next(s for s in got.energy.series if s.sensor.id.startswith("meter:"))


def why_not(got: Measurement) -> Unavailable:
    assert isinstance(got.energy, Unavailable)
    assert got.refusals[0].name == "meter log"
    assert got.refusals[0].why == got.energy
    return got.energy


def joules_between(series: EnergySeries, first_s: float, last_s: float) -> float:
    """By linear interpolation, seconds since noon."""

    def at(seconds: float) -> float:
        stamp = BOOT_NS + seconds * NS
        for (a, x), (b, y) in itertools.pairwise(zip(series.stamps_ns, series.joules, strict=True)):
            if a <= stamp <= b:
                return x + (y - x) * (stamp - a) / (b - a)
        raise AssertionError(f"{seconds} s lies outside")

    return at(last_s) - at(first_s)


class TestReading:
    @pytest.mark.parametrize(
        ("text", "watts"),
        [
            (table("time_s,voltage_V,current_A", [(1, 5.0, 0.5), (2, 5.2, 1)]), (2.5, 5.2)),
            ("Time(S);Voltage(V);Current(A)\n1,0;5,0;0,5\n2,0;5,2;1\n", (2.5, 5.2)),
            (table("Time(ms)\tVbus [mV]\tIbus [mA]", [(1000, 5000, 500), (2000, 5200, 1000)], "\t"),
             (2.5, 5.2)),
            (table("t P", [(1, 2.5), (2, 5.2)], " "), (2.5, 5.2)),
            (table("unix_ms,power_mW", [(1769860800000, 2500), (1769860801000, 5200)]), (2.5, 5.2)),
            ('"Time","Power (W)"\n"1","2,5"\n"2","5,2"\n', (2.5, 5.2)),
            ("\ufeffTime [s],Current [\u00b5A],Voltage [V]\r\n1,500000,5\r\n2,1000000,5.2\r\n",
             (2.5, 5.2)),
            ("timestampMs,busVoltageV,currentMA\n1,5,500\n2,5.2,1000\n", (2.5, 5.2)),
            ("t_s,v_V,i_A\n1,5,0.5\n2,5.2,1\n", (2.5, 5.2)),
            ("time,volts,amps\n1,5,0.5\n2,5.2,1\n", (2.5, 5.2)),
            # Behind a plug volts times amps is apparent power: the watts that are written count.
            (table("time_s,voltage_V,current_A,power_W", [(1, 230, 0.1, 2.5), (2, 230, 0.2, 5.2)]),
             (2.5, 5.2)),
        ],
    )  # fmt: skip
    def test_separators_decimals_units_and_names(
        self, write: Write, text: str, watts: tuple[float, float]
    ) -> None:
        assert read_log(write(text)).watts == pytest.approx(watts)

    def test_the_columns_of_the_fnirsi_logger(self, write: Write) -> None:
        # Each packet of four is stamped backwards from its arrival, so that packets overlap.
        header = (
            "timestamp sample_in_packet voltage_V current_A dp_V dn_V temp_C_ema energy_Ws"
            " capacity_As\n"
        )
        text = (
            f"\n{header}"
            "1769860800.010 0 5.00000 1.00000 1.2 1.0 30.5 0.0 0.0\n"
            "1769860800.030 1 5.00000 2.00000 1.2 1.0 30.5 0.0 0.0\n"
            "1769860800.020 0 5.00000 3.00000 1.2 1.0 30.5 0.0 0.0\n"
            "\n"
            f"{header}"
            "1769860800.040 1 5.00000 4.00000 1.2 1.0 30.5 0.0 0.0\n"
        )
        log = read_log(write(text))
        assert log.watts == (5, 15, 10, 20)
        assert log.times_s == tuple(sorted(log.times_s))
        assert log.quantity == "voltage_V x current_A"
        assert any("1 readings were out of order" in note for note in log.notes)
        assert not log.is_relative

    @pytest.mark.parametrize(
        "cell",
        ["1769860800.0", "1769860800000", "1769860800000000", "2026-01-31T12:00:00Z",
         "2026-01-31T13:00:00+01:00", "2026-01-31 12:00:00.000+00:00"],
    )  # fmt: skip
    def test_wall_times(self, write: Write, cell: str) -> None:
        later = cell.replace("12:00:00", "12:00:01").replace("13:00:00", "13:00:01")
        later = later.replace("1769860800", "1769860801")
        log = read_log(write(f"timestamp,W\n{cell},1\n{later},2\n"))
        assert log.times_s == pytest.approx((NOON, NOON + 1))
        assert not log.is_relative

    def test_times_of_its_own_and_a_stated_start(self, write: Write) -> None:
        log = read_log(write("time,power_W\n0,1\n0.5,2\n"))
        assert log.is_relative
        assert log.start_unix_s is None
        assert any("read as seconds" in note for note in log.notes)
        stated = read_log(
            write("# start: 2026-01-31T12:00:00+00:00\ntime_ms,power_W\n0,1\n500,2\n")
        )
        assert stated.start_unix_s == NOON
        assert stated.times_s == (0, 0.5)

    def test_an_absurd_first_reading_is_left_out_and_said(self, write: Write) -> None:
        rows = [(i, 188 if i == 0 else 5, 170 if i == 0 else 1) for i in range(20)]
        log = read_log(write(table("time_s,voltage_V,current_A", rows)))
        assert len(log.watts) == 19
        assert any("31960 W" in note for note in log.notes)
        milder = [(i, 188 if i == 0 else 5, 1) for i in range(20)]
        log = read_log(write(table("time_s,voltage_V,current_A", milder)))
        assert len(log.watts) == 19
        assert any("188 W, was left out" in note for note in log.notes)

    def test_a_reading_that_cannot_be_is_left_out_wherever_it_stands(self, write: Write) -> None:
        log = read_log(write("time_s,power_W\n1,5\n2,31960\n3,5\n"))
        assert log.watts == (5, 5)
        assert log.last_failure == "line 3: 31960 W, which cannot be"

    def test_rows_without_a_reading_are_counted(self, write: Write) -> None:
        log = read_log(write("time_s,power_W\n1,5\n2,nan\n3,\n4,inf\n5,6\n"))
        assert log.watts == (5, 6)
        assert (log.failures, log.last_failure) == (3, "line 5: no reading")
        assert any("first line 3" in note for note in log.notes)

    def test_readings_of_one_second_share_its_stamp(self, write: Write) -> None:
        log = read_log(write("time_s,power_W\n1,4\n1,6\n2,8\n2,10\n"))
        assert (log.times_s, log.watts) == ((1, 2), (5, 9))

    def test_a_meter_the_other_way_round_is_turned(self, write: Write) -> None:
        log = read_log(write("time_s,voltage_V,current_A\n1,5,-1\n2,5,-2\n3,5,0.001\n"))
        assert log.watts == (5, 10, 0)
        assert any("other way round" in note for note in log.notes)

    def test_a_last_line_that_was_cut_off_is_left_out(self, write: Write) -> None:
        log = read_log(write("time_s,power_W\n1,4\n2,6\n3"))
        assert log.watts == (4, 6)
        assert any("cut off" in note and "Line 4" in note for note in log.notes)

    def test_other_encodings(self, write: Write) -> None:
        text = "time_s;power_W;Temp \u00b0C\n1;4;20\n2;6;20\n"
        for encoding in ("utf-16", "latin-1", "utf-8-sig"):
            assert read_log(write(text.encode(encoding))).watts == (4, 6)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "No line"),
            ("1,2,3\n2,3,4\n", "line 1 .*without a header"),
            ("time,dp_V,mAh\n1,2,3\n", "line 2 .*without a header .*'time,dp_V,mAh'"),
            ("time_s,power_W\n1,5\n2,5 W\n3,5\n", "Line 3 .*'5 W' is no number"),
            ("time_s,power_W\n1,5\n2\n3,5\n", "Line 3 .*1 cells"),
            ("time_s,power_W\n1,5\n9,5\n2,5\n3,5\n", "Line 4 .*goes back by 7 s"),
            ("time_s,power_W\n1,5\n1769860800,5\n3,5\n", "Line 3 .*no time like"),
            ("timestamp,power_W\n2026-01-31T12:00:00,5\n", "Line 2 .*no time zone"),
            ("timestamp,power_W\n12:00:00,5\n12:00:01,5\n", "Line 2 .*is no time"),
            ("time_s,power_W,P\n1,5,5\n", "Line 1 names two columns of power"),
            ("time_s,power_W\n1,5\n", "fewer than two"),
            ("time_s,power_W\n1,nan\n2,nan\n", "fewer than two usable readings .*line 3"),
            ("time_s,voltage,current\n1,5100,0.5\n2,5100,0.5\n", "Line 1 .*no unit for 'voltage'"),
            ("time_s,voltage_V,current\n1,5,500\n2,5,500\n", "Line 1 .*no unit for 'current'"),
            ("time_s,power_W\n1,5\n2,5\n3,-4\n", "flows both ways"),
            ('time_s,power_W\n1,5\n2,"5\n3,5\n', "Line 3"),
            ("time_s,power_W\n" + "1" * 20_000 + ",5\n", "Line 2 .*too long"),
            (b"\0\1\2\3", "no text"),
            (gzip.compress(b"time_s,power_W\n", mtime=0), "compressed"),
        ],
    )  # fmt: skip
    def test_what_is_malformed_is_refused_by_line(
        self, write: Write, text: str | bytes, told: str
    ) -> None:
        with pytest.raises(FormatError, match=told):
            read_log(write(text))

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(EdgeError, match=r"missing\.csv cannot be read"):
            read_log(tmp_path / "missing.csv")
        with pytest.raises(FormatError, match="no file"):
            read_log(tmp_path)

    def test_a_log_without_end_is_refused(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_runtime.profiler.energy.meter_text.MOST_ROWS", 100)
        with pytest.raises(FormatError, match="more than 100 readings"):
            read_log(write(steady(5)))
        monkeypatch.setattr("edge_runtime.profiler.energy.meter_text.MOST_BYTES", 1000)
        with pytest.raises(FormatError, match="larger than"):
            read_log(write(steady(5)))

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(body=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
    @pytest.mark.parametrize(
        "header", [b"", b"time_s,power_W\n", b"timestamp voltage_V current_A\n1 2 3\n"]
    )
    def test_hostile_bytes_are_a_log_or_an_error_of_ours(
        self, tmp_path: Path, header: bytes, body: bytes
    ) -> None:
        path = tmp_path / "hostile.csv"
        path.write_bytes(header + body)
        try:
            log = read_log(path)
        except EdgeError:
            return
        assert len(log.times_s) == len(log.watts) >= 2
        assert min(log.watts) >= 0
        assert list(log.times_s) == sorted(set(log.times_s))


class TestAttaching:
    def test_joules_a_person_can_check(self, write: Write) -> None:
        got = attach(measured(), read_log(write(steady(7.5), "usb.csv")))
        series = series_of(got)
        assert joules_between(series, 10, 20) == pytest.approx(75)
        assert got.energy.headline == ("meter:usb.csv",)
        sensor = series.sensor
        assert (sensor.method, sensor.scope, sensor.modelled) == ("power", Scope.DEVICE, False)
        assert sensor.poll_s == pytest.approx(0.1)
        assert sensor.window_s == pytest.approx(2)
        assert Measurement.from_json(got.to_json()) == got

    def test_a_ramp_is_exact_by_trapezoid(self, write: Write) -> None:
        rows = [(f"{NOON + i / 10:.1f}", f"{i / 10:.1f}") for i in range(601)]
        series = series_of(attach(measured(), read_log(write(table("timestamp,power_W", rows)))))
        assert joules_between(series, 10, 20) == pytest.approx((20**2 - 10**2) / 2)

    def test_a_fast_log_is_thinned_and_its_joules_are_not(self, write: Write) -> None:
        rows = [(f"{NOON + i / 1000:.3f}", 10 if i % 2 else 0) for i in range(30_001)]
        series = series_of(attach(measured(30), read_log(write(table("timestamp,power_W", rows)))))
        assert len(series.stamps_ns) <= 30 * 50 + 2
        assert joules_between(series, 10, 20) == pytest.approx(50, rel=1e-3)

    def test_a_longer_log_leaves_only_the_measurement(self, write: Write) -> None:
        series = series_of(attach(measured(), read_log(write(steady(5, 600, start=NOON - 300)))))
        assert (series.stamps_ns[-1] - series.stamps_ns[0]) / NS == pytest.approx(64)

    def test_a_meters_clock_may_be_behind(self, write: Write) -> None:
        log = read_log(write(steady(5, start=NOON - 3600)))
        assert "has no reading" in why_not(attach(measured(), log)).reason
        got = attach(measured(), log, offset_s=3600)
        assert joules_between(series_of(got), 10, 20) == pytest.approx(50)
        assert "its clock moved by +3600 s" in series_of(got).sensor.notes

    def test_times_of_its_own_need_a_start(self, write: Write) -> None:
        log = read_log(write(steady(5, start=0)))
        why = why_not(attach(measured(), log))
        assert "its own start" in why.reason
        assert "--meter-start" in why.remedy
        got = attach(measured(), log, start_unix_s=NOON)
        assert joules_between(series_of(got), 10, 20) == pytest.approx(50)
        stated = read_log(write("# start: 2026-01-31T12:00:00Z\n" + steady(5, start=0)))
        assert joules_between(series_of(attach(measured(), stated)), 10, 20) == pytest.approx(50)

    def test_silence_is_a_break_and_adds_nothing(self, write: Write) -> None:
        lines = steady(5).splitlines()
        series = series_of(
            attach(measured(), read_log(write("\n".join(lines[:150] + lines[250:]))))
        )
        (gap,) = series.breaks
        assert BOOT_NS + 14.8 * NS < gap.noticed_ns < BOOT_NS + 24.9 * NS
        assert "silent for 10.1 s" in gap.reason
        assert series.joules[-1] == pytest.approx(5 * (60 - 10.1))
        before = max(s for s in series.stamps_ns if s < gap.noticed_ns)
        after = min(s for s in series.stamps_ns if s > gap.noticed_ns)
        assert (after - before) / NS == pytest.approx(10.1)

    def test_a_missed_reading_is_no_silence(self, write: Write) -> None:
        lines = steady(5).splitlines()
        del lines[200:202]
        assert series_of(attach(measured(), read_log(write("\n".join(lines))))).breaks == ()

    def test_no_overlap_names_both_times(self, write: Write) -> None:
        why = why_not(attach(measured(), read_log(write(steady(5, start=NOON + 7200)))))
        assert "from 2026-01-31 14:00:00 UTC to 2026-01-31 14:01:00 UTC" in why.reason
        assert "from 2026-01-31 12:00:00 UTC to 2026-01-31 12:01:00 UTC" in why.reason
        assert "--meter-offset" in why.remedy

    @pytest.mark.parametrize("jump_s", [0.5, -2.0, 3600.0])
    def test_a_clock_that_was_set_meanwhile_cannot_be_aligned(
        self, write: Write, jump_s: float
    ) -> None:
        why = why_not(attach(measured(jump_s=jump_s), read_log(write(steady(5)))))
        assert f"set by {jump_s:+.3f} s" in why.reason

    def test_a_clock_that_is_slewed_can(self, write: Write) -> None:
        got = attach(measured(jump_s=0.02), read_log(write(steady(5))))
        assert joules_between(series_of(got), 10, 20) == pytest.approx(50, rel=1e-3)

    def test_a_record_without_wall_time_cannot_be_aligned(self, write: Write) -> None:
        old = replace(measured(), timeline=None)
        assert "wall time" in why_not(attach(old, read_log(write(steady(5))))).reason

    def test_a_log_that_could_not_be_read_leaves_its_reason(self) -> None:
        why = Unavailable(reason="Line 7 of usb.csv: 'x' is no number.")
        assert why_not(attach(measured(), why)) == why

    def test_an_emulated_device_has_no_energy(self, write: Write) -> None:
        emulated = replace(measured(), emulated=Emulation(limits=Limits(cores=1), means="affinity"))
        assert "emulated" in why_not(attach(emulated, read_log(write(steady(5))))).reason

    def test_a_meter_that_reads_nothing_is_no_zero(self, write: Write) -> None:
        why = why_not(attach(measured(), read_log(write(steady(0)))))
        assert "0 W in all" in why.reason

    def other(self, sensor_id: str, scope: Scope) -> Energy:
        info = SensorInfo(
            id=sensor_id, source="x", scope=scope, covers=("cpu:0",), method="counter",
            update_s=0.1, step=0.1, poll_s=0.1, window_s=1,
        )  # fmt: skip
        series = EnergySeries(sensor=info, stamps_ns=(1, 2), joules=(0.0, 1.0))
        return Energy(series=(series,), headline=(sensor_id,), sampler_share=0.001)

    def test_it_joins_other_sensors_and_leads_them_by_scope(self, write: Write) -> None:
        log = read_log(write(steady(5), "usb.csv"))
        chip = replace(measured(), energy=self.other("rapl:package-0", Scope.CHIP))
        got = attach(chip, log)
        assert [s.sensor.id for s in got.energy.series] == ["rapl:package-0", "meter:usb.csv"]
        assert got.energy.headline == ("meter:usb.csv",)
        assert got.energy.sampler_share == 0.001
        device = replace(measured(), energy=self.other("battery:BAT0", Scope.DEVICE))
        assert attach(device, log).energy.headline == ("meter:usb.csv",)
        assert attach(device, log, scope=Scope.BOARD).energy.headline == ("battery:BAT0",)

    def test_attached_twice_it_is_there_once(self, write: Write) -> None:
        log = read_log(write(steady(5), "usb.csv"))
        twice = attach(attach(measured(), log), log, offset_s=0.1)
        assert len(twice.energy.series) == 1

    def test_a_log_that_does_not_fit_leaves_other_readings_alone(self, write: Write) -> None:
        before = replace(measured(), energy=self.other("rapl:package-0", Scope.CHIP))
        got = attach(before, read_log(write(steady(5, start=NOON + 7200))))
        assert got.energy == before.energy
        assert got.refusals[0].name == "meter log"
        fits = attach(got, read_log(write(steady(5))))
        assert fits.refusals == ()

    @given(
        watts=st.lists(st.floats(0, 500), min_size=3, max_size=60),
        cut=st.floats(0.05, 0.95),
    )
    @settings(max_examples=50, deadline=None)
    def test_the_parts_add_up_to_the_whole(self, watts: list[float], cut: float) -> None:
        watts[0] += 1.0
        log = MeterLog(
            name="x", quantity="power_W", watts=tuple(watts),
            times_s=tuple(NOON + i / 10 for i in range(len(watts))),
        )  # fmt: skip
        series = series_of(attach(measured(), log))
        end = (len(watts) - 1) / 10
        whole = joules_between(series, 0, end)
        parts = joules_between(series, 0, end * cut) + joules_between(series, end * cut, end)
        assert parts == pytest.approx(whole)
        trapezoids = sum((a + b) / 2 * 0.1 for a, b in itertools.pairwise(watts))
        assert whole == pytest.approx(trapezoids, rel=1e-5)


@pytest.mark.parametrize(
    ("header", "busy", "idle", "step"),
    [
        ("timestamp,power_W", "12.50", "5.00", 0.01),
        ("timestamp,power_mW", "12500", "5000", 0.001),
        ("timestamp,volts,amps", "5.00,2.500", "5.00,1.000", 5.0 * 0.001 + 1.25 * 0.01),
        ("timestamp,power_W", "12.5", "12.5", 0.1),
        ("timestamp,power_W", "0.125e2", "5", 0.1),
        ("timestamp,power_W", "12.5", "0e999999", 0.1),
    ],
)
def test_a_power_of_few_levels_is_as_fine_as_its_last_digit(
    write: Write, header: str, busy: str, idle: str, step: float
) -> None:
    rows = [(f"{NOON + i / 10:.3f}", busy if 100 <= i < 200 else idle) for i in range(600)]
    info = series_of(attach(measured(), read_log(write(table(header, rows))))).sensor
    assert info.step == pytest.approx(step)
