"""The thread that looks around: once at the surroundings, then at the machine every 15 s."""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable

from stepclock.record.buffer import Buffer

_log = logging.getLogger("stepclock")


class Observer:
    """Puts lines into the buffer, as a job does. What goes wrong is told once, and harms nobody.

    surroundings: gives lines of class events. sample: gives lines of class system; None for
    no samples.
    """

    def __init__(
        self,
        buffer: Buffer,
        surroundings: Callable[[], list[str]],
        sample: Callable[[], list[str]] | None,
        interval_s: float,
    ) -> None:
        self._buffer = buffer
        self._surroundings = surroundings
        self._sample = sample
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._looked = threading.Event()
        #: Seconds of CPU that the thread took, as of its last look.
        self.cpu_s = 0.0
        self.thread = threading.Thread(target=self._run, name="stepclock-observer", daemon=True)

    def stop(self, within_s: float) -> None:
        """End it; waits so long for the surroundings of a job that was very short."""
        self._stopped.set()
        self._looked.wait(within_s)

    def _run(self) -> None:
        try:
            self._put("events", self._surroundings)
        except Exception:
            _log.warning("stepclock: the surroundings are not recorded", exc_info=True)
        finally:
            self._looked.set()
        if self._sample is None:
            return
        try:
            while not self._stopped.is_set():
                self._put("system", self._sample)
                self._stopped.wait(self._interval_s)
        except Exception:
            _log.warning("stepclock: the machine is not sampled any more", exc_info=True)

    def _put(self, class_name: str, lines_of: Callable[[], list[str]]) -> None:
        lines = lines_of()
        if lines:
            self._buffer.put((class_name, lines), len(lines))
        self.cpu_s = time.thread_time()
