"""Bulkheads: bytes that may be held at one place, in all and of one tenant."""

from __future__ import annotations

import threading
from collections import Counter

from ingest.errors import Unavailable
from telemetry import metrics

# A tenant may hold this many times what is left free (Choudhury and Hahne 1998, dynamic
# thresholds): two thirds of the room alone, two fifths beside another, and some always stays
# free for whoever comes next.
_TIMES_FREE = 2


class ByteBudget:
    """Bytes held at one place. Belongs to one event loop, unless all of it is used by `Held`.

    bound: its name in metrics; buffer: what clients call it, as in "read buffer".
    """

    def __init__(self, bound: str, buffer: str, max_bytes: int) -> None:
        self._bound = bound
        self._buffer = buffer
        self._max_bytes = max_bytes
        self._held: Counter[str] = Counter()
        self.held_bytes = 0
        self.lock = threading.Lock()

    def check(self, tenant: str, size: int = 0) -> None:
        """Raise Unavailable if `size` more bytes do not fit; it says whose bound was reached.

        A tenant that holds nothing is refused by the bound of all only.
        """
        free = self._max_bytes - self.held_bytes - size
        if free < 0:
            metrics.BOUND_REACHED.labels(self._bound, "all").inc()
            raise Unavailable(
                f"the gateway's {self._buffer} is full; "
                "nothing was stored, send the same again later",
                1.0,
            )
        held = self._held.get(tenant)
        if held and held + size > _TIMES_FREE * free:
            metrics.BOUND_REACHED.labels(self._bound, "tenant").inc()
            raise Unavailable(
                f"tenant {tenant!r} has used its share of the gateway's {self._buffer}; "
                "nothing was stored, send the same again later",
                1.0,
            )

    def take(self, tenant: str, size: int) -> None:
        """Hold size more bytes, whatever the bounds say: `check` first."""
        self._held[tenant] += size
        self.held_bytes += size

    def give_back(self, tenant: str, size: int) -> None:
        """Those bytes are held no more."""
        self.held_bytes -= size
        left = self._held[tenant] - size
        if left:
            self._held[tenant] = left
        else:
            del self._held[tenant]


class Held:
    """What one request holds of a budget, while it grows. Safe from any thread."""

    __slots__ = ("_budget", "_released", "_size", "_tenant")

    def __init__(self, budget: ByteBudget, tenant: str) -> None:
        self._budget = budget
        self._tenant = tenant
        self._size = 0
        self._released = False

    def take(self, size: int) -> None:
        """Hold size more bytes. Raises Unavailable if they do not fit.

        Nothing is held any more once it was released: whoever left may still be in its turn.
        """
        with self._budget.lock:
            if not self._released:
                self._budget.check(self._tenant, size)
                self._budget.take(self._tenant, size)
                self._size += size

    def give_back(self, size: int) -> None:
        """Some of the bytes are held no more."""
        with self._budget.lock:
            if not self._released:
                self._budget.give_back(self._tenant, size)
                self._size -= size

    def release(self) -> None:
        """The request holds nothing more, and never will."""
        with self._budget.lock:
            self._released = True
            if self._size:
                self._budget.give_back(self._tenant, self._size)
                self._size = 0
