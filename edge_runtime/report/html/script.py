"""Plotly's own script, as the installed package has it, compressed for the page."""

from __future__ import annotations

import base64
import functools
import gzip
import importlib.resources
import re
from dataclasses import dataclass

from ...errors import EngineMissingError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotlyScript:
    """The minified script: its version, and its bytes as gzip in base64.

    It has 4.8 MB; so it has 2.0, and none of the addresses that are in it stands in the page.
    """

    version: str
    packed: str


@functools.lru_cache(maxsize=1)
def plotly_script() -> PlotlyScript:
    """The script, read and compressed once, which takes 0.2 s. Raises EngineMissingError."""
    try:
        script = importlib.resources.files("plotly").joinpath("package_data", "plotly.min.js")
        code = script.read_bytes()
    except (ModuleNotFoundError, OSError) as error:
        raise EngineMissingError(
            "The script that draws the charts is not installed.",
            cause=f"{error}.",
            way_out="pip install 'plotly>=6'",
        ) from error
    version = re.search(rb"plotly\.js v([0-9][0-9A-Za-z.+-]*)", code[:400])
    return PlotlyScript(
        version=version[1].decode() if version else "",
        # No time stamp in it: the same records make the same page.
        packed=base64.b64encode(gzip.compress(code, 6, mtime=0)).decode(),
    )
