"""Reads topics as a member of a consumer group.

kafka-python calls a rebalance listener on its network thread, where a commit can't wait for
its answer and where heartbeats stop for as long as the listener works. `Source` promises the
opposite: listeners run on the thread that polls, and may commit. So the library's poll runs
on a thread of its own (`adapters.kafka.poll`), and hands each callback over to the caller.

Where to read from is decided here, never by the library's reset policy: it would skip what
retention has deleted without a word. A partition that was assigned stays paused, at a
placeholder, until its committed offset and the log's start are known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

from adapters.kafka.client import (
    PASSING,
    connect_consumer,
    errors,
    from_library,
    to_commit,
    to_library,
    to_record,
    unavailable_if_passing,
)
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.poll import PartitionChange, PollThread
from schemas.log.protocols import (
    LogUnavailable,
    OffsetsLost,
    RebalanceListener,
    Record,
    TopicPartition,
)

#: How soon a poll looks again after an error that passes by itself.
_RETRY_S = 0.2

#: A poll of no time at all must still be able to connect at last.
_CONNECT_MIN_S = 0.2


class KafkaSource:
    """schemas.log.protocols.Source on Kafka. Connects at the first poll; used by one thread.

    instance_id: a stable name of this member (static membership, KIP-345): restarted within
    session_timeout_s it gets its partitions back without a rebalance. session_timeout_s: how
    long after a member's death its partitions move. heartbeat_s: how soon a member learns of
    a rebalance. max_poll_interval_s: a member that doesn't poll for so long is thrown out.
    request_timeout_s: how long commits and questions wait for the brokers.

    Bounds: a poll gives at most max_poll_records; what waits to be polled is at most
    fetch_max_bytes from each broker, compressed as in the log.
    """

    def __init__(
        self,
        servers: KafkaConnection | str,
        group_id: str,
        *,
        instance_id: str | None = None,
        session_timeout_s: float = 10.0,
        heartbeat_s: float = 0.5,
        max_poll_interval_s: float = 300.0,
        request_timeout_s: float = 5.0,
        max_poll_records: int = 64,
        fetch_max_bytes: int = 8 * 1024 * 1024,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._settings = {
            "group_id": group_id,
            "group_instance_id": instance_id,
            "session_timeout_ms": int(session_timeout_s * 1000),
            "heartbeat_interval_ms": int(heartbeat_s * 1000),
            "max_poll_interval_ms": int(max_poll_interval_s * 1000),
            "request_timeout_ms": int(request_timeout_s * 1000),
            "max_poll_records": max_poll_records,
            "fetch_max_bytes": fetch_max_bytes,
            # Above the largest record that topics take by default (1 MiB).
            "max_partition_fetch_bytes": 2 * 1024 * 1024,
            "auto_offset_reset": "none",
        }
        self._timeout_ms = int(request_timeout_s * 1000)
        self._request_timeout_s = request_timeout_s
        self._now = now
        self._topics: tuple[str, ...] = ()
        self._listener: RebalanceListener | None = None
        self._consumer: Any = None
        self._thread: PollThread | None = None
        self._owned: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._unplaced: set[TopicPartition] = set()
        self._waiting = threading.Event()  # never set: a wait that close can't be late for
        self._closed = False

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        """Join the group at the next poll; see schemas.log.protocols.Source."""
        self._topics = tuple(sorted(topics))
        self._listener = listener
        if self._consumer is not None:
            self._subscribe()

    def poll(self, timeout_s: float) -> list[Record]:
        """Up to one fetch of records; see schemas.log.protocols.Source."""
        deadline_s = self._now() + timeout_s
        try:
            with unavailable_if_passing("connecting"):
                self._connect(max(timeout_s, _CONNECT_MIN_S))
        except LogUnavailable:
            return []
        # Where partitions can't be placed yet, the poll still answers the group.
        with suppress(LogUnavailable):
            self._place()
        return self._poll_library(deadline_s)

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Record what is settled; see schemas.log.protocols.Source.

        LogUnavailable too where a partition has moved on: its new owner reads it again.
        """
        gone = next_offsets.keys() - self._owned
        if gone:
            raise LogUnavailable(f"{len(gone)} partitions are no longer ours")
        if next_offsets:
            offsets = {to_library(p): to_commit(offset) for p, offset in next_offsets.items()}
            with unavailable_if_passing("committing"):
                self._connected().commit(offsets, timeout_ms=self._timeout_ms)

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """What the group has committed; raises LogUnavailable."""
        with unavailable_if_passing("reading committed offsets"):
            consumer = self._connected()
            return {
                p: consumer.committed(to_library(p), timeout_ms=self._timeout_ms)
                for p in partitions
            }

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch nothing from these until they are resumed or revoked."""
        ours = self._owned & set(partitions)
        self._paused |= ours
        if ours:
            self._consumer.pause(*map(to_library, ours))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch again from paused partitions."""
        self._paused -= set(partitions)
        ours = (self._owned & set(partitions)) - self._unplaced
        if ours:
            self._consumer.resume(*map(to_library, ours))

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset that the next record will get; raises LogUnavailable."""
        with unavailable_if_passing("reading end offsets"):
            found = self._connected().end_offsets(
                [to_library(p) for p in partitions], timeout_ms=self._timeout_ms
            )
        return {from_library(p): offset for p, offset in found.items()}

    def close(self) -> None:
        """Leave the group without committing; the listener is not called. Idempotent.

        A member with an instance_id keeps its place until the session times out.
        """
        if self._thread is not None:
            self._thread.close()
        consumer, self._consumer = self._consumer, None
        self._closed = True
        self._owned.clear()
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=2000)

    def _connect(self, timeout_s: float) -> None:
        if self._closed:
            raise RuntimeError("BUG: the source is closed")
        if self._consumer is None:
            consumer = connect_consumer(self._servers, timeout_s=timeout_s, **self._settings)
            self._consumer = consumer
            self._thread = PollThread(consumer)
            if self._listener is not None:
                self._subscribe()

    def _connected(self) -> Any:
        self._connect(self._request_timeout_s)
        return self._consumer

    def _subscribe(self) -> None:
        assert self._thread is not None
        self._consumer.subscribe(topics=self._topics, listener=self._thread.listener)

    def _poll_library(self, deadline_s: float) -> list[Record]:
        if self._thread is None or self._listener is None:
            raise RuntimeError("BUG: poll before subscribe")
        left_s = max(0.0, deadline_s - self._now())
        try:
            fetched = self._thread.poll(left_s, self._on_change)
        except errors.OffsetOutOfRangeError as exc:
            raise self._lost(exc.args[0]) from exc
        except PASSING:
            self._waiting.wait(min(_RETRY_S, max(0.0, deadline_s - self._now())))
            return []
        return [to_record(row) for rows in fetched.values() for row in rows]

    def _on_change(self, change: PartitionChange, found: Collection[Any]) -> None:
        """The group's assignment changes; runs on the thread that polls."""
        listener = self._listener
        assert listener is not None
        partitions = {from_library(p) for p in found}
        if change is PartitionChange.ASSIGNED:
            for partition in found:
                self._consumer.seek(partition, 0)
                self._consumer.pause(partition)
            self._owned |= partitions
            self._unplaced |= partitions
            listener.on_assigned(partitions)
            with suppress(LogUnavailable):  # the next poll tries again
                self._place()
        elif change is PartitionChange.REVOKED:
            try:
                listener.on_revoked(partitions)
            finally:
                self._forget(partitions)
        else:
            self._forget(partitions)
            listener.on_lost(partitions)

    def _forget(self, partitions: set[TopicPartition]) -> None:
        self._owned -= partitions
        self._paused -= partitions
        self._unplaced -= partitions

    def _place(self) -> None:
        """Find out where assigned partitions are to be read from, and let them be fetched."""
        if not self._unplaced:
            return
        committed = self.committed(self._unplaced)
        with unavailable_if_passing("reading start offsets"):
            found = self._consumer.beginning_offsets(
                [to_library(p) for p in committed], timeout_ms=self._timeout_ms
            )
        starts = {from_library(p): offset for p, offset in found.items()}
        lost = {}
        for partition, offset in committed.items():
            start = starts[partition]
            if offset is not None and offset < start:
                lost[partition] = (offset, start)
                continue
            self._consumer.seek(to_library(partition), start if offset is None else offset)
            self._unplaced.discard(partition)
            if partition not in self._paused:
                self._consumer.resume(to_library(partition))
        if lost:
            raise OffsetsLost(lost)

    def _lost(self, positions: Mapping[Any, int]) -> Exception:
        """What to say of positions where the log has nothing (any more).

        They lie below its start, or, where a topic was made anew, beyond its end.
        """
        self._consumer.pause(*positions)
        self._unplaced |= {from_library(p) for p in positions}
        with unavailable_if_passing("reading start offsets"):
            starts = self._consumer.beginning_offsets(list(positions), timeout_ms=self._timeout_ms)
        return OffsetsLost({from_library(p): (at, starts[p]) for p, at in positions.items()})
