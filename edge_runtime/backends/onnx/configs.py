"""What the JSON files beside an ONNX model say that only running it needs: roles, ends, pooling.

Finding and bounding the files is `artifact`'s; here are the few keys. It knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...artifact.checkpoint import read_config
from ...artifact.onnx.folder import side_file

_POOLING = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}


def beside(model: Path, name: str) -> Mapping[str, Any]:
    """The JSON object in that file beside a model, empty when there is none. Raises FormatError."""
    path = side_file(model, name)
    return {} if path is None else read_config(path)


def section(value: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The object inside an object inside ..., empty where the road ends."""
    for key in keys:
        inner = value.get(key)
        value = inner if isinstance(inner, Mapping) else {}
    return value


def roles(model: Path) -> dict[str, str]:
    """Which name a `genai_config.json` gives to each role of an input or output."""
    decoder = section(beside(model, "genai_config.json"), "model", "decoder")
    named = {**section(decoder, "inputs"), **section(decoder, "outputs")}
    return {role: name for role, name in named.items() if isinstance(name, str)}


def special_text(model: Path, name: str) -> str:
    """The text of the `bos` or `eos` token, empty when the tokenizer's config names none."""
    found = beside(model, "tokenizer_config.json").get(f"{name}_token")
    if isinstance(found, Mapping):
        found = found.get("content")
    return found if isinstance(found, str) else ""


def end_ids(model: Path) -> tuple[int, ...]:
    """The token ids that end a text by any of the configs."""
    configs = (
        section(beside(model, "genai_config.json"), "model"),
        beside(model, "generation_config.json"),
        beside(model, "config.json"),
    )
    found: list[int] = []
    for config in configs:
        stated = config.get("eos_token_id")
        numbers = stated if isinstance(stated, list) else [stated]
        found += [n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
    return tuple(sorted(set(found)))


def pooling(model: Path) -> str:
    """How token states become one vector: `mean`, `first`, `last` or `max`.

    It stands in `1_Pooling/config.json`, the layout of sentence-transformers; the mean without one.
    """
    config = beside(model, "1_Pooling/config.json")
    return next((way for key, way in _POOLING.items() if config.get(key) is True), "mean")
