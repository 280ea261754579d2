"""Reads whole topics of the log of one machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing

from embedded.log.file import SqliteLog, unavailable
from embedded.log.record import bounds_of, read_records
from schemas.log.protocols import Record, RecordRefused, TopicPartition

_PIECE_RECORDS = 64


class SqliteReader:
    """schemas.log.protocols.Reader on SqliteLog. Each read has its own connection."""

    def __init__(self, log: SqliteLog) -> None:
        self._log = log

    def read(self, topic: str) -> Iterator[Record]:
        """Every record that the topic holds now; see schemas.log.protocols.Reader."""
        partitions = {p: row_id for p, row_id in self._log.row_ids.items() if p.topic == topic}
        if not partitions:
            raise RecordRefused(f"no topic {topic!r}")
        return self._records(partitions)

    def _records(self, partitions: Mapping[TopicPartition, int]) -> Iterator[Record]:
        with unavailable("reading the log"), closing(self._log.connect()) as connection:
            bounds = bounds_of(connection)
            for partition, row_id in sorted(partitions.items()):
                at, end = bounds[row_id]
                # In pieces: a read that stayed open would keep the WAL from being reused.
                while piece := list(
                    read_records(connection, partition, row_id, (at, end, _PIECE_RECORDS))
                ):
                    at = piece[-1].next_offset
                    yield from piece
