"""Reads the log of one machine, as its one consumer.

Consumed offsets are kept in the store's database, not in the log's. There, in WAL with
synchronous=NORMAL, rows and offsets are pages of one ordered write-ahead log: whatever a
crash or a power cut takes, it takes from the end, and an offset is committed after the rows
it stands for. So what survives is a prefix, in which no offset is ahead of its rows: rows
may come again, none is skipped.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from embedded.log.file import SqliteLog, unavailable
from embedded.log.record import bounds_of, read_records
from schemas.log.protocols import (
    LogUnavailable,
    OffsetsLost,
    RebalanceListener,
    Record,
    TopicPartition,
)

_OFFSETS = """
    CREATE TABLE IF NOT EXISTS offsets (
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        next_offset INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)
    )
"""


class SqliteSource:
    """schemas.log.protocols.Source on SqliteLog, for the one member that its group has.

    Every partition of the topics is assigned at the first poll, none is ever revoked. A poll
    that waits wakes as soon as this process appends; what another process appends it sees
    within look_s. A poll gives at most max_poll_records and stops after max_poll_bytes.
    Used by one thread, which must be the one that closes it.
    """

    def __init__(
        self,
        log: SqliteLog,
        offsets_path: Path,
        *,
        look_s: float = 0.1,
        max_poll_records: int = 64,
        max_poll_bytes: int = 8 * 1024 * 1024,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._offsets_path = offsets_path
        self._look_s = look_s
        self._max_poll_records = max_poll_records
        self._max_poll_bytes = max_poll_bytes
        self._now = now
        self._topics: frozenset[str] = frozenset()
        self._listener: RebalanceListener | None = None
        self._records: sqlite3.Connection | None = None
        self._offsets: sqlite3.Connection | None = None
        #: Ours, in the order of their turns, each with the next offset to read; None until
        #: that is known.
        self._positions: dict[TopicPartition, int | None] = {}
        self._paused: set[TopicPartition] = set()
        self._closed = False

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        """Take the topics' partitions at the next poll; see schemas.log.protocols.Source."""
        self._topics = frozenset(topics)
        self._listener = listener

    def poll(self, timeout_s: float) -> list[Record]:
        """Records in order within each partition; see schemas.log.protocols.Source."""
        deadline_s = self._now() + timeout_s
        self._assign()
        while True:
            appends = self._log.appends
            try:
                records = self._fetch()
            except LogUnavailable:
                records = []
            left_s = deadline_s - self._now()
            if records or left_s <= 0:
                return records
            self._log.wait(appends, min(left_s, self._look_s))

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Record what is settled; see schemas.log.protocols.Source."""
        if not next_offsets.keys() <= self._positions.keys():
            raise LogUnavailable("the partitions are not ours")
        with unavailable("committing offsets"):
            connection = self._offsets_database()
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                connection.executemany(
                    "INSERT INTO offsets VALUES (?, ?, ?) ON CONFLICT (topic, partition)"
                    " DO UPDATE SET next_offset = excluded.next_offset",
                    [(p.topic, p.partition, offset) for p, offset in next_offsets.items()],
                )

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """What was committed; raises LogUnavailable."""
        with unavailable("reading committed offsets"):
            rows = self._offsets_database().execute("SELECT * FROM offsets").fetchall()
        found = {TopicPartition(topic, partition): offset for topic, partition, offset in rows}
        return {partition: found.get(partition) for partition in partitions}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch nothing from these until they are resumed."""
        self._paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch again from paused partitions."""
        self._paused -= set(partitions)

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset that the next record will get; raises LogUnavailable."""
        with unavailable("reading end offsets"):
            bounds = bounds_of(self._database())
        return {partition: bounds[self._log.row_ids[partition]][1] for partition in partitions}

    def close(self) -> None:
        """Disconnect without committing. Idempotent."""
        self._closed = True
        self._positions.clear()
        for connection in (self._records, self._offsets):
            if connection is not None:
                connection.close()
        self._records = self._offsets = None

    def _assign(self) -> None:
        if self._listener is None or self._closed:
            raise RuntimeError("BUG: poll before subscribe or after close")
        ours = {p for p in self._log.row_ids if p.topic in self._topics}
        coming = ours - self._positions.keys()
        if coming:
            self._positions.update(dict.fromkeys(sorted(coming)))
            self._listener.on_assigned(coming)

    def _fetch(self) -> list[Record]:
        with unavailable("reading the log"):
            connection = self._database()
            connection.execute("BEGIN")  # one snapshot: what is trimmed now stays readable
            with connection:
                bounds = bounds_of(connection)
                self._place(bounds)
                return self._read(connection, bounds)

    def _read(
        self, connection: sqlite3.Connection, bounds: Mapping[int, tuple[int, int]]
    ) -> list[Record]:
        records: list[Record] = []
        size = 0
        for partition, position in list(self._positions.items()):
            assert position is not None
            row_id = self._log.row_ids[partition]
            end = bounds[row_id][1]
            if partition in self._paused or position >= end:
                continue
            room = self._max_poll_records - len(records)
            if room <= 0 or size >= self._max_poll_bytes:
                break
            # Whoever has had a turn goes to the end of the queue.
            del self._positions[partition]
            self._positions[partition] = position
            for record in read_records(connection, partition, row_id, (position, end, room)):
                records.append(record)
                self._positions[partition] = record.next_offset
                size += len(record.value)
                if size >= self._max_poll_bytes:
                    break
        return records

    def _place(self, bounds: Mapping[int, tuple[int, int]]) -> None:
        """Find where to read from, and whether that is still there. Raises OffsetsLost."""
        unknown = [p for p, position in self._positions.items() if position is None]
        if unknown:
            for partition, offset in self.committed(unknown).items():
                start = bounds[self._log.row_ids[partition]][0]
                self._positions[partition] = start if offset is None else offset
        lost = {}
        for partition, position in self._positions.items():
            start, end = bounds[self._log.row_ids[partition]]
            # Beyond the end: the log's file was removed, and the offsets' was not.
            if position is not None and not start <= position <= end:
                lost[partition] = (position, start)
        if lost:
            # What is committed by the next poll may lie within the log.
            self._positions.update(dict.fromkeys(lost))
            raise OffsetsLost(lost)

    def _database(self) -> sqlite3.Connection:
        if self._records is None:
            self._records = self._log.connect()
        return self._records

    def _offsets_database(self) -> sqlite3.Connection:
        if self._offsets is None:
            connection = sqlite3.connect(
                self._offsets_path, timeout=self._log.busy_timeout_s, isolation_level=None
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_OFFSETS)
            self._offsets = connection
        return self._offsets
