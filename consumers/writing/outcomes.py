"""What became of the points, for the metrics: each one ends as stored or as dead."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from consumers.observe import CanaryWatch
from consumers.writing.batch_writer import BatchWriter
from schemas.canary import TENANT as CANARIES
from schemas.log.dead_letter import DeadLetter
from telemetry.metrics import CONSUMED_POINTS, END_TO_END_SECONDS, tenant_label


def count_settled(
    batch_writer: BatchWriter,
    now_ns: int,
    on_stored: Callable[[int, int], None] | None,
    canary: CanaryWatch,
) -> None:
    """Count a batch that every view has, and how long its blocks took from their receipt.

    A point that some view lacks is dead. on_stored gets received_ns and the stored points
    of each block. Canaries are no points: the watch alone hears of those that are stored.
    """
    dead = batch_writer.dead_points()
    for placed in batch_writer.batch.blocks:
        block, dead_points = placed.block, dead.get(placed, 0)
        if block.tenant == CANARIES:
            if not dead_points:
                canary.stored(block.received_ns, now_ns)
            continue
        stored = max(0, block.points - dead_points)
        if dead_points:
            CONSUMED_POINTS.labels(tenant_label(block.tenant), "dead").inc(dead_points)
        if stored:
            CONSUMED_POINTS.labels(tenant_label(block.tenant), "stored").inc(stored)
            END_TO_END_SECONDS.observe(max(0.0, (now_ns - block.received_ns) / 1e9))
            if on_stored is not None:
                on_stored(block.received_ns, stored)


def count_refused(letters: Iterable[DeadLetter]) -> None:
    """Count lines that never became part of a batch."""
    for letter in letters:
        CONSUMED_POINTS.labels(tenant_label(letter.tenant), "dead").inc(
            letter.lines.count(b"\n") + 1
        )
