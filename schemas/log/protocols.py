"""The log between gateway and worker: records, offsets, and what its two sides can do.

Kafka (`adapters.kafka`) and SQLite (`embedded.log.file`) implement these protocols and pass
the same contract suite (`tests/contract/log/test_log.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

#: Record headers in order; a name may repeat.
Headers = tuple[tuple[str, bytes], ...]


class LogUnavailable(Exception):
    """The log can't take or give records now; the same call may succeed later."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RecordRefused(Exception):
    """The log will never take this record (too large, unknown topic): do not repeat it."""


class OffsetsLost(Exception):
    """A committed offset lies below the log's start: records went unread. Stop and say so."""

    def __init__(self, lost: Mapping[TopicPartition, tuple[int, int]]) -> None:
        rows = ", ".join(
            f"{tp.topic}[{tp.partition}] committed {committed}, log starts at {start}"
            for tp, (committed, start) in sorted(lost.items())
        )
        super().__init__(f"records were deleted before they were read: {rows}")
        #: partition -> (committed offset, first offset still in the log)
        self.lost = dict(lost)


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """One ordered sequence of records."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read from the log."""

    topic: str
    partition: int
    offset: int
    value: bytes
    headers: Headers
    timestamp_ms: int

    @property
    def topic_partition(self) -> TopicPartition:
        """Where the record lies."""
        return TopicPartition(self.topic, self.partition)

    @property
    def next_offset(self) -> int:
        """What to commit once this record and all before it are settled."""
        return self.offset + 1


class Publisher(Protocol):
    """Appends records. Safe to call from any thread."""

    def send(self, topic: str, partition: int, value: bytes, headers: Headers) -> Future[int]:
        """Append one record; the future gives its offset once the log holds it durably.

        Returns at once, never blocks on the network. The future fails with LogUnavailable
        (the record may still land later) or RecordRefused. Records sent to one partition
        that both succeed lie in the order of the calls.
        """
        ...

    def partition_count(self, topic: str) -> int:
        """Number of partitions; known without I/O after start. RecordRefused if no such topic."""
        ...

    def probe(self, timeout_s: float) -> None:
        """Ask the log whether it would take records now, mending our side if that was broken.

        Blocks up to timeout_s (call it in a thread). Raises LogUnavailable.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """Wait up to timeout_s for records in flight, then fail the rest. Idempotent."""
        ...


class RebalanceListener(Protocol):
    """Called from within Source.poll, on its thread."""

    def on_assigned(self, partitions: Collection[TopicPartition]) -> None:
        """These partitions are now ours, to be read from their committed offsets."""
        ...

    def on_revoked(self, partitions: Collection[TopicPartition]) -> None:
        """These are about to go: settle and commit within the drain deadline, drop the rest."""
        ...

    def on_lost(self, partitions: Collection[TopicPartition]) -> None:
        """These are gone already: drop at once, commit nothing."""
        ...


class Source(Protocol):
    """Reads records as a member of a consumer group. Used by one thread.

    A partition without a committed offset is read from its first record.
    """

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        """Join the group; partitions arrive by listener.on_assigned during a later poll."""
        ...

    def poll(self, timeout_s: float) -> list[Record]:
        """Up to one fetch of records, in order within each partition; [] after timeout_s.

        While the log is away it returns [] after timeout_s. Raises OffsetsLost.
        """
        ...

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Record durably that everything below next_offset is settled.

        Raises LogUnavailable; nothing is harmed by leaving a commit out: records come again.
        """
        ...

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """What the group has committed; None where it has committed nothing."""
        ...

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Keep the partitions but fetch nothing from them. poll goes on (heartbeats)."""
        ...

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch again from paused partitions."""
        ...

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset that the next record will get. Raises LogUnavailable."""
        ...

    def close(self) -> None:
        """Leave the group without committing. Idempotent."""
        ...


class Reader(Protocol):
    """Reads a topic from its beginning to where it ended when asked, outside any group."""

    def read(self, topic: str) -> Iterator[Record]:
        """Every record that the topic holds now, in order within each partition.

        Raises LogUnavailable, RecordRefused if no such topic.
        """
        ...


class Progress(Protocol):
    """How far a consumer group has come, and what one topic gained. One thread at a time.

    The order of the two questions matters: dead letters are acknowledged before the offsets
    that they answer for are committed. Ask `committed` first and `appended` after it, and
    every dead letter below those offsets has been given.
    """

    def committed(self) -> Mapping[TopicPartition, int]:
        """Every offset that the group has committed. Raises LogUnavailable."""
        ...

    def appended(self) -> Iterator[Record]:
        """Records of the followed topic that this object has not given yet; ends at its end.

        The first call begins with the topic's first record. Raises LogUnavailable; what was
        given by then is not given again.
        """
        ...

    def close(self) -> None:
        """Release connections. Idempotent."""
        ...


PREFIX = "stepclock."

#: Where lines go that the store refused, with the reason in the record's headers.
DEAD_LETTER_TOPIC = PREFIX + "dlq"


def topic_of(retention_class: str) -> str:
    """The topic that carries an ingest class: ``raw`` -> ``stepclock.raw``."""
    return PREFIX + retention_class


def class_of(topic: str) -> str:
    """The retention class that a topic carries: ``stepclock.raw`` -> ``raw``."""
    if not topic.startswith(PREFIX):
        raise ValueError(f"topic {topic!r} does not begin with {PREFIX!r}")
    return topic[len(PREFIX) :]
