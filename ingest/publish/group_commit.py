"""Group commit: what arrives while the log is busy travels together in the next block.

Lines for the same topic, partition, tenant, namespace and precision gather in one open
block. It goes out at once while fewer than `max_in_flight` blocks of its partition are in
flight, else when one of them returns (DeWitt et al. 1984 for databases; measured better than
a timer here: an idle gateway adds no delay, a busy one makes larger blocks). One in flight is
what an idempotent kafka-python producer keeps anyway; see docs/adr/0005.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from ingest.errors import BodyTooLarge, Internal, Unavailable
from ingest.limits.byte_budget import ByteBudget
from ingest.publish.circuit_breaker import CircuitBreaker
from ingest.publish.origin import Origin, Piece
from schemas.line_protocol.precision import Precision
from schemas.log.block import MAX_BLOCK_BYTES, MAX_DELIVERIES, Block, Delivery, encode_headers
from schemas.log.protocols import LogUnavailable, Publisher, RecordRefused
from telemetry import metrics


@dataclass(frozen=True, slots=True)
class BlockKey:
    """What lines must have in common to share a block."""

    topic: str
    partition: int
    tenant: str
    namespace: str
    precision: Precision
    multiline: bool


@dataclass(slots=True, eq=False)
class _OpenBlock:
    tenant: str
    received_ns: int
    traceparent: str | None
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    points: int = 0
    deliveries: list[Delivery] = field(default_factory=list)
    waiters: list[asyncio.Future[int]] = field(default_factory=list)


class GroupCommit:
    """Gathers, sends, and tells each waiter its offset. Belongs to one event loop.

    Bound: at most `max_pending_bytes` of lines that the log has not acknowledged, and of one
    tenant as ByteBudget says; beyond it `check` refuses with Unavailable.
    """

    def __init__(
        self,
        publisher: Publisher,
        breaker: CircuitBreaker,
        *,
        max_pending_bytes: int,
        max_in_flight: int = 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = publisher
        self._breaker = breaker
        self._pending = ByteBudget("pending", "publish buffer", max_pending_bytes)
        self._max_pending_bytes = max_pending_bytes
        self._max_in_flight = max_in_flight
        self._now = now
        # (topic, partition) -> open blocks in the order in which they were opened
        self._open: dict[tuple[str, int], OrderedDict[BlockKey, list[_OpenBlock]]] = defaultdict(
            OrderedDict
        )
        self._in_flight: dict[tuple[str, int], list[_OpenBlock]] = defaultdict(list)
        metrics.PENDING_BYTES_LIMIT.set(max_pending_bytes)

    def check_log(self) -> None:
        """Raise Unavailable if the log is away."""
        if self._breaker.refuses():
            raise Unavailable(
                "the log is not reachable; nothing was stored, send the same again later",
                self._breaker.retry_after_s,
            )

    def check(self, tenant: str, size: int = 0) -> None:
        """Raise Unavailable if the log is away or `size` more bytes do not fit.

        Raises BodyTooLarge if they never will: with a time for each line, a body grows.
        """
        self.check_log()
        if size > self._max_pending_bytes:
            raise BodyTooLarge(
                f"as lines with times the body has {size} bytes; at most "
                f"{self._max_pending_bytes} may wait for the log: send smaller parts"
            )
        self._pending.check(tenant, size)

    def add(self, key: BlockKey, piece: Piece, origin: Origin) -> asyncio.Future[int]:
        """Put a request's piece (less than MAX_BLOCK_BYTES) into the key's block.

        The future gives the block's offset once the log holds it, or fails with Unavailable.
        Call `check` first, with the size of the whole request.
        """
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        where = (key.topic, key.partition)
        blocks = self._open[where].setdefault(key, [])
        size = len(piece.lines) + 1
        if (
            not blocks
            or blocks[-1].size + size > MAX_BLOCK_BYTES
            or len(blocks[-1].deliveries) >= MAX_DELIVERIES
        ):
            blocks.append(_OpenBlock(key.tenant, origin.received_ns, origin.traceparent))
        block = blocks[-1]
        delivery = origin.delivery(piece, block.points)
        if delivery is not None:
            block.deliveries.append(delivery)
        block.chunks.append(piece.lines)
        block.size += size
        block.points += piece.points
        block.waiters.append(waiter)
        self._pending.take(key.tenant, size)
        metrics.PENDING_BYTES.set(self._pending.held_bytes)
        self._flush(where)
        return waiter

    async def drain(self, timeout_s: float) -> None:
        """Wait until everything added is acknowledged or has failed, at most timeout_s."""
        gathering = (blocks for by_key in self._open.values() for blocks in by_key.values())
        waiters = [
            waiter
            for blocks in (*gathering, *self._in_flight.values())
            for block in blocks
            for waiter in block.waiters
        ]
        if waiters:
            await asyncio.wait(waiters, timeout=timeout_s)

    def _flush(self, where: tuple[str, int]) -> None:
        by_key = self._open[where]
        while (
            by_key
            and len(self._in_flight[where]) < self._max_in_flight
            and not self._breaker.trying
        ):
            key, blocks = next(iter(by_key.items()))
            block = blocks.pop(0)
            if not blocks:
                del by_key[key]
            else:
                by_key.move_to_end(key)  # tenants of a partition take turns
            if self._breaker.refuses():
                self._settle(block, None)
            else:
                self._send(key, block)

    def _send(self, key: BlockKey, block: _OpenBlock) -> None:
        lines = block.chunks[0] if len(block.chunks) == 1 else b"\n".join(block.chunks)
        headers = encode_headers(
            Block(
                key.tenant,
                key.namespace,
                key.precision,
                block.points,
                block.received_ns,
                lines,
                key.multiline,
                tuple(block.deliveries),
                block.traceparent,
            )
        )
        where = (key.topic, key.partition)
        self._in_flight[where].append(block)
        self._breaker.begin()
        sent_at = self._now()
        loop = asyncio.get_running_loop()
        try:
            future = self._publisher.send(key.topic, key.partition, lines, headers)
        except Exception as exc:  # noqa: BLE001 - whoever waits for the block must hear of it
            future = Future()
            future.set_exception(exc)
        future.add_done_callback(
            lambda done: loop.call_soon_threadsafe(self._returned, where, block, done, sent_at)
        )

    def _returned(
        self, where: tuple[str, int], block: _OpenBlock, done: Future[int], sent_at: float
    ) -> None:
        self._in_flight[where].remove(block)
        was_trying = self._breaker.trying
        error = done.exception()
        if error is None:
            metrics.ACK_SECONDS.observe(self._now() - sent_at)
            metrics.BLOCKS.labels("acknowledged").inc()
            self._breaker.succeeded()
            self._settle(block, done.result())
        elif isinstance(error, LogUnavailable):
            metrics.BLOCKS.labels("unavailable").inc()
            self._breaker.failed()
            self._settle(block, None)
        elif isinstance(error, RecordRefused):
            # The log refuses a block that we made: our fault, and this block's alone.
            metrics.BLOCKS.labels("refused").inc()
            self._breaker.refused()
            self._settle(block, error)
        else:
            # Nobody knows what the log can do now: the supervisor's probe finds out, or crashes.
            metrics.BLOCKS.labels("failed").inc()
            self._breaker.failed()
            self._settle(block, error)
        if was_trying:  # everyone waited for the outcome
            for other in self._open:
                self._flush(other)
        else:
            self._flush(where)

    def _settle(self, block: _OpenBlock, outcome: int | BaseException | None) -> None:
        self._pending.give_back(block.tenant, block.size)
        metrics.PENDING_BYTES.set(self._pending.held_bytes)
        for waiter in block.waiters:
            if waiter.done():
                continue
            if isinstance(outcome, int):
                waiter.set_result(outcome)
            elif outcome is None:
                waiter.set_exception(
                    Unavailable(
                        "the log did not acknowledge in time; send the same again later",
                        self._breaker.retry_after_s,
                    )
                )
            else:
                waiter.set_exception(Internal(f"the log refused a block: {outcome}"))
