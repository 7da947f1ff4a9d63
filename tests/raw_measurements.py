"""A raw row of a published measurement, and what cleaning makes of it when it is changed."""

from profiles.published import PublishedRow
from scripts.measurements.cleaning import RAW_COLUMNS, Refused, clean
from scripts.measurements.devices import DeviceFacts

RAW = {
    "device_id": "jetson-agx-orin-64gb",
    "backend": "llama.cpp CUDA",
    "model": "Llama 3.1 8B Instruct",
    "params_b": "8.03",
    "quant": "Q4_K_M",
    "file_size_gb": "4.9177",
    "context_depth": "0",
    "prefill_tok_s": "1001.7",
    "decode_tok_s": "27.1",
    "date": "2026-08-05",
    "source": "https://example.org/table",
    "model_type": "dense",
    "source_id": "EX",
}


def raw(**changes: str) -> dict[str, object]:
    return {**dict.fromkeys(RAW_COLUMNS, ""), **RAW, **changes}


def kept(devices: dict[str, DeviceFacts | float] | None = None, **changes: str) -> PublishedRow:
    rows, refused = clean([raw(**changes)], devices or {})
    assert not refused, refused[0].reason
    return rows[0]


def refused(devices: dict[str, DeviceFacts | float] | None = None, **changes: str) -> Refused:
    rows, found = clean([raw(**changes)], devices or {})
    assert not rows
    return found[0]
