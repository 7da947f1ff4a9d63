"""What a file that is called like an ONNX model is instead, told by its first bytes.

An ONNX file has no mark of its own: it is a message of fields from its first byte on. So what is
known here are the marks of others that end up under its name.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import FormatError, UnsupportedError

START_BYTES = 64

_PAGE = ("a web page", "Download the file itself, not the page about it.")
_ARCHIVE = "Unpack it first."
_MARKS = (
    (b"GGUF", "a GGUF file", "Give it a name that ends in .gguf."),
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the model itself: git lfs pull"),
    (b"PK\x03\x04", "a zip archive", _ARCHIVE),
    (b"\x1f\x8b", "a gzip archive", _ARCHIVE),
    (b"\xfd7zXZ\0", "an xz archive", _ARCHIVE),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive", _ARCHIVE),
    (b"%PDF-", "a PDF document", "Look for the model itself."),
    (b"\x89HDF\r\n", "an HDF5 file", "Export the model to ONNX."),
)
_TEXTS = (
    (b"<!doctype", *_PAGE),
    (b"<html", *_PAGE),
    (b"<?xml", "an XML document", "Look for the model itself."),
    (b"{", "a JSON text", "It may be what a server said instead: look at it."),
)


def check_format(path: Path, start: bytes) -> None:
    """Raises when the first bytes of a file are those of no ONNX model.

    Raises FormatError for an empty file, UnsupportedError for another format.
    """
    if not start:
        raise FormatError(f"{path.name} is empty.", way_out="Download or convert the file again.")
    if start[4:8] == b"ORTM":
        raise UnsupportedError(
            f"{path.name} is in ONNX Runtime's own format, not ONNX.",
            way_out="Give the .onnx file it was made of.",
        )
    if start[4:8] == b"TFL3":
        raise UnsupportedError(
            f"{path.name} is a TensorFlow Lite model, not an ONNX file.",
            way_out="Export the model to ONNX.",
        )
    words = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for marks, seen in ((_MARKS, start), (_TEXTS, words)):
        for mark, what, way_out in marks:
            if seen.startswith(mark):
                raise UnsupportedError(f"{path.name} is {what}, not an ONNX file.", way_out=way_out)
    if len(start) == START_BYTES and start.isascii() and not set(start) & _CONTROLS:
        raise UnsupportedError(
            f"{path.name} is a text, not an ONNX file.",
            cause=f"It begins with {start[:40].decode()!r}.",
            way_out="It may be what a server said instead: look at it.",
        )


_CONTROLS = frozenset((*range(9), 11, 12, *range(14, 32), 127))
"""Bytes that texts do not have; the first byte of a model is one of them, nearly always."""
