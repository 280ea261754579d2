"""SIGTERM and SIGINT as an event that a loop waits for."""

from __future__ import annotations

import signal
import threading
from typing import Self


class StopSignals:
    """Handles both from now on, or to the end of a `with` block. Make it in the main thread."""

    def __init__(self) -> None:
        #: Set by either.
        self.stop = threading.Event()
        self._interrupted = False
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """130 once it was SIGINT, otherwise 0."""
        return 130 if self._interrupted else 0

    def _note(self, number: int, _: object) -> None:
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.stop.set()
