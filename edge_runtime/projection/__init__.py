"""What a model would do on a device that nobody ran it on: an interval, its cause, its assumptions.

`project` takes a planned model and a device profile and gives a `Projection`. Time per token is a
sum of physical terms whose coefficients are learnt from published measurements and, where there are
some, from the device's own. Nothing is run, read or timed here, and nothing projected is ever
called measured.
"""

from .calibration import Calibration, OwnRow
from .coefficients import Coefficients, read_coefficients, shipped
from .projector import project
from .records import Nearness, Projection, TimeShare

__all__ = [
    "Calibration",
    "Coefficients",
    "Nearness",
    "OwnRow",
    "Projection",
    "TimeShare",
    "project",
    "read_coefficients",
    "shipped",
]
