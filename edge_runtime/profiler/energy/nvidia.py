"""NVIDIA GPUs: their energy counter, else their power, and what they tell of heat, through NVML.

Which of NVML's calls a GPU answers differs by GPU and not by promise, so each is tried: a counter
must be seen to move before it is believed, and the scope of a reading follows from what answers.
How the library is found and held is `nvml`'s business, memory is `gpu_memory`'s.

Sources: NVIDIA's NVML reference (counter in mJ since the driver was loaded, Volta and later; power
in mW); arXiv 2312.02741 for what the readings are worth; ml-energy/zeus #172 and #242 for which
scopes a Grace-Hopper and a DGX Spark answer; #181 for counter and power that disagree.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...basis import Unavailable
from ...energy import Refusal, Scope, SensorInfo
from ...units import NS_PER_S
from . import METER_REMEDY, EnergySensor, Found, SensorBreakError, SensorGapError
from .integrate import Integrated
from .nvml import NOT_PERMITTED, Device, Nvml, NvmlError, open_nvml
from .sysfs import Tree

_ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
_POWER = "nvmlDeviceGetPowerUsage"
_INSTANT_FIELD = 186  # NVML_FI_DEV_POWER_INSTANT
_GPU_SCOPE, _MODULE_SCOPE = 0, 1  # NVML_POWER_SCOPE_*

_POLL_S = 0.1
_UPDATE_S = 0.1
_AVERAGED_S = 1.0
_COUNTER_WINDOW_S = 5.0
"""200 updates would be 1 %, 20 s; a quarter of it is the 4 % that decides nothing."""
_AVERAGE_WINDOW_S = 3.0
"""20 readings after the second that the average needs to settle."""
_INSTANT_WINDOW_S = 2.0
_STALL_UPDATES = 20
_MOVE_WITHIN_S = 0.5
_MOVE_STEP_S = 0.02

_GAIN = (
    "+-5 % stated for Fermi and Kepler only; A100 and H100 sample a quarter of the time"
    " (arXiv 2312.02741)"
)
_BEGINS_ANEW = "the counter counts since the driver was loaded; the driver is held meanwhile"
_AVERAGED = "a 1 s average on Ampere and later except GA100: short windows are smeared"
_SLEEP = "sys/bus/pci/drivers/nvidia/*/power/runtime_status"
_WOKEN = "a GPU was asleep: reading keeps it awake, and idle power is that of one awake"
_DIVIDED = "divided into instances (MIG): all of them are counted"


def find(
    tree: Tree,
    *,
    module: Any = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Found:
    """Looks for GPUs whose energy or power can be read. Never raises.

    `module` stands in for nvidia-ml-py. Counters are watched for at most half a second.
    """
    # Asked first: initialising the library wakes it.
    woken = any(tree.word(path) == "suspended" for path in tree.glob(_SLEEP))
    nvml = open_nvml(tree, module=module)
    if isinstance(nvml, Unavailable):
        return Found(refusals=(Refusal(name="nvidia", why=nvml),))
    try:
        return _search(nvml, clock, sleep, (_WOKEN,) if woken else ())
    except NvmlError as error:
        return _refused("the NVIDIA driver answers, but names no GPU", (error,))
    finally:
        nvml.release()


def _search(
    nvml: Nvml,
    clock: Callable[[], int],
    sleep: Callable[[float], None],
    notes: tuple[str, ...],
) -> Found:
    devices, unnamed = nvml.devices()
    if not devices:
        return _refused("no GPU answers through NVML", unnamed)
    reaches = [_reach(nvml, device, notes) for device in devices]
    counters = _counters(nvml, devices, clock, sleep)
    sensors: list[EnergySensor] = []
    refusals: list[Refusal] = [r for e in unnamed for r in _refused("a GPU", (e,)).refusals]
    for device, reach, counter in zip(devices, reaches, counters, strict=True):
        if counter is None:
            nvml.hold()
            sensors.append(_Counter(nvml, device, reach, clock))
            continue
        power = _power(nvml, device, reach, str(counter))
        if isinstance(power, _Power):
            nvml.hold()
            sensors.append(Integrated(power, clock=clock))
        else:
            refusals += _refused(f"{device.name} tells neither", (counter, *power)).refusals
    return Found(sensors=tuple(sensors), refusals=tuple(refusals))


def _refused(what: str, errors: Iterable[NvmlError]) -> Found:
    causes = tuple(errors)
    told = "; ".join(dict.fromkeys(str(error) for error in causes)) or "it lists none"
    remedy = METER_REMEDY
    if any(error.code == NOT_PERMITTED for error in causes):
        remedy = "Join the group that owns /dev/nvidiactl: ls -l /dev/nvidiactl"
    why = Unavailable(reason=f"{what} ({told})", remedy=remedy)
    return Found(refusals=(Refusal(name="nvidia", why=why),))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reach:
    """What a GPU's readings are the readings of. `instant` is the scope field 186 answers in."""

    scope: Scope
    words: str
    covers: tuple[str, ...]
    instant: int | None
    notes: tuple[str, ...] = ()


def _reach(nvml: Nvml, device: Device, notes: tuple[str, ...]) -> _Reach:
    """Follows from the power scopes that answer: only superchips answer for their module."""
    gpu = f"gpu:{device.uuid}"
    if _is_divided(nvml, device):
        notes = (*notes, _DIVIDED)
    if _answers(nvml, device, _MODULE_SCOPE):
        inside = (f"cpu:{device.index}", f"dram:{device.index}", gpu)
        words = "the whole module: processor, GPU and memory"
        return _Reach(
            scope=Scope.MODULE, words=words, covers=inside, instant=_MODULE_SCOPE, notes=notes
        )
    instant = _GPU_SCOPE if _answers(nvml, device, _GPU_SCOPE) else None
    if _is_superchip(nvml, device):
        words = "the GPU part of a superchip, without its processor and memory"
        return _Reach(scope=Scope.CHIP, words=words, covers=(gpu,), instant=instant, notes=notes)
    return _Reach(scope=Scope.BOARD, words="GPU board", covers=(gpu,), instant=instant, notes=notes)


def _answers(nvml: Nvml, device: Device, scope: int) -> bool:
    try:
        return nvml.field(device, _INSTANT_FIELD, scope) > 0
    except NvmlError:
        return False


def _is_superchip(nvml: Nvml, device: Device) -> bool:
    try:
        return bool(nvml.of(device, "nvmlDeviceGetC2cModeInfoV").isC2cEnabled)
    except NvmlError:
        return False


def _is_divided(nvml: Nvml, device: Device) -> bool:
    try:
        present, _pending = nvml.of(device, "nvmlDeviceGetMigMode")
    except NvmlError:
        return False
    return bool(present)


def _counters(
    nvml: Nvml,
    devices: tuple[Device, ...],
    clock: Callable[[], int],
    sleep: Callable[[float], None],
) -> list[NvmlError | None]:
    """For each GPU None when its energy counter moves, else why it is not used.

    A GPU that is switched on always takes power, so a counter that stands still is none.
    """
    first: dict[int, int] = {}
    verdicts: list[NvmlError | None] = []
    for device in devices:
        try:
            first[device.index] = nvml.number(device, _ENERGY)
            still = NvmlError(_ENERGY, f"the counter stood still for {_MOVE_WITHIN_S:g} s")
            verdicts.append(still)
        except NvmlError as error:
            verdicts.append(error)
    until = clock() + int(_MOVE_WITHIN_S * NS_PER_S)
    while first and clock() < until:
        sleep(_MOVE_STEP_S)
        for place, device in enumerate(devices):
            if device.index not in first:
                continue
            # One failure among many readings says nothing of whether it moves.
            with contextlib.suppress(NvmlError):
                if nvml.number(device, _ENERGY) != first[device.index]:
                    verdicts[place] = None
                    del first[device.index]
    return verdicts


class _Counter:
    """A GPU's own count of joules."""

    def __init__(self, nvml: Nvml, device: Device, reach: _Reach, clock: Callable[[], int]) -> None:
        self.info = SensorInfo(
            id=f"nvml:{device.uuid}",
            source=f"{device.name}, {reach.words}, NVML energy counter",
            scope=reach.scope,
            covers=reach.covers,
            method="counter",
            update_s=_UPDATE_S,
            step=0.001,
            poll_s=_POLL_S,
            window_s=_COUNTER_WINDOW_S,
            gain=_GAIN,
            notes=(_BEGINS_ANEW, *reach.notes),
        )
        self._nvml = nvml
        self._device = device
        self._clock = clock
        self._is_held = True
        self._last: int | None = None
        self._moved_ns = clock()

    def read(self) -> float:
        """Joules since the driver was loaded. Raises SensorGapError and SensorBreakError."""
        now = self._clock()
        try:
            millijoules = self._nvml.number(self._device, _ENERGY)
        except NvmlError as error:
            if error.driver_is_gone and self._driver_is_back():
                self._last = None
                raise SensorBreakError(f"the driver was reloaded ({error})") from error
            raise SensorGapError(f"{self._device.title}: {error}") from error
        last, self._last = self._last, millijoules
        if last is None or millijoules > last:
            self._moved_ns = now
            return millijoules / 1000
        if millijoules < last:
            self._moved_ns = now
            raise SensorBreakError(
                f"the counter fell from {last / 1000:g} J to {millijoules / 1000:g} J:"
                " the driver was reloaded"
            )
        stood_s = (now - self._moved_ns) / NS_PER_S
        if stood_s > _STALL_UPDATES * _UPDATE_S:
            raise SensorGapError(f"counter stalled: {self._device.title} stood for {stood_s:.1f} s")
        return millijoules / 1000

    def close(self) -> None:
        """Lets go of the driver, once: others hold it too."""
        if self._is_held:
            self._is_held = False
            self._nvml.release()

    def _driver_is_back(self) -> bool:
        try:
            self._nvml.begin_again()
        except NvmlError:
            return False
        return True


def _power(
    nvml: Nvml, device: Device, reach: _Reach, why_no_counter: str
) -> _Power | tuple[NvmlError, ...]:
    """The GPU's power in the way it tells it best, or why in none."""
    errors: list[NvmlError] = []
    for instant in (reach.instant, None) if reach.instant is not None else (None,):
        power = _Power(nvml, device, reach, instant, why_no_counter)
        try:
            if power.milliwatts() > 0:
                return power
            errors.append(NvmlError(_POWER, "it reads 0 W, which no GPU in use takes"))
        except NvmlError as error:
            errors.append(error)
    return tuple(errors)


class _Power:
    """A GPU's present power: field 186 in a scope, or the averaged one where `instant` is None."""

    def __init__(
        self,
        nvml: Nvml,
        device: Device,
        reach: _Reach,
        instant: int | None,
        why_no_counter: str,
    ) -> None:
        way = "averaged power" if instant is None else "instantaneous power"
        averaged = (_AVERAGED,) if instant is None else ()
        self.info = SensorInfo(
            id=f"nvml:{device.uuid}",
            source=f"{device.name}, {reach.words}, NVML {way}",
            scope=reach.scope,
            covers=reach.covers,
            method="power",
            # What an average holds is as old as its window is long.
            update_s=_AVERAGED_S if instant is None else _UPDATE_S,
            step=0.001,
            poll_s=_POLL_S,
            window_s=_AVERAGE_WINDOW_S if instant is None else _INSTANT_WINDOW_S,
            gain=_GAIN,
            notes=(*averaged, f"no counter to use ({why_no_counter})", *reach.notes),
        )
        self._nvml = nvml
        self._device = device
        self._instant = instant
        self._is_held = True

    def milliwatts(self) -> int:
        """The present power. Raises NvmlError."""
        if self._instant is None:
            return self._nvml.number(self._device, _POWER)
        return self._nvml.field(self._device, _INSTANT_FIELD, self._instant)

    def read_w(self) -> float:
        """The present power in watts. Raises SensorGapError."""
        try:
            milliwatts = self.milliwatts()
        except NvmlError as error:
            if error.driver_is_gone:
                # Watts have no origin that a reload could lose: the next reading may succeed.
                with contextlib.suppress(NvmlError):
                    self._nvml.begin_again()
            raise SensorGapError(f"{self._device.title}: {error}") from error
        if milliwatts == 0:
            raise SensorGapError(f"{self._device.title} reads 0 W, which no GPU in use takes")
        return milliwatts / 1000

    def close(self) -> None:
        """Lets go of the driver, once: others hold it too."""
        if self._is_held:
            self._is_held = False
            self._nvml.release()


_SLOWED_BY = (
    (0x04, "power limit"),
    (0x08, "hardware slowdown"),
    (0x20, "heat (driver)"),
    (0x40, "heat (hardware)"),
    (0x80, "power brake"),
)
"""Bits of nvmlDeviceGetCurrentClocksEventReasons that take speed away from a GPU at work."""
_GRAPHICS_CLOCK = 0  # NVML_CLOCK_GRAPHICS
_GPU_TEMPERATURE = 0  # NVML_TEMPERATURE_GPU
_SLOWDOWN_THRESHOLD = 1  # NVML_TEMPERATURE_THRESHOLD_SLOWDOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHeat:
    """One GPU's heat at one moment, None where it does not tell.

    `slowed_by` are the reasons why its clock is held down now, empty when it tells and there are
    none. A power limit is one of them that is not heat.
    """

    device: str
    celsius: float | None
    slowdown_celsius: float | None
    clock_hz: float | None
    slowed_by: tuple[str, ...] | None


def heat(nvml: Nvml, device: Device) -> GpuHeat:
    """What a GPU tells of its heat now. Never raises. `nvml.open_nvml` gives the first argument."""
    clock_mhz = _told(nvml, device, "nvmlDeviceGetClockInfo", _GRAPHICS_CLOCK)
    reasons = _told(nvml, device, "nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:
        # Its name before driver 535.
        reasons = _told(nvml, device, "nvmlDeviceGetCurrentClocksThrottleReasons")
    celsius = _told(nvml, device, "nvmlDeviceGetTemperature", _GPU_TEMPERATURE)
    if celsius is None:
        # Its name from CUDA 14 on.
        celsius = _told(nvml, device, "nvmlDeviceGetTemperatureV", _GPU_TEMPERATURE)
    return GpuHeat(
        device=device.title,
        celsius=celsius,
        slowdown_celsius=_told(
            nvml, device, "nvmlDeviceGetTemperatureThreshold", _SLOWDOWN_THRESHOLD
        ),
        clock_hz=None if clock_mhz is None else clock_mhz * 1e6,
        slowed_by=None
        if reasons is None
        else tuple(words for bit, words in _SLOWED_BY if reasons & bit),
    )


def _told(nvml: Nvml, device: Device, call: str, *arguments: Any) -> int | None:
    try:
        return nvml.number(device, call, *arguments)
    except NvmlError:
        return None
