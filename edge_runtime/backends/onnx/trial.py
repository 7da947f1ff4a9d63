"""Trial evaluations of a graph whose cache grows: whether it can go on, and how many at a time.

Exports that were traced with one token after a past have lost what masks the future among several;
they give plausible nonsense for those. Nothing in a graph declares that, so it is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import UnsupportedError
from .library import complaint
from .signature import Signature

_EXACT, _ROUGH = 1e-4, 1e-2
"""Differences, in parts of the range of the logits, that rounding alone does not make: in float32,
and in shorter types."""


class Trial:
    """Evaluates a few made-up tokens, each time from an empty cache that grows.

    `bound` gives a binding for token ids, a mask and how many tokens come before; `tensor` memory
    for a cache.
    """

    def __init__(
        self,
        session: Any,
        signature: Signature,
        *,
        device: str,
        bound: Callable[[Any, Any, int], Any],
        tensor: Callable[[list[int], int], Any],
    ) -> None:
        self._session = session
        self._signature = signature
        self._device = device
        self._bound = bound
        self._tensor = tensor

    def go_on(self, file: str) -> None:
        """Evaluates two tokens, then one after them. Raises UnsupportedError when that fails."""
        try:
            self._evaluated((0, 1), (2,))
        except Exception as error:  # the engine raises its own types, none of which is exported
            raise UnsupportedError(
                f"{file} cannot go on after its own cache.",
                cause=complaint(error),
                way_out="Convert the model again, for this provider.",
            ) from error

    def sees_ahead(self) -> bool:
        """Whether a token's logits depend on one that comes after it in the same batch.

        False also where a graph gives logits of the last token alone, which show nothing.
        """
        rows = []
        for second in (2, 3):
            logits = self._evaluated((0,), (1, second))
            if logits.data_type() == "tensor(bfloat16)" or logits.shape()[1] != 2:
                return False
            rows.append(np.asarray(logits.numpy()[0, 0], np.float32))
        limit = _EXACT if logits.data_type() == "tensor(float)" else _ROUGH
        return bool(np.abs(rows[0] - rows[1]).max() > limit * np.ptp(rows[0]))

    def _evaluated(self, *batches: tuple[int, ...]) -> Any:
        """The logits of the last of these batches, each evaluated after those before it."""
        names = self._signature
        kind = np.int32 if names.integer_type == 6 else np.int64
        cache = [self._tensor(part.shape(0), part.element_type) for part in names.caches]
        held = 0
        for batch in batches:
            ids = np.array([batch], kind)
            mask = np.ones((1, held + len(batch)), kind)
            io = self._bound(ids, mask, held)
            for part, value in zip(names.caches, cache, strict=True):
                io.bind_ortvalue_input(part.past, value)
                io.bind_output(part.present, self._device)
            io.bind_output(names.logits, "cpu")
            self._session.run_with_iobinding(io)
            *cache, logits = io.get_outputs()
            held += len(batch)
        return logits
