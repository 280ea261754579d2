"""Which offsets are settled, and up to where each partition may be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from schemas.log.protocols import TopicPartition


class OffsetTracker:
    """Low-water marks: everything below a mark is settled, and nothing else is committed.

    Records settle in any order, since batches of several namespaces share a partition.
    """

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}

    def track(self, partition: TopicPartition, offset: int, written_ms: int = 0) -> None:
        """Note a polled record, written at that Unix time; offsets of a partition ascend."""
        self._partitions.setdefault(partition, _Partition()).track(offset, written_ms)

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

    def written_ms(self) -> dict[TopicPartition, int]:
        """When each partition's oldest unsettled record was written, or the one before it."""
        return {partition: state.written_ms() for partition, state in self._partitions.items()}

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
        self._order: deque[tuple[int, int]] = deque()  # offset, written_ms
        self._passed_ms = 0

    def track(self, offset: int, written_ms: int) -> None:
        if self._order and offset <= self._order[-1][0]:
            raise ValueError(f"BUG: offset {offset} polled after {self._order[-1][0]}")
        self._order.append((offset, written_ms))
        self.unsettled.add(offset)

    def settle(self, offset: int) -> None:
        self.unsettled.remove(offset)
        while self._order and self._order[0][0] not in self.unsettled:
            passed, self._passed_ms = self._order.popleft()
            self.mark = passed + 1

    def written_ms(self) -> int:
        return self._order[0][1] if self._order else self._passed_ms
