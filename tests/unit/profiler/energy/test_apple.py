"""Apple's energy model through macmon's lines and through zeus-apple-silicon's counters."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.energy import Scope
from edge_runtime.profiler.energy import (
    EnergySensor,
    Found,
    SensorBreakError,
    SensorGapError,
)
from edge_runtime.profiler.energy.apple import find, watts_of
from edge_runtime.profiler.energy.cover import headline
from edge_runtime.profiler.energy.sysfs import Tree

NS = 1_000_000_000
TREE = Tree(Path("/"))


def line(**watts: float) -> str:
    """A line as `macmon pipe` writes it, with fields that no meter needs."""
    told = {
        "timestamp": "2026-01-31T12:00:00.427569+00:00",
        "temp": {"cpu_temp_avg": 43.7, "gpu_temp_avg": 36.9},
        "ecpu_freq_mhz": 1100, "cpu_power": 4.0, "gpu_power": 10.0, "ane_power": 0.0,
        "all_power": 14.0, "sys_power": 25.0, "ram_power": 2.0, "gpu_ram_power": 0.1,
    }  # fmt: skip
    return json.dumps({**told, **watts}) + "\n"


class Lines:
    """Lines as the test gives them, until it is closed."""

    def __init__(self, *first: str) -> None:
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.closed = 0
        self.read = 0
        for text in first:
            self._queue.put(text)

    def say(self, text: str) -> None:
        """Returns when the line was taken in: the reader has asked for the one after it."""
        asked = self.read
        self._queue.put(text)
        deadline = time.monotonic() + 10
        while self.read <= asked and time.monotonic() < deadline:
            time.sleep(0.001)

    def end(self) -> None:
        self._queue.put(None)

    def close(self) -> None:
        self.closed += 1
        self._queue.put(None)

    def __iter__(self) -> Iterator[str]:
        while True:
            self.read += 1
            text = self._queue.get()
            if text is None:
                return
            yield text


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    monkeypatch.setattr("shutil.which", lambda name: None)


Macmon = Callable[[Lines], dict[str, EnergySensor]]


@pytest.fixture
def macmon(clock: Clock) -> Iterator[Macmon]:
    opened: list[EnergySensor] = []

    def look(lines: Lines) -> dict[str, EnergySensor]:
        found = find(TREE, lines=lines, clock=clock, system="darwin")
        opened.extend(found.sensors)
        return {sensor.info.id: sensor for sensor in found.sensors}

    yield look
    for sensor in opened:
        sensor.close()


def reasons(found: Found) -> str:
    return "; ".join(f"{r.name}: {r.why.reason}" for r in found.refusals)


class TestMacmon:
    def test_each_field_is_a_modelled_sensor(self, macmon: Macmon) -> None:
        sensors = macmon(Lines(line()))
        assert set(sensors) == {
            "apple:system", "apple:cpu", "apple:gpu", "apple:ane", "apple:dram",
        }  # fmt: skip
        assert all(sensor.info.modelled for sensor in sensors.values())
        assert all("vendor's model" in sensor.info.source for sensor in sensors.values())
        infos = [sensor.info for sensor in sensors.values()]
        assert headline(infos) == ("apple:system",)
        assert sensors["apple:system"].info.scope is Scope.DEVICE

    def test_watts_become_joules(self, macmon: Macmon, clock: Clock) -> None:
        lines = Lines(line(gpu_power=10.0))
        gpu = macmon(lines)["apple:gpu"]
        assert gpu.read() == 0
        clock.now_ns += NS // 2
        lines.say(line(gpu_power=20.0))
        assert gpu.read() == pytest.approx(7.5)

    def test_macmon_is_ended_with_the_last_sensor(self, macmon: Macmon) -> None:
        lines = Lines(line())
        *others, last = macmon(lines).values()
        for sensor in others:
            sensor.close()
        assert lines.closed == 0
        last.close()
        assert lines.closed == 1

    def test_a_system_power_that_is_only_the_sum_of_the_chip_is_none(self, clock: Clock) -> None:
        lines = Lines(line(sys_power=14.0))
        found = find(TREE, lines=lines, clock=clock, system="darwin")
        assert "apple:system" not in {sensor.info.id for sensor in found.sensors}
        assert "apple:system: macmon tells no power of the whole system" in reasons(found)
        for sensor in found.sensors:
            sensor.close()
        assert lines.closed == 1

    def test_a_cpu_that_stands_at_zero_is_refused(self, clock: Clock) -> None:
        found = find(TREE, lines=Lines(line(cpu_power=0.0)), clock=clock, system="darwin")
        assert "apple:cpu" not in {sensor.info.id for sensor in found.sensors}
        assert "0 W" in reasons(found)
        for sensor in found.sensors:
            sensor.close()

    def test_a_cpu_that_falls_to_zero_is_a_gap_and_an_idle_gpu_is_not(
        self, macmon: Macmon, clock: Clock
    ) -> None:
        lines = Lines(line())
        sensors = macmon(lines)
        sensors["apple:gpu"].read()
        lines.say(line(cpu_power=0.0, gpu_power=0.0))
        with pytest.raises(SensorGapError, match="cpu_power is 0 W"):
            sensors["apple:cpu"].read()
        clock.now_ns += NS // 2
        assert sensors["apple:gpu"].read() == pytest.approx(2.5)

    def test_old_lines_are_no_readings(self, macmon: Macmon, clock: Clock) -> None:
        lines = Lines(line())
        cpu = macmon(lines)["apple:cpu"]
        cpu.read()
        lines.end()
        clock.now_ns += 2 * NS
        with pytest.raises(SensorGapError, match=r"2\.0 s old"):
            cpu.read()

    def test_nonsense_between_good_lines_changes_nothing(
        self, macmon: Macmon, clock: Clock
    ) -> None:
        lines = Lines(line())
        cpu = macmon(lines)["apple:cpu"]
        cpu.read()
        lines.say("thread 'main' panicked\n")
        clock.now_ns += NS
        assert cpu.read() == pytest.approx(4)

    @pytest.mark.parametrize(
        ("text", "told"),
        [("Error: no IOReport\n", "no JSON"), ("[1]\n", "no power"), ("{}\n", "no power"),
         (line(cpu_power=-1.0), "-1 W"), (line(gpu_power=float("nan")), "nan W")],
    )  # fmt: skip
    def test_a_first_line_without_power_is_a_refusal(
        self, clock: Clock, text: str, told: str
    ) -> None:
        lines = Lines(text)
        found = find(TREE, lines=lines, clock=clock, system="darwin")
        assert not found.sensors
        assert told in reasons(found)
        assert lines.closed == 1

    def test_a_power_beyond_all_reason_is_a_gap(self, macmon: Macmon) -> None:
        with pytest.raises(SensorGapError, match="which cannot be"):
            macmon(Lines(line(gpu_power=10**400)))["apple:gpu"].read()

    def test_nothing_written_is_a_refusal(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_runtime.profiler.energy.apple._FIRST_LINE_S", 0.05)
        found = find(TREE, lines=Lines(), clock=clock, system="darwin")
        assert "wrote nothing" in reasons(found)

    @given(st.text())
    def test_any_line_is_watts_or_an_error(self, text: str) -> None:
        try:
            fields = watts_of(text)
        except ValueError:
            return
        assert fields

    def test_deeply_nested_lines_are_no_json(self) -> None:
        with pytest.raises(ValueError, match="no JSON"):
            watts_of("[" * 100_000)

    def test_the_program_itself_is_kept_running_and_ended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = tmp_path / "macmon"
        program.write_text(
            f"#!{sys.executable}\n"
            "import sys, time\n"
            "assert sys.argv[1:] == ['pipe', '-i', '500'], sys.argv\n"
            f"print({line().strip()!r}, flush=True)\n"
            "time.sleep(60)\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr("shutil.which", lambda name: str(program))
        began = time.monotonic()
        found = find(TREE, system="darwin")
        cpu = next(s for s in found.sensors if s.info.id == "apple:cpu")
        assert cpu.read() == 0
        for sensor in found.sensors:
            sensor.close()
        assert time.monotonic() - began < 20


class Zeus:
    """The module zeus_apple_silicon: counters of millijoules under a steady power."""

    def __init__(self, clock: Clock, **watts: float | None) -> None:
        self.watts = watts
        self.lost_mj = 0
        self.fault = ""
        self._clock = clock
        self.AppleEnergyMonitor = self._monitor

    def _monitor(self) -> Zeus:
        if self.fault:
            raise RuntimeError(self.fault)
        return self

    def get_cumulative_energy(self) -> SimpleNamespace:
        self._clock.now_ns += NS // 1000
        names = {"cpu": "cpu_total_mj", "gpu": "gpu_mj", "ane": "ane_mj", "dram": "dram_mj"}
        values = {field: self._value(part) for part, field in names.items()}
        return SimpleNamespace(**values)

    def _value(self, part: str) -> int | None:
        watts = self.watts.get(part)
        if watts is None:
            return None
        return 1_000_000 - self.lost_mj + int(watts * self._clock.now_ns / 1e6)


class TestZeus:
    def look(self, zeus: Zeus, clock: Clock) -> Found:
        return find(TREE, zeus=zeus, clock=clock, system="darwin")

    def test_channels_of_this_chip_are_counters(self, clock: Clock) -> None:
        found = self.look(Zeus(clock, cpu=5.0, gpu=10.0, ane=0.0), clock)
        assert [s.info.id for s in found.sensors] == ["apple:cpu", "apple:gpu", "apple:ane"]
        cpu = found.sensors[0]
        assert (cpu.info.method, cpu.info.modelled) == ("counter", True)
        first, began = cpu.read(), clock.now_ns
        clock.now_ns += 10 * NS
        assert cpu.read() - first == pytest.approx(5 * (clock.now_ns - began) / NS, abs=0.002)
        assert headline([s.info for s in found.sensors]) == ("apple:ane", "apple:cpu", "apple:gpu")

    def test_the_whole_system_comes_from_macmon_beside_it(self, clock: Clock) -> None:
        zeus = Zeus(clock, cpu=5.0)
        found = find(TREE, zeus=zeus, lines=Lines(line()), clock=clock, system="darwin")
        assert [s.info.id for s in found.sensors] == ["apple:cpu", "apple:system"]
        for sensor in found.sensors:
            sensor.close()

    def test_a_cpu_counter_that_stands_still_at_work_is_refused(self, clock: Clock) -> None:
        found = self.look(Zeus(clock, cpu=0.0, gpu=10.0), clock)
        assert [s.info.id for s in found.sensors] == ["apple:gpu"]
        assert "apple:cpu: the CPU counter stands still" in reasons(found)

    def test_a_cpu_counter_that_stalls_later_gives_no_joules(self, clock: Clock) -> None:
        zeus = Zeus(clock, cpu=5.0, gpu=10.0)
        cpu, gpu = self.look(zeus, clock).sensors
        cpu.read()
        zeus.watts.update(cpu=0.0, gpu=0.0)
        zeus.lost_mj = -(10**7)
        cpu.read()
        gpu.read()
        clock.now_ns += 3 * NS
        with pytest.raises(SensorGapError, match="stalled"):
            cpu.read()
        assert gpu.read() > 0  # a GPU may rest

    def test_a_counter_that_fell_is_a_break(self, clock: Clock) -> None:
        zeus = Zeus(clock, cpu=5.0)
        (cpu,) = self.look(zeus, clock).sensors
        cpu.read()
        zeus.lost_mj = 500_000
        with pytest.raises(SensorBreakError, match="fell by"):
            cpu.read()
        assert cpu.read() > 0

    def test_a_channel_that_vanishes_is_a_gap(self, clock: Clock) -> None:
        zeus = Zeus(clock, cpu=5.0, gpu=1.0)
        _cpu, gpu = self.look(zeus, clock).sensors
        zeus.watts["gpu"] = None
        with pytest.raises(SensorGapError, match="no value"):
            gpu.read()

    def test_what_the_interface_raises_is_a_refusal(self, clock: Clock) -> None:
        zeus = Zeus(clock)
        zeus.fault = "Failed to create IOReport subscription."
        assert "Failed to create IOReport subscription." in reasons(self.look(zeus, clock))
        assert "no energy channel" in reasons(self.look(Zeus(clock), clock))


def test_a_mac_with_neither_is_told_what_to_install() -> None:
    found = find(TREE, system="darwin")
    assert not found.sensors
    assert "brew install macmon" in found.refusals[0].why.remedy
    assert "edge-runtime[apple]" in found.refusals[0].why.remedy


def test_elsewhere_there_is_none() -> None:
    found = find(TREE, lines=Lines(line()), system="linux")
    assert "not macOS" in reasons(found)
