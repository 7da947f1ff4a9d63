"""Several levels of one model on one table: pure arithmetic on saved records.

`compare_records` makes a `Comparison` of them; `pareto`, `recommendation` and `gate` say what
follows. Nothing here is ever saved: a table is worked out from the records whenever it is shown.
"""

from __future__ import annotations

from .levels import row_labels
from .lots import alike_lots
from .quality_statistics import quality_of
from .rows import ComparedRow, Comparison, Estimate, Quality, Rate
from .table import compare_records

__all__ = [
    "ComparedRow",
    "Comparison",
    "Estimate",
    "Quality",
    "Rate",
    "alike_lots",
    "compare_records",
    "quality_of",
    "row_labels",
]
