"""Probes and the metrics page: for Kubernetes, load balancers, Prometheus, InfluxDB clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ingest.limits.tenant_limits import TenantLimits
from ingest.publish.canary import Canary
from ingest.publish.circuit_breaker import CircuitBreaker, CircuitState
from schemas.store.protocols import StoreUnavailable


class Lifecycle:
    """Whether the process takes new work: set by the lifespan, read by /readyz."""

    def __init__(self) -> None:
        self.ready = False
        #: A task that must not end has failed: the process ends with exit code 1.
        self.failed = False


def probe_routes(
    lifecycle: Lifecycle,
    breaker: CircuitBreaker,
    canary: Canary,
    ping_store: Callable[[], None] | None,
    limits: TenantLimits,
) -> APIRouter:
    """The router. ping_store: raises StoreUnavailable; None leaves the store out of /health."""
    router = APIRouter(tags=["probes"])
    ours = version("stepclock-server")  # InfluxDB clients look for one in /ping and /health
    store_checks: list[asyncio.Future[None]] = []  # at most one: a frozen store holds one thread

    def checked(done: asyncio.Future[None]) -> None:
        store_checks.clear()
        if not done.cancelled():
            done.exception()  # seen, even if nobody waits any more

    async def check_store(ping: Callable[[], None]) -> dict[str, Any]:
        if not store_checks:
            check = asyncio.ensure_future(asyncio.to_thread(ping))
            check.add_done_callback(checked)
            store_checks.append(check)
        try:
            await asyncio.wait_for(asyncio.shield(store_checks[0]), 2.0)
        except (StoreUnavailable, TimeoutError) as exc:
            return {"name": "store", "status": "fail", "message": str(exc) or "no answer in 2 s"}
        return {"name": "store", "status": "pass", "message": "answers"}

    @router.get("/livez")
    async def livez() -> dict[str, str]:
        """200 as long as the event loop turns."""
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 once started and until draining. Does not fail with Kafka: see /health."""
        if lifecycle.ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "starting or draining"}, 503)

    @router.get("/health")
    async def health() -> JSONResponse:
        """State of each dependency; 503 when writes can't be taken."""
        checks: list[dict[str, Any]] = [
            {
                "name": "log",
                "status": "pass" if breaker.state is not CircuitState.OPEN else "fail",
                "message": f"circuit {breaker.state.name.lower().replace('_', '-')}",
            }
        ]
        if ping_store is not None:
            checks.append(await check_store(ping_store))
        if canary.sent:
            status = "pass" if canary.error is None else "fail"
            checks.append({"name": "canary", "status": status, "message": canary.described()})
        if (state := limits.state) is not None:
            status = "pass" if limits.away is None else "fail"
            checks.append({"name": "limits", "status": status, "message": state})
        # Reads fail with the store, and limits go on without Redis: only the log decides.
        passes = checks[0]["status"] == "pass" and lifecycle.ready
        document = {
            "name": "stepclock",
            "message": "takes writes" if passes else "can't take writes now",
            "status": "pass" if passes else "fail",
            "version": ours,
            "checks": checks,
        }
        return JSONResponse(document, 200 if passes else 503)

    @router.api_route("/ping", methods=["GET", "HEAD"], include_in_schema=False)
    async def ping() -> Response:
        """204, as InfluxDB clients expect."""
        return Response(
            status_code=204, headers={"X-Influxdb-Version": ours, "X-Influxdb-Build": "OSS"}
        )

    @router.get("/metrics", include_in_schema=False)
    async def metrics_page() -> Response:
        """Prometheus text format."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router
