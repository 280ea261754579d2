"""Which offsets are settled, and up to where each partition may be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from schemas.log import TopicPartition


class OffsetTracker:
    """Low-water marks: everything below a mark is settled, and nothing else is committed.

    Records settle in any order, since batches of several namespaces share a partition.
    """

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}

    def track(self, partition: TopicPartition, offset: int) -> None:
        """Note a polled record. Offsets of one partition come in ascending order."""
        self._partitions.setdefault(partition, _Partition()).track(offset)

    def settle(self, partition: TopicPartition, offset: int) -> None:
        """Note a record that is stored or dead-lettered: it need not be read again."""
        self._partitions[partition].settle(offset)

    def committable(self) -> dict[TopicPartition, int]:
        """The next offset to commit where that moved since the last commit."""
        return {
            partition: state.mark
            for partition, state in self._partitions.items()
            if state.mark is not None and state.mark != state.committed
        }

    def committed(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """The log has taken this commit."""
        for partition, next_offset in next_offsets.items():
            self._partitions[partition].committed = next_offset

    def marks(self) -> dict[TopicPartition, int]:
        """The low-water mark of each partition that has settled anything."""
        return {p: state.mark for p, state in self._partitions.items() if state.mark is not None}

    def unsettled(self) -> int:
        """Number of records polled and not settled."""
        return sum(len(state.unsettled) for state in self._partitions.values())

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions belong to someone else now."""
        for partition in partitions:
            self._partitions.pop(partition, None)


class _Partition:
    def __init__(self) -> None:
        self.mark: int | None = None
        self.committed: int | None = None
        self.unsettled: set[int] = set()
        self._order: deque[int] = deque()

    def track(self, offset: int) -> None:
        if self._order and offset <= self._order[-1]:
            raise ValueError(f"BUG: offset {offset} polled after {self._order[-1]}")
        self._order.append(offset)
        self.unsettled.add(offset)

    def settle(self, offset: int) -> None:
        self.unsettled.remove(offset)
        while self._order and self._order[0] not in self.unsettled:
            self.mark = self._order.popleft() + 1
