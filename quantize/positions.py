"""Metadata keys of how a model counts positions: rotary settings some families state, windows.

What most families state of them is in `parameters`. Knows no tensor; the factors per frequency of
long contexts are tensors.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.artifact.config import read_window
from edge_runtime.artifact.config_rope import Rope, read_rope
from edge_runtime.artifact.config_values import ConfigValues
from edge_runtime.artifact.keys import PLAIN_THETA, usual_windows

from . import parameters
from .parameters import Pair


def unusual_rope(architecture: str, config: ConfigValues) -> Iterator[Pair]:
    """Yields the rotary settings where they are not what llama.cpp assumes of a silent file.

    That is a base of 10000 and no scaling; files of some families state nothing else.
    """
    for key, value in parameters.rope(architecture, config):
        if not (key.endswith(".rope.freq_base") and value == PLAIN_THETA):
            yield key, value


def rotating(architecture: str, config: ConfigValues) -> Iterator[Pair]:
    """Yields how many dimensions of a head rotate."""
    yield f"{architecture}.rope.dimension_count", _read(architecture, config).dimensions


def long_rope(architecture: str, config: ConfigValues) -> Iterator[Pair]:
    """Yields the settings of Phi-3's rotary positions.

    The context it was first trained on always; for longer ones what attention is scaled by.
    """
    found = _read(architecture, config)
    yield f"{architecture}.rope.dimension_count", found.dimensions
    for key, value in (
        ("rope.freq_base", found.theta),
        ("rope.scaling.original_context_length", found.original_context_tokens),
        ("rope.scaling.attn_factor", found.scaling.attention_factor if found.scaling else None),
    ):
        if value is not None:
            yield f"{architecture}.{key}", value


def windows(architecture: str, config: ConfigValues) -> Iterator[Pair]:
    """Yields the attention window; which layers have it, where the loader would assume others."""
    layers = config.count("num_hidden_layers", most=512)
    window, windowed = read_window(config, architecture, layers)
    if window is None:
        return
    yield f"{architecture}.attention.sliding_window", window
    if windowed != usual_windows(architecture, layers, window):
        yield f"{architecture}.attention.sliding_window_pattern", windowed


def windowed_base(architecture: str, config: ConfigValues) -> Iterator[Pair]:
    """Yields the base of the rotary frequencies in windowed layers."""
    theta = _read(architecture, config).theta_sliding
    if theta is not None:
        yield f"{architecture}.rope.freq_base_swa", theta


def _read(architecture: str, config: ConfigValues) -> Rope:
    return read_rope(
        config,
        architecture,
        hidden=config.count("hidden_size", most=2**18),
        heads=config.count("num_attention_heads", most=2**12),
        head_dim=parameters.head_dim_of(config),
    )
