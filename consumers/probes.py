"""What the workers answer to /livez, /readyz and /health."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Protocol

from telemetry.probe_server import ProbeServer


class Probed(Protocol):
    """What the probes ask of the worker, from another thread."""

    started: bool

    @property
    def progress_at(self) -> float:
        """When the loop last got on, on the worker's clock."""
        ...

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


class Probes(ProbeServer):
    """Answers for the workers of one process.

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
        super().__init__(
            host,
            port,
            {"/livez": self._livez, "/readyz": self._readyz, "/health": self._health},
        )

    def watch(self, worker: Probed, number: int = 0) -> None:
        """Answer for this worker from now on, in the place of an earlier one of its number."""
        self._workers[number] = worker

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
