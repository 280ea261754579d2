"""The log of one machine: topics in a SQLite file.

This file owns the database; `embedded.log.publisher` appends to it, `embedded.log.source`
and `embedded.log.reader` read from it.

WAL with synchronous=FULL: a transaction is on the disk when its commit returns, so records
that were acknowledged survive kill -9 and a power cut (as far as the disk tells the truth).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from schemas.log.protocols import LogUnavailable, TopicPartition

#: Records that one transaction of trim deletes; the publisher waits no longer than for one.
_TRIM_RECORDS = 500

#: Primary result codes of SQLite that may pass: another connection's write, a full disk, a
#: file or folder that is away or may not be written. Every other one is a mistake of ours.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    }
)

_TABLES = (
    """
    CREATE TABLE IF NOT EXISTS partitions (
        id INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        start_offset INTEGER NOT NULL DEFAULT 0,
        next_offset INTEGER NOT NULL DEFAULT 0,
        UNIQUE (topic, partition)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS records (
        partition_id INTEGER NOT NULL REFERENCES partitions,
        offset INTEGER NOT NULL,
        timestamp_ms INTEGER NOT NULL,
        headers BLOB NOT NULL,
        value BLOB NOT NULL,
        UNIQUE (partition_id, offset)
    )
    """,
)


class SqliteLog:
    """The database, and what its users in this process share. Safe to call from any thread.

    topics: all there will be; sending to others is refused. A topic that leaves the list
    stays in the file. partitions: of each topic; the number may grow, not shrink.
    busy_timeout_s: how long a statement waits for another connection's write.
    Raises LogUnavailable where the file can't be opened or written.
    """

    def __init__(
        self,
        path: Path,
        topics: Collection[str],
        *,
        partitions: int = 1,
        busy_timeout_s: float = 5.0,
    ) -> None:
        self._path = path
        self.busy_timeout_s = busy_timeout_s
        #: How often this process has appended.
        self.appends = 0
        self._appended = threading.Condition()
        with self._transaction("opening the log") as connection:
            for table in _TABLES:
                connection.execute(table)
            connection.executemany(
                "INSERT OR IGNORE INTO partitions (topic, partition) VALUES (?, ?)",
                [(topic, partition) for topic in sorted(topics) for partition in range(partitions)],
            )
            rows = connection.execute("SELECT topic, partition, id FROM partitions").fetchall()
        #: Partitions of the topics, each with its row in the database.
        self.row_ids = {
            TopicPartition(topic, partition): row_id
            for topic, partition, row_id in rows
            if topic in topics
        }

    def connect(self) -> sqlite3.Connection:
        """A connection for the calling thread alone. Raises sqlite3.Error."""
        connection = sqlite3.connect(self._path, timeout=self.busy_timeout_s, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def wake(self) -> None:
        """Tell those who wait that this process has appended."""
        with self._appended:
            self.appends += 1
            self._appended.notify_all()

    def wait(self, seen_appends: int, timeout_s: float) -> None:
        """Wait until `appends` differs from what the caller has seen, or for timeout_s."""
        with self._appended:
            self._appended.wait_for(lambda: self.appends != seen_appends, timeout_s)

    def trim(self, topic: str, older_than_ms: int, below: Mapping[TopicPartition, int]) -> int:
        """Delete old records that are settled; says how many. Raises LogUnavailable.

        Of each partition in `below` the records go that lie under that offset and before the
        first one stamped older_than_ms (Unix time in ms) or later. Pages they leave are used
        again; the file does not shrink.

        Warning: `older_than_ms` must lie some minutes back. The file that holds the committed
        offsets reaches the disk at its checkpoints only, so a power cut may take back the
        last commits; the records that must then come again have to be here still.
        """
        deleted = 0
        for partition, offset in below.items():
            if partition.topic == topic and partition in self.row_ids:
                row_id = self.row_ids[partition]
                while count := self._trim_some(row_id, older_than_ms, offset):
                    deleted += count
        return deleted

    def _trim_some(self, row_id: int, older_than_ms: int, below: int) -> int:
        with self._transaction("trimming the log") as connection:
            rows = connection.execute(
                "SELECT offset, timestamp_ms FROM records WHERE partition_id = ? AND offset < ?"
                " ORDER BY offset LIMIT ?",
                (row_id, below, _TRIM_RECORDS),
            ).fetchall()
            start = None
            count = 0
            for offset, timestamp_ms in rows:
                if timestamp_ms >= older_than_ms:
                    break
                start = offset + 1
                count += 1
            if start is not None:
                connection.execute(
                    "DELETE FROM records WHERE partition_id = ? AND offset < ?", (row_id, start)
                )
                connection.execute(
                    "UPDATE partitions SET start_offset = ? WHERE id = ?", (start, row_id)
                )
        return count

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        with unavailable(doing), closing(self.connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with connection:  # commits, or rolls back
                yield connection


@contextmanager
def unavailable(doing: str) -> Iterator[None]:
    """Raise LogUnavailable for errors of SQLite that may pass; let the others through."""
    try:
        yield
    except sqlite3.Error as exc:
        # The lower byte of an extended result code is the primary one.
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _PASSING:
            raise LogUnavailable(f"{doing}: {exc}") from exc
        raise
