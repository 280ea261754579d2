"""The same points for every contestant: blocks as the gateway makes them, and batches of them."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice

from adapters.kafka.publisher import KafkaPublisher
from bench.lab.lines import STEP_MS, body
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, encode_headers

RUNS = 100
BLOCK_LINES = 1000

#: Points are a multiple of this, so that every run has the same number of whole blocks.
SMALLEST = RUNS * BLOCK_LINES

#: Blocks that wait for Kafka at most; far below the bound in bytes of the publisher.
_MAX_IN_FLIGHT = 100
_ACK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Workload:
    """`points` distinct points of RUNS runs, in blocks of BLOCK_LINES consecutive steps."""

    points: int
    epoch_ms: int

    @classmethod
    def recent(cls, points: int) -> Workload:
        """Points whose last ones were measured about now. Raises ValueError for odd numbers."""
        if points % SMALLEST:
            raise ValueError(f"points must be a multiple of {SMALLEST:,}")
        return cls(points, time.time_ns() // 1_000_000 - points // RUNS * STEP_MS)

    def lines(self) -> Iterator[bytes]:
        """The lines of each block, the runs taking turns."""
        for first_step in range(0, self.points // RUNS, BLOCK_LINES):
            for run in range(RUNS):
                yield body(f"r{run}", first_step, BLOCK_LINES, self.epoch_ms)

    def blocks(self, namespace: str) -> Iterator[Block]:
        """The blocks for a namespace."""
        for lines in self.lines():
            yield Block(
                tenant="bench",
                namespace=namespace,
                precision=Precision.MS,
                points=BLOCK_LINES,
                received_ns=time.time_ns(),
                lines=lines,
            )


def batches(parts: Iterator[bytes], size: int) -> list[bytes]:
    """Parts joined, `size` at a time."""
    joined = []
    while taken := list(islice(parts, size)):
        joined.append(b"\n".join(taken))
    return joined


def publish(
    publisher: KafkaPublisher, topic: str, blocks: Iterator[Block], *, evenly: bool = False
) -> None:
    """Append blocks, each to the partition of its series, and wait until Kafka has them all.

    evenly: deal them to the partitions in turns instead. Raises LogUnavailable, RecordRefused.
    """
    waiting: deque[Future[int]] = deque()
    for number, block in enumerate(blocks):
        series = block.lines[: block.lines.find(b" ")]
        key = number if evenly else zlib.crc32(series)
        partition = key % publisher.partition_count(topic)
        if len(waiting) >= _MAX_IN_FLIGHT:
            waiting.popleft().result(_ACK_TIMEOUT_S)
        waiting.append(publisher.send(topic, partition, block.lines, encode_headers(block)))
    for future in waiting:
        future.result(_ACK_TIMEOUT_S)
