"""Fixed ranges of a log that are read once, from and to what offset, and how far that has come.

For a reading that ends by itself, outside any consumer group: what is settled is remembered
here and nowhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from schemas.log.protocols import Record, Source, TopicPartition


@dataclass(frozen=True, slots=True)
class LogRange:
    """The records of a partition from offset `start` up to, and without, `end`.

    first_ms: when the first of them was written, Unix time; 0 where that is not known. cut:
    the log holds nothing older, though what was asked for may have begun earlier.
    """

    start: int
    end: int
    first_ms: int = 0
    cut: bool = False

    @property
    def records(self) -> int:
        """How many offsets lie in it; a log may have left some of them empty."""
        return self.end - self.start


class RangeProgress:
    """What of some ranges is read, and what of that is settled.

    Written by the one thread that reads; `total`, `settled` and `deleted` may be read by any.
    """

    def __init__(self, ranges: Mapping[TopicPartition, LogRange]) -> None:
        self._partitions = {
            partition: _PartitionRange(range_) for partition, range_ in ranges.items()
        }
        #: Records of all ranges together.
        self.total = sum(range_.records for range_ in ranges.values())
        #: Records that the log deleted before they were read.
        self.deleted = 0

    @property
    def unread(self) -> set[TopicPartition]:
        """Partitions of which there is more to be read."""
        return {p for p, state in self._partitions.items() if state.position < state.range.end}

    @property
    def settled(self) -> int:
        """Records below the low-water marks, deleted ones included."""
        return sum(state.mark - state.range.start for state in self._partitions.values())

    @property
    def finished(self) -> bool:
        """Everything is read, and settled."""
        return all(state.mark >= state.range.end for state in self._partitions.values())

    def end(self, partition: TopicPartition) -> int:
        """Where the range ends."""
        return self._partitions[partition].range.end

    def position(self, partition: TopicPartition) -> int:
        """The offset to be read next."""
        return self._partitions[partition].position

    def mark(self, partition: TopicPartition) -> int:
        """Everything below is settled."""
        return self._partitions[partition].mark

    def gave(self, records: Iterable[Record]) -> None:
        """These were read, in order within each partition, and are to be settled."""
        for record in records:
            state = self._partitions[record.topic_partition]
            state.given.append((record.next_offset, record.timestamp_ms))
            state.position = record.next_offset

    def reached(self, partition: TopicPartition, position: int) -> None:
        """Nothing more lies between what was given and this offset."""
        state = self._partitions[partition]
        state.position = min(max(state.position, position), state.range.end)

    def lost(self, partition: TopicPartition, start: int) -> None:
        """What was not read below `start` is deleted."""
        before = self.position(partition)
        self.reached(partition, start)
        self.deleted += self.position(partition) - before

    def settle(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Everything given below these is settled."""
        for partition, next_offset in next_offsets.items():
            state = self._partitions[partition]
            while state.given and state.given[0][0] <= next_offset:
                state.settled, state.settled_ms = state.given.popleft()

    def resume_ms(self) -> int:
        """A reading from this time on misses nothing that is not settled; 0 means from the start.

        The first record at or after a time lies no later than any record of that time. So the
        time of a settled record is early enough, however clocks of writers differ.
        """
        return min(s.settled_ms for s in self._partitions.values() if s.mark < s.range.end)


class RangeSource(Source, Protocol):
    """A source that owns fixed ranges from its first poll, belongs to no group, and ends.

    It is made with what to call, once and from within a poll, when everything is given and
    committed. A commit is noted in `progress` alone. What the log deletes before it is read is
    passed over, and counted there: poll never raises OffsetsLost.
    """

    @property
    def progress(self) -> RangeProgress:
        """How far it has come."""
        ...


class _PartitionRange:
    def __init__(self, range_: LogRange) -> None:
        self.range = range_
        self.position = self.settled = range_.start
        self.settled_ms = range_.first_ms
        self.given: deque[tuple[int, int]] = deque()  # next offset, written_ms

    @property
    def mark(self) -> int:
        return self.settled if self.given else self.position
