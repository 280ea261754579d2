"""Work beside the HTTP server of `serve`: the worker, upkeep, the janitor."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ingest.http.server import HttpServer

_log = logging.getLogger("stepclock.embedded")


class ServerThread(threading.Thread):
    """Does its work until it is stopped. If that fails, the server must end.

    work: goes on until the event is set; what it opens belongs to this thread.
    """

    def __init__(self, name: str, work: Callable[[threading.Event], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._stopped = threading.Event()
        self._server: HttpServer | None = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Work until stopped."""
        try:
            self._work(self._stopped)
        except BaseException as exc:  # noqa: BLE001 - carried to the main thread, which ends with it
            self.failure = exc
            _log.critical("the %s failed, the server stops: %s", self.name, exc)
            if self._server is not None:
                self._server.stop()

    def watch(self, server: HttpServer) -> None:
        """Have the server stop when the work fails, or has failed already."""
        self._server = server
        if self.failure is not None:
            server.stop()

    def stop(self) -> None:
        """Let the work come to its end. Does nothing if it was never started."""
        self._stopped.set()
        if self.is_alive():
            self.join()
