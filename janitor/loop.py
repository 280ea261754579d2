"""Rounds of the janitor until it is told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from janitor.janitor import Janitor
from schemas.store.protocols import StoreUnavailable

_log = logging.getLogger("stepclock.janitor")

#: Rounds take a fifth of the time at most: looking costs the store something as well.
_REST_FOR_WORK = 4


class Loop:
    """A round every interval_s, later if rounds take long, sooner if one left work.

    While the store is away it waits for it. Other errors end the loop.
    """

    def __init__(
        self,
        janitor: Janitor,
        *,
        interval_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._janitor = janitor
        self._interval_s = interval_s
        self._now = now
        #: When the next round begins, on the loop's clock; for probes on another thread.
        self.due_at = now()
        #: Why the last round could not be done; None if it was.
        self.store_error: str | None = "no round yet"

    def run(self, stop: threading.Event) -> None:
        """Go on until stop is set."""
        while not stop.wait(self.turn()):
            pass

    def turn(self) -> float:
        """One round; the seconds to rest after it."""
        began = self._now()
        whole = True
        try:
            whole = self._janitor.round()
        except StoreUnavailable as exc:
            _log.warning("a round is put off: %s", exc)
            self.store_error = str(exc)
        else:
            self.store_error = None
        ended = self._now()
        rest_s = _REST_FOR_WORK * (ended - began)
        if whole:
            rest_s = max(rest_s, self._interval_s)
        self.due_at = ended + rest_s
        return rest_s
