"""Reads fixed ranges of topics as a source of the worker, outside any consumer group."""

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
    to_library,
    to_record,
    unavailable_if_passing,
)
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.poll import forget_used_up
from schemas.log.protocols import LogUnavailable, RebalanceListener, Record, TopicPartition
from schemas.log.ranges import LogRange, RangeProgress

#: How soon a poll looks again after an error that passes by itself.
_RETRY_S = 0.2

#: A poll of no time at all must still be able to connect at last.
_CONNECT_MIN_S = 0.2


class KafkaRange:
    """log.protocols.Source on ranges of Kafka topics, all of which it owns from its first poll.

    It belongs to no group: a commit is noted in `progress`, and Kafka hears nothing of it.
    on_end is called once, from within a poll, when every record is given and committed.
    Records that retention deletes meanwhile are passed over, and counted in `progress`.
    Connects at the first poll; used by one thread. Bounds as those of KafkaSource.
    """

    def __init__(
        self,
        servers: KafkaConnection | str,
        ranges: Mapping[TopicPartition, LogRange],
        on_end: Callable[[], None],
        *,
        request_timeout_s: float = 5.0,
        max_poll_records: int = 64,
        fetch_max_bytes: int = 8 * 1024 * 1024,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress = RangeProgress(ranges)
        self._servers = servers
        self._settings = {
            "group_id": None,
            "auto_offset_reset": "none",
            "request_timeout_ms": int(request_timeout_s * 1000),
            "max_poll_records": max_poll_records,
            "fetch_max_bytes": fetch_max_bytes,
            # Above the largest record that topics take by default (1 MiB).
            "max_partition_fetch_bytes": 2 * 1024 * 1024,
        }
        self._timeout_ms = int(request_timeout_s * 1000)
        self._on_end: Callable[[], None] | None = on_end
        self._now = now
        self._listener: RebalanceListener | None = None
        self._consumer: Any = None
        #: Those that are read to their end are paused in the library alone.
        self._reading: set[TopicPartition] = set()
        self._waiting = threading.Event()  # never set: a wait that close can't be late for

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        """Take every range at the next poll; the ranges say which topics."""
        del topics
        self._listener = listener

    def poll(self, timeout_s: float) -> list[Record]:
        """Up to one fetch of records; see log.protocols.Source. Never raises OffsetsLost."""
        if self._listener is None:
            raise RuntimeError("BUG: poll before subscribe")
        deadline_s = self._now() + timeout_s
        try:
            with unavailable_if_passing("connecting"):
                self._connect(max(timeout_s, _CONNECT_MIN_S), self._listener)
            records = self._fetch(max(0.0, deadline_s - self._now()))
        except errors.OffsetOutOfRangeError as exc:
            records = []
            self._pass_over(exc.args[0])
        except (LogUnavailable, *PASSING):
            self._waiting.wait(min(_RETRY_S, max(0.0, deadline_s - self._now())))
            return []
        if self.progress.finished and self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()
        return records

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Note what is settled, here alone."""
        self.progress.settle(next_offsets)

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """What is settled, or the start of the range."""
        return {partition: self.progress.mark(partition) for partition in partitions}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch nothing from these until they are resumed."""
        ours = self._reading & set(partitions)
        if ours:
            self._consumer.pause(*map(to_library, ours))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch again from paused partitions."""
        ours = self._reading & set(partitions)
        if ours:
            self._consumer.resume(*map(to_library, ours))

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the ranges end."""
        return {partition: self.progress.end(partition) for partition in partitions}

    def close(self) -> None:
        """Disconnect. Idempotent."""
        consumer, self._consumer = self._consumer, None
        self._reading.clear()
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=1000)

    def _connect(self, timeout_s: float, listener: RebalanceListener) -> None:
        if self._consumer is not None or not self.progress.unread:
            return
        consumer = connect_consumer(self._servers, timeout_s=timeout_s, **self._settings)
        self._consumer = consumer
        self._reading = self.progress.unread
        consumer.assign([to_library(partition) for partition in sorted(self._reading)])
        for partition in self._reading:
            consumer.seek(to_library(partition), self.progress.position(partition))
        listener.on_assigned(frozenset(self._reading))

    def _fetch(self, timeout_s: float) -> list[Record]:
        if not self._reading:
            if not self.progress.finished:
                self._waiting.wait(timeout_s)
            return []
        forget_used_up(self._consumer)
        fetched = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        records = [
            to_record(row)
            for partition, rows in fetched.items()
            for row in rows
            if row.offset < self.progress.end(from_library(partition))
        ]
        self.progress.gave(records)
        with suppress(errors.KafkaError):  # the records are ours by now; a later poll tells it
            for partition in self._reading:
                # By position too: offsets may have holes before the end.
                at = self._consumer.position(to_library(partition), self._timeout_ms)
                self.progress.reached(partition, at or 0)
        self._leave_read()
        return records

    def _leave_read(self) -> None:
        done = self._reading - self.progress.unread
        if done:
            self._consumer.pause(*map(to_library, done))
            self._reading -= done

    def _pass_over(self, positions: Mapping[Any, int]) -> None:
        """Go on behind what retention has deleted; a topic that was made anew holds nothing."""
        try:
            with unavailable_if_passing("reading start offsets"):
                starts = self._consumer.beginning_offsets(
                    list(positions), timeout_ms=self._timeout_ms
                )
        except LogUnavailable:
            return  # the next poll finds the same
        for found, position in positions.items():
            partition = from_library(found)
            end = self.progress.end(partition)
            self.progress.lost(partition, starts[found] if starts[found] > position else end)
            self._consumer.seek(found, self.progress.position(partition))
        self._leave_read()
