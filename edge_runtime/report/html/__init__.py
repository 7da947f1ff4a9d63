"""A report as one HTML file that needs no network: verdicts, tables and charts of saved records.

`page` puts the file together; `table`, `overview`, `methods` and `inferences` say what stands in
it, `scatter`, `speeds`, `spreads` and `courses` what is drawn. All of it is worked out from a
`Comparison` and the records in it: nothing is measured or read here but the page's own template and
the charting library's script. Whatever a stranger may have named reaches the page as text, never as
markup.
"""

from __future__ import annotations
