"""Limits that are only looked at: what would have been refused is taken, counted and logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ingest.limits.token_bucket import OverLimit
from schemas.tenants.keys import Tenant
from telemetry import metrics

_log = logging.getLogger("stepclock.gateway")

_TELL_EVERY_S = 60.0


class DryRun:
    """Who is limited in earnest. Belongs to one event loop.

    everybody: the whole gateway runs dry, else tenants whose keys file says so.
    """

    def __init__(self, *, everybody: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._everybody = everybody
        self._now = now
        self._told: dict[str, float] = {}

    def covers(self, tenant: Tenant) -> bool:
        """Whether the tenant's limits refuse nothing."""
        return self._everybody or tenant.dry_run

    def note(self, tenant: Tenant, points: int, refusal: OverLimit) -> None:
        """Count points that the limit would have refused; say so, at most once a minute."""
        metrics.DRY_RUN_LIMITED.labels(metrics.tenant_label(tenant.name)).inc(points)
        now = self._now()
        if now - self._told.get(tenant.name, -_TELL_EVERY_S) >= _TELL_EVERY_S:
            self._told[tenant.name] = now
            _log.warning(
                "dry run: tenant %s is over its limit of %d points/s (burst %d), "
                "and would have got 429 for %d points",
                tenant.name,
                refusal.limit.rate,
                refusal.limit.burst,
                points,
            )
