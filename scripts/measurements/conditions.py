"""What the notes of a raw row say of how it was measured, in the closed vocabulary of the table.

The notes themselves are not carried over. profiles/published.py says what each condition means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Searched in the notes, small letters.
_NOTES = (
    (r"speculative decoding(?! off)|speculative \(|speculative decoding on", "speculative"),
    (r"drafting disabled|llama-speculative binary", "speculative-binary"),
    (r"partial (cpu )?offload", "partial-offload"),
    (r"pcie x1", "pcie-x1"),
    (r"throttl", "throttled"),
    (r"thermal \w+->serious|thermal serious->", "throttled"),
    (r"sustained", "sustained"),
    (r"wall time incl", "wall-time"),
    (r"integer", "integer"),
    (r"vendor-published|nvidia-published|hardware per repo readme", "vendor"),
    (r"user-submitted|community;|user test|self-reported", "user-submitted"),
    (r"secondary quote|quot(ed|ing) ", "secondary"),
    (r"\b2023 build|first version of", "old-build"),
    (r"custom backend|plain-c engine|patched llama\.cpp|xmem gemm", "custom-engine"),
    (r"does not name it|soc inferred|source says identical|variant unknown", "mapped-device"),
    (r"printed with \"~\"|prefill \"~|context approximate", "approximate"),
    (r"best case", "best-case"),
    (r"short prompt", "short-prompt"),
    (r"assumed 16-bit", "level-inferred"),
    (r"params x 2 bytes|(?<!file_)size = |size per |size from ", "size-computed"),
    (r"file size [\d.]+ gib from|size gib .* from same readme", "size-computed"),
    (r"size in gb as printed|size \d+ gb as printed|catalog value", "size-rounded"),
)  # fmt: skip
_NOTES_COMPILED = tuple((re.compile(pattern), name) for pattern, name in _NOTES)

_METERS = (
    (r"wall power", "wall"),
    (r"battery", "battery"),
    (r"powermetrics", "device"),
    (r"onboard \w+ rails|jetson-stats", "rails"),
    (r"package decode power", "package"),
    (r"board (power|average)", "board"),
    (r"as sampled by localscore", "gpu"),
)
_METERS_COMPILED = tuple((re.compile(pattern), name) for pattern, name in _METERS)

_POWER_MODE = re.compile(r"(?<![a-z0-9])(\d+(?:\.\d+)?)\s?w mode|(?<![a-z])(maxn)(?![a-z])")
_CLOCK = re.compile(r"(?<!max freq )(?<!max freq ~)(?<![\d.~])\d(?:\.\d+)? ghz")
_DRIVER = re.compile(r"env vulkan_(\w+)")
_PREFILL_THREADS = re.compile(r"pp\d+ with (\d+) threads")


def conditions(row: Mapping[str, str]) -> set[str]:
    """The conditions that the notes, the source and the date of a raw row tell."""
    notes = row.get("notes", "").lower()
    found = {name for pattern, name in _NOTES_COMPILED if pattern.search(notes)}
    if re.search(r"speculative (decoding )?off", notes):
        found.discard("speculative")
    if "speculative" in found:
        found.discard("speculative-binary")
    if "localmaxxing" in notes or "benchmark_cache.json" in row.get("source", ""):
        found.add("user-submitted")
    if re.search(r"quoting", row.get("source", "").lower()):
        found.add("secondary")
    if re.search(r"task long-context|at \d+k depth", notes):
        found.discard("short-prompt")
        if not row.get("context_depth"):
            found.add("deep-context")
    if "variant (sxm/pcie)" in notes:
        found.discard("mapped-device")
        if "a100" in row.get("device_id", "").lower():
            found.add("mapped-device")
    if re.match(r"20(1\d|2[0-3])(?!\d)", row.get("date", "")):
        found.add("old-build")
    if "mtp" in re.split(r"[^a-z]+", row.get("model", "").lower()):
        found.add("mtp-model")
    found |= _valued(row, notes)
    return found


_STREAMS = re.compile(r"(?<![a-z_])(?:batch(?: size)?|concurrency|parallel|streams?)[ =:]+(\d+)")
_MOST_STREAMS = 64
"""A larger batch is llama.cpp's, of the tokens of one prompt."""


def not_one_measurement(row: Mapping[str, str]) -> str:
    """A sentence when the notes say that nobody measured one stream of tokens here, else ""."""
    notes = row.get("notes", "").lower()
    if re.search(r"(?<!not )\bestimated?\b|\bprojected\b|\bsimulated\b", notes) and (
        "verified" not in notes
    ):
        return "Is an estimate by its own words, and no measurement."
    streams = max((int(found) for found in _STREAMS.findall(notes)), default=1)
    if 1 < streams <= _MOST_STREAMS:
        return f"Is the sum of {streams} streams; what one of them had is not published."
    return ""


def _valued(row: Mapping[str, str], notes: str) -> set[str]:
    found: set[str] = set()
    if mode := _POWER_MODE.search(notes):
        found.add(f"power-mode:{mode[1] + 'W' if mode[1] else 'MAXN'}")
    if _CLOCK.search(notes):
        found.add("clock-limited")
    if driver := _DRIVER.search(notes):
        found.add(f"driver:{driver[1]}")
    threads = _PREFILL_THREADS.search(notes)
    if threads and threads[1] != row.get("threads", ""):
        found.add(f"prefill-threads:{threads[1]}")
    if row.get("power_w") or row.get("energy_j_per_token"):
        meter = next((name for pattern, name in _METERS_COMPILED if pattern.search(notes)), "")
        if meter:
            found.add(f"power-meter:{meter}")
    return found
