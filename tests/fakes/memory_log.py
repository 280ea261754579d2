"""The log in memory, for tests of the gateway and the workers.

It keeps the contract of `schemas.log` (tests/contract/log/test_log.py runs over it) and adds
knobs: refuse sends, hold acknowledgements back, refuse commits, rebalance, take partitions
away, delete old records.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future

from schemas.log.protocols import (
    Headers,
    LogUnavailable,
    OffsetsLost,
    RebalanceListener,
    Record,
    RecordRefused,
    TopicPartition,
)
from schemas.log.ranges import LogRange, RangeProgress

MAX_RECORD_BYTES = 1_000_000


class MemoryLog:
    """Topics, records and groups. All parts of one log share one lock and may use any thread.

    Knobs, all of which may be changed at any time:

    - `send_error`: every send fails with it (LogUnavailable: the probe fails too).
    - `commit_error`: every commit raises it.
    - `hold()` keeps acknowledgements back until `release()`; the records are in the log.
    - `away`: polls return [], everything else raises or fails with LogUnavailable.
    - `rebalance(group)`: every member gives up all its partitions at its next poll.
    - `lose(group)`: every member has lost all its partitions already; next poll says so.
    - `delete_before(partition, offset)`: what retention does.
    """

    def __init__(
        self,
        topics: Mapping[str, int],
        *,
        max_record_bytes: int = MAX_RECORD_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.max_record_bytes = max_record_bytes
        self.send_error: Exception | None = None
        self.commit_error: Exception | None = None
        self.away = False
        self._clock = clock
        self._changed = threading.Condition(threading.RLock())
        self._partitions = dict(topics)
        self._records: dict[TopicPartition, list[Record]] = {
            TopicPartition(topic, partition): []
            for topic, count in topics.items()
            for partition in range(count)
        }
        self._starts: dict[TopicPartition, int] = dict.fromkeys(self._records, 0)
        self._groups: dict[str, _Group] = defaultdict(_Group)
        self._held: list[tuple[Future[int], int]] = []
        self._holding = False

    def publisher(self) -> MemoryPublisher:
        return MemoryPublisher(self)

    def source(
        self, group: str = "workers", *, max_poll_records: int = 500, waits: bool = True
    ) -> MemorySource:
        """A member of a group. waits=False: poll answers at once, for tests with a fake clock."""
        return MemorySource(self, group, max_poll_records=max_poll_records, waits=waits)

    def reader(self) -> MemoryReader:
        return MemoryReader(self)

    def progress(self, topic: str, group: str = "workers") -> MemoryProgress:
        return MemoryProgress(self, topic, group)

    def ranges_since(
        self, topics: Iterable[str], since_ms: int | None
    ) -> dict[TopicPartition, LogRange]:
        """As KafkaAdmin finds them."""
        wanted = list(topics)
        for topic in wanted:
            if topic not in self._partitions:
                raise RecordRefused(f"no topic {topic!r}")
        ranges = {}
        with self._changed:
            for partition in (p for p in self._records if p.topic in wanted):
                start, end = self._starts[partition], self._end(partition)
                late = [r for r in self._records[partition] if r.timestamp_ms >= (since_ms or 0)]
                first_ms = late[0].timestamp_ms if late else 0
                first = late[0].offset if late else end
                cut = since_ms is not None and 0 < first == start and first_ms > since_ms
                first = start if since_ms is None else first
                ranges[partition] = LogRange(first, end, first_ms, cut)
        return ranges

    def range(
        self,
        ranges: Mapping[TopicPartition, LogRange],
        on_end: Callable[[], None],
        *,
        max_poll_records: int = 500,
    ) -> MemoryRange:
        return MemoryRange(self, ranges, on_end, max_poll_records=max_poll_records)

    def records(self, topic: str) -> list[Record]:
        """What the topic holds, by partition and offset."""
        with self._changed:
            return [
                record
                for partition in range(self._partitions[topic])
                for record in self._records[TopicPartition(topic, partition)]
            ]

    def committed(self, group: str = "workers") -> dict[TopicPartition, int]:
        with self._changed:
            return dict(self._groups[group].committed)

    def hold(self) -> None:
        with self._changed:
            self._holding = True

    def release(self, error: Exception | None = None) -> int:
        """Acknowledge what was held back (or fail it with error); say how many there were."""
        with self._changed:
            self._holding = False
            held, self._held = self._held, []
        for future, offset in held:
            if error is None:
                future.set_result(offset)
            else:
                future.set_exception(error)
        return len(held)

    def rebalance(self, group: str = "workers") -> None:
        with self._changed:
            for member in self._groups[group].members:
                member._must_revoke = True
            self._changed.notify_all()

    def lose(self, group: str = "workers") -> None:
        with self._changed:
            for member in self._groups[group].members:
                member._lost |= member._owned.keys()
                member._owned.clear()
            self._changed.notify_all()

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        with self._changed:
            kept = [r for r in self._records[partition] if r.offset >= offset]
            self._records[partition] = kept
            self._starts[partition] = max(self._starts[partition], offset)

    def _end(self, partition: TopicPartition) -> int:
        return self._starts[partition] + len(self._records[partition])

    def _holds(self, partition: TopicPartition, next_offset: int) -> bool:
        return self._starts[partition] <= next_offset <= self._end(partition)


class _Group:
    def __init__(self) -> None:
        self.members: list[MemorySource] = []
        self.committed: dict[TopicPartition, int] = {}

    def target(
        self, member: MemorySource, all_partitions: Iterable[TopicPartition]
    ) -> set[TopicPartition]:
        """What the member should own: partitions dealt round among those who subscribed."""
        mine = set()
        for index, partition in enumerate(sorted(all_partitions)):
            takers = [m for m in self.members if partition.topic in m._topics]
            if takers and takers[index % len(takers)] is member:
                mine.add(partition)
        return mine

    def owned_by_others(self, member: MemorySource) -> set[TopicPartition]:
        return {p for other in self.members if other is not member for p in other._owned}


class MemoryPublisher:
    """log.protocols.Publisher. Futures resolve within send, unless the log holds them back."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._closed = False

    def send(self, topic: str, partition: int, value: bytes, headers: Headers) -> Future[int]:
        log = self._log
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()  # as the others do: no caller can cancel it
        with log._changed:
            error = self._refusal(topic, partition, value)
            if error is None:
                where = TopicPartition(topic, partition)
                offset = log._end(where)
                log._records[where].append(
                    Record(topic, partition, offset, value, headers, int(log._clock() * 1000))
                )
                log._changed.notify_all()
                if log._holding:
                    log._held.append((future, offset))
                    return future
        if error is None:
            future.set_result(offset)
        else:
            future.set_exception(error)
        return future

    def partition_count(self, topic: str) -> int:
        try:
            return self._log._partitions[topic]
        except KeyError:
            raise RecordRefused(f"no topic {topic!r}") from None

    def probe(self, timeout_s: float) -> None:
        del timeout_s  # the fake answers at once
        if self._log.away or isinstance(self._log.send_error, LogUnavailable) or self._closed:
            raise LogUnavailable("the memory log is away")

    def close(self, timeout_s: float) -> None:
        del timeout_s  # the fake answers at once
        self._closed = True
        self._log.release(LogUnavailable("the publisher was closed"))

    def _refusal(self, topic: str, partition: int, value: bytes) -> Exception | None:
        if self._closed:
            return LogUnavailable("the publisher is closed")
        if not 0 <= partition < self._log._partitions.get(topic, 0):
            return RecordRefused(f"no partition {topic}[{partition}]")
        if len(value) > self._log.max_record_bytes:
            return RecordRefused(f"record of {len(value)} bytes is too large")
        if self._log.away:
            return LogUnavailable("the memory log is away")
        return self._log.send_error


class MemorySource:
    """log.protocols.Source. Members of a group share partitions; those that move are revoked."""

    def __init__(self, log: MemoryLog, group: str, *, max_poll_records: int, waits: bool) -> None:
        self._log = log
        self._group = log._groups[group]
        self._max_poll_records = max_poll_records
        self._waits = waits
        self._topics: frozenset[str] = frozenset()
        self._listener: RebalanceListener | None = None
        self._owned: dict[TopicPartition, int] = {}  # -> next offset to read
        self._paused: set[TopicPartition] = set()
        self._lost: set[TopicPartition] = set()
        self._must_revoke = False
        self._closed = False

    @property
    def paused(self) -> frozenset[TopicPartition]:
        return frozenset(self._paused & self._owned.keys())

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        with self._log._changed:
            self._topics = frozenset(topics)
            self._listener = listener
            self._group.members.append(self)
            self._log._changed.notify_all()

    def poll(self, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        while True:
            self._settle_assignment()
            with self._log._changed:
                records = [] if self._log.away else self._take()
                left_s = deadline - time.monotonic()
                if records or not self._waits or left_s <= 0:
                    return records
                self._log._changed.wait(left_s)

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        with self._log._changed:
            if self._log.commit_error is not None:
                raise self._log.commit_error
            if self._log.away or self._closed:
                raise LogUnavailable("the memory log is away")
            if not next_offsets.keys() <= self._owned.keys():
                raise LogUnavailable("partitions moved to another member")
            self._group.committed.update(next_offsets)

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        with self._log._changed:
            self._need()
            return {p: self._group.committed.get(p) for p in partitions}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        with self._log._changed:
            self._need()
            return {p: self._log._end(p) for p in partitions}

    def close(self) -> None:
        with self._log._changed:
            if not self._closed and self in self._group.members:
                self._group.members.remove(self)
            self._owned.clear()
            self._closed = True
            self._log._changed.notify_all()

    def _need(self) -> None:
        if self._log.away or self._closed:
            raise LogUnavailable("the memory log is away")

    def _settle_assignment(self) -> None:
        """Tell the listener what went and what came. Without the lock: listeners commit."""
        if self._listener is None:
            raise RuntimeError("BUG: poll before subscribe")
        with self._log._changed:
            lost, self._lost = self._lost, set()
            target = self._group.target(self, self._log._records)
            leaving = set(self._owned) if self._must_revoke else self._owned.keys() - target
        if lost:
            self._paused -= lost
            self._listener.on_lost(lost)
        if leaving:
            self._listener.on_revoked(leaving)
        with self._log._changed:
            self._must_revoke = False
            for partition in leaving:
                self._owned.pop(partition, None)
            self._paused -= leaving
            target = self._group.target(self, self._log._records)
            coming = target - self._owned.keys() - self._group.owned_by_others(self)
            for partition in coming:
                self._owned[partition] = self._start(partition)
            if leaving or coming:
                self._log._changed.notify_all()
        if coming:
            self._listener.on_assigned(coming)

    def _start(self, partition: TopicPartition) -> int:
        return self._group.committed.get(partition, self._log._starts[partition])

    def _take(self) -> list[Record]:
        lost = {}
        for partition in self._owned:
            if not self._log._holds(partition, self._owned[partition]):
                # What was committed since may lie within the log.
                self._owned[partition] = self._start(partition)
            if not self._log._holds(partition, self._owned[partition]):
                lost[partition] = (self._owned[partition], self._log._starts[partition])
        if lost:
            raise OffsetsLost(lost)
        records: list[Record] = []
        for partition in sorted(self._owned.keys() - self._paused):
            first = self._owned[partition] - self._log._starts[partition]
            room = self._max_poll_records - len(records)
            taken = self._log._records[partition][first : first + room]
            records += taken
            self._owned[partition] += len(taken)
        return records


class MemoryRange:
    """schemas.log.ranges.RangeSource."""

    def __init__(
        self,
        log: MemoryLog,
        ranges: Mapping[TopicPartition, LogRange],
        on_end: Callable[[], None],
        *,
        max_poll_records: int = 500,
    ) -> None:
        self.progress = RangeProgress(ranges)
        self._log = log
        self._on_end: Callable[[], None] | None = on_end
        self._max_poll_records = max_poll_records
        self._listener: RebalanceListener | None = None
        self._assigned = False
        self._paused: set[TopicPartition] = set()

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        del topics
        self._listener = listener

    def poll(self, timeout_s: float) -> list[Record]:
        del timeout_s  # the fake answers at once
        if self._listener is None:
            raise RuntimeError("BUG: poll before subscribe")
        if self._log.away:
            return []
        if not self._assigned:
            self._assigned = True
            self._listener.on_assigned(self.progress.unread)
        with self._log._changed:
            records = self._take()
        self.progress.gave(records)
        if self.progress.finished and self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()
        return records

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        self.progress.settle(next_offsets)

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        return {p: self.progress.mark(p) for p in partitions}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {p: self.progress.end(p) for p in partitions}

    def close(self) -> None:
        """Nothing to release."""

    def _take(self) -> list[Record]:
        records: list[Record] = []
        for partition in sorted(self.progress.unread - self._paused):
            if self.progress.position(partition) < self._log._starts[partition]:
                self.progress.lost(partition, self._log._starts[partition])
            room = self._max_poll_records - len(records)
            first, end = self.progress.position(partition), self.progress.end(partition)
            found = self._log._records[partition]
            records += [r for r in found if first <= r.offset < end][:room]
        return records


class MemoryReader:
    """schemas.log.protocols.Reader."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def read(self, topic: str) -> Iterator[Record]:
        if topic not in self._log._partitions:
            raise RecordRefused(f"no topic {topic!r}")
        if self._log.away:
            raise LogUnavailable("the memory log is away")
        yield from self._log.records(topic)


class MemoryProgress:
    """schemas.log.protocols.Progress."""

    def __init__(self, log: MemoryLog, topic: str, group: str) -> None:
        self._log = log
        self._topic = topic
        self._group = group
        self._next: dict[TopicPartition, int] = {}
        self.looks = 0

    def committed(self) -> Mapping[TopicPartition, int]:
        self.looks += 1
        self._raise_if_away()
        return self._log.committed(self._group)

    def appended(self) -> Iterator[Record]:
        self._raise_if_away()
        for record in self._log.records(self._topic):
            if record.offset >= self._next.get(record.topic_partition, 0):
                self._next[record.topic_partition] = record.next_offset
                yield record

    def close(self) -> None:
        """Nothing to release."""

    def _raise_if_away(self) -> None:
        if self._log.away:
            raise LogUnavailable("the memory log is away")
