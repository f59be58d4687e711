"""The report of a run that is still training, served on this machine only."""

from __future__ import annotations

import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from reid_ray.errors import UserError
from reid_ray.io.paths import Location
from reid_ray.reports.run_report import report_run
from reid_ray.run import Run

LOOPBACK = "127.0.0.1"
RELOAD_SECONDS = 10
CONTENT_TYPES = {".html": "text/html; charset=utf-8", ".jpg": "image/jpeg"}
GALLERY = "gallery"


class LiveReport:
    """The newest report of a run, written again at most every `RELOAD_SECONDS`.

    Args:
        run: wherever a path or an object store reaches; nothing is written there.
        folder: for figures and pages.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self.run = run
        self._folder = folder
        self._lock = threading.Lock()
        self._page = b""
        self._written = float("-inf")

    def page(self) -> bytes:
        """The report, which reloads itself while the run is in progress."""
        with self._lock:
            if time.monotonic() - self._written > RELOAD_SECONDS / 2:
                text = report_run(self.run, redraw=False, out=self._folder).read_text(encoding="utf-8")
                reload = f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">'
                self._page = (text if self.run.finished else text.replace("<head>", f"<head>{reload}", 1)).encode()
                self._written = time.monotonic()
            return self._page

    def gallery_file(self, path: str) -> Location | None:
        """A page or sheet of the run's cluster gallery; None for anything else."""
        parts = path.strip("/").split("/")
        if parts[0] != GALLERY or len(parts) > 3 or any(part in ("", "..", ".") for part in parts):
            return None
        file = self.run.path.joinpath(*parts) if isinstance(self.run.path, Path) else self.run.path / "/".join(parts)
        return file if file.suffix in CONTENT_TYPES and file.is_file() else None


def make_server(report: LiveReport, port: int = 0) -> ThreadingHTTPServer:
    """A server of the report at `/` and of the run's gallery at `/gallery/index.html`, on the loopback.

    Requests under another host name are refused, so a page of another site cannot read the report through the browser.

    Args:
        port: 0 for any free one.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            path = unquote(urlsplit(self.path).path)
            if host not in (LOOPBACK, "localhost"):
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            try:
                if path == "/":
                    self._answer(report.page(), ".html")
                elif (file := report.gallery_file(path)) is not None:
                    self._answer(file.read_bytes(), file.suffix)
                else:
                    self.send_error(HTTPStatus.NOT_FOUND)
            except (UserError, OSError) as error:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain=str(error))

        def _answer(self, body: bytes, suffix: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", CONTENT_TYPES[suffix])
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not printed."""

    return ThreadingHTTPServer((LOOPBACK, port), Handler)
