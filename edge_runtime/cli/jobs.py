"""What a long job shows while it works, and how it ends when it is interrupted.

One line on stderr with the share done, the rate and the time left, where stderr is a terminal;
nothing elsewhere. Measuring has its own (`progress`): nothing may be drawn while something is
timed, and here nothing is.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from ..report.plain import plain


@contextmanager
def job(label: str, work_bytes: int | None) -> Iterator[Callable[[float], None]]:
    """Gives a function that is told which share of a job over `work_bytes` is done, 0 to 1.

    None is work that is not counted in bytes: no rate is shown.
    """
    if not sys.stderr.isatty():
        yield lambda _share: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        *(() if work_bytes is None else (TransferSpeedColumn(),)),
        TimeRemainingColumn(),
    )
    total = max(work_bytes or 0, 1)
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bar:
        task = bar.add_task(plain(label, most=40), total=total)
        yield lambda share: bar.update(task, completed=share * total)


@contextmanager
def interruptible(left: str = "Nothing was left behind.") -> Iterator[None]:
    """Turns Ctrl-C into one line and the exit code 130, and lets SIGTERM clean up as well."""
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"edge: Interrupted. {left}", err=True)
        raise typer.Exit(130) from None
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # SIGTERM would end the process without running `finally`: gigabytes would stay behind.
    raise SystemExit(143)


def say(text: str) -> None:
    """Tells something on stderr, safe to show."""
    typer.echo(f"edge: {plain(text)}", err=True)


def told_download(name: str, size_bytes: int | None) -> None:
    """Announces a download and its size."""
    from ..units import format_bytes

    say(f"Fetching {name}" + (f" ({format_bytes(size_bytes)})." if size_bytes is not None else "."))
