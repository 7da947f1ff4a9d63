"""The clock frequency of the processor and the evidence of throttling, where the system tells.

Linux only, from sysfs and procfs below an injectable root, and a Raspberry Pi's `vcgencmd` through
a function that runs it. What is not there is None: a virtual machine usually offers neither a
frequency that means anything nor a throttle counter.

Evidence is what says so itself: Intel's throttle counters (Documentation/admin-guide/thermal/
intel_thermal_throttle.rst), the Pi firmware's bits, a cooling device that slows a processor, a
ceiling of the clock that was lowered. A clock below its maximum is none: an idle core's is, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .energy import SensorGapError
from .energy.sysfs import Tree

_ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
_PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
_PI_NOW = 0xF
_PI_WORDS = (
    "under-voltage", "the CPU clock is capped", "throttled", "the soft temperature limit"
)  # fmt: skip
"""Bits 0-3 of the Pi's firmware say what is so now, bits 16-19 what has been so since the boot."""
_PI_SINCE_BOOT = 16
_COOLERS = re.compile(r"cpufreq|processor|powerclamp|devfreq|gpu|cpuidle", re.IGNORECASE)
_COOLER_TELLS = re.compile("cpufreq", re.IGNORECASE)
"""Coolers whose silence means something: on boards all throttling goes through them, while an x86
processor slows itself without asking its `Processor` devices."""
_MOST_NAMED = 3


def frequency_hz(root: Path = _ROOT) -> float | None:
    """The mean present clock of all processors, hertz; None when the system does not tell."""
    tree = Tree(root)
    clock = mean_clock_hz(tree, clock_paths(tree))
    if clock is not None:
        return clock
    megahertz = [float(m) for m in re.findall(r"(?m)^cpu MHz\s*:\s*([\d.]+)", _cpuinfo(tree))]
    return 1e6 * sum(megahertz) / len(megahertz) if megahertz else None


def clock_paths(tree: Tree) -> tuple[str, ...]:
    """The files that tell each processor's present clock."""
    return tree.glob(f"{_CPUS}/cpu[0-9]*/cpufreq/scaling_cur_freq")


def mean_clock_hz(tree: Tree, paths: tuple[str, ...]) -> float | None:
    """The mean of some processors' clocks, hertz; None when none of them can be read."""
    kilohertz = [value for path in paths if (value := _integer(tree, path)) is not None]
    return 1000.0 * sum(kilohertz) / len(kilohertz) if kilohertz else None


def maximum_hz(root: Path = _ROOT) -> float | None:
    """The mean of the processors' highest clocks by their data, hertz; None when not told."""
    tree = Tree(root)
    return mean_clock_hz(tree, tree.glob(f"{_CPUS}/cpu[0-9]*/cpufreq/cpuinfo_max_freq"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleState:
    """Throttle evidence at one moment.

    `counts` are event counts and milliseconds by file, `coolers` how hard each cooling device
    works, `ceilings_khz` the highest clock each group of processors is allowed.
    """

    counts: tuple[tuple[str, int], ...]
    pi_bits: int | None
    coolers: tuple[tuple[str, int], ...] = ()
    ceilings_khz: tuple[tuple[str, int], ...] = ()

    @property
    def observable(self) -> bool:
        """Whether this machine would tell of throttling at all."""
        return (
            bool(self.counts)
            or self.pi_bits is not None
            or any(_COOLER_TELLS.search(name) for name, _ in self.coolers)
        )

    @property
    def now(self) -> tuple[str, ...]:
        """What slows the machine down at this very moment, in words."""
        found = []
        if self.pi_bits is not None and self.pi_bits & _PI_NOW:
            found.append(f"Raspberry Pi firmware: {_pi_words(self.pi_bits & _PI_NOW)}")
        at_work = [name for name, value in self.coolers if value > 0]
        if at_work:
            found.append(f"at work to cool: {_listed(at_work)}")
        return tuple(found)


class ThrottleFiles:
    """Where one machine keeps its evidence of throttling: looked for once, read many times."""

    def __init__(self, tree: Tree, vcgencmd: Callable[[], str] | None = None) -> None:
        self._tree = tree
        self._counters = (
            *tree.glob(f"{_CPUS}/cpu[0-9]*/thermal_throttle/*_throttle_count"),
            *tree.glob(f"{_CPUS}/cpu[0-9]*/thermal_throttle/*_throttle_total_time_ms"),
        )
        self._coolers = tuple(
            (f"{kind} ({path.split('/')[-2]})", path)
            for path in tree.glob("sys/class/thermal/cooling_device*/cur_state")
            if _COOLERS.search(kind := tree.word(f"{path.rpartition('/')[0]}/type")[:60])
        )
        self._ceilings = tree.glob(f"{_CPUS}/cpufreq/policy*/scaling_max_freq")
        self._vcgencmd = None if tree.exists(_PI_THROTTLED) else vcgencmd

    def state(self) -> ThrottleState:
        """Reads everything. What cannot be read now is left out."""
        if self._vcgencmd is not None:
            bits = parse_get_throttled(self._vcgencmd())
        else:
            bits = _integer(self._tree, _PI_THROTTLED, base=16)
        return ThrottleState(
            counts=self._read(tuple((path, path) for path in self._counters)),
            pi_bits=bits,
            coolers=self._read(self._coolers),
            ceilings_khz=self._read(tuple((path, path) for path in self._ceilings)),
        )

    def _read(self, named: tuple[tuple[str, str], ...]) -> tuple[tuple[str, int], ...]:
        return tuple(
            (name, value)
            for name, path in named
            if (value := _integer(self._tree, path)) is not None
        )


def throttle_state(root: Path = _ROOT) -> ThrottleState:
    """Reads the kernel's evidence of throttling and, on a Raspberry Pi, the firmware's bits."""
    return ThrottleFiles(Tree(root)).state()


def parse_get_throttled(text: str) -> int | None:
    """Reads what `vcgencmd get_throttled` prints, such as `throttled=0x50005`, as its bits."""
    match = re.fullmatch(r"\s*throttled=0x([0-9a-fA-F]{1,8})\s*", text)
    return int(match[1], 16) if match else None


def evidence_between(before: ThrottleState, after: ThrottleState) -> tuple[str, ...]:
    """What says that throttling happened between two states, in words; empty for no evidence."""
    return (
        *_counter_evidence(dict(before.counts), after.counts),
        *_pi_evidence(before.pi_bits, after.pi_bits),
        *_cooler_evidence(dict(before.coolers), after.coolers),
        *_ceiling_evidence(dict(before.ceilings_khz), after.ceilings_khz),
    )


def throttled_between(before: ThrottleState, after: ThrottleState) -> bool | None:
    """Whether throttling happened between two states; None when this machine does not tell."""
    if evidence_between(before, after):
        return True
    # What was so all along is no news, and yet the processor was slowed meanwhile.
    if before.now and after.now:
        return True
    return False if before.observable or after.observable else None


def _counter_evidence(
    before: Mapping[str, int], after: tuple[tuple[str, int], ...]
) -> tuple[str, ...]:
    """Each kind of counter once: the processors of a package, or of a core, count the same."""
    risen: dict[str, int] = {}
    for path, value in after:
        kind, rise = path.rpartition("/")[2], value - before.get(path, value)
        if rise > 0:
            risen[kind] = max(rise, risen.get(kind, 0))
    if not risen:
        return ()
    words = ", ".join(f"{kind} +{rise}" for kind, rise in sorted(risen.items()))
    return (f"the kernel's counters rose: {words}",)


def _pi_evidence(before: int | None, after: int | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    begun = after & ~before
    now = begun & _PI_NOW
    # What is so now is also new since the boot: it is said once.
    earlier = begun >> _PI_SINCE_BOOT & _PI_NOW & ~now
    found = []
    if now:
        found.append(f"Raspberry Pi firmware: {_pi_words(now)}")
    if earlier:
        found.append(f"Raspberry Pi firmware: {_pi_words(earlier)}, over again by now")
    return tuple(found)


def _pi_words(bits: int) -> str:
    return ", ".join(words for i, words in enumerate(_PI_WORDS) if bits >> i & 1)


def _cooler_evidence(
    before: Mapping[str, int], after: tuple[tuple[str, int], ...]
) -> tuple[str, ...]:
    # intel_powerclamp says -1 while it does nothing.
    risen = [
        f"{name} {max(before[name], 0)} -> {value}"
        for name, value in after
        if name in before and value > max(before[name], 0)
    ]
    return (f"cooling went up: {_listed(risen)}",) if risen else ()


def _ceiling_evidence(
    before: Mapping[str, int], after: tuple[tuple[str, int], ...]
) -> tuple[str, ...]:
    fallen = [
        f"{path.split('/')[-2]} {before[path] / 1e6:.2f} -> {value / 1e6:.2f} GHz"
        for path, value in after
        if value < before.get(path, value)
    ]
    return (f"the highest clock allowed fell: {_listed(fallen)}",) if fallen else ()


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return ", ".join(items[:_MOST_NAMED]) + more


def _integer(tree: Tree, path: str, *, base: int = 10) -> int | None:
    try:
        return int(tree.text(path), base) if base != 10 else tree.number(path)
    except (OSError, ValueError, SensorGapError):
        return None


def _cpuinfo(tree: Tree) -> str:
    try:
        return (tree.root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
