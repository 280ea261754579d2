"""Appends to the log of one machine: one writer thread, one transaction for all that waits."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from embedded.log.file import SqliteLog, unavailable
from embedded.log.record import encode_headers
from schemas.log.protocols import Headers, LogUnavailable, RecordRefused, TopicPartition

#: Most bytes of one transaction; what waits beyond them comes with the next one.
_TRANSACTION_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class _Append:
    """One record to append, or, without a partition, a probe."""

    row_id: int | None
    headers: bytes
    value: bytes
    future: Future[int] = field(default_factory=Future)

    @property
    def size_bytes(self) -> int:
        return len(self.value) + len(self.headers)


class SqlitePublisher:
    """schemas.log.protocols.Publisher on SqliteLog.

    Everything that arrived while the disk was busy goes into the next transaction, so many
    small records cost one sync. Beyond max_queued_bytes sends fail with LogUnavailable.
    clock: Unix time in seconds, for the records' timestamps.
    """

    def __init__(
        self,
        log: SqliteLog,
        *,
        max_record_bytes: int = 1_000_000,
        max_queued_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._max_record_bytes = max_record_bytes
        self._max_queued_bytes = max_queued_bytes
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: deque[_Append] = deque()
        self._queued_bytes = 0
        self._closed = False
        self._died: BaseException | None = None
        self._connection: sqlite3.Connection | None = None
        self._writer = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._writer.start()

    def send(self, topic: str, partition: int, value: bytes, headers: Headers) -> Future[int]:
        """Append one record; see schemas.log.protocols.Publisher."""
        row_id = self._log.row_ids.get(TopicPartition(topic, partition))
        append = _Append(row_id, encode_headers(headers), value)
        if row_id is None:
            append.future.set_exception(RecordRefused(f"no partition {topic}[{partition}]"))
        elif append.size_bytes > self._max_record_bytes:
            append.future.set_exception(
                RecordRefused(
                    f"record of {append.size_bytes} bytes; the limit is {self._max_record_bytes}"
                )
            )
        else:
            self._enqueue(append)
        return append.future

    def partition_count(self, topic: str) -> int:
        """Number of partitions; see schemas.log.protocols.Publisher."""
        count = sum(known.topic == topic for known in self._log.row_ids)
        if count == 0:
            raise RecordRefused(f"no topic {topic!r}")
        return count

    def probe(self, timeout_s: float) -> None:
        """Commit a transaction that changes nothing; raises LogUnavailable."""
        append = _Append(None, b"", b"")
        self._enqueue(append)
        try:
            append.future.result(timeout_s)
        except TimeoutError as exc:
            raise LogUnavailable(f"the log did not commit within {timeout_s:g} s") from exc

    def close(self, timeout_s: float) -> None:
        """Wait up to timeout_s for what is queued, then fail the rest. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._writer.join(timeout_s)
        with self._changed:
            rest = list(self._queue)
            self._queue.clear()
        _fail(rest, LogUnavailable("the publisher was closed"))

    def _enqueue(self, append: _Append) -> None:
        # A caller that stops waiting must not be able to cancel what may still be written.
        append.future.set_running_or_notify_cancel()
        with self._changed:
            if self._died is not None:
                error: BaseException | None = self._died
            elif self._closed:
                error = LogUnavailable("the publisher is closed")
            elif self._queued_bytes + append.size_bytes > self._max_queued_bytes:
                error = LogUnavailable("too many bytes wait for the disk")
            else:
                error = None
                self._queue.append(append)
                self._queued_bytes += append.size_bytes
                self._changed.notify_all()
        if error is not None:
            append.future.set_exception(error)

    def _run(self) -> None:
        while appends := self._next():
            try:
                self._write(appends)
            except BaseException as exc:
                # Nobody will write any more: whoever sends must hear of it.
                with self._changed:
                    self._died = exc
                    appends += self._queue
                    self._queue.clear()
                _fail(appends, exc)
                raise
        self._disconnect()

    def _next(self) -> list[_Append]:
        """What the next transaction takes; empty once the publisher is closed and done."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            appends: list[_Append] = []
            size = 0
            while self._queue and (not appends or size < _TRANSACTION_BYTES):
                appends.append(self._queue.popleft())
                size += appends[-1].size_bytes
            self._queued_bytes -= size
        return appends

    def _write(self, appends: list[_Append]) -> None:
        try:
            with unavailable("appending to the log"):
                offsets = self._transact(appends)
        except LogUnavailable as exc:
            self._disconnect()  # which rolls back; the next transaction connects again
            _fail(appends, exc)
            return
        for append, offset in zip(appends, offsets, strict=True):
            append.future.set_result(offset)
        self._log.wake()

    def _transact(self, appends: list[_Append]) -> list[int]:
        if self._connection is None:
            self._connection = self._log.connect()
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        timestamp_ms = int(self._clock() * 1000)
        ends = dict(connection.execute("SELECT id, next_offset FROM partitions"))
        offsets = []
        rows = []
        for append in appends:
            if append.row_id is None:
                offsets.append(-1)
                continue
            offset = ends[append.row_id]
            ends[append.row_id] = offset + 1
            offsets.append(offset)
            rows.append((append.row_id, offset, timestamp_ms, append.headers, append.value))
        connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
        connection.executemany(
            "UPDATE partitions SET next_offset = ? WHERE id = ?",
            [(end, row_id) for row_id, end in ends.items()],
        )
        connection.execute("COMMIT")
        return offsets

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _fail(appends: Iterable[_Append], error: BaseException) -> None:
    for append in appends:
        append.future.set_exception(error)
