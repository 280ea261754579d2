"""What the gateway does in the background: probe an absent log, forget what is idle."""

from __future__ import annotations

import asyncio
import logging

from ingest.limits.series_limit import SeriesLimiter
from ingest.limits.tenant_limits import TenantLimits
from ingest.publish.circuit_breaker import CircuitBreaker, CircuitState
from schemas.log.protocols import LogUnavailable, Publisher
from telemetry import metrics

_log = logging.getLogger("stepclock.gateway")


async def supervise_log(
    publisher: Publisher,
    breaker: CircuitBreaker,
    first_probe: asyncio.Event,
    *,
    interval_s: float = 0.5,
    probe_timeout_s: float = 3.0,
) -> None:
    """Run until cancelled. A probe also mends the publisher (`Publisher.probe`).

    first_probe is set once the log has answered, or failed to, for the first time.
    """
    told = False
    while True:
        if breaker.state is CircuitState.OPEN:
            try:
                await asyncio.to_thread(publisher.probe, probe_timeout_s)
            except (LogUnavailable, OSError) as exc:  # OSError: no file descriptor is left, say
                if not told:
                    _log.warning("the log is away, writes get 503: %s", exc)
                    told = True
            else:
                breaker.probe_succeeded()
                if told:
                    _log.info("the log answers again")
                    told = False
        first_probe.set()
        await asyncio.sleep(interval_s)


async def forget_idle(
    limits: TenantLimits, series_limiter: SeriesLimiter, *, interval_s: float = 10.0
) -> None:
    """Run until cancelled: forget what limits need no longer know, publish what they hold."""
    while True:
        metrics.BUCKETS.set(limits.forget_idle())
        metrics.KNOWN_SERIES.set(series_limiter.forget_idle())
        await asyncio.sleep(interval_s)
