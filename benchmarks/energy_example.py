"""Makes the worked example of docs/energy.md: a real run beside fake sensors, and its figure.

    python benchmarks/energy_example.py

It wants a machine with nothing else to do, as any measurement net of idling; without one it says
what was withheld and leaves the page alone (--anyway writes it all the same). About a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from power_figure import figure

from edge_runtime.basis import Unavailable
from edge_runtime.consumption import Consumption, consumption
from edge_runtime.measurement import Measurement
from edge_runtime.phase_energy import PhaseEnergy

ROOT = Path(__file__).resolve().parent.parent
PAGE, FIGURE = ROOT / "docs" / "energy.md", ROOT / "docs" / "energy.svg"
BEGIN, END = "<!-- example: benchmarks/energy_example.py -->\n", "<!-- /example -->\n"
TREE = "python benchmarks/sensor_tree.py /dev/shm/fake --follow-cpu"
PROFILE = "edge profile -p 0 -n 0 -pg 4096,512 -o text --save fake.jsonl"
ENERGY = "edge energy fake.jsonl"


def edge(command: str, folder: Path) -> str:
    """What a command prints, below fake sensors."""
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", *command.split()[1:]],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "EDGE_SENSOR_ROOT": "/dev/shm/fake",
            "COLUMNS": "130",
        },
    )
    lines = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
    return f"$ {command}\n{lines}\n"


def by_hand(used: Consumption, decode: PhaseEnergy) -> str:
    """The figures of decoding, worked out from what the tree was told."""
    seconds, tokens, net = decode.window_s, decode.tokens, decode.net_j_per_token
    gross = 17 * seconds / tokens
    lines = [
        f"By hand: 15 W + 2 W for {seconds:.2f} s, over {tokens} tokens, are {gross:.4f} J/token",
        f" gross, and 3600 J over that {3600 / gross:.0f} tokens/Wh: decoding kept the processor",
        " busy all the time, or nearly.",
    ]
    if not isinstance(used.idle_w, Unavailable) and not isinstance(net, Unavailable):
        idle = used.idle_w.value
        lines.append(
            f" Idle it took 5 W + 0.5 W and a little for what else there is to do: {idle:.2f} W."
            f" Net that leaves {(17 - idle) * seconds / tokens:.4f} J/token."
        )
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anyway", action="store_true", help="write what was withheld, too")
    given = parser.parse_args()
    tree = subprocess.Popen(
        [sys.executable, str(ROOT / TREE.split()[1]), *TREE.split()[2:]], stdout=subprocess.DEVNULL
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            time.sleep(1.0)
            shown = edge(PROFILE, Path(scratch))
            shown += "\n" + edge(ENERGY, Path(scratch))
            record = Measurement.from_json(json.loads((Path(scratch) / "fake.jsonl").read_text()))
    finally:
        tree.send_signal(signal.SIGINT)
        tree.wait()
    used = consumption(record)
    assert isinstance(used, Consumption), used
    decode = used.decode
    assert isinstance(decode, PhaseEnergy), decode
    if isinstance(decode.net_j, Unavailable) and not given.anyway:
        sys.exit(f"{decode.net_j.reason}. {decode.net_j.remedy}")
    text = f"```text\n$ {TREE} &\n$ export EDGE_SENSOR_ROOT=/dev/shm/fake\n{shown}```\n\n"
    text += "![Power over time: idle, load, prefill and decode in turns, idle](energy.svg)\n\n"
    text += f"{by_hand(used, decode)}\n"
    page = PAGE.read_text("utf-8")
    block = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
    assert block.search(page), "the page has lost its markers"
    PAGE.write_text(block.sub(lambda _: BEGIN + text + END, page), "utf-8")
    FIGURE.write_text(figure(record), "utf-8")


if __name__ == "__main__":
    main()
