"""The gateway as an ASGI application: routes, lifespan, errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ingest import errors
from ingest.errors import GatewayError
from ingest.http.body import Bounds
from ingest.keys.auth import KeyStore
from ingest.limits.byte_budget import ByteBudget
from ingest.limits.charges import Charges
from ingest.limits.dry_run import DryRun
from ingest.limits.series_limit import SeriesLimiter
from ingest.limits.tenant_limits import TenantLimits
from ingest.limits.token_bucket import Limit
from ingest.pages.openapi import document
from ingest.pages.probes import Lifecycle, probe_routes
from ingest.publish.canary import Canary
from ingest.publish.circuit_breaker import CircuitBreaker
from ingest.publish.group_commit import GroupCommit
from ingest.publish.part_publisher import PartPublisher
from ingest.publish.supervisor import forget_idle, supervise_log
from ingest.read.receipts import receipt_routes
from ingest.read.routes import read_routes
from ingest.read.settlement import Settlement
from ingest.settings import HttpSettings
from ingest.write.endpoint import Endpoint
from ingest.write.ingest_classes import IngestClasses
from ingest.write.line_decoder import LineDecoder, LineDecoderV1
from ingest.write.pipeline import Decoder, WritePipeline
from ingest.write.row_decoder import RowDecoder
from ingest.write.validation_queue import ValidationQueue
from schemas.log.protocols import Progress, Publisher
from schemas.retention import Kind, RetentionClass
from schemas.store.protocols import StoreReader
from schemas.tenants.shared_buckets import SharedBuckets

_log = logging.getLogger("stepclock.gateway")


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a gateway stands on. The caller closes them."""

    publisher: Publisher
    progress: Progress
    reader: StoreReader
    keys: KeyStore
    retention: Mapping[str, RetentionClass]
    ping_store: Callable[[], None] | None = None
    #: None: each gateway grants its share of a limit. The application closes them.
    shared_buckets: SharedBuckets | None = None
    #: Seconds between looks at the workers' progress while clients wait for receipts.
    look_every_s: float = 1.0


class Gateway(FastAPI):
    """FastAPI, but POSTs to the write routes go straight to their plain ASGI endpoints.

    FastAPI's and Starlette's own machinery was measured at up to half of a small request.
    """

    def __init__(self, pipeline: WritePipeline, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._pipeline = pipeline
        self._hot: dict[str, Endpoint] = {}

    def add_write_route(self, path: str, decoder: Decoder) -> None:
        """Take writes at a path, as the decoder reads them."""
        endpoint = Endpoint(path, decoder, self._pipeline)
        self._hot[path] = endpoint
        self.router.routes.append(Route(path, endpoint, methods=["POST"]))  # says 405 to others

    @property
    def write_routes(self) -> Collection[str]:
        """The paths that take writes."""
        return self._hot.keys()

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made when it is first asked for."""
        if self.openapi_schema is None:
            document(super().openapi())
            assert self.openapi_schema is not None
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan (ASGI 3)."""
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._hot.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def create_app(settings: HttpSettings, on: Dependencies) -> Gateway:
    """Build the application. Nothing runs before its lifespan starts."""
    breaker = CircuitBreaker()
    commits = GroupCommit(on.publisher, breaker, max_pending_bytes=settings.max_pending_bytes)
    limits = TenantLimits(
        Limit(settings.rate_points_per_s, settings.burst_points),
        replicas=settings.replicas,
        shared=on.shared_buckets,
    )
    dry_run = DryRun(everybody=settings.dry_run)
    series_limiter = SeriesLimiter(
        settings.series_mode,
        settings.series_per_hour,
        dry_run,
        replicas=settings.replicas,
        max_known=settings.max_known_series,
        learn_s=settings.series_learn_s,
    )
    budget = ByteBudget("reading", "read buffer", settings.reading_bytes)
    pipeline = WritePipeline(
        on.keys,
        Bounds(settings.max_body_bytes, settings.max_decompressed_bytes, budget),
        commits,
        Charges(limits, dry_run, series_limiter),
        ValidationQueue(),
        IngestClasses(on.retention),
        PartPublisher(on.publisher, commits),
    )
    canary = Canary(on.publisher, commits, on.retention, socket.gethostname())
    settlement = Settlement(on.progress, interval_s=on.look_every_s)
    lifecycle = Lifecycle()

    def end_process_if_failed(task: asyncio.Task[None]) -> None:
        # Without its supervisor a gateway would refuse for ever: let the next process begin.
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("a task of the gateway failed, the process ends", exc_info=error)
            lifecycle.failed = True
            signal.raise_signal(signal.SIGTERM)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        first_probe = asyncio.Event()
        tasks = [
            asyncio.create_task(supervise_log(on.publisher, breaker, first_probe)),
            asyncio.create_task(forget_idle(limits, series_limiter)),
        ]
        if on.shared_buckets is not None:
            tasks.append(asyncio.create_task(limits.watch()))
        if settings.canary_s:
            tasks.append(asyncio.create_task(canary.run(settings.canary_s)))
        for task in tasks:
            task.add_done_callback(end_process_if_failed)
        ready = asyncio.create_task(first_probe.wait())
        await asyncio.wait([ready, tasks[0]], return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            ready.cancel()
            tasks[0].result()  # raises: the server does not start
        # With the log there, the first request is already taken.
        lifecycle.ready = True
        settlement.begin_look()
        yield
        lifecycle.ready = False
        await commits.drain(settings.drain_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await limits.close()
        await settlement.close()

    app = Gateway(
        pipeline,
        title="Stepclock",
        version=version("stepclock-server"),
        summary="Metrics of training jobs. A 2xx means durable.",
        lifespan=lifespan,
        exception_handlers={
            GatewayError: _problem,
            RequestValidationError: _bad_query,
            HTTPException: _no_such_route,
        },
    )
    app.state.lifecycle = lifecycle
    app.state.settlement = settlement
    app.add_write_route("/api/v2/write", LineDecoder())
    app.add_write_route("/write", LineDecoderV1())
    app.add_write_route("/api/v1/metrics", RowDecoder(settings.max_decompressed_bytes))
    app.include_router(read_routes(on.keys, on.reader))
    ingest_classes = [c.name for c in on.retention.values() if c.kind is Kind.INGEST]
    app.include_router(receipt_routes(on.keys, settlement, ingest_classes))
    app.include_router(probe_routes(lifecycle, breaker, canary, on.ping_store, limits))
    return app


async def _bad_query(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
    return await _problem(request, errors.BadRequest(wrong))


async def _no_such_route(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    path = request.url.path
    if exc.status_code == 405:
        error: GatewayError = errors.WrongMethod(f"{request.method} is not answered at {path}")
        error.headers.update(exc.headers or {})
    else:
        error = errors.NotFound(f"there is nothing at {path}; see /docs")
    return await _problem(request, error)


async def _problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, GatewayError)
    status, headers, body = errors.response(exc, errors.problem, request.url.path)
    answer = Response(body, status)
    answer.raw_headers = headers
    return answer
