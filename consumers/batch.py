"""A batch: blocks of one destination, written together, with their places in the log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from schemas.block import Block
from schemas.log import TopicPartition


@dataclass(frozen=True, slots=True, eq=False)
class PlacedBlock:
    """A block and the one record that holds it. Equal only to itself."""

    block: Block
    partition: TopicPartition
    offset: int
    #: Size of the record's value, which the bound on memory counts.
    size_bytes: int


@dataclass(slots=True, eq=False)
class Batch:
    """Blocks of one namespace and retention class, in the order in which they were polled.

    opened_at: when its first block came, on the worker's clock.
    """

    namespace: str
    retention_class: str
    opened_at: float
    blocks: list[PlacedBlock] = field(default_factory=list)
    points: int = 0
    size_bytes: int = 0

    def add(self, placed: PlacedBlock) -> None:
        """Append a block."""
        self.blocks.append(placed)
        self.points += placed.block.points
        self.size_bytes += placed.size_bytes

    def takes(self, placed: PlacedBlock, *, max_points: int, max_bytes: int) -> bool:
        """One more block fits. An empty batch takes any, so that none is too large for all."""
        return not self.blocks or (
            self.points + placed.block.points <= max_points
            and self.size_bytes + placed.size_bytes <= max_bytes
        )

    def full(self, *, max_points: int, max_bytes: int) -> bool:
        """No further block would fit."""
        return self.points >= max_points or self.size_bytes >= max_bytes

    def partitions(self) -> set[TopicPartition]:
        """Where its blocks lie."""
        return {placed.partition for placed in self.blocks}

    def part(self, blocks: Collection[PlacedBlock]) -> Batch:
        """Take these blocks out; a batch of them."""
        parted = Batch(self.namespace, self.retention_class, self.opened_at)
        for placed in self.blocks:
            if placed in blocks:
                parted.add(placed)
        self._keep([placed for placed in self.blocks if placed not in blocks])
        return parted

    def drop(self, partitions: Collection[TopicPartition]) -> bool:
        """Take out the blocks of these partitions; True if there were any."""
        kept = [placed for placed in self.blocks if placed.partition not in partitions]
        if len(kept) == len(self.blocks):
            return False
        self._keep(kept)
        return True

    def _keep(self, blocks: list[PlacedBlock]) -> None:
        self.blocks = blocks
        self.points = sum(placed.block.points for placed in blocks)
        self.size_bytes = sum(placed.size_bytes for placed in blocks)
