"""The HTTP port of a process that has no other: probes for orchestrators, /metrics."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

#: Longest wait for a client's request line, so that no client holds a thread for ever.
_CLIENT_TIMEOUT_S = 5.0


class ProbeServer:
    """Serves until closed, on a thread of its own; port 0 takes a free one.

    answers: status and JSON by path, asked on the thread of the request. /metrics is there
    besides.
    """

    def __init__(
        self, host: str, port: int, answers: Mapping[str, Callable[[], tuple[int, str]]]
    ) -> None:
        self._answers = answers
        self._server = _Server((host, port), _Handler)
        self._server.answer = self._answer
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="probes", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Base URL of what it listens on."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest()
        answer = self._answers.get(path)
        if answer is None:
            return 404, "application/json", b'{"status":"no such page"}'
        status, body = answer()
        return status, "application/json", body.encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Callable[[str], tuple[int, str, bytes]]


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        status, content_type, body = self.server.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Leave no log line for each probe."""


def write_address(path: Path, url: str) -> None:
    """Write where a process listens to a file, one line. Whoever sees the file sees all of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(url + "\n", "utf-8")
    draft.replace(path)
