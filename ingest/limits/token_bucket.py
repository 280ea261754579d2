"""Token buckets in points: who may send how much now, and when to come back.

The bucket is the classical one (Turner 1986; also RFC 2697 without the second colour): it
fills with `rate` points each second up to `burst`. Levels are kept as whole billionths of a
point, so that time in whole nanoseconds times a whole rate is exact: no drift, ever.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_UNIT = 10**9  # billionths of a point; 1 ns at 1 point/s adds exactly one


@dataclass(frozen=True, slots=True)
class Limit:
    """rate in points/s, burst in points; both at least 1."""

    rate: int
    burst: int

    def __post_init__(self) -> None:
        if self.rate < 1 or self.burst < 1:
            raise ValueError("rate and burst must be at least 1 point")


class TokenBucket:
    """One bucket. Not thread safe; O(1) time and memory."""

    __slots__ = ("_level", "_updated_ns", "limit")

    def __init__(self, limit: Limit, now_ns: int) -> None:
        self.limit = limit
        self._level = limit.burst * _UNIT
        self._updated_ns = now_ns

    def charge(self, points: int, now_ns: int) -> float:
        """Take points and return 0.0, or take nothing and return the seconds to wait.

        More points than the burst are taken when the bucket is full, and leave it in debt:
        else such a request would be refused for ever. After the returned wait the same
        charge succeeds, if nobody else charged meanwhile.
        """
        self._refill(now_ns)
        needed = min(points, self.limit.burst) * _UNIT
        if self._level >= needed:
            self._level -= points * _UNIT
            return 0.0
        return self._wait_s(needed)

    def debt_s(self, now_ns: int) -> float:
        """Seconds until at least one point may be sent; 0.0 if one may be now."""
        self._refill(now_ns)
        return 0.0 if self._level >= _UNIT else self._wait_s(_UNIT)

    def refund(self, points: int) -> None:
        """Give points back that were charged and then not taken (the log was away)."""
        self._level = min(self._level + points * _UNIT, self.limit.burst * _UNIT)

    def remaining(self, now_ns: int) -> int:
        """Whole points that may be sent now; 0 while in debt."""
        self._refill(now_ns)
        return max(0, self._level // _UNIT)

    def change_limit(self, limit: Limit, now_ns: int) -> None:
        """Go on under another limit; what was used stays used."""
        self._refill(now_ns)
        used = self.limit.burst * _UNIT - self._level
        self.limit = limit
        self._level = limit.burst * _UNIT - used

    def full_at_ns(self) -> int:
        """When the bucket will be full if nobody charges; a full one may be forgotten."""
        missing = self.limit.burst * _UNIT - self._level
        return self._updated_ns - (-missing // self.limit.rate)

    def _refill(self, now_ns: int) -> None:
        elapsed_ns = now_ns - self._updated_ns
        if elapsed_ns <= 0:  # a clock that stands still or steps back gives nothing
            return
        self._updated_ns = now_ns
        self._level = min(self._level + elapsed_ns * self.limit.rate, self.limit.burst * _UNIT)

    def _wait_s(self, needed: int) -> float:
        wait_ns = -((self._level - needed) // self.limit.rate)  # rounded up
        return wait_ns / 1e9


@dataclass(frozen=True, slots=True)
class OverLimit:
    """A request over its limit: what the 429 says."""

    retry_after_s: float
    limit: Limit
    remaining: int


class RateLimiter:
    """The buckets of all tenants, bounded in number.

    When a new tenant would exceed `max_buckets`, the least recently used bucket goes. One
    that is full again loses nothing by it; otherwise its tenant gets a fresh burst, which
    errs on the side of the client.
    """

    def __init__(
        self,
        default: Limit,
        *,
        max_buckets: int = 100_000,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._default = default
        self._max_buckets = max_buckets
        self._now_ns = now_ns
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def in_debt(self, tenant: str, limit: Limit | None) -> OverLimit | None:
        """OverLimit for a tenant that may not send even one point; asked before reading a body."""
        bucket = self._bucket(tenant, limit)
        wait_s = bucket.debt_s(self._now_ns())
        return OverLimit(wait_s, bucket.limit, 0) if wait_s else None

    def charge(self, tenant: str, limit: Limit | None, points: int) -> OverLimit | None:
        """Charge a request; a OverLimit means that nothing was charged."""
        bucket = self._bucket(tenant, limit)
        now_ns = self._now_ns()
        wait_s = bucket.charge(points, now_ns)
        return OverLimit(wait_s, bucket.limit, bucket.remaining(now_ns)) if wait_s else None

    def refund(self, tenant: str, points: int) -> None:
        """Give back a charge whose points were not taken."""
        bucket = self._buckets.get(tenant)
        if bucket is not None:
            bucket.refund(points)

    def __len__(self) -> int:
        return len(self._buckets)

    def evict_full(self) -> int:
        """Forget buckets that are full again, least recently used first; how many went."""
        now_ns = self._now_ns()
        evicted = 0
        while self._buckets:
            tenant, bucket = next(iter(self._buckets.items()))
            if bucket.full_at_ns() > now_ns:
                break
            del self._buckets[tenant]
            evicted += 1
        return evicted

    def _bucket(self, tenant: str, limit: Limit | None) -> TokenBucket:
        limit = limit or self._default
        bucket = self._buckets.get(tenant)
        if bucket is None:
            if len(self._buckets) >= self._max_buckets:
                self._buckets.popitem(last=False)
            bucket = self._buckets[tenant] = TokenBucket(limit, self._now_ns())
            return bucket
        self._buckets.move_to_end(tenant)
        if bucket.limit != limit:
            bucket.change_limit(limit, self._now_ns())
        return bucket
