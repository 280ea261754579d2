"""The janitor beside the worker of `serve`."""

from __future__ import annotations

import logging
import threading

from ingest.server import HttpServer
from janitor.loop import Loop

_log = logging.getLogger("stepclock.embedded")


class JanitorThread(threading.Thread):
    """Rounds until stopped. If it fails, the server must end."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(name="janitor", daemon=True)
        self._loop = loop
        self._stopped = threading.Event()
        self._server: HttpServer | None = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Keep house until stopped."""
        try:
            self._loop.run(self._stopped)
        except BaseException as exc:  # noqa: BLE001 - carried to the main thread
            self.failure = exc
            _log.critical("the janitor failed, the server stops: %s", exc)
            if self._server is not None:
                self._server.stop()

    def watch(self, server: HttpServer) -> None:
        """Have the server stop when the janitor fails."""
        self._server = server
        if self.failure is not None:
            server.stop()

    def stop(self) -> None:
        """End after the round that is running. Does nothing if it was never started."""
        self._stopped.set()
        if self.is_alive():
            self.join()
