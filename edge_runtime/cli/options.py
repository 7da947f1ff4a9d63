"""Options that several verbs read alike."""

from __future__ import annotations

from typing import cast, get_args

from ..errors import UsageError
from ..measurement import KvType


def kv_type(text: str) -> KvType:
    """The KV cache type of that name. Raises UsageError listing the known ones."""
    if text not in get_args(KvType):
        raise UsageError(
            f"{text!r} is no type of a KV cache.",
            way_out=f"Known: {', '.join(get_args(KvType))}.",
        )
    return cast(KvType, text)
