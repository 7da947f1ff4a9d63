"""Temperatures, throttle evidence and the cool start, on trees of files and a scripted clock."""

from __future__ import annotations

import itertools
import random
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.profiler import thermal
from edge_runtime.profiler.energy.sysfs import Tree
from edge_runtime.profiler.gpu_heat import GpuHeats
from edge_runtime.profiler.heat import BLIND_WAIT_S, ThermalGauge
from edge_runtime.profiler.temperature import find_thermometers

S = 1_000_000_000
ZONES = "sys/class/thermal"
CPU0 = "sys/devices/system/cpu/cpu0"
PI = "sys/devices/platform/soc/soc:firmware/get_throttled"


def put(root: Path, name: str, text: object) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return root


def zone(root: Path, number: int, kind: str, temp: object, *trips: tuple[str, int]) -> Path:
    folder = f"{ZONES}/thermal_zone{number}"
    put(root, f"{folder}/type", kind)
    put(root, f"{folder}/temp", temp)
    for i, (name, celsius) in enumerate(trips):
        put(root, f"{folder}/trip_point_{i}_type", name)
        put(root, f"{folder}/trip_point_{i}_temp", celsius * 1000)
    return root


def chip(root: Path, number: int, name: str, **files: object) -> Path:
    put(root, f"sys/class/hwmon/hwmon{number}/name", name)
    for file, text in files.items():
        put(root, f"sys/class/hwmon/hwmon{number}/{file}", text)
    return root


class Sleeper:
    """A clock that moves only by sleeping, and lets the world change meanwhile."""

    def __init__(self, change: Callable[[float], None] = lambda _s: None) -> None:
        self.now_s = 0.0
        self._change = change

    def clock(self) -> int:
        return round(self.now_s * S)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self._change(self.now_s)


def names(root: Path) -> list[str]:
    return [t.name for t in find_thermometers(Tree(root))]


def test_zones_of_processor_gpu_and_board_are_kept_in_that_order(tmp_path: Path) -> None:
    for i, (kind, temp) in enumerate(
        [("acpitz", 27800), ("iwlwifi_1", 45000), ("gpu-thermal", 50000), ("cpu-thermal", 61500),
         ("INT3400 Thermal", 20000), ("PMIC-Die", 100000), ("soc", 87), ("nvme", 40000)]
    ):  # fmt: skip
        zone(tmp_path, i, kind, temp)
    assert names(tmp_path) == ["cpu-thermal", "gpu-thermal", "acpitz"]
    leading = find_thermometers(Tree(tmp_path))[0]
    assert leading.read(Tree(tmp_path)) == 61.5


@pytest.mark.parametrize("nonsense", [0, -30000, -274000, 150001, 2147483647, "n/a", ""])
def test_what_is_no_temperature_is_left_out(tmp_path: Path, nonsense: object) -> None:
    zone(tmp_path, 0, "cpu-thermal", nonsense)
    assert names(tmp_path) == []


def test_a_reading_that_turns_to_nonsense_leaves_a_gap(tmp_path: Path) -> None:
    gauge = ThermalGauge(zone(tmp_path, 0, "cpu-thermal", 40000), clock=Sleeper().clock)
    gauge.sample()
    zone(tmp_path, 0, "cpu-thermal", -273000)
    gauge.sample()
    (tmp_path / ZONES / "thermal_zone0/temp").unlink()
    gauge.sample()
    zone(tmp_path, 0, "cpu-thermal", 41000)
    gauge.sample()
    (found,) = gauge.heat(gauge.settle(0)).zones
    assert found.celsius.values == (40.0, 41.0)


def test_the_limit_is_the_lowest_passive_trip_point(tmp_path: Path) -> None:
    zone(tmp_path, 0, "cpu-thermal", 40000, ("critical", 110), ("passive", 95), ("passive", 85))
    zone(tmp_path, 1, "soc-thermal", 40000, ("critical", 110), ("passive", 0), ("active", 50))
    limits = {t.name: t.trip_celsius for t in find_thermometers(Tree(tmp_path))}
    assert limits == {"cpu-thermal": 85.0, "soc-thermal": None}


def test_zones_of_one_name_are_told_apart(tmp_path: Path) -> None:
    zone(tmp_path, 0, "x86_pkg_temp", 40000)
    zone(tmp_path, 1, "x86_pkg_temp", 41000)
    assert names(tmp_path) == ["x86_pkg_temp", "x86_pkg_temp (thermal_zone1)"]


def test_hwmon_stands_in_where_no_zone_is_a_processors(tmp_path: Path) -> None:
    zone(tmp_path, 0, "acpitz", 27800)
    chip(tmp_path, 0, "nvme", temp1_input=38000)
    chip(
        tmp_path, 1, "k10temp", temp1_label="Tctl", temp1_input=72000, temp2_label="Tdie",
        temp2_input=45000, temp2_crit=95000,
    )  # fmt: skip
    chip(tmp_path, 2, "amdgpu", temp1_label="edge", temp1_input=50000, temp2_label="junction",
         temp2_input=55000)  # fmt: skip
    first = find_thermometers(Tree(tmp_path))[0]
    # Tctl of some Threadrippers stands 27 degrees above the die.
    assert names(tmp_path) == ["k10temp Tdie", "amdgpu junction", "acpitz"]
    assert first.trip_celsius == 95.0


def test_an_intel_package_has_its_limit_from_its_chip(tmp_path: Path) -> None:
    zone(tmp_path, 0, "x86_pkg_temp", 50000)
    chip(tmp_path, 0, "coretemp", temp1_label="Package id 0", temp1_input=50000, temp1_crit=100000,
         temp2_label="Core 0", temp2_input=49000)  # fmt: skip
    (only,) = find_thermometers(Tree(tmp_path))
    assert (only.name, only.trip_celsius) == ("x86_pkg_temp", 100.0)


def test_the_clock_is_the_mean_of_the_processors(tmp_path: Path) -> None:
    for i, khz in enumerate((1_400_000, 1_600_000)):
        put(tmp_path, f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_cur_freq", khz)
        put(tmp_path, f"sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq", 2_000_000)
    gauge = ThermalGauge(tmp_path, clock=Sleeper().clock)
    gauge.sample()
    clock = gauge.heat(gauge.settle(0)).clock_hz
    assert clock is not None
    assert clock.values == (1.5e9,)
    assert thermal.maximum_hz(tmp_path) == 2e9


def evidence(root: Path, change: Callable[[], object]) -> tuple[str, ...]:
    before = thermal.throttle_state(root)
    change()
    return thermal.evidence_between(before, thermal.throttle_state(root))


def test_the_processors_of_a_package_count_its_throttling_once(tmp_path: Path) -> None:
    def counters(count: int, ms: int) -> None:
        for cpu in range(4):
            folder = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
            put(tmp_path, f"{folder}/package_throttle_count", count)
            put(tmp_path, f"{folder}/package_throttle_total_time_ms", ms)

    counters(7, 120)
    (words,) = evidence(tmp_path, lambda: counters(9, 180))
    assert "package_throttle_count +2" in words
    assert "package_throttle_total_time_ms +60" in words


def test_a_counter_that_stands_still_is_no_evidence(tmp_path: Path) -> None:
    put(tmp_path, f"{CPU0}/thermal_throttle/core_throttle_count", 7)
    assert evidence(tmp_path, lambda: None) == ()
    # Nor is one that appears, or one that began anew.
    assert (
        evidence(
            tmp_path,
            lambda: (
                put(tmp_path, f"{CPU0}/thermal_throttle/package_throttle_count", 3),
                put(tmp_path, f"{CPU0}/thermal_throttle/core_throttle_count", 0),
            ),
        )
        == ()
    )


def test_a_cooling_device_of_a_processor_that_goes_up_is_evidence(tmp_path: Path) -> None:
    def cooler(number: int, kind: str, state: int) -> None:
        put(tmp_path, f"{ZONES}/cooling_device{number}/type", kind)
        put(tmp_path, f"{ZONES}/cooling_device{number}/cur_state", state)

    cooler(0, "thermal-cpufreq-0", 0)
    cooler(1, "pwm-fan", 1)
    cooler(2, "intel_powerclamp", -1)
    assert thermal.throttle_state(tmp_path).observable
    # A fan that turns faster slows nothing down.
    assert evidence(tmp_path, lambda: cooler(1, "pwm-fan", 3)) == ()
    assert evidence(tmp_path, lambda: cooler(2, "intel_powerclamp", 0)) == ()
    (words,) = evidence(tmp_path, lambda: cooler(0, "thermal-cpufreq-0", 2))
    assert "thermal-cpufreq-0 (cooling_device0) 0 -> 2" in words


def test_a_ceiling_of_the_clock_that_falls_is_evidence_but_its_silence_is_none(
    tmp_path: Path,
) -> None:
    name = "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq"
    put(tmp_path, name, 2_400_000)
    state = thermal.throttle_state(tmp_path)
    assert not state.observable
    assert thermal.throttled_between(state, state) is None
    (words,) = evidence(tmp_path, lambda: put(tmp_path, name, 1_200_000))
    assert "2.40 -> 1.20 GHz" in words


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("0", "0", ()),
        ("50000", "50000", ()),  # it happened since the boot, not now
        ("0", "50005", ("under-voltage, throttled",)),
        ("0", "e0008", ("the soft temperature limit",)),
        ("0", "40000", ("throttled, over again by now",)),
        ("50000", "70002", ("the CPU clock is capped",)),
    ],
)
def test_the_raspberry_pis_bits_are_told_by_what_is_new(
    tmp_path: Path, before: str, after: str, said: tuple[str, ...]
) -> None:
    put(tmp_path, PI, before)
    found = evidence(tmp_path, lambda: put(tmp_path, PI, after))
    assert len(found) >= len(said)
    for words, part in zip(found, said, strict=False):
        assert words == f"Raspberry Pi firmware: {part}"
    assert bool(found) is bool(said)


@pytest.mark.parametrize(
    ("text", "bits"),
    [("throttled=0x50005\n", 0x50005), ("throttled=0x0", 0), ("", None),
     ("VCHI initialization failed", None), ("throttled=0x", None), ("throttled=0x123456789", None)],
)  # fmt: skip
def test_vcgencmd_is_read(text: str, bits: int | None) -> None:
    assert thermal.parse_get_throttled(text) == bits


def test_vcgencmd_is_asked_where_there_is_no_file(tmp_path: Path) -> None:
    answers = ["throttled=0x0", "throttled=0x20002", "error", "throttled=0x20000"]
    said = itertools.chain(answers, itertools.repeat("error"))
    gauge = ThermalGauge(tmp_path, clock=Sleeper().clock, vcgencmd=lambda: next(said))
    for _ in range(4):
        gauge.sample()
    events = gauge.heat(gauge.settle(0)).throttle
    assert not isinstance(events, Unavailable)
    assert [e.evidence for e in events] == ["Raspberry Pi firmware: the CPU clock is capped"]


def test_events_carry_the_moment_they_were_seen_and_what_was_so_before(tmp_path: Path) -> None:
    put(tmp_path, PI, "4")
    time = Sleeper()
    gauge = ThermalGauge(tmp_path, clock=time.clock)
    gauge.sample()
    time.sleep(1)
    gauge.sample()
    put(tmp_path, PI, "40006")
    time.sleep(1)
    gauge.sample()
    events = gauge.heat(gauge.settle(0)).throttle
    assert not isinstance(events, Unavailable)
    assert [(e.seen_ns, e.evidence.split(":")[0]) for e in events] == [
        (0, "at the start"), (2 * S, "Raspberry Pi firmware"), (2 * S, "Raspberry Pi firmware"),
    ]  # fmt: skip


def test_a_gpu_that_says_why_it_is_slow_is_heard_once_each_time(tmp_path: Path) -> None:
    # Bits of NVML's nvmlClocksEventReasons: idle, idle, hardware thermal slowdown twice, no answer.
    bits = iter([1, 1, 0x40, 0x41, None])
    module = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetName=lambda _h: "Test GPU",
        nvmlDeviceGetUUID=lambda _h: "GPU-1",
        nvmlDeviceGetTemperature=lambda _h, _kind: 71,
        nvmlDeviceGetTemperatureThreshold=lambda _h, _kind: 90,
        nvmlDeviceGetCurrentClocksEventReasons=lambda _h: next(bits),
    )
    gpus = GpuHeats(Tree(tmp_path), module=module)
    gauge = ThermalGauge(tmp_path, clock=Sleeper().clock, gpus=gpus)
    assert gauge.sees_anything
    for _ in range(5):
        gauge.sample()
    gauge.close()
    gauge.close()
    heat = gauge.heat(gauge.settle(0))
    assert [e.evidence for e in heat.throttle] == ["GPU 0: Test GPU: heat (hardware)"]  # type: ignore[union-attr]
    assert heat.zones[0].celsius.values == (71.0,) * 5
    assert heat.zones[0].trip_celsius == 90.0


def test_nothing_to_see_is_said_to_be_so(tmp_path: Path) -> None:
    time = Sleeper()
    gauge = ThermalGauge(tmp_path, clock=time.clock)
    assert not gauge.sees_anything
    gauge.sample()
    start = gauge.settle(120, sleep=time.sleep)
    assert (start.kind, start.celsius, start.waited_s) == ("unknown", None, BLIND_WAIT_S)
    assert time.now_s == BLIND_WAIT_S
    heat = gauge.heat(start)
    assert heat.zones == ()
    assert heat.clock_hz is None
    assert isinstance(heat.throttle, Unavailable)
    assert heat.throttle.reason.startswith("not observable")


def test_settling_ends_as_soon_as_it_is_cool_and_steady(tmp_path: Path) -> None:
    def cooling(now_s: float) -> None:
        zone(tmp_path, 0, "cpu-thermal", round(1000 * (45 + max(0.0, 40 - now_s))), ("passive", 85))

    cooling(0)
    time = Sleeper(cooling)
    start = ThermalGauge(tmp_path, clock=time.clock).settle(120, sleep=time.sleep)
    assert start.kind == "cool"
    assert start.celsius == 45.0
    # It falls by a degree each second until 40 s, and is then watched for ten.
    assert 48 <= start.waited_s <= 51
    assert "40 degrees below its limit of 85" in start.words


def test_a_thermometer_that_jumps_by_a_degree_is_steady_all_the_same(tmp_path: Path) -> None:
    source = random.Random(3)

    def idle(_now_s: float) -> None:
        zone(tmp_path, 0, "x86_pkg_temp", source.choice((44000, 45000, 45000, 46000)))

    idle(0)
    time = Sleeper(idle)
    start = ThermalGauge(tmp_path, clock=time.clock).settle(120, sleep=time.sleep)
    assert start.kind == "cool"
    assert start.waited_s < 30


def test_a_device_that_stays_hot_is_said_to_be_so(tmp_path: Path) -> None:
    zone(tmp_path, 0, "cpu-thermal", 74000, ("passive", 85))
    time = Sleeper()
    start = ThermalGauge(tmp_path, clock=time.clock).settle(30, sleep=time.sleep)
    assert (start.kind, start.celsius, start.waited_s) == ("hot", 74.0, 30.0)


def test_a_device_that_still_cools_at_the_end_of_the_time_is_hot(tmp_path: Path) -> None:
    def cooling(now_s: float) -> None:
        zone(tmp_path, 0, "cpu-thermal", round(1000 * (69 - now_s / 5)), ("passive", 85))

    cooling(0)
    time = Sleeper(cooling)
    start = ThermalGauge(tmp_path, clock=time.clock).settle(20, sleep=time.sleep)
    assert start.kind == "hot"
    assert "still changing" in start.words


def test_without_waiting_only_the_distance_to_the_limit_counts(tmp_path: Path) -> None:
    start = ThermalGauge(zone(tmp_path, 0, "cpu-thermal", 60000, ("passive", 85))).settle(0)
    assert (start.kind, start.waited_s) == ("cool", 0.0)
    start = ThermalGauge(zone(tmp_path, 0, "cpu-thermal", 71000, ("passive", 85))).settle(0)
    assert start.kind == "hot"


def test_a_limit_nobody_states_is_assumed_in_so_many_words(tmp_path: Path) -> None:
    start = ThermalGauge(zone(tmp_path, 0, "cpu-thermal", 60000)).settle(0)
    assert start.kind == "cool"
    assert "assumed" in start.words


def test_a_cool_device_that_is_throttled_is_not_cool(tmp_path: Path) -> None:
    zone(tmp_path, 0, "cpu-thermal", 40000, ("passive", 85))
    put(tmp_path, PI, "50005")
    start = ThermalGauge(tmp_path).settle(0)
    assert start.kind == "hot"
    assert "under-voltage" in start.words
