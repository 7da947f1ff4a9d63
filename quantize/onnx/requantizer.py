"""The child process that quantizes a finished ONNX model into a folder that is there.

    {"source": ..., "folder": ..., "level": "int4", "options": {...}, "metadata": {...}}
    -> {"stage": "quantizing"} {"share": 0.4} ... {"done": true, "peak_bytes": ...}

It runs by itself because onnxruntime.quantization takes gigabytes, prints, and ends the process it
runs in on damaged models; so its memory is measured too. `requantization` judges.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from edge_runtime.artifact.onnx.graph import read_graph
from edge_runtime.errors import EdgeError

from ..child import Job, Say, serve
from .algorithms import OFFICIAL, OnnxQuantizeOptions


def _requantize(job: Job, say: Say) -> dict[str, object]:
    options = OnnxQuantizeOptions(
        **{
            **job["options"],
            "exclude": tuple(job["options"]["exclude"]),
            "calibration": Path(job["options"]["calibration"])
            if job["options"]["calibration"]
            else None,
        }
    )
    try:
        _write(job, options, say)
    except EdgeError as error:
        return {"error": [type(error).__name__, error.fact, error.cause, error.way_out]}
    except MemoryError:
        return {"memory": peak_bytes()}
    except OSError as error:
        return {"os_error": [error.errno or errno.EIO, error.strerror or str(error)]}
    return {"done": True, "peak_bytes": peak_bytes()}


def _write(job: Job, options: OnnxQuantizeOptions, say: Say) -> None:
    source, folder, level = Path(job["source"]), Path(job["folder"]), str(job["level"])
    if level == "int8-dynamic" or options.algorithm in OFFICIAL:
        from .official import write_official

        write_official(source, folder, level, options, job["metadata"], say)
        return
    from .block_rewriting import write_blocks
    from .outline import operators_of
    from .products import products_of

    graph = read_graph(source)
    operators = operators_of(source)
    matrices, _ = products_of(graph, operators, options.exclude)
    say({"stage": "quantizing"})
    write_blocks(
        graph,
        operators,
        matrices,
        folder,
        bits=options.bits(level),
        options=options,
        metadata=job["metadata"],
        progress=lambda share: say({"share": share}),
    )


def peak_bytes() -> int | None:
    """The most memory this process has had; None where the system does not say."""
    # On Linux the usage that getrusage tells begins with that of the process it was made from.
    try:
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    serve(_requantize)
