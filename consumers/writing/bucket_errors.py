"""How long the store has refused us a bucket, and when to stop waiting for it."""

from __future__ import annotations

from collections.abc import Callable

#: Buckets remembered; far more than namespaces times classes.
_MAX_TARGETS = 10_000


class BucketErrors:
    """Buckets that answer 401, 403 or 404, with the time since when.

    All buckets of a namespace share the earliest time, so a namespace as a whole is waited
    for once.
    """

    def __init__(self, now: Callable[[], float], *, park_after_s: float) -> None:
        self._now = now
        self._park_after_s = park_after_s
        # Tries come at least every retry_cap_s; who was silent for so long is another outage.
        self._forget_after_s = 10 * park_after_s + 600
        #: bucket -> when it was first, and last, refused
        self._since: dict[tuple[str, str], tuple[float, float]] = {}

    def mark_failed(self, namespace: str, retention_class: str) -> bool:
        """Note one more refusal; True if the batch should be parked now."""
        now = self._now()
        self._since = {k: v for k, v in self._since.items() if now - v[1] < self._forget_after_s}
        key = (namespace, retention_class)
        if key not in self._since:
            of_namespace = [
                first for (name, _), (first, _) in self._since.items() if name == namespace
            ]
            if len(self._since) >= _MAX_TARGETS:
                del self._since[next(iter(self._since))]
            self._since[key] = (min(of_namespace, default=now), now)
        self._since[key] = (self._since[key][0], now)
        return now - self._since[key][0] >= self._park_after_s

    def clear(self, namespace: str, retention_class: str) -> None:
        """The bucket has taken a write."""
        self._since.pop((namespace, retention_class), None)
