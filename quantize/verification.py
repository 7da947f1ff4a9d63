"""A GGUF file put to the test: every value finite, and one token decoded by llama.cpp.

The engine runs in a process of its own, which a damaged file may end without ending this one. What
a model says is not judged, only that it says something finite.
"""

from __future__ import annotations

import re
from pathlib import Path

from edge_runtime.artifact.split import read_parts
from edge_runtime.errors import BackendError, EdgeError, FormatError

from .child import Child

_EMBEDS_ONLY = frozenset({"bert"})
"""Architectures whose models give no logits, only an embedding."""
_INVALID = re.compile(r"tensor '(?P<name>[^']+)' has invalid data")


def verify(path: Path) -> None:
    """Has llama.cpp load a model, check all its values and decode one token.

    `path` is a file, or any part of a split one. Raises FormatError for a damaged file and values
    that are no finite numbers, BackendError when llama.cpp refuses the model, WorkerError when its
    process dies, EngineMissingError when it cannot be loaded.
    """
    first = read_parts(path)[0]
    architecture = first.metadata.get("general.architecture")
    job = {"path": str(first.path.absolute()), "embeds": architecture in _EMBEDS_ONLY}
    with Child("first_token") as child:
        answer = next(child.ask(job), None)
        if answer is None:
            raise child.death()
    if "refused" in answer:
        raise _refusal(str(answer["refused"]))
    if answer.get("finite") is not True:
        raise FormatError(
            "The converted model does not compute finite numbers.",
            cause="Its first token's logits are infinite or no numbers.",
            way_out="Convert to BF16 or F32; if that helps, values overflow half precision.",
        )


def _refusal(reason: str) -> EdgeError:
    if found := _INVALID.search(reason):
        return FormatError(
            f"The tensor {found['name']} holds values that are no finite numbers.",
            cause="The file is damaged, or so was what it was made from.",
            way_out="Convert it again, or download it again.",
        )
    return BackendError("llama.cpp does not load the model.", cause=f"It says: {reason}")
