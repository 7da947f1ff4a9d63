"""The `edge` command: its verbs, and the one place where errors become exit codes.

Verb modules import only the vocabulary when loaded and everything heavy when called, so that
`edge --help` stays quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from .. import __version__
from ..errors import EdgeError
from ..report.plain import plain
from .calibrate import calibrate
from .check import check
from .compare import compare
from .convert import convert
from .cost import cost
from .devices import devices
from .doctor import doctor
from .energy import energy
from .fit import fit
from .inspect import inspect
from .models import models
from .plan import plan
from .profile import profile
from .quantize import quantize
from .report import report
from .run import run

app = typer.Typer(
    name="edge",
    help="Will this small language model run on this device, and what will it cost?",
    epilog="Exit codes: 0 viable or done, 1 not viable, 2 usage, 3 borderline, 4 error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(help="Say which models this device can run, how fast, and how sure that is.")(check)
app.command(help="Say which models read on a device that is not here, the largest first.")(fit)
app.command(help="Say what hardware a model needs, and which devices have it.")(plan)
app.command(help="Run a model: complete a prompt, or chat.")(run)
app.command(help="Measure a model: tokens/s, latency, memory, energy.")(profile)
app.command(help="Compare levels: speed, memory, energy and quality on one table.")(compare)
app.command(help="Make one page of saved results: verdict, table, charts.")(report)
app.command(help="Say what a measured model costs in energy, and on a battery.")(energy)
app.command(help="Say what tokens cost: here, at an API, on a rented GPU, on a battery.")(cost)
app.command(help="Make a GGUF file or an ONNX folder of a Hugging Face checkpoint.")(convert)
app.command(help="Make a GGUF file or an ONNX model smaller, at one level or several.")(quantize)
app.command(help="Show what a model file or a checkpoint is.")(inspect)
app.command(help="List the models that are already on this disk.")(models)
app.command(help="Make a device of your own of what was measured on it.")(calibrate)
app.add_typer(devices, name="devices", help="List the devices that are known, or show one.")
app.command(help="Show what was detected, what is unavailable, why, and the remedy.")(doctor)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edge-runtime {__version__}")
        raise typer.Exit


@app.callback()
def _edge(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Nothing is done before a verb."""


def main() -> None:
    """Runs the command line and ends the process with its exit code.

    An `EdgeError` becomes its message on stderr; a defect of ours becomes one sentence too, with
    the traceback behind EDGE_DEBUG=1.
    """
    try:
        app()
    except EdgeError as error:
        if os.environ.get("EDGE_DEBUG"):
            traceback.print_exc()
        _complain(error.fact, error.cause, error.way_out)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("Interrupted.")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe went away; what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if os.environ.get("EDGE_DEBUG"):
            traceback.print_exc()
        _complain(f"{error.filename or 'A file'} cannot be used.", f"{error.strerror or error}.")
        sys.exit(EdgeError.exit_code)
    except Exception as error:  # the last boundary: a stranger must never meet a traceback
        if os.environ.get("EDGE_DEBUG"):
            raise
        _complain(
            f"This is a defect of edge-runtime: {type(error).__name__}: {error}.",
            "",
            "Run it again with EDGE_DEBUG=1 and report what it prints.",
        )
        sys.exit(4)


def _complain(fact: str, cause: str = "", way_out: str = "") -> None:
    # Messages quote names from files that anyone may have written.
    lines = [line for part in (f"edge: {fact}", cause, way_out) for line in part.splitlines()]
    typer.echo("\n      ".join(map(plain, lines)), err=True)
