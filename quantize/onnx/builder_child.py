"""The child process around onnxruntime-genai's model builder, which needs torch and transformers.

    {"folder": ..., "out": ..., "scratch": ..., "precision": "int4", "options": [...], "threads": 2}
    -> {"line": "Reading decoder layer 3"} ... {"done": true}, {"missing": "torch"} or
       {"failed": "..."}

It runs offline, and no code from a model's folder. `genai_builder` prepares the jobs and judges.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys

from ..child import Job, Say, serve

_BUILDER = "onnxruntime_genai.models.builder"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


def _build(job: Job, say: Say) -> dict[str, object]:
    # Before anything is imported that reads them. Nothing may be fetched, whatever a config names.
    os.environ |= dict.fromkeys(_OFFLINE, "1")
    if job["threads"] is not None:
        os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    os.chdir(job["scratch"])
    sys.argv = [
        _BUILDER,
        *("-i", job["folder"], "-o", job["out"], "-c", os.path.join(job["scratch"], "cache")),  # noqa: PTH118 - a job is texts
        *("-p", job["precision"], "-e", "cpu", "--extra_options", *job["options"]),
    ]
    try:
        with contextlib.redirect_stdout(_Lines(say)):
            runpy.run_module(_BUILDER, run_name="__main__", alter_sys=True)
    except ImportError as error:
        # runpy wraps what it finds missing on its way to the builder.
        missing = error.__cause__ or error
        if isinstance(missing, ModuleNotFoundError):
            return {"missing": missing.name or str(missing)}
        return {"failed": _words(error)}
    except SystemExit as ended:  # argparse's way to refuse
        if ended.code:
            return {"failed": f"It ended with exit status {ended.code}."}
    except Exception as error:  # another's program, which raises whatever it likes
        return {"failed": _words(error)}
    return {"done": True}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


class _Lines(io.TextIOBase):
    """Passes what is printed on, line by line."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._line = ""

    def write(self, text: str) -> int:
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            if line.strip():
                self._say({"line": line.strip()[:300]})
        return len(text)


if __name__ == "__main__":
    serve(_build)
