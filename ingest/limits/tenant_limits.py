"""The limits of tenants in points: shared by all gateways, or a share of them in each.

With shared buckets (Redis) a limit holds for all gateways together. Without them, or while
they are away, each gateway grants limit / replicas by buckets of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import lru_cache

from ingest.limits.token_bucket import Limit, OverLimit, RateLimiter
from schemas.tenants.keys import Tenant
from schemas.tenants.shared_buckets import SharedBuckets, SharedBucketsAway
from telemetry import metrics

_log = logging.getLogger("stepclock.gateway")

# Calls in a row that fail before the shared buckets count as away. One may have been late
# because this process was busy.
_FAILURES = 3


class TenantLimits:
    """Who may send how much now. Belongs to one event loop.

    default: of tenants whose keys file says nothing. A charge is one call to the shared
    buckets; `in_debt` is none, it remembers what the last charge said.
    """

    def __init__(
        self,
        default: Limit,
        *,
        replicas: int = 1,
        shared: SharedBuckets | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._default = default
        self._replicas = replicas
        self._shared = shared
        self._now_ns = now_ns
        self._local = RateLimiter(default, now_ns=now_ns)
        # By tenant: until when it is in debt, and under which limit that was said.
        self._debts: dict[str, tuple[int, Limit]] = {}
        self._failed = 0
        #: Why the shared buckets are not used now; None while they are.
        self.away: str | None = None

    @property
    def state(self) -> str | None:
        """How limits are kept, for /health; None where nothing is shared."""
        if self._shared is None:
            return None
        if self.away is None:
            return "limits are shared"
        return f"limits are local, 1/{self._replicas} of each: {self.away}"

    def in_debt(self, tenant: Tenant) -> OverLimit | None:
        """OverLimit for a tenant that may not send even one point; asked before reading a body."""
        if self._shared is None or self.away is not None:
            return self._local.in_debt(tenant.name, self._share(tenant))
        debt = self._debts.get(tenant.name)
        if debt is None:
            return None
        until_ns, limit = debt
        left_ns = until_ns - self._now_ns()
        if left_ns > 0 and limit == self._limit(tenant):
            return OverLimit(left_ns / 1e9, limit, 0)
        del self._debts[tenant.name]  # under another limit, the next charge says what is due
        return None

    async def charge(self, tenant: Tenant, points: int) -> OverLimit | None:
        """Charge a request; a OverLimit means that nothing was charged."""
        if self._shared is not None and self.away is None:
            limit = self._limit(tenant)
            try:
                charged = await self._shared.charge(tenant.name, limit.rate, limit.burst, points)
            except SharedBucketsAway as exc:
                self._fall_back(exc)
            else:
                self._failed = 0
                if charged.debt_s:
                    until_ns = self._now_ns() + int(charged.debt_s * 1e9)
                    self._debts[tenant.name] = until_ns, limit
                if charged.wait_s:
                    return OverLimit(charged.wait_s, limit, charged.remaining)
                return None
        return self._local.charge(tenant.name, self._share(tenant), points)

    async def refund(self, tenant: Tenant, points: int) -> None:
        """Give back a charge whose points were not taken.

        One that was taken by the other kind of bucket, before they went or came, is forgotten.
        """
        if self._shared is None or self.away is not None:
            self._local.refund(tenant.name, points)
            return
        limit = self._limit(tenant)
        self._debts.pop(tenant.name, None)
        try:
            await self._shared.refund(tenant.name, limit.rate, limit.burst, points)
        except SharedBucketsAway as exc:
            self._fall_back(exc)

    async def watch(self, *, interval_s: float = 0.5) -> None:
        """Run until cancelled: use the shared buckets again once they answer."""
        while self._shared is not None:
            # Asked all the time, so that the first request after an outage does not pay for it.
            try:
                await self._shared.ping()
            except SharedBucketsAway as exc:
                self._fall_back(exc)
            else:
                self._come_back()
            await asyncio.sleep(interval_s)

    def forget_idle(self) -> int:
        """Forget what is full again; how many local buckets are left."""
        now_ns = self._now_ns()
        self._debts = {name: debt for name, debt in self._debts.items() if debt[0] > now_ns}
        self._local.evict_full()
        return len(self._local)

    async def close(self) -> None:
        """Close the connections to the shared buckets."""
        if self._shared is not None:
            await self._shared.close()

    def _fall_back(self, exc: SharedBucketsAway) -> None:
        """Count a failure: its charge is local, after a few all are until `watch` has an answer."""
        metrics.SHARED_LIMIT_FAILURES.inc()
        self._failed += 1
        if self.away is None and self._failed >= _FAILURES:
            self.away = str(exc)
            metrics.SHARED_LIMITS_AWAY.set(1)
            _log.error(
                "the shared limits are away, each gateway grants 1/%d of a limit by itself: %s",
                self._replicas,
                exc,
            )

    def _come_back(self) -> None:
        self._failed = 0
        if self.away is not None:
            self.away = None
            self._debts.clear()
            metrics.SHARED_LIMITS_AWAY.set(0)
            _log.info("limits are shared again")

    def _limit(self, tenant: Tenant) -> Limit:
        rate = tenant.rate or self._default.rate
        burst = tenant.burst or (rate * 2 if tenant.rate is not None else self._default.burst)
        return _limit(rate, burst)

    def _share(self, tenant: Tenant) -> Limit:
        limit = self._limit(tenant)
        return _limit(max(1, limit.rate // self._replicas), max(1, limit.burst // self._replicas))


#: Most tenants have the same few limits, and each request asks for them twice.
_limit = lru_cache(maxsize=1024)(Limit)
