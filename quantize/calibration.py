"""A model reads a text, and which inputs it leaned on is written down: an importance matrix made.

The text decides what a quantized model will be spared: it should be like what the model is for,
and it must not be the text the result is judged on, or the result looks better than it is.
`check_apart` refuses that where it can be seen. What is measured equals what `llama-imatrix`
measures on the same text at the same context; the file serves both. The engine runs in a process of
its own (`calibrator`), which a damaged model may end without ending this one.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edge_runtime.artifact import Artifact
from edge_runtime.errors import (
    BackendError,
    EdgeError,
    FormatError,
    UnsupportedError,
    UsageError,
)
from edge_runtime.units import format_bytes

from . import imatrix
from .child import Child
from .imatrix import Imatrix, ImportanceEntry
from .writers.whole_file import check_destination

CONTEXT_TOKENS = 512
"""How long the passages are that a text is cut into: llama-imatrix's own default."""
_LEAST_CONTEXT_TOKENS = 32
_LEAST_PASSAGES = 2
_MOST_TEXT_BYTES = 16 * 1024**2
"""A model of 0.5 billion parameters reads this for days; its tokens take some hundred MiB."""
_READING_SHARE = 0.99
"""How much of the work is done when the text is read; the rest is writing."""
_PIECE_CHARACTERS, _PIECES, _MOST_SHARED = 80, 200, 0.1


def calibrate(
    model: str | os.PathLike[str],
    text: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    context_tokens: int = CONTEXT_TOKENS,
    most_chunks: int | None = None,
    process_output: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Imatrix:
    """Measures the importance matrix of a GGUF model on a text file, writes it and reads it back.

    The text (UTF-8, at least two passages of it) is cut into passages of `context_tokens` tokens,
    or of the model's own context where that is shorter; each is read from an empty context, and
    `most_chunks` are read at most. Use text like what the model is for, and never the text that the
    quantized model will be scored on: see `check_apart`. `process_output` measures the output
    matrix as well, which llama.cpp's levels do not need. `threads` None takes all processors.
    `progress` is told the part of the work done, 0 to 1; what it raises stops the work at once.

    The file is whole or not there. Raises UsageError for a text that is too short or no text,
    and for a file that is there unless `overwrite`; UnsupportedError for random weights, a model
    that writes no text, and an engine whose activations cannot be reached; FormatError for weights
    that are no numbers; DiskError, BackendError, WorkerError and EngineMissingError.
    """
    source, words, target = Path(model), Path(text), Path(out)
    if context_tokens < _LEAST_CONTEXT_TOKENS or (most_chunks is not None and most_chunks < 1):
        raise UsageError(
            f"{context_tokens} tokens a passage, {most_chunks} passages: nothing can be measured.",
            way_out=f"Read passages of {_LEAST_CONTEXT_TOKENS} tokens or more, and one or more.",
        )
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot read a text.", way_out="Give 1 or more.")
    artifact = Artifact.open(source)
    _check_model(artifact)
    read_text(words)
    check_destination(target, overwrite=overwrite)
    if target.exists() and any(target.samefile(path) for path in (*artifact.paths, words)):
        raise UsageError(
            f"{target} is what the importance matrix is made of.", way_out="Choose another name."
        )
    context = min(context_tokens, artifact.shape.context_tokens or context_tokens)
    processors = _processors()
    job = {
        "model": str(artifact.path.absolute()),
        "text": str(words.absolute()),
        "context_tokens": context,
        "most_chunks": most_chunks,
        "output": process_output,
        "threads": min(threads or processors, processors),
    }
    chunks, entries = _measured(job, words, progress)
    _check_entries(artifact, entries)
    imatrix.write(target, entries, datasets=(words.name,), chunks=chunks, chunk_tokens=context)
    if progress is not None:
        progress(1.0)
    return imatrix.read(target)


def check_apart(calibration: str, evaluation: str, *, names: tuple[str, str]) -> None:
    """Refuses to judge a model on the text it was calibrated on.

    200 pieces of the evaluation text, spread evenly and of 80 characters each, are looked for in
    the calibration text, differences of white space aside; a tenth of them found there is too much.
    `names` are those of the two texts. Raises UsageError.
    """
    known, asked = (" ".join(text.split()) for text in (calibration, evaluation))
    if not asked:
        return
    last = max(len(asked) - _PIECE_CHARACTERS, 0)
    starts = sorted({last * i // (_PIECES - 1) for i in range(_PIECES)})
    found = sum(asked[at : at + _PIECE_CHARACTERS] in known for at in starts)
    if found > _MOST_SHARED * len(starts):
        raise UsageError(
            f"The calibration text {names[0]} holds {100 * found / len(starts):.0f} % of the text"
            f" {names[1]} that the result is scored on.",
            cause="A model calibrated on the very text it is judged by looks better than it is.",
            way_out="Calibrate on another text of the same kind.",
        )


def read_text(path: Path) -> str:
    """A calibration text. Raises UsageError when it is missing, no UTF-8, empty or very long."""
    try:
        size = path.stat().st_size
        if not path.is_file():  # a device may never end
            raise UsageError(
                f"{path} is no file.",
                cause="A calibration text is read more than once.",
                way_out="Write the text into a file and name that.",
            )
        if size > _MOST_TEXT_BYTES:
            raise UsageError(
                f"{path} is {format_bytes(size)} long.",
                cause=f"A calibration text of at most {format_bytes(_MOST_TEXT_BYTES)} is read.",
                way_out="Give a part of it; some hundred KiB are plenty.",
            )
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read.", cause=f"{error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no UTF-8 text.", cause=f"Byte {error.start} of it is none."
        ) from None
    if not text.strip():
        raise UsageError(f"{path} is empty.", way_out="Give some pages of what the model is for.")
    return text


def _processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone tells
        return os.cpu_count() or 1


def _check_model(artifact: Artifact) -> None:
    name = artifact.path.name
    if artifact.format != "gguf":
        raise UnsupportedError(
            f"{name} is no GGUF file.",
            cause="Importance matrices are for llama.cpp's quantizer.",
            way_out="Give the GGUF file of the model.",
        )
    if artifact.synthetic:
        raise UnsupportedError(
            f"{name} has random weights.",
            cause="It was made to be timed: no input of it matters more than another.",
            way_out="Give a trained model.",
        )
    if artifact.shape.encoder or artifact.tokenizer_model in ("none", "no_vocab"):
        raise UnsupportedError(
            f"{name} cannot be calibrated on a text.",
            cause="It is an encoder, which writes none."
            if artifact.shape.encoder
            else "It has no vocabulary, so text cannot become tokens.",
            way_out="Give a model that reads and writes text.",
        )


def _measured(
    job: Mapping[str, object], text: Path, progress: Callable[[float], None] | None
) -> tuple[int, tuple[ImportanceEntry, ...]]:
    """Has the child read the text: how many passages there were, and what was measured."""
    chunks, done, entries = 0, 0, []
    with Child("calibrator") as child:
        for message in child.ask(job):
            if "chunks" in message:
                chunks = _whole(message["chunks"])
            elif "tokens" in message:
                done += _whole(message["tokens"])
                if progress is not None:
                    total = max(1, chunks * _whole(job["context_tokens"]))
                    progress(_READING_SHARE * min(1.0, done / total))
            elif "entry" in message:
                entries.append(_entry(message))
            elif "done" in message:
                return chunks, tuple(entries)
            else:
                raise _refusal(message, job, text)
        raise child.death()


def _entry(message: Mapping[str, object]) -> ImportanceEntry:
    counts = message["counts"]
    assert isinstance(counts, list)
    sums = np.frombuffer(base64.b64decode(str(message["sums"])), "<f4")
    return ImportanceEntry(
        name=str(message["entry"]),
        sums=sums.reshape(len(counts), -1),
        counts=np.array(counts, np.float32),
    )


def _check_entries(artifact: Artifact, entries: tuple[ImportanceEntry, ...]) -> None:
    """Holds what was measured against the file. Raises BackendError: the engine was misread."""
    columns = {t.name: t.dims[0] * int(np.prod(t.dims[2:], dtype=object)) for t in artifact.tensors}
    odd = next((e for e in entries if columns.get(e.name) != e.sums.size), None)
    if odd is None and entries:
        return
    raise BackendError(
        "What llama.cpp computed could not be told apart.",
        cause="No matrix of the model was seen at work."
        if odd is None
        else f"{odd.sums.size} inputs were seen for {odd.name}, which the file has otherwise.",
        way_out="Make the importance matrix with llama-imatrix and give it: --imatrix FILE",
    )


def _refusal(message: Mapping[str, object], job: Mapping[str, object], text: Path) -> EdgeError:
    """Words what the child could not do."""
    if "tokens_short" in message:
        context = _whole(job["context_tokens"])
        return UsageError(
            f"{text} is too short to calibrate with.",
            cause=f"It has {message['tokens_short']} tokens; {_LEAST_PASSAGES} passages of"
            f" {context} make {_LEAST_PASSAGES * context}.",
            way_out="Give some more pages of what the model is for.",
        )
    if "unreachable" in message:
        return UnsupportedError(
            "The installed llama.cpp does not show what goes into its matrices.",
            cause=str(message["unreachable"]),
            way_out="Make the importance matrix with llama-imatrix and give it: --imatrix FILE",
        )
    if "unsound" in message:
        return FormatError(
            f"{job['model']} cannot be calibrated.",
            cause=str(message["unsound"]),
            way_out="Convert or download the model again; BF16 or F32 where F16 overflows.",
        )
    return BackendError(
        "llama.cpp does not run the model.", cause=f"It says: {message.get('refused', '')}"
    )


def _whole(value: object) -> int:
    return int(str(value))
