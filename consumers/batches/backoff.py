"""How long a destination rests after a write whose outcome is unknown."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential with jitter, never sooner than the store's own Retry-After.

    The n-th failure in a row rests between half and all of base_s * 2**(n-1), at most cap_s;
    jitter keeps many workers from coming back at once. base_s and cap_s are seconds.
    """

    def __init__(
        self, now: Callable[[], float], rng: random.Random, *, base_s: float, cap_s: float
    ) -> None:
        self._now = now
        self._rng = rng
        self._base_s = base_s
        self._cap_s = cap_s
        self._failures = 0
        self._ready_at = float("-inf")

    @property
    def ready_at(self) -> float:
        """When the next try may start, on the clock that was passed in."""
        return self._ready_at

    @property
    def resting(self) -> bool:
        """The next try may not start yet."""
        return self._now() < self._ready_at

    def fail(self, retry_after_s: float | None = None) -> float:
        """Count one failure; the rest in seconds that follows from it."""
        # 2.0**63 seconds is past every cap, and far from overflowing.
        ceiling_s = min(self._cap_s, self._base_s * 2.0 ** min(self._failures, 63))
        self._failures += 1
        rest_s = max(self._rng.uniform(ceiling_s / 2, ceiling_s), retry_after_s or 0.0)
        self._ready_at = self._now() + rest_s
        return rest_s

    def rest_until(self, at: float) -> None:
        """No try may start before `at`, although none has failed."""
        self._ready_at = at

    def reset(self) -> None:
        """A try came through."""
        self._failures = 0
        self._ready_at = float("-inf")
