"""How well projections hold: scores, rivals, choice of calibrating runs, tables.

All of it is arithmetic on published rows and on what was projected for them; it reads no file and
learns nothing. `benchmarks/projection.py` puts it together.
"""
