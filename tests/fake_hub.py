"""A small server on 127.0.0.1 that speaks the hub's HTTP, and the fixture that puts it in place."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "a" * 40
REPO = "owner/tiny-GGUF"


class FakeHub(http.server.ThreadingHTTPServer):
    """Serves one repository; the attributes say how it misbehaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.error: tuple[int, str] | None = None
        self.cut_after: int | None = None
        self.promised_size: int | None = None
        self.promised_sha256: str | None = None
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def downloads(self) -> list[str | None]:
        """The Range header of each GET of a file."""
        return [
            given for verb, path, given in self.requests if verb == "GET" and "/resolve/" in path
        ]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, *, body: bool) -> None:
        path = urllib.parse.urlsplit(urllib.parse.unquote(self.path)).path
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if self.server.error is not None:
            status, code = self.server.error
            self._answer(status, b"{}" if body else b"", {"X-Error-Code": code})
        elif path.startswith(f"/api/models/{REPO}"):
            self._answer(200, json.dumps(self._info()).encode() if body else b"")
        elif path.startswith(f"/{REPO}/resolve/") and (name := path.split("/", 5)[5]) in (
            self.server.files
        ):
            self._file(self.server.files[name], body=body)
        else:
            self._answer(404, b"{}" if body else b"", {"X-Error-Code": "EntryNotFound"})

    def _info(self) -> dict[str, object]:
        siblings = [
            {
                "rfilename": name,
                "size": self.server.promised_size or len(data),
                "lfs": {
                    "sha256": self.server.promised_sha256 or hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                },
            }
            for name, data in self.server.files.items()
        ]
        return {"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings}

    def _file(self, data: bytes, *, body: bool) -> None:
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        given = self.headers.get("Range")
        start = int(given.removeprefix("bytes=").rstrip("-")) if given else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if not body:
            self._answer(200, b"", headers, length=len(data))
            return
        cut, self.server.cut_after = self.server.cut_after, None
        shown = data[start:] if cut is None else data[start : start + cut]
        self._answer(206 if start else 200, shown, headers, length=len(data) - start)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(1)

    def _answer(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        *,
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()
    thread = threading.Thread(
        target=fake.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield fake
    fake.shutdown()
    fake.server_close()
    thread.join()
