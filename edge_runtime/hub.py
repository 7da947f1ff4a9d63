"""Fetches model files from a Hugging Face hub through huggingface_hub.

`hf:owner/repo` names a repository, `hf:owner/repo:file.gguf` a file in it, `hf:owner/repo:Q4_K_M`
the file of that level; `hf:owner/repo@revision` is a branch or a commit. The library does the
transfer: it honours HF_ENDPOINT, HF_HOME and HF_TOKEN, goes on after a broken connection and checks
sizes; the content hash, where the hub gives one, is checked here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .errors import DiskError, EngineMissingError, HubError, ModelNotFoundError, UsageError
from .sources import HUB_PREFIX, first_parts

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_NAME}/{_NAME}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")
_PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0")
_PART_COUNT = re.compile(r"-00001-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubReference:
    """A repository on a hub and, in `choice`, the file or the level wanted from it."""

    repo: str
    revision: str | None = None
    choice: str | None = None


def parse(reference: str) -> HubReference:
    """Reads `hf:owner/repo[@revision][:file-or-level]`. Raises UsageError."""
    repo, _, choice = reference.removeprefix(HUB_PREFIX).partition(":")
    repo, _, revision = repo.partition("@")
    unsafe = ".." in reference or "\\" in choice or choice.startswith("/") or "\0" in choice
    wrong_revision = revision and _REVISION.fullmatch(revision) is None
    if _REPO.fullmatch(repo) is None or unsafe or wrong_revision:
        raise UsageError(
            f"{reference!r} names nothing on a hub.",
            way_out="Write hf:owner/repo, hf:owner/repo:file.gguf or hf:owner/repo:Q4_K_M.",
        )
    return HubReference(repo=repo, revision=revision or None, choice=choice or None)


def fetch(
    reference: HubReference, *, on_download: Callable[[str, int | None], None] | None = None
) -> Path:
    """The local path of the model, downloaded into huggingface_hub's cache if it is not there.

    All parts of a split model are fetched; the path is the first one's. Without a hub in reach, a
    file that was fetched before is used. Raises HubError, ModelNotFoundError, DiskError.
    """
    hub = _library()
    try:
        files = _listing(hub, reference)
    except _NoHubError as unreachable:
        return _from_cache(hub, reference, unreachable)
    chosen = _choose(reference, tuple(files))
    paths = [
        _download(hub, reference, name, files[name], on_download) for name in _parts(chosen, files)
    ]
    return paths[0]


def _endpoint() -> str | None:
    """The hub's address when it is another one; the library itself reads it only when imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


class _NoHubError(Exception):
    """The hub cannot be reached at all; what is cached may still serve."""


@dataclass(frozen=True, slots=True)
class _Remote:
    size_bytes: int | None
    sha256: str | None


def _library() -> Any:
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


def _listing(hub: Any, reference: HubReference) -> dict[str, _Remote]:
    try:
        info = hub.HfApi(endpoint=_endpoint()).model_info(
            reference.repo, revision=reference.revision, files_metadata=True
        )
    except Exception as error:  # the library raises its HTTP client's errors as they are
        _refuse(hub, reference, error)
    files = {}
    for item in info.siblings or ():
        lfs = getattr(item, "lfs", None)
        files[item.rfilename] = _Remote(item.size, getattr(lfs, "sha256", None))
    return files


def _choose(reference: HubReference, names: tuple[str, ...]) -> str:
    """The one file meant. Raises ModelNotFoundError that lists what there is."""
    models = first_parts(name for name in names if _is_safe(name))
    models = tuple(m for m in models if not Path(m).name.lower().startswith("mmproj"))
    if not models:
        raise ModelNotFoundError(
            f"{reference.repo} holds no GGUF file.",
            cause="Only GGUF files run here; many models have a second repository with them.",
            way_out=f"Look for one named like {reference.repo}-GGUF.",
        )
    choice = reference.choice
    if choice in models:
        return choice
    if choice is not None:
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(choice)}(?![A-Za-z0-9_])", re.IGNORECASE)
        matching = [name for name in models if word.search(Path(name).name)]
        if len(matching) == 1:
            return matching[0]
        models = tuple(matching) or models
        fact = f"{reference.repo} has {'several files' if matching else 'no file'} for {choice}."
        raise ModelNotFoundError(fact, **_choices(reference, models))
    if len(models) == 1:
        return models[0]
    for level in _PREFERRED:
        matching = [name for name in models if level.lower() in Path(name).name.lower()]
        if len(matching) == 1:
            return matching[0]
    raise ModelNotFoundError(
        f"{reference.repo} holds {len(models)} models.", **_choices(reference, models)
    )


def _choices(reference: HubReference, models: tuple[str, ...]) -> dict[str, str]:
    shown = ", ".join(models[:20]) + (", ..." if len(models) > 20 else "")
    return {"cause": f"There is: {shown}.", "way_out": f"Name one: hf:{reference.repo}:{models[0]}"}


def _is_safe(name: str) -> bool:
    """Whether a file name sent by a hub stays inside its folder."""
    parts = name.split("/")
    return "\\" not in name and ":" not in name and not {"", ".", ".."} & set(parts)


def _parts(first: str, files: dict[str, _Remote]) -> list[str]:
    split = _PART_COUNT.search(first)
    if split is None:
        return [first]
    stem = first[: split.start()]
    names = [f"{stem}-{i:05d}-of-{split[1]}.gguf" for i in range(1, int(split[1]) + 1)]
    missing = [name for name in names if name not in files]
    if missing:
        raise HubError(f"{first} is one part of several, and the hub lacks {missing[0]}.")
    return names


def _download(
    hub: Any,
    reference: HubReference,
    name: str,
    remote: _Remote,
    on_download: Callable[[str, int | None], None] | None,
) -> Path:
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
        except _NoHubError as unreachable:
            raise _unreachable(reference, unreachable) from error
    _verify(path, name, remote, skip_hash=known)
    return path


def _verify(path: Path, name: str, remote: _Remote, *, skip_hash: bool) -> None:
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


def _from_cache(hub: Any, reference: HubReference, unreachable: _NoHubError) -> Path:
    """A file fetched before, when the hub cannot be reached now."""
    try:
        folder = Path(
            hub.snapshot_download(
                reference.repo, revision=reference.revision, local_files_only=True
            )
        )
    except Exception:  # nothing of it is cached: the first failure is the one to tell
        raise _unreachable(reference, unreachable) from unreachable
    names = tuple(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf") if path.exists()
    )
    if not names:
        raise _unreachable(reference, unreachable) from unreachable
    return folder / _choose(reference, names)


def _unreachable(reference: HubReference, error: _NoHubError) -> HubError:
    return HubError(
        f"The hub cannot be reached for {reference.repo}.",
        cause=f"{error}.",
        way_out="Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or name a local file.",
    )


def _refuse(hub: Any, reference: HubReference, error: Exception) -> NoReturn:
    """Turns one of the library's many errors into ours, or into _NoHubError."""
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
    raise _NoHubError(f"{type(first).__name__}: {told}") from error
