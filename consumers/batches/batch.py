"""A batch: blocks of one destination, written together, with their places in the log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from schemas.log.block import Block
from schemas.log.protocols import TopicPartition


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

    full: its points are as many as were allowed, so that there may be a backlog.
    """

    namespace: str
    retention_class: str
    blocks: list[PlacedBlock] = field(default_factory=list)
    points: int = 0
    size_bytes: int = 0
    full: bool = False

    def add(self, placed: PlacedBlock) -> None:
        """Append a block."""
        self.blocks.append(placed)
        self.points += placed.block.points
        self.size_bytes += placed.size_bytes

    def partitions(self) -> set[TopicPartition]:
        """Where its blocks lie."""
        return {placed.partition for placed in self.blocks}

    def part(self, blocks: Collection[PlacedBlock]) -> Batch:
        """Take these blocks out; a batch of them."""
        parted = Batch(self.namespace, self.retention_class)
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
        self.blocks, self.full = blocks, False
        self.points = sum(placed.block.points for placed in blocks)
        self.size_bytes = sum(placed.size_bytes for placed in blocks)
