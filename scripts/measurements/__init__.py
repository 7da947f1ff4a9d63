"""How the raw collection of published measurements becomes `profiles/measurements.csv`."""
