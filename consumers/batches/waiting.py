"""Blocks that wait for a batch, which is cut when it is to be written."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from consumers.batches.batch import Batch, PlacedBlock
from schemas.log.protocols import TopicPartition


class Waiting:
    """Blocks of one destination, each with the time at which it came, oldest first.

    Cut as late as possible: most of a backlog is polled long before it is written, and how
    much a batch may hold changes meanwhile.
    """

    def __init__(self) -> None:
        self._blocks: deque[tuple[float, PlacedBlock]] = deque()
        self.points = 0
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def add(self, placed: PlacedBlock, came_at: float) -> None:
        """Append a block."""
        self._blocks.append((came_at, placed))
        self.points += placed.block.points
        self.size_bytes += placed.size_bytes

    @property
    def since(self) -> float:
        """When the oldest one came; there must be one."""
        return self._blocks[0][0]

    def enough(self, *, max_points: int, max_bytes: int) -> bool:
        """There is enough for a batch to which no block can be added."""
        return self.points >= max_points or self.size_bytes >= max_bytes

    def cut(self, batch: Batch, *, max_points: int, max_bytes: int) -> None:
        """Move the oldest blocks into an empty batch, as many as fit.

        The first one always does, so that none is too large for every batch.
        """
        while self._blocks:
            _, placed = self._blocks[0]
            if batch.blocks and batch.points + placed.block.points > max_points:
                batch.full = True
                return
            if batch.blocks and batch.size_bytes + placed.size_bytes > max_bytes:
                return
            self._blocks.popleft()
            self.points -= placed.block.points
            self.size_bytes -= placed.size_bytes
            batch.add(placed)
        batch.full = batch.points >= max_points

    def put_back(self, batch: Batch) -> None:
        """Have the blocks of a batch that was cut from these wait again, before all others."""
        self._blocks.extendleft((float("-inf"), placed) for placed in reversed(batch.blocks))
        self.points += batch.points
        self.size_bytes += batch.size_bytes

    def make_due(self) -> None:
        """Let none of these wait for others any more."""
        self._blocks = deque((float("-inf"), placed) for _, placed in self._blocks)

    def partitions(self) -> set[TopicPartition]:
        """Where they lie."""
        return {placed.partition for _, placed in self._blocks}

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the blocks of these partitions."""
        kept = [(at, placed) for at, placed in self._blocks if placed.partition not in partitions]
        self._blocks = deque()
        self.points = self.size_bytes = 0
        for came_at, placed in kept:
            self.add(placed, came_at)
