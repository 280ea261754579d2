"""The workers' HTTP port: /livez, /readyz, /health for orchestrators, /metrics for Prometheus."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

#: Longest wait for a client's request line, so that no client holds a thread for ever.
_CLIENT_TIMEOUT_S = 5.0


class Probed(Protocol):
    """What the probes ask of the worker, from another thread."""

    progress_at: float
    started: bool

    @property
    def draining(self) -> bool:
        """No more records are fetched."""
        ...

    @property
    def store_error(self) -> str | None:
        """What is wrong with the store; None if it takes writes."""
        ...

    @property
    def log_error(self) -> str | None:
        """What is wrong with the log; None if it answers."""
        ...

    @property
    def canary(self) -> str:
        """Age and latency of the newest canary that was stored."""
        ...


class Probes:
    """Serves until closed, on a thread of its own; port 0 takes a free one.

    /livez: 503 once a worker's loop has not got on for live_after_s seconds, so restart it.
    /readyz: 200 from the first poll of the last worker until the drain; neither Kafka nor the
    store matter, since a worker without them waits, and a restart would not help.
    /health: the state of both, 503 while points can't flow; how the last canary fared.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        live_after_s: float,
        workers: int = 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live_after_s = live_after_s
        self._expected = workers
        self._now = now
        self._workers: dict[int, Probed] = {}
        self._answers: Mapping[str, Callable[[], tuple[int, str]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/health": self._health,
        }
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

    def watch(self, worker: Probed, number: int = 0) -> None:
        """Answer for this worker from now on, in the place of an earlier one of its number."""
        self._workers[number] = worker

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

    def _livez(self) -> tuple[int, str]:
        now = self._now()
        still_s = max((now - worker.progress_at for worker in self._watched()), default=0.0)
        if still_s > self._live_after_s:
            return 503, json.dumps({"status": "stuck", "without_progress_s": round(still_s, 1)})
        return 200, json.dumps({"status": "live"})

    def _readyz(self) -> tuple[int, str]:
        if not self._all_started():
            return 503, json.dumps({"status": "starting"})
        if any(worker.draining for worker in self._watched()):
            return 503, json.dumps({"status": "draining"})
        return 200, json.dumps({"status": "ready"})

    def _health(self) -> tuple[int, str]:
        if not self._all_started():
            return 503, json.dumps({"status": "starting"})
        workers = self._watched()
        found = {
            "log": next((w.log_error for w in workers if w.log_error), "ok"),
            "store": next((w.store_error for w in workers if w.store_error), "ok"),
        }
        well = set(found.values()) == {"ok"}
        status = "ok" if well else "points can't flow"
        canary = "; ".join(worker.canary for worker in workers)
        return 200 if well else 503, json.dumps({"status": status, **found, "canary": canary})

    def _watched(self) -> list[Probed]:
        return list(self._workers.values())

    def _all_started(self) -> bool:
        workers = self._watched()
        return len(workers) == self._expected and all(worker.started for worker in workers)


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
