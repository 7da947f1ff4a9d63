"""The text of a meter's log: a header that names columns, then times with volts and amps, or watts.

Loggers agree on nothing: separators, decimal commas, units and clocks are found out from the header
and the first rows, and what cannot be found out is asked for, never assumed. A malformed line is a
FormatError that names it. The file is read line by line and its size is bounded.
"""

from __future__ import annotations

import codecs
import itertools
import math
import stat
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ...errors import EdgeError, FormatError
from .integrate import MOST_W
from .meter_header import SEPARATORS, Column, Columns, cells_of, find_columns, stated_start_s
from .meter_time import TimeReader, last_digit, number

MOST_BYTES = 512 * 1024**2
MOST_LINE_CHARACTERS = 16 * 1024
MOST_ROWS = 2_000_000
"""Over five hours at 100 readings per second."""
_MOST_PREAMBLE = 64
_HEAD_BYTES = 4096
_SHUFFLED_S = 0.1
"""A logger that stamps the four readings of a USB packet backwards from its arrival puts some of
them tens of milliseconds before those of the packet before (fnirsi-usb-power-data-logger)."""
_FIRST_IS_ABSURD = 10
"""A first reading so many times all of the next so many is the meter's settling: 188 V x 170 A has
been seen (fnirsi-usb-power-data-logger PR 4)."""
_NOISE_SHARE = 0.02
_LEAST_NOISE_W = 0.02
_PLAUSIBLE = {"voltage": 1000.0, "current": 100.0, "power": 5000.0}
"""Values above these in a column without a unit are more likely thousandths."""
_HEADER = "Write a header such as: time_s,voltage_V,current_A or: timestamp,power_W"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterLog:
    """What a meter wrote: times in seconds, rising, and the power at each in watts.

    The times are seconds since 1970, or `is_relative`: since the log began, which was at
    `start_unix_s` where it says so. `failures` counts rows without a usable reading. `digit_w` is
    what one more in the last digit written would change, watts; 0 where that is not known.
    """

    name: str
    quantity: str
    times_s: tuple[float, ...]
    watts: tuple[float, ...]
    is_relative: bool = False
    start_unix_s: float | None = None
    failures: int = 0
    last_failure: str = ""
    digit_w: float = 0.0
    notes: tuple[str, ...] = ()


def read_log(path: Path) -> MeterLog:
    """Reads a meter's log.

    Raises FormatError, naming the line where there is one, and EdgeError when the file cannot be
    read at all.
    """
    path = Path(path)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise FormatError(f"{path.name} is no file that could be a meter log.")
        if about.st_size > MOST_BYTES:
            raise FormatError(
                f"The meter log {path.name} is larger than {MOST_BYTES // 1024**2} MiB.",
                way_out="Cut it to the time of the measurement.",
            )
        rows = _Rows(path.name)
        with path.open(encoding=_encoding(path), errors="replace") as file:
            for place, line in enumerate(_lines(file, path.name), 1):
                rows.take(place, line)
    except OSError as error:
        raise EdgeError(
            f"The meter log {path} cannot be read.", cause=f"{error.strerror or error}."
        ) from error
    return rows.log()


def _encoding(path: Path) -> str:
    """The encoding that the file's beginning shows. Raises FormatError when it is no text."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"\x1f\x8b"):
        raise FormatError(f"{path.name} is compressed.", way_out=f"gunzip {path.name}")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        raise FormatError(f"{path.name} holds no text.", way_out="Export the log as CSV.")
    try:
        # Not the last word: a character may be cut in two where the head ends.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _lines(file: TextIO, name: str) -> Iterator[str]:
    """The lines. Raises FormatError for one without end."""
    for place in itertools.count(1):
        line = file.readline(MOST_LINE_CHARACTERS)
        if not line:
            return
        if len(line) == MOST_LINE_CHARACTERS:
            raise FormatError(f"Line {place} of {name} is too long for a row of readings.")
        yield line


class _Rows:
    """The rows of one log as they come."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._columns: Columns | None = None
        self._header_line = 0
        self._before = ""
        self._start_unix_s: float | None = None
        self._clock = TimeReader(None)
        self._times: list[float] = []
        self._watts: list[float] = []
        self._sums = {"voltage": 0.0, "current": 0.0, "power": 0.0}
        self._digits = dict.fromkeys(self._sums, math.inf)
        self._latest = -float("inf")
        self._shuffled = 0
        self._failures = 0
        self._last_failure = ""
        self._fault: FormatError | None = None
        self._is_cut = False
        self._notes: list[str] = []

    def take(self, place: int, line: str) -> None:
        """Takes in a line. Raises FormatError when it, or the one before, is no row."""
        text = line.strip("\r\n")
        if not text.strip():
            return
        if self._fault is not None:
            raise self._fault
        if text.lstrip().startswith("#") and self._columns is not None:
            return
        self._is_cut = not line.endswith("\n")
        if self._columns is None:
            self._take_header(place, text)
            return
        try:
            self._take_row(place, text, self._columns)
        except ValueError as error:
            # Forgiven where it is the last line of a log that was cut while it was written.
            self._fault = self._malformed(place, str(error))

    def log(self) -> MeterLog:
        """What was taken in. Raises FormatError when that is no log."""
        if self._fault is not None:
            if not self._is_cut or not self._times:
                raise self._fault
            self._notes.append(f"the last line was cut off and left out ({self._fault.fact})")
        if self._columns is None:
            raise FormatError(
                f"No line of {self._name} names its columns: time, and power or volts and amps.",
                way_out=_HEADER,
            )
        self._check_units(self._columns)
        if len(self._times) < 2:
            words = f" ({self._last_failure})" if self._last_failure else ""
            raise FormatError(f"{self._name} has fewer than two usable readings{words}.")
        self._drop_absurd_first()
        times, watts = self._in_order()
        watts = self._as_consumption(times, watts)
        if self._clock.is_guess:
            self._notes.append("its times name no unit and were read as seconds")
        return MeterLog(
            name=self._name,
            quantity=self._columns.quantity,
            times_s=times,
            watts=watts,
            is_relative=self._clock.is_relative,
            start_unix_s=self._start_unix_s,
            failures=self._failures,
            last_failure=self._last_failure,
            digit_w=self._digit_w(),
            notes=tuple(self._notes),
        )

    def _take_header(self, place: int, text: str) -> None:
        start_s = stated_start_s(text)
        if start_s is not None:
            self._start_unix_s = start_s
        columns = find_columns(text.lstrip("# "), place)
        if columns is not None:
            self._columns, self._header_line = columns, place
            self._clock = TimeReader(columns.time.factor)
        elif place >= _MOST_PREAMBLE or _is_numbers(text):
            before = f" The line before them is {self._before[:80]!r}." if self._before else ""
            raise FormatError(
                f"The readings in line {place} of {self._name} come without a header that names"
                f" their columns.{before}",
                cause="Time, and power or both volts and amps, must be named.",
                way_out=_HEADER,
            )
        else:
            self._before = text.strip()

    def _take_row(self, place: int, text: str, columns: Columns) -> None:
        cells = cells_of(text, columns.separator)
        if tuple(cells) == columns.cells:
            return  # logs appended to one another repeat their header
        if len(cells) <= columns.last_place:
            raise ValueError(f"{len(cells)} cells, at least {columns.last_place + 1} are needed")
        seconds = self._clock.seconds(cells[columns.time.place])
        watts = self._power(cells, columns)
        if seconds < self._latest - _SHUFFLED_S:
            raise ValueError(f"the time goes back by {self._latest - seconds:g} s")
        self._shuffled += seconds < self._latest
        self._latest = max(self._latest, seconds)
        if watts is None or abs(watts) > MOST_W:
            self._failures += 1
            told = "no reading" if watts is None else f"{watts:g} W, which cannot be"
            self._last_failure = f"line {place}: {told}"
            if self._failures == 1:
                self._notes.append(f"rows without a usable reading are left out, first line {place}"
                                   f" ({told})")  # fmt: skip
            return
        if len(self._times) >= MOST_ROWS:
            raise FormatError(
                f"{self._name} has more than {MOST_ROWS} readings.",
                way_out="Cut it to the time of the measurement.",
            )
        self._times.append(seconds)
        self._watts.append(watts)

    def _power(self, cells: list[str], columns: Columns) -> float | None:
        if columns.power is not None:
            return self._value(cells, columns.power, "power")
        assert columns.voltage is not None
        assert columns.current is not None
        volts = self._value(cells, columns.voltage, "voltage")
        amps = self._value(cells, columns.current, "current")
        return None if volts is None or amps is None else volts * amps

    def _value(self, cells: list[str], column: Column, quantity: str) -> float | None:
        value = number(cells[column.place])
        if value is None:
            return None
        value *= column.scale
        self._sums[quantity] += min(abs(value), MOST_W)
        digit = last_digit(cells[column.place]) * column.scale
        self._digits[quantity] = min(self._digits[quantity], digit)
        return value

    def _digit_w(self) -> float:
        """The last digit of the power written or, of mean volts times amps, those of both."""
        if self._digits["power"] < math.inf:
            return self._digits["power"]
        volts, amps = (self._sums[q] / len(self._times) for q in ("voltage", "current"))
        return volts * self._digits["current"] + amps * self._digits["voltage"]

    def _check_units(self, columns: Columns) -> None:
        """Refuses a column that names no unit and whose values look like thousandths of one."""
        rows = max(1, len(self._times) + self._failures)
        read = {"voltage": columns.voltage, "current": columns.current, "power": columns.power}
        for quantity, column in read.items():
            mean = self._sums[quantity] / rows
            if column is not None and column.factor is None and mean > _PLAUSIBLE[quantity]:
                raise FormatError(
                    f"Line {self._header_line} of {self._name} names no unit for {column.name!r},"
                    f" and its values are about {mean:.0f}.",
                    way_out="Write the unit into the header, such as voltage_mV or current_mA.",
                )

    def _malformed(self, place: int, words: str) -> FormatError:
        return FormatError(f"Line {place} of {self._name}: {words}.")

    def _drop_absurd_first(self) -> None:
        following = [abs(watts) for watts in self._watts[1 : 1 + _FIRST_IS_ABSURD]]
        if len(following) < _FIRST_IS_ABSURD or not max(following):
            return
        if abs(self._watts[0]) > _FIRST_IS_ABSURD * max(following):
            self._notes.append(
                f"the first reading, {self._watts[0]:g} W, was left out: the meter was settling"
            )
            del self._times[0], self._watts[0]

    def _in_order(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Times rising, with the mean of readings that share one."""
        pairs = sorted(zip(self._times, self._watts, strict=True), key=lambda pair: pair[0])
        times: list[float] = []
        watts: list[float] = []
        for seconds, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            times.append(seconds)
            watts.append(statistics.fmean(power for _, power in group))
        if self._shuffled:
            self._notes.append(
                f"{self._shuffled} readings were out of order by at most {_SHUFFLED_S:g} s"
            )
        if len(times) < len(pairs):
            self._notes.append(
                f"{len(pairs) - len(times)} readings share their time with another: averaged"
            )
        return tuple(times), tuple(watts)

    def _as_consumption(
        self, times: tuple[float, ...], watts: tuple[float, ...]
    ) -> tuple[float, ...]:
        """Power taken, none of it below zero. Raises FormatError when it flows both ways."""
        if statistics.median(watts) < 0:
            self._notes.append(
                "power is below zero throughout: the meter stands the other way round"
            )
            watts = tuple(-power for power in watts)
        noise = max(_LEAST_NOISE_W, _NOISE_SHARE * max(watts))
        for seconds, power in zip(times, watts, strict=True):
            if power < -noise:
                raise FormatError(
                    f"Power flows both ways in {self._name}: {power:g} W at {seconds:.3f} s.",
                    way_out="Log a supply line that only feeds the device, with no battery in it.",
                )
        return tuple(max(0.0, power) for power in watts)


def _is_numbers(text: str) -> bool:
    """Whether a line is a row already: at least two cells, and all of them numbers."""
    for separator in SEPARATORS:
        try:
            cells = cells_of(text, separator)
            numbers = [number(cell) for cell in cells]
        except ValueError:
            continue
        if len(cells) > 1 and None not in numbers:
            return True
    return False
