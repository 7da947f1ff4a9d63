"""One vector for a text: an encoder's own pooled output, or its tokens' states pooled here.

It knows the engine's session and no text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BackendError, UnsupportedError
from . import configs
from .library import translated
from .signature import Signature

_CACHE_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 10: np.float16, 16: np.uint16}
"""numpy's types by ONNX's numbers; there is none for bfloat16, whose zeros are the same."""


def pooled(model: Path, states: Any) -> Any:
    """One vector, float32, of the states of a text's tokens (tokens, width)."""
    way = configs.pooling(model)
    if way == "first":
        return states[0]
    if way == "last":
        return states[-1]
    return states.max(axis=0) if way == "max" else states.mean(axis=0)


def encode(session: Any, signature: Signature, model: Path, tokens: list[int]) -> Any:
    """One vector, float32, of a text's tokens by an encoder.

    Raises UnsupportedError when the graph gives no states to pool.
    """
    kind = np.int32 if signature.integer_type == 6 else np.int64
    ids = np.array([tokens], kind)
    feeds = {signature.token_ids: ids}
    if signature.mask:
        feeds[signature.mask] = np.ones_like(ids)
    if signature.token_types:
        feeds[signature.token_types] = np.zeros_like(ids)
    if signature.positions:
        feeds[signature.positions] = np.arange(len(tokens), dtype=kind)[None]
    for part in signature.caches:  # a decoder without its output matrix
        feeds[part.past] = np.zeros(part.shape(0), _CACHE_TYPES[part.element_type])
    if signature.branch:
        feeds[signature.branch] = np.zeros(1, np.bool_)
    # What sentence-transformers exports as pooled is; a BERT's own pooler was made to classify.
    ready = signature.pooled if signature.pooled == "sentence_embedding" else ""
    wanted = ready or signature.hidden or signature.pooled
    if not wanted:
        raise UnsupportedError(f"{model.name} gives no states to make an embedding of.")
    try:
        value = session.run([wanted], feeds)[0]
    except Exception as error:  # the engine raises its own types, none of which is exported
        raise translated(error, f"ONNX Runtime failed to evaluate {model.name}.") from error
    states = np.asarray(value, np.float32)
    vector = pooled(model, states[0]) if states.ndim == 3 else states.reshape(-1)
    if not np.isfinite(vector).all():
        raise BackendError("The model gave an embedding that is not finite.")
    return vector
