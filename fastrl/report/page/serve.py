"""Serves a run's page on localhost and updates it while the run goes on; uses http.server."""

from __future__ import annotations

import hashlib
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastrl.report.page.folder import report_data
from fastrl.report.page.write import assemble, safe_json

LOOPBACK = "127.0.0.1"
MIN_READ_INTERVAL_S = 1.0
"""Seconds between checks of the folder, whatever the number of browsers."""
IDLE_S = 60.0
FILES = ("*", "completions/*", "*/*", "*/completions/*")
"""Files of a run, and of a pipeline's stages."""


class FollowedPage:
    """A run's data, read again only if its folder has changed, and shared by all browsers.

    Raises:
        FileNotFoundError: run_dir is no run folder.
    """

    def __init__(self, run_dir: str | Path, max_rows: int) -> None:
        self.folder, self.max_rows, self.lock = Path(run_dir), max_rows, Lock()
        self.mark: list[tuple[str, int, int]] | None = None
        self.last_read = -MIN_READ_INTERVAL_S
        self.data: dict[str, Any] = {}
        self.version, self.json = "", b""
        self.refresh()

    def refresh(self) -> None:
        """Read the folder if it has changed; check at most once every MIN_READ_INTERVAL_S."""
        with self.lock:
            if time.monotonic() - self.last_read < MIN_READ_INTERVAL_S:
                return
            if (mark := mark_of(self.folder)) != self.mark:
                self.data = report_data(self.folder, self.max_rows)
                text = safe_json(self.data)
                version = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
                self.json = f'{{"version":"{version}","data":{text}}}'.encode()
                self.version, self.mark = version, mark
            self.last_read = time.monotonic()

    def page(self) -> bytes:
        """Return the page with the current data."""
        self.refresh()
        with self.lock:
            return assemble(self.data, self.version).encode()

    def newer(self, than: str) -> bytes | None:
        """Return the data as JSON with their version; None if `than` is the current version."""
        self.refresh()
        with self.lock:
            return None if than == self.version else self.json


def mark_of(folder: Path) -> list[tuple[str, int, int]]:
    """Return paths, modification times and sizes of the run's files, to detect changes."""
    found = []
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern)}):
        try:
            about = path.stat()
        except FileNotFoundError:  # a temporary file that has been renamed
            continue
        if path.suffix in (".json", ".jsonl", ".yaml") and path.name != "live.json":
            found.append((str(path), about.st_mtime_ns, about.st_size))
    return found


class Server(ThreadingHTTPServer):
    """Serves one run's page on 127.0.0.1.

    Args:
        port: 0: any free port.
    Raises:
        ValueError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, page: FollowedPage, port: int) -> None:
        self.page = page
        try:
            super().__init__((LOOPBACK, port), Handler)
        except OSError as error:
            raise ValueError(f"[report] port: expected a free one, got {port} ({error.strerror})") from error
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """Answers / with the page and /data?since=VERSION with newer data.

    Other sites in the browser cannot read them: requests with another Host header are refused, and responses
    allow no other origin.
    """

    server: Server
    server_version, sys_version = "fastrl", ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.headers.get("Host") not in self.server.hosts:
            self.answer(HTTPStatus.FORBIDDEN, b"this page is served as 127.0.0.1 and localhost only\n")
        elif url.path not in ("/", "/data"):
            self.answer(HTTPStatus.NOT_FOUND, b"there is only /\n")
        else:
            try:
                self.give(url.path, parse_qs(url.query).get("since", [""])[0])
            except ConnectionError:  # the browser disconnected
                self.close_connection = True
            except (OSError, ValueError):  # a file is being edited; the page asks again
                self.answer(HTTPStatus.SERVICE_UNAVAILABLE, b"the folder can't be read now\n")

    def give(self, path: str, since: str) -> None:
        page = self.server.page
        if path == "/":
            self.answer(HTTPStatus.OK, page.page(), "text/html; charset=utf-8")
        elif (newer := page.newer(since)) is None:
            self.answer(HTTPStatus.NO_CONTENT)
        else:
            self.answer(HTTPStatus.OK, newer, "application/json")

    def answer(self, status: HTTPStatus, body: bytes = b"", kind: str = "text/plain") -> None:
        self.send_response(status)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: an open page sends a request every second."""
