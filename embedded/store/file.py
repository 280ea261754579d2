"""The SQLite file of the store: its tables, its connections, and what its errors mean."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.store.protocols import StoreUnavailable

#: Page cache of one connection. A run of many metrics touches a page for each of them.
_CACHE_KIB = 32 * 1024

#: Idle connections that are kept for reading.
_KEPT_CONNECTIONS = 4

# A value is found by (series, field, time): one metric of one run is one range of keys, in
# the order that downsampling reads. Names repeat for millions of values, so values hold ids.
_TABLES = """
CREATE TABLE IF NOT EXISTS measurement (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    class TEXT NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (namespace, class, name)
) STRICT;
CREATE TABLE IF NOT EXISTS field (
    id INTEGER PRIMARY KEY,
    measurement_id INTEGER NOT NULL REFERENCES measurement,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    UNIQUE (measurement_id, name)
) STRICT;
CREATE TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY,
    measurement_id INTEGER NOT NULL REFERENCES measurement,
    tags TEXT NOT NULL,
    run TEXT,
    UNIQUE (measurement_id, tags)
) STRICT;
CREATE TABLE IF NOT EXISTS value (
    series_id INTEGER NOT NULL,
    field_id INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    value ANY NOT NULL,
    PRIMARY KEY (series_id, field_id, time_ns)
) STRICT, WITHOUT ROWID;
"""

#: Primary result codes of what passes by itself or by the operator's hand; others are our
#: mistakes or a broken file. Source: https://www.sqlite.org/rescode.html
_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


class StoreFile:
    """Opens the file, in WAL mode: readers never wait for the writer, nor it for them.

    synchronous=NORMAL: a commit may be undone by a power cut, but then everything after it
    is undone too, the consumed offsets in the same file included; so nothing is lost, it is
    read from the log again. Every method raises StoreUnavailable.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._idle: deque[sqlite3.Connection] = deque()
        with unavailable():
            self._writer = self._connect()
            # Not executescript, which would end the transaction.
            with self.transaction() as connection:
                for statement in _TABLES.split(";\n")[:-1]:
                    connection.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The one writing connection, in a transaction that is undone if the block raises."""
        with unavailable():
            self._writer.execute("BEGIN IMMEDIATE")
            with self._writer:  # commits, or rolls back
                yield self._writer

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile."""
        with unavailable():
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
                connection.execute("PRAGMA query_only = ON")
            try:
                yield connection
            finally:
                if len(self._idle) < _KEPT_CONNECTIONS:
                    self._idle.append(connection)
                else:
                    connection.close()

    def close(self) -> None:
        """Close the connections that nobody uses. Idempotent."""
        self._writer.close()
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> sqlite3.Connection:
        # Used by one thread at a time, though not always by the same.
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        for pragma in (
            "journal_mode = WAL",
            "synchronous = NORMAL",
            f"cache_size = -{_CACHE_KIB}",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return connection


@contextmanager
def unavailable() -> Iterator[None]:
    """Turn an error of the disk or a lock within the block into StoreUnavailable."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF not in _UNAVAILABLE:
            raise
        raise StoreUnavailable(f"the store's file can't be used: {exc}") from exc
