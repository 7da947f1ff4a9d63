"""The transfer from a hub: what a repository lists, one file fetched and checked, what is cached.

huggingface_hub does the work; its many errors become ours here, and the content hash is checked
where the hub gives one. Which files make a model is not known here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .errors import DiskError, EngineMissingError, HubError


@dataclass(frozen=True, slots=True, kw_only=True)
class HubReference:
    """A repository on a hub and, in `choice`, the file or the level wanted from it."""

    repo: str
    revision: str | None = None
    choice: str | None = None


def _endpoint() -> str | None:
    """The hub's address when it is another one; the library itself reads it only when imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


class NoHubError(Exception):
    """The hub cannot be reached at all; what is cached may still serve."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as the hub lists it; None for what the hub does not say."""

    size_bytes: int | None
    sha256: str | None


def library() -> Any:
    """The package that talks to hubs. Raises EngineMissingError when it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise EngineMissingError(
            "Fetching models needs huggingface_hub.",
            cause=f"{error}.",
            way_out="pip install 'edge-runtime[hub]'",
        ) from error
    return huggingface_hub


def listing(hub: Any, reference: HubReference) -> dict[str, Remote]:
    """The repository's files by name. Raises NoHubError when no hub answers, HubError."""
    try:
        info = hub.HfApi(endpoint=_endpoint()).model_info(
            reference.repo, revision=reference.revision, files_metadata=True
        )
    except Exception as error:  # the library raises its HTTP client's errors as they are
        _refuse(hub, reference, error)
    files = {}
    for item in info.siblings or ():
        lfs = getattr(item, "lfs", None)
        files[item.rfilename] = Remote(item.size, getattr(lfs, "sha256", None))
    return files


def download(
    hub: Any,
    reference: HubReference,
    name: str,
    remote: Remote,
    on_download: Callable[[str, int | None], None] | None,
) -> Path:
    """The local path of one file, fetched and checked when the cache lacks it.

    `on_download` is told its name and size before it is fetched. Raises HubError, DiskError.
    """
    cached = hub.try_to_load_from_cache(reference.repo, name, revision=reference.revision)
    known = isinstance(cached, str)
    if not known and on_download is not None:
        on_download(name, remote.size_bytes)
    try:
        path = Path(
            hub.hf_hub_download(
                reference.repo, name, revision=reference.revision, endpoint=_endpoint()
            )
        )
    except Exception as error:  # the library raises its HTTP client's errors as they are
        try:
            _refuse(hub, reference, error)
        except NoHubError as unreachable:
            raise unreachable_hub(reference, unreachable) from error
    _verify(path, name, remote, skip_hash=cached == str(path))
    return path


def _verify(path: Path, name: str, remote: Remote, *, skip_hash: bool) -> None:
    """Checks what was fetched against what the hub promised; wrong files are removed."""
    size = path.stat().st_size
    wrong = ""
    if remote.size_bytes is not None and size != remote.size_bytes:
        wrong = f"It has {size} bytes instead of {remote.size_bytes}."
    elif remote.sha256 is not None and not skip_hash and _sha256(path) != remote.sha256:
        wrong = "Its SHA-256 is another one."
    if wrong:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise HubError(
            f"{name} did not arrive as the hub promised.",
            cause=wrong,
            way_out="Run the command again: the wrong file was removed.",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def snapshot(hub: Any, reference: HubReference, unreachable: NoHubError) -> Path:
    """The cache's folder of a repository. Raises HubError when nothing of it is cached."""
    try:
        return Path(
            hub.snapshot_download(
                reference.repo, revision=reference.revision, local_files_only=True
            )
        )
    except Exception:  # nothing of it is cached: the first failure is the one to tell
        raise unreachable_hub(reference, unreachable) from unreachable


def unreachable_hub(reference: HubReference, error: NoHubError) -> HubError:
    """The error of a hub that does not answer, when the cache cannot serve either."""
    return HubError(
        f"The hub cannot be reached for {reference.repo}.",
        cause=f"{error}.",
        way_out="Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or name a local file.",
    )


def _refuse(hub: Any, reference: HubReference, error: Exception) -> NoReturn:
    """Turns one of the library's many errors into ours, or into NoHubError."""
    errors = hub.errors
    where = reference.repo + (f"@{reference.revision}" if reference.revision else "")
    if isinstance(error, errors.GatedRepoError):
        raise HubError(
            f"{where} is gated.",
            cause="Its owner asks to accept terms first.",
            way_out="Accept them on its page, then: hf auth login",
        ) from error
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        raise HubError(
            f"The hub has no {where}, or it is private.",
            way_out="Check the spelling; for a private one: hf auth login",
        ) from error
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        raise HubError(f"The hub lists a file of {where} and does not give it.") from error
    if isinstance(error, OSError) and error.errno in (28, 122):  # ENOSPC, EDQUOT
        raise DiskError(
            f"There is no room for {where}.",
            cause=f"{error.strerror}.",
            way_out="Free some, or set HF_HOME to another disk.",
        ) from error
    if isinstance(error, PermissionError):
        raise DiskError(f"{where} cannot be stored.", cause=f"{error}.") from error
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status is not None:
        raise HubError(
            f"The hub refused {where}.",
            cause=f"It answered with status {status}.",
            way_out="Try again later." if status >= 500 or status == 429 else "",
        ) from error
    if "Consistency check failed" in str(error):
        raise HubError(
            f"A file of {where} arrived incomplete.",
            cause=f"{str(error).splitlines()[0]}",
            way_out="Run the command again.",
        ) from error
    first = error.__cause__ or error  # the library wraps what its HTTP client said
    told = (str(first).splitlines() or [""])[0].rstrip(".")
    raise NoHubError(f"{type(first).__name__}: {told}") from error
