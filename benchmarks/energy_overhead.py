"""What reading energy sensors costs: decode rates with and without it, run by run in one process.

    python benchmarks/energy_overhead.py [--models 15m] [--machines laptop] [--rounds 20]

The sensors are real readers on a tree of files that does not change, polled as on hardware: of a
laptop three RAPL counters at 10 Hz and the battery at 1 Hz, of a Jetson the module's rail at 20 Hz
and two parts of it. They are read where a measurement reads them, in the parent of the measured
process, during every other repetition; the two of a pair lie side by side in time, and every second
pair begins without. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import sensor_tree
import shapes

from edge_runtime import statistics
from edge_runtime.artifact import Artifact
from edge_runtime.measurement import SessionOptions, decode_workload
from edge_runtime.profiler import Plan, Progress, measure
from edge_runtime.profiler.energy.discovery import ROOT_VARIABLE, discover
from edge_runtime.profiler.observer import Observer

_RAILS = (("VDD_IN", 5000, 2400), ("VDD_CPU_GPU_CV", 5000, 900), ("VDD_SOC", 5000, 500))


class Switch:
    """Reads the sensors of a tree during those repetitions that are to have them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reading: contextlib.ExitStack = contextlib.ExitStack()
        self._observers: list[Observer] = []

    def on_event(self, progress: Progress) -> None:
        """Switches over between two repetitions, while nothing is timed."""
        self._reading.close()
        if progress.stage == "running" and is_read(progress.runs):
            discovery = discover(self._root)
            self._reading.callback(discovery.close)
            observer = Observer(discovery.sensors)
            self._reading.enter_context(observer)
            self._observers.append(observer)

    def cost(self) -> dict[str, float | int]:
        """How many readings there were, and the CPU time of making them over wall time."""
        energies = [observer.energy(()) for observer in self._observers]
        shares = [e.sampler_share for e in energies if e.sampler_share is not None]
        return {
            "sensors": len(energies[0].series),
            "readings": sum(len(series.joules) for e in energies for series in e.series),
            "failures": sum(series.failures for e in energies for series in e.series),
            "sampler_share": statistics.median(shares),
        }


def is_read(run: int) -> bool:
    """Whether the sensors are read during this repetition: on off, off on, on off, ..."""
    return run % 4 in (0, 3)


def write_laptop(root: Path) -> None:
    """An Intel package with its cores and memory, on battery."""
    watts = sensor_tree.steady(15.0, 2.0)
    with sensor_tree.SensorTree(root, watts, discharging=True):
        pass


def write_jetson(root: Path) -> None:
    """A power monitor with the module's own rail and two of its parts."""
    folder = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina3221\n")
    for channel, (label, millivolts, milliamps) in enumerate(_RAILS, start=1):
        (folder / f"in{channel}_label").write_text(f"{label}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliamps}\n")
        (folder / f"shunt{channel}_resistor").write_text("5000\n")


MACHINES: dict[str, Callable[[Path], None]] = {"laptop": write_laptop, "jetson": write_jetson}


def compare(
    artifact: Artifact, tokens: int, threads: int, rounds: int, root: Path
) -> dict[str, object]:
    """Ratios of the rate with the sensors read to the rate without, one for each pair."""
    switch = Switch(root)
    plan = Plan(
        min_runs=2 * rounds, max_runs=2 * rounds, target_relative_half_width=0.0,
        budget_s=3600, timeout_s=7200,
    )  # fmt: skip
    record = measure(
        artifact,
        decode_workload(tokens),
        SessionOptions(threads=threads),
        plan=plan,
        on_event=switch.on_event,
    )
    rates = record.decode_samples
    ratios = []
    for first in range(0, 2 * rounds, 2):
        pair = {is_read(run): rates[run] for run in (first, first + 1)}
        ratios.append(pair[True] / pair[False])
    mean = statistics.confidence_interval(ratios)
    return {
        "model": artifact.name,
        "machine": root.name,
        "threads": threads,
        "tokens": tokens,
        "decode_tokens_per_s": statistics.median(rates),
        "ratio_on_over_off": statistics.median(ratios),
        "ratio_middle_half": [statistics.percentile(ratios, p) for p in (25, 75)],
        "ratio_mean_95": [mean.low, mean.value, mean.high] if mean is not None else None,
        "ratios": ratios,
        "noise": list(record.noise.flags),
        **switch.cost(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="15m,qwen2.5-0.5b")
    parser.add_argument("--machines", default=",".join(MACHINES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        # The measurement itself finds no sensor; the switch reads them in its stead.
        os.environ[ROOT_VARIABLE] = str(scratch)
        for name in given.models.split(","):
            artifact = shapes.artifact(name, "Q4_K_M", scratch)
            tokens = 512 if name == "15m" else 64
            for machine in given.machines.split(","):
                tree = scratch / machine
                if not tree.exists():
                    tree.mkdir()
                    MACHINES[machine](tree)
                figures.append(compare(artifact, tokens, given.threads, given.rounds, tree))
    print(json.dumps({"benchmark": "energy_overhead", "figures": figures}))


if __name__ == "__main__":
    main()
