"""From admitted lines to acknowledged blocks: partition, pieces, receipt."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable

from ingest.publish.group_commit import BlockKey, GroupCommit
from ingest.publish.origin import Origin, Piece
from schemas.admission.admission import Part
from schemas.log.protocols import Publisher, topic_of
from schemas.log.receipt import BlockPosition, encode
from schemas.tenants.keys import Tenant


class PartPublisher:
    """Publishes the parts of a request and returns once the log holds them."""

    def __init__(self, publisher: Publisher, commits: GroupCommit) -> None:
        self._publisher = publisher
        self._commits = commits

    async def publish(
        self,
        tenant: Tenant,
        parts: Iterable[tuple[str, Part]],
        origin: Origin,
    ) -> str:
        """Append the parts, each to its class, and return the receipt once all are durable.

        A part is less than MAX_BLOCK_BYTES: cutting may take seconds, so it is done before.

        Raises Unavailable if any block was not acknowledged; others may have been. Raises
        BodyTooLarge for more than may ever wait.
        """
        todo = list(parts)
        self._commits.check(tenant.name, sum(len(part.lines) for _, part in todo))
        order_key = origin.stream.name.encode() if origin.stream else _series_of(todo[0][1].lines)
        waiters: list[asyncio.Future[int]] = []
        where: list[tuple[str, int]] = []
        for number, (class_name, part) in enumerate(todo):
            topic = topic_of(class_name)
            partition = zlib.crc32(order_key) % self._publisher.partition_count(topic)
            key = BlockKey(
                topic, partition, tenant.name, tenant.namespace, part.precision, part.multiline
            )
            piece = Piece(part.lines, part.points, number, len(todo))
            waiters.append(self._commits.add(key, piece, origin))
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
