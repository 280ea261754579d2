"""Several workers in one process, each on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from consumers.errors import LossAccepted
from consumers.worker import Worker

_log = logging.getLogger("stepclock.consumer")


class Team:
    """Runs workers side by side until told to stop, or until one of them fails.

    make(number) gives a worker that is not running, with a source and a writer of its own, and
    what closes them; it is called on the worker's thread, and again once a loss was accepted.
    """

    def __init__(self, make: Callable[[int], tuple[Worker, Callable[[], None]]], size: int) -> None:
        self._make = make
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"worker-{number}")
            for number in range(size)
        ]
        self._stop = threading.Event()
        self._failures: list[BaseException] = []

    def run(self, stop: threading.Event) -> None:
        """Work until stop is set, which is done here too when a worker fails: then all drain.

        They drain at the same time, so the drain deadline is one for all. Raises what the first
        one failed with.
        """
        self._stop = stop
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _work(self, number: int) -> None:
        try:
            while not self._stop.is_set():
                worker, close = self._make(number)
                try:
                    worker.run(self._stop)
                except LossAccepted:
                    continue  # begin anew behind it
                finally:
                    close()
        except BaseException as exc:  # noqa: BLE001  # raised on the thread that called run
            if len(self._threads) > 1:
                _log.error("worker %d failed, the others drain: %s", number, exc)
            self._failures.append(exc)
            self._stop.set()
