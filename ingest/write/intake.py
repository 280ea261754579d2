"""From admitted lines to acknowledged blocks: charge, route, gather, wait.

Both write routes and the JSON route come through here, so that the order of checks, the
refund and the receipt are the same for all.
"""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from ingest.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    RateLimited,
    RetryLater,
)
from ingest.http.body import Receive
from ingest.limits.dry_run import DryRun
from ingest.limits.series import Series, SeriesLimiter, SeriesRefusal
from ingest.limits.tenant import TenantLimits
from ingest.limits.token_bucket import Refusal
from ingest.publish.group_commit import GroupCommit, Lane
from ingest.publish.origin import Origin, Piece
from ingest.publish.pieces import pieces_of
from ingest.write.judge import Judge, Steps
from schemas.admission.admission import Part
from schemas.line_protocol.bounds import Rules
from schemas.log.protocols import Publisher, topic_of
from schemas.log.receipt import BlockPosition, encode
from schemas.retention import Kind, RetentionClass, reserved_in
from schemas.store import delivery
from schemas.tenants.keys import KeyRecord, Role, Tenant
from telemetry import metrics

_HOUR_NS = 3600 * 10**9

T = TypeVar("T")


class Stamper:
    """Times for lines that have none: strictly increasing ns within this process."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """The next time: the clock's, or one ns more than the last. Safe from any thread."""
        with self._lock:
            self._last = max(self._last + 1, self._now_ns())
            return self._last


class Intake:
    """Takes lines for a tenant and returns once the log holds them."""

    def __init__(
        self,
        publisher: Publisher,
        commits: GroupCommit,
        limits: TenantLimits,
        dry_run: DryRun,
        series_limiter: SeriesLimiter,
        judge: Judge,
        retention: Mapping[str, RetentionClass],
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._publisher = publisher
        self._commits = commits
        self._limits = limits
        self._dry_run = dry_run
        self._series_limiter = series_limiter
        #: The series of parts, for `charge_series`; part of judging, safe from any thread.
        self.series_of = series_limiter.of
        self._retention = retention
        self._now_ns = now_ns
        self.stamp = Stamper(now_ns)
        self._judge = judge

    def open(self, key: KeyRecord, declared: bytes | None) -> None:
        """Cheap refusals before the body is read: role, the log away, full, a tenant in debt.

        declared: the Content-Length header, if any.

        A tenant that is refused again and again waits for each answer (`ingest.write.judge`).
        """
        if key.role is not Role.WRITE:
            raise Forbidden(
                f"key {key.id} may only read; ask for one with role write",
                reason="role",
                actor=f"key:{key.id}",
            )
        self._commits.check_log()
        tenant = key.tenant
        try:
            self._commits.check(tenant.name)
            self._judge.check(tenant.name, int(declared or 0))
            refusal = self._limits.in_debt(tenant)
            if refusal and not self._dry_run.covers(tenant):
                raise _limited(tenant, 0, refusal)
        except RetryLater as exc:
            exc.paced = tenant.name
            raise

    async def judge(
        self, tenant: Tenant, size: int, steps: Steps[T], receive: Receive, read_s: float = 0.0
    ) -> T:
        """What the steps return, without harm to others. Raises Unavailable, ClientGone."""
        return await self._judge.run(tenant.name, size, steps, receive, read_s)

    async def charge(self, tenant: Tenant, points: int, read_s: float = 0.0) -> int:
        """Charge points to the tenant; how many were: none of those that only a dry run lets in.

        read_s: CPU that reading them took. Raises RateLimited; then nothing was charged.
        """
        refusal = await self._limits.charge(tenant, points)
        if refusal is None:
            return points
        if self._dry_run.covers(tenant):
            self._dry_run.note(tenant, points, refusal)
            return 0
        error = _limited(tenant, points, refusal)
        error.spent_s = read_s
        raise error

    async def charge_instead(self, tenant: Tenant, charged: int, points: int, read_s: float) -> int:
        """Charge what a request turned out to be, and give back what was charged before."""
        await self._limits.refund(tenant, charged)
        return await self.charge(tenant, points, read_s)

    def charge_series(self, tenant: Tenant, series: Series, points: int) -> None:
        """Count the new series of a request of so many points. Raises RateLimited.

        The charge of points stays: the request was judged.
        """
        refusal = self._series_limiter.charge(tenant, series)
        if refusal:
            raise _too_many_series(tenant, points, refusal)

    async def refund(self, tenant: Tenant, points: int, charged: int) -> None:
        """Undo the charge of a request whose points were not taken, for a reason that is ours."""
        await self._limits.refund(tenant, charged)
        metrics.points(tenant.name, "unavailable").inc(points)

    def route(self, tenant: Tenant, namespace: str | None, class_name: str) -> RetentionClass:
        """The ingest class that a request names. Raises Forbidden, NotFound, BadRequest."""
        if namespace is not None and namespace != tenant.namespace:
            raise Forbidden(
                f"the key belongs to namespace {tenant.namespace!r} and may not write to "
                f"{namespace[:80]!r}; leave the namespace out or use your own",
                reason="namespace",
                actor=f"tenant:{tenant.name}",
            )
        retention_class = self._retention.get(class_name)
        if retention_class is not None and retention_class.kind is Kind.INGEST:
            return retention_class
        ingest = sorted(c.name for c in self._retention.values() if c.kind is Kind.INGEST)
        if retention_class is None:
            raise NotFound(
                f"retention class {class_name[:80]!r} does not exist; there are {', '.join(ingest)}"
            )
        raise BadRequest(
            f"class {class_name!r} is filled by Stepclock itself; write to {' or '.join(ingest)}"
        )

    def route_class(self, class_name: str) -> RetentionClass:
        """An ingest class that must exist (raw, events)."""
        return self._retention[class_name]

    def origin(self, headers: Mapping[bytes, bytes]) -> Origin:
        """Where a request that came now is from. Raises BadRequest."""
        now_ns = self._now_ns()
        keep_s = self._retention[delivery.CLASS].keep_s
        return Origin.from_headers(
            headers, now_ns, 0 if keep_s is None else now_ns - keep_s * 10**9
        )

    def rules(self, retention_class: RetentionClass) -> Rules:
        """What the class admits at this moment."""
        now_ns = self._now_ns()
        keep_s = retention_class.keep_s
        return Rules(
            oldest_ns=None if keep_s is None else now_ns - keep_s * 10**9,
            newest_ns=now_ns + _HOUR_NS,
            keep="forever" if keep_s is None else f"{keep_s // 86_400}d",
            reserved=reserved_in(retention_class.name),
        )

    async def publish(
        self,
        tenant: Tenant,
        parts: Iterable[tuple[str, Part]],
        origin: Origin,
    ) -> str:
        """Append the parts, each to its class, and return the receipt once all are durable.

        Raises Unavailable if any block was not acknowledged; others may have been. Raises
        BodyTooLarge for more than may ever wait.
        """
        todo = [
            (class_name, part, lines, points)
            for class_name, part in parts
            for lines, points in pieces_of(part)
        ]
        self._commits.check(tenant.name, sum(len(lines) for _, _, lines, _ in todo))
        order_key = origin.stream.name.encode() if origin.stream else _series_of(todo[0][2])
        waiters: list[asyncio.Future[int]] = []
        where: list[tuple[str, int]] = []
        for number, (class_name, part, lines, points) in enumerate(todo):
            topic = topic_of(class_name)
            partition = zlib.crc32(order_key) % self._publisher.partition_count(topic)
            lane = Lane(
                topic, partition, tenant.name, tenant.namespace, part.precision, part.multiline
            )
            piece = Piece(lines, points, number, len(todo))
            waiters.append(self._commits.add(lane, piece, origin))
            where.append((class_name, partition))
        if len(waiters) == 1:
            offsets = [await waiters[0]]
        else:
            outcomes = await asyncio.gather(*waiters, return_exceptions=True)
            offsets = []
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                offsets.append(outcome)
        return encode(
            BlockPosition(class_name, partition, offset)
            for (class_name, partition), offset in zip(where, offsets, strict=True)
        )


def _series_of(lines: bytes) -> bytes:
    """Series of the first line, roughly: up to its first space. Any stable key will do."""
    return lines[: lines.find(b" ")]


def _limited(tenant: Tenant, points: int, refusal: Refusal) -> RateLimited:
    if points:
        metrics.points(tenant.name, "limited").inc(points)
    limit = refusal.limit
    error = RateLimited(
        f"tenant {tenant.name!r} is over its limit of {limit.rate} points/s "
        f"(burst {limit.burst}); nothing of this request was stored, send it again later",
        refusal.retry_after_s,
    )
    error.paced = tenant.name
    # draft-ietf-httpapi-ratelimit-headers: quota and window of the policy, what is left now.
    window_s = max(1, limit.burst // limit.rate)
    error.headers["RateLimit-Policy"] = f'"points";q={limit.burst};w={window_s}'
    error.headers["RateLimit"] = f'"points";r={refusal.remaining};t={error.retry_after_s}'
    return error


def _too_many_series(tenant: Tenant, points: int, refusal: SeriesRefusal) -> RateLimited:
    metrics.points(tenant.name, "limited").inc(points)
    error = RateLimited(
        f"tenant {tenant.name!r} is over its limit of {refusal.per_hour:,} new series an hour: "
        f"this request brings {refusal.new:,}, and {refusal.grown}; a value that changes from "
        "point to point belongs in a field; nothing of this request was stored, send it later",
        refusal.retry_after_s,
    )
    error.paced = tenant.name
    error.headers["RateLimit-Policy"] = f'"series";q={refusal.per_hour};w=3600'
    return error
