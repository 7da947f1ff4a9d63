"""A model of any kind run once by ONNX Runtime, in a process of its own.

    {"path": "model.onnx", "cache": [2, 64]} -> {"finite": true} or {"refused": "..."}

A damaged file may end the process it is loaded in. What a model computes is not judged, only that
it is finite.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.errors import BackendError, FormatError

from ..child import Child, Job, serve
from .feeds import cache_of, feeds


def run_once(model: Path) -> None:
    """Has ONNX Runtime load a model and run it once, a language model with one token.

    Raises FormatError for results that are no finite numbers, BackendError when ONNX Runtime
    refuses the model, WorkerError when its process dies, EngineMissingError when it is missing.
    """
    with Child("onnx.trial", engine="ONNX Runtime", package="onnxruntime") as child:
        job = {"path": str(model.absolute()), "cache": cache_of(model)}
        answer = next(child.ask(job), None)
        if answer is None:
            raise child.death()
    if "refused" in answer:
        raise BackendError(
            "ONNX Runtime does not run the model.", cause=f"It says: {answer['refused']}"
        )
    if answer.get("finite") is not True:
        raise FormatError(
            "The model does not compute finite numbers.",
            cause="What it computes first is infinite or no number.",
            way_out="Try another level, or the source model itself.",
        )


def _run(job: Job) -> dict[str, object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(job["path"], options, ["CPUExecutionProvider"])
        values = feeds(session, [0], job["cache"])
        found = session.run([session.get_outputs()[0].name], values)[0]
    except Exception as error:  # ONNX Runtime raises types of its own, one for each kind of refusal
        return {"refused": " ".join(str(error).split())[:300]}
    floats = np.issubdtype(found.dtype, np.floating)
    return {"finite": not floats or bool(np.isfinite(found).all())}


if __name__ == "__main__":
    serve(lambda job, _say: _run(job))
