"""What can go wrong, as types: the one tree every room raises from and the CLI catches.

    EdgeError                      exit 4, unless a subclass says otherwise
    |-- UsageError                 the request itself is off: a bad option, an unknown name (exit 2)
    |-- ArtifactError              a model file, directory or config is not what it must be
    |   |-- ModelNotFoundError     nothing is there, or what is there is no model
    |   |-- FormatError            the bytes are truncated, hostile or malformed
    |   `-- UnsupportedError       well formed, but of a kind, level or format not known
    |-- BackendError               an inference engine refused or failed
    |   |-- EngineMissingError     its package or native library is not installed
    |   `-- ContextFullError       the prompt or the continuation does not fit the context
    |-- ResourceError              the machine cannot give what is needed
    |   |-- DiskError              no room, or the output cannot be written
    |   `-- MemoryLimitError       too little memory
    |-- WorkerError                a child process died or answered nonsense
    `-- HubError                   a model hub could not be reached or sent something else

Every message has three parts: the fact, its cause, the way out (a command that can be pasted where
there is one). This module knows nothing of exit codes' wording or of printing.
"""

from __future__ import annotations


class EdgeError(Exception):
    """The root of every error this library raises on purpose.

    `fact` is one sentence of what happened; `cause` why, `way_out` what to do next. Either of the
    last two may be empty when the fact says it all.
    """

    exit_code = 4

    def __init__(self, fact: str, *, cause: str = "", way_out: str = "") -> None:
        self.fact = fact
        self.cause = cause
        self.way_out = way_out
        super().__init__(" ".join(part for part in (fact, cause, way_out) if part))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions.
        return (_rebuild, (type(self), self.fact, self.cause, self.way_out))


def _rebuild(kind: type[EdgeError], fact: str, cause: str, way_out: str) -> EdgeError:
    return kind(fact, cause=cause, way_out=way_out)


class UsageError(EdgeError):
    """The request is off: an option out of range, an unknown level or model name."""

    exit_code = 2


class ArtifactError(EdgeError):
    """A model file, directory or config is not what it must be."""


class ModelNotFoundError(ArtifactError):
    """Nothing is at the path, or what is there is no model."""


class FormatError(ArtifactError):
    """The bytes are truncated, hostile or malformed."""


class UnsupportedError(ArtifactError):
    """Well formed, but of an architecture, a level or a format that is not known here."""


class BackendError(EdgeError):
    """An inference engine refused or failed."""


class EngineMissingError(BackendError):
    """The engine's package or native library is not installed or cannot be loaded."""


class ContextFullError(BackendError):
    """The prompt, or prompt and continuation together, do not fit the context."""


class ResourceError(EdgeError):
    """The machine cannot give what is needed."""


class DiskError(ResourceError):
    """There is no room on the disk, or the output cannot be written."""


class MemoryLimitError(ResourceError):
    """There is too little memory for what was asked."""


class WorkerError(EdgeError):
    """A child process of ours died, was killed, or answered nonsense."""


class HubError(EdgeError):
    """A model hub could not be reached, refused, or sent something else than promised."""
