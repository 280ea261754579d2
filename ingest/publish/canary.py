"""The gateway's canary: a point every few seconds through the log, by its own group commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from ingest.errors import GatewayError
from ingest.publish.group_commit import BlockKey, GroupCommit
from ingest.publish.origin import Origin, Piece
from schemas import canary
from schemas.line_protocol.precision import Precision
from schemas.log.protocols import LogUnavailable, Publisher, RecordRefused, topic_of
from schemas.retention import RetentionClass
from telemetry import metrics


class Canary:
    """Sends canaries, and remembers how the last one fared. Belongs to one event loop.

    The partitions of the topic take turns, so that each worker meets canaries. They come
    neither over HTTP nor by a key: they are charged to nobody and counted as nobody's points.
    """

    def __init__(
        self,
        publisher: Publisher,
        commits: GroupCommit,
        classes: Mapping[str, RetentionClass],
        gateway: str,
        *,
        now: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._publisher = publisher
        self._commits = commits
        self._topic = topic_of(canary.class_of_canaries(classes))
        self._gateway = gateway
        self._now = now
        self._now_ns = now_ns
        self._acknowledged_at: float | None = None
        self._latency_s = 0.0
        #: Number of canaries sent, acknowledged or not.
        self.sent = 0
        #: Why the log did not take the last one; None if it did.
        self.error: str | None = None

    async def run(self, interval_s: float) -> None:
        """Send one each interval_s seconds until cancelled, the first one after the first."""
        while True:
            await asyncio.sleep(interval_s)
            await self.send()

    async def send(self) -> None:
        """Send one and wait until the log has it, or will not have it."""
        began = self._now()
        try:
            await self._publish()
        except (GatewayError, LogUnavailable, RecordRefused) as exc:
            self.error = str(exc)
            metrics.CANARIES.labels("failed").inc()
        else:
            self.error = None
            self._acknowledged_at = self._now()
            self._latency_s = self._acknowledged_at - began
            metrics.CANARIES.labels("acknowledged").inc()
        finally:
            self.sent += 1

    async def _publish(self) -> None:
        partition = self.sent % self._publisher.partition_count(self._topic)
        time_ns = self._now_ns()
        line = canary.gateway_line(self._gateway, partition, time_ns)
        self._commits.check(canary.TENANT, len(line))
        key = BlockKey(
            self._topic,
            partition,
            canary.TENANT,
            canary.NAMESPACE,
            Precision.NS,
            multiline=False,
        )
        await self._commits.add(key, Piece(line, 1), Origin(time_ns))

    def described(self) -> str:
        """When the log last took one, how long that took, and what is wrong since."""
        if self._acknowledged_at is None:
            return f"none acknowledged yet: {self.error}"
        age_s = self._now() - self._acknowledged_at
        said = f"acknowledged {age_s:.1f} s ago, within {self._latency_s * 1000:.0f} ms"
        return said if self.error is None else f"{said}; since then: {self.error}"
