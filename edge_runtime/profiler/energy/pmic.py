"""The power management chip of a Raspberry Pi 5: volts and amperes of the rails that it feeds.

It knows what `vcgencmd pmic_read_adc` prints and nothing of the chip's registers. Every reading
starts a process, so it is never done more often than once per poll period: a reading asked for
sooner gets the last one again, as from any sensor that is asked faster than it changes.

The sum of the rails is less than what the board takes from its supply: the converters' losses, the
USB ports and whatever sits on the 5 V pins are missing. EXT5V and BATT are voltages of inputs.
Older models have no current sensor at all.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...basis import Unavailable
from ...energy import Refusal, Scope, SensorInfo
from ...units import NS_PER_S
from . import METER_REMEDY, Found, SensorGapError
from .integrate import Integrated
from .sysfs import Tree

COMMAND = ("vcgencmd", "pmic_read_adc")
POLL_S = 0.5
_UPDATE_S = 2 * POLL_S
"""At worst: one asked for a little too soon gives the last reading, and the next one is new."""
TIMEOUT_S = 0.4
"""Of one reading: it usually takes some milliseconds, and must be over before the next one."""
_STEP_W = 0.01
"""VDD_CORE moves by 8.93 mA at 0.7 to 0.95 V, as published readings show; the others by less."""
_MOST_CHARACTERS = 16 * 1024
_MOST_V, _MOST_A = 30.0, 30.0
_MODELS = ("Raspberry Pi 5", "Raspberry Pi Compute Module 5")
"""The first word for the Raspberry Pi 500 too."""
_INPUTS = ("EXT5V", "BATT")
_RAIL_LINE = re.compile(r"\s*[A-Za-z0-9_]{1,32}_[AV][\s=]")
_LINE = re.compile(
    r"\s*(?P<rail>[A-Za-z0-9_]{1,32})_(?P<kind>[AV])"
    r"(?:\s+(?P<word>current|volt)\(\d{1,4}\))?\s*=\s*"
    r"(?P<value>\d{1,6}(?:\.\d{1,12})?)(?P<unit>[AV])\s*"
)
_UNITS = {"current": "A", "volt": "V"}
_MISSING = (
    "converter losses, USB ports and HATs are missing from the sum of the rails; a fit by pitop's"
    " authors has the input at 1.1451 x sum + 0.5879 W: an estimate, not applied here"
)

Runner = Callable[[Sequence[str], float], str]
"""Runs a command for at most so many seconds and gives what it printed.

Raises OSError where it cannot be started, and subprocess.SubprocessError where it fails.
"""


def run(command: Sequence[str], timeout_s: float) -> str:
    """Runs a command, as Runner says."""
    done = subprocess.run(
        command, capture_output=True, check=True, timeout=timeout_s, stdin=subprocess.DEVNULL
    )
    return done.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """One rail's voltage and current; None where it was not printed."""

    name: str
    volts: float | None = None
    amps: float | None = None


def parse(text: str) -> tuple[Rail, ...]:
    """The rails of a print of `vcgencmd pmic_read_adc`, in its order.

    Either format: `VDD_CORE_A current(7)=0.75012000A` or `VDD_CORE_A=0.7501A`. Volts and amperes
    of a rail are matched by its name; the numbers in brackets count channels and differ.
    Lines of anything else are passed over. Raises SensorGapError where there is no rail, a rail's
    line is malformed or comes twice, or a rail has what none can have.
    """
    if len(text) > _MOST_CHARACTERS:
        raise SensorGapError(f"vcgencmd printed {len(text)} characters, far more than its rails")
    values: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if not _RAIL_LINE.match(line):
            continue
        name, kind, value = _reading(line)
        rail = values.setdefault(name, {})
        if kind in rail:
            raise SensorGapError(f"vcgencmd printed {name}_{kind} twice")
        rail[kind] = value
    if not values:
        raise SensorGapError(f"vcgencmd printed no rail but {_quoted(text)}")
    return tuple(
        Rail(name=name, volts=value.get("V"), amps=value.get("A")) for name, value in values.items()
    )


def _reading(line: str) -> tuple[str, str, float]:
    """A rail's name, A or V, and how much of it. Raises SensorGapError."""
    match = _LINE.fullmatch(line)
    if match is None or not (
        match["kind"] == match["unit"] == _UNITS.get(match["word"], match["kind"])
    ):
        raise SensorGapError(f"vcgencmd printed {_quoted(line)}, which is no reading of a rail")
    value = float(match["value"])
    if value > (_MOST_A if match["kind"] == "A" else _MOST_V):
        raise SensorGapError(f"vcgencmd printed {_quoted(line)}, which no rail can have")
    return match["rail"], match["kind"], value


def _quoted(text: str) -> str:
    return repr(text.strip()[:60])


def fed(rails: Sequence[Rail]) -> tuple[Rail, ...]:
    """Those whose power is known and that the chip feeds: not the inputs, which it is fed by."""
    return tuple(
        rail
        for rail in rails
        if rail.name not in _INPUTS and rail.volts is not None and rail.amps is not None
    )


def power_w(rails: Sequence[Rail]) -> float:
    """The sum of volts times amperes over the rails that the chip feeds, watts."""
    return math.fsum((rail.volts or 0.0) * (rail.amps or 0.0) for rail in fed(rails))


class _Pmic:
    """The sum of the rails as one PowerSensor."""

    def __init__(self, run: Runner, clock: Callable[[], int]) -> None:
        self._run = run
        self._clock = clock
        self._asked_ns: int | None = None
        self._last: float | SensorGapError = SensorGapError("not asked yet")
        self._names: frozenset[str] = frozenset()
        self.info = _info(())

    def read_w(self) -> float:
        """The present power in watts, at most one poll period old. Raises SensorGapError."""
        now = self._clock()
        if self._asked_ns is None or now - self._asked_ns >= POLL_S * NS_PER_S:
            self._asked_ns = now
            try:
                self._last = self._ask()
            except SensorGapError as error:
                self._last = error
        if isinstance(self._last, SensorGapError):
            raise SensorGapError(str(self._last)) from self._last.__cause__
        return self._last

    def close(self) -> None:
        """Nothing is held open."""

    def _ask(self) -> float:
        try:
            text = self._run(COMMAND, TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise SensorGapError(f"vcgencmd took longer than {TIMEOUT_S:g} s") from error
        except (OSError, subprocess.SubprocessError) as error:
            raise SensorGapError(f"vcgencmd failed: {_said(error)}") from error
        rails = parse(text)
        summed = fed(rails)
        names = frozenset(rail.name for rail in summed)
        if not names:
            raise SensorGapError("vcgencmd tells no rail's volts and amperes")
        if self._names and names != self._names:
            odd = ", ".join(sorted(names ^ self._names))
            raise SensorGapError(f"vcgencmd tells other rails than before: {odd}")
        if not self._names:
            self._names = names
            self.info = _info(tuple(r.name for r in rails if r.volts is None))
        watts = power_w(rails)
        if watts <= 0:
            raise SensorGapError("vcgencmd has every rail at 0 W, yet they feed this machine")
        return watts


def find(
    tree: Tree, *, run: Runner = run, clock: Callable[[], int] = time.perf_counter_ns
) -> Found:
    """The rails of a Raspberry Pi 5, or why there are none. Never raises."""
    model = tree.word("proc/device-tree/model").strip("\0 ")
    if "Raspberry Pi" not in model:
        return _refused("no Raspberry Pi", METER_REMEDY)
    if not model.startswith(_MODELS):
        short = re.sub(r"[^A-Za-z0-9.+ -]+", "_", model)[:60]
        return _refused(
            f"no current sensor on a {short}: the Raspberry Pi 5 is the first", METER_REMEDY
        )
    sensor = _Pmic(run, clock)
    try:
        sensor.read_w()
    except SensorGapError as error:
        return _refused(str(error), _remedy(error.__cause__))
    return Found(sensors=(Integrated(sensor, clock=clock),))


def _info(without_volts: tuple[str, ...]) -> SensorInfo:
    notes = [_MISSING, f"each reading starts a process, at most every {POLL_S:g} s"]
    if without_volts:
        notes.append(f"rails without a voltage are not in the sum: {', '.join(without_volts)}")
    return SensorInfo(
        id="pmic:rails",
        source="rails of the Raspberry Pi's power management chip",
        scope=Scope.MODULE,
        covers=("cpu:*", "dram:*", "gpu:videocore", "system"),
        method="power",
        update_s=_UPDATE_S,
        step=_STEP_W,
        poll_s=POLL_S,
        window_s=20 * POLL_S,
        gain="unknown: less than what the board takes",
        notes=tuple(notes),
    )


def _said(error: Exception) -> str:
    """What a failed command said of itself, on one line."""
    if isinstance(error, subprocess.CalledProcessError):
        said = error.stderr or error.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        return re.sub(r"[^\x20-\x7e]+", " ", text).strip()[:120] or f"exit {error.returncode}"
    return getattr(error, "strerror", None) or type(error).__name__


def _remedy(cause: BaseException | None) -> str:
    if isinstance(cause, FileNotFoundError):
        return "sudo apt install raspi-utils"
    if isinstance(cause, (PermissionError, subprocess.CalledProcessError)):
        # /dev/vcio belongs to the group video.
        return "sudo usermod -aG video $USER, then log in again"
    return METER_REMEDY


def _refused(reason: str, remedy: str) -> Found:
    why = Unavailable(reason=reason, remedy=remedy)
    return Found(refusals=(Refusal(name="pmic", why=why),))
