"""Bulkheads: bytes that may be held at one place, in all and of one tenant."""

from __future__ import annotations

from collections import Counter

from ingest.errors import Unavailable
from telemetry import metrics

# A tenant may hold this many times what is left free (Choudhury and Hahne 1998, dynamic
# thresholds): two thirds of the room alone, two fifths beside another, and some always stays
# free for whoever comes next.
_TIMES_FREE = 2


class ByteBudget:
    """Bytes held at one place. Belongs to one event loop.

    doing: what the gateway does with them, as in "reading as much"; bound: name in metrics.
    """

    def __init__(self, bound: str, doing: str, max_bytes: int) -> None:
        self._bound = bound
        self._doing = doing
        self._max_bytes = max_bytes
        self._held: Counter[str] = Counter()
        self.held_bytes = 0

    def check(self, tenant: str, size: int = 0) -> None:
        """Raise Unavailable if `size` more bytes do not fit; it says whose bound was reached.

        A tenant that holds nothing is refused by the bound of all only.
        """
        free = self._max_bytes - self.held_bytes - size
        if free < 0:
            metrics.BOUND_REACHED.labels(self._bound, "all").inc()
            raise Unavailable(
                f"the gateway is {self._doing} as it may; "
                "nothing was stored, send the same again later",
                1.0,
            )
        held = self._held.get(tenant)
        if held and held + size > _TIMES_FREE * free:
            metrics.BOUND_REACHED.labels(self._bound, "tenant").inc()
            raise Unavailable(
                f"the gateway is {self._doing} of tenant {tenant!r} as it may of one, with the "
                "room that others need; nothing was stored, send the same again later",
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
