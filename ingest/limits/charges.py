"""What writes cost their tenant: points, and series that are new.

A refusal says when to come back, and is paced: `ingest.write.validation_queue`.
"""

from __future__ import annotations

from ingest.errors import RateLimited
from ingest.limits.dry_run import DryRun
from ingest.limits.series_limit import Series, SeriesLimiter
from ingest.limits.tenant_limits import TenantLimits
from ingest.limits.token_bucket import OverLimit
from schemas.tenants.keys import Tenant
from telemetry import metrics


class Charges:
    """Charges tenants and gives back. Belongs to one event loop, `series_of` to any thread.

    A dry run lets in what is over a limit in points, and notes it.
    """

    def __init__(
        self, limits: TenantLimits, dry_run: DryRun, series_limiter: SeriesLimiter
    ) -> None:
        self._limits = limits
        self._dry_run = dry_run
        self._series_limiter = series_limiter
        self.series_of = series_limiter.of

    def check_debt(self, tenant: Tenant) -> None:
        """Raise RateLimited for a tenant that may not send even one point."""
        refusal = self._limits.in_debt(tenant)
        if refusal and not self._dry_run.covers(tenant):
            raise _over_limit(tenant, 0, refusal, 0.0)

    async def take(self, tenant: Tenant, points: int, spent_s: float) -> int:
        """Charge points; how many were: none of those that only a dry run lets in.

        spent_s: CPU that finding their number took. Raises RateLimited; then nothing was charged.
        """
        refusal = await self._limits.charge(tenant, points)
        if refusal is None:
            return points
        if self._dry_run.covers(tenant):
            self._dry_run.note(tenant, points, refusal)
            return 0
        raise _over_limit(tenant, points, refusal, spent_s)

    async def take_instead(self, tenant: Tenant, charged: int, points: int, spent_s: float) -> int:
        """Charge what a request turned out to be instead of what was charged before.

        Raises RateLimited; then nothing is charged.
        """
        if not charged:  # a dry run let it in, and has noted it
            return 0
        if points < charged:
            await self._limits.refund(tenant, charged - points)
            return points
        # Not the difference alone: a request over the burst is let in by a full bucket only.
        await self._limits.refund(tenant, charged)
        return await self.take(tenant, points, spent_s)

    async def give_back(self, tenant: Tenant, points: int, charged: int) -> None:
        """Undo the charge of a request whose points were not taken, for a reason that is ours."""
        await self._limits.refund(tenant, charged)
        metrics.points(tenant.name, "unavailable").inc(points)

    def take_series(self, tenant: Tenant, series: Series, points: int, spent_s: float) -> None:
        """Count the new series of a request of so many points. Raises RateLimited.

        The charge of points stays: the request was validated.
        """
        refusal = self._series_limiter.charge(tenant, series)
        if refusal is None:
            return
        message = (
            f"tenant {tenant.name!r} is over its limit of {refusal.per_hour:,} new series an hour: "
            f"this request brings {refusal.new:,}, and {refusal.grown}; a value that changes from "
            "point to point belongs in a field; nothing of this request was stored, send it later"
        )
        error = _limited(tenant, points, message, refusal.retry_after_s, spent_s)
        error.headers["RateLimit-Policy"] = f'"series";q={refusal.per_hour};w=3600'
        raise error


def _over_limit(tenant: Tenant, points: int, refusal: OverLimit, spent_s: float) -> RateLimited:
    limit = refusal.limit
    message = (
        f"tenant {tenant.name!r} is over its limit of {limit.rate} points/s "
        f"(burst {limit.burst}); nothing of this request was stored, send it again later"
    )
    error = _limited(tenant, points, message, refusal.retry_after_s, spent_s)
    # draft-ietf-httpapi-ratelimit-headers: quota and window of the policy, what is left now.
    window_s = max(1, limit.burst // limit.rate)
    error.headers["RateLimit-Policy"] = f'"points";q={limit.burst};w={window_s}'
    error.headers["RateLimit"] = f'"points";r={refusal.remaining};t={error.retry_after_s}'
    return error


def _limited(
    tenant: Tenant, points: int, message: str, retry_after_s: float, spent_s: float
) -> RateLimited:
    if points:
        metrics.points(tenant.name, "limited").inc(points)
    error = RateLimited(message, retry_after_s)
    error.paced, error.spent_s = tenant.name, spent_s
    return error
