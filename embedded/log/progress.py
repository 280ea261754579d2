"""How far the embedded worker has come, for receipts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from embedded.log.file import SqliteLog, unavailable
from embedded.log.record import bounds_of, read_records
from schemas.log.protocols import Record, TopicPartition

_PIECE_RECORDS = 64


class SqliteProgress:
    """log.protocols.Progress on the files of one machine. Each question has its own connection."""

    def __init__(self, log: SqliteLog, offsets_path: Path, topic: str) -> None:
        self._log = log
        self._offsets_path = offsets_path
        self._topic = topic
        self._next: dict[TopicPartition, int] = {}

    def committed(self) -> Mapping[TopicPartition, int]:
        """What the worker has committed; see schemas.log.protocols.Progress."""
        with (
            unavailable("reading committed offsets"),
            closing(sqlite3.connect(self._offsets_path, timeout=5.0)) as connection,
        ):
            # The worker makes the table at its first look, a moment after the start.
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'offsets'")
            if made.fetchone() is None:
                return {}
            rows = connection.execute("SELECT * FROM offsets").fetchall()
        return {TopicPartition(topic, partition): offset for topic, partition, offset in rows}

    def appended(self) -> Iterator[Record]:
        """What the topic gained; see schemas.log.protocols.Progress."""
        with unavailable("following a topic"), closing(self._log.connect()) as connection:
            bounds = bounds_of(connection)
            for partition, row_id in sorted(self._log.row_ids.items()):
                if partition.topic != self._topic:
                    continue
                start, end = bounds[row_id]
                at = max(start, self._next.get(partition, 0))
                while piece := list(
                    read_records(connection, partition, row_id, (at, end, _PIECE_RECORDS))
                ):
                    at = self._next[partition] = piece[-1].next_offset
                    yield from piece

    def close(self) -> None:
        """Nothing stays open."""
