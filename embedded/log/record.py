"""How a record lies in the log's database."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing

from schemas.log.protocols import Headers, Record, TopicPartition

_LENGTHS = struct.Struct(">II")


def encode_headers(headers: Headers) -> bytes:
    """Headers as one blob: for each, the lengths of name and value in bytes, then both."""
    parts = []
    for name, value in headers:
        encoded = name.encode()
        parts += [_LENGTHS.pack(len(encoded), len(value)), encoded, value]
    return b"".join(parts)


def decode_headers(blob: bytes) -> Headers:
    """The headers of a blob that encode_headers made."""
    headers = []
    at = 0
    while at < len(blob):
        name_bytes, value_bytes = _LENGTHS.unpack_from(blob, at)
        at += _LENGTHS.size
        name = blob[at : at + name_bytes].decode()
        at += name_bytes
        headers.append((name, blob[at : at + value_bytes]))
        at += value_bytes
    return tuple(headers)


def bounds_of(connection: sqlite3.Connection) -> dict[int, tuple[int, int]]:
    """Row of each partition -> (first offset in the log, offset of the next record)."""
    rows = connection.execute("SELECT id, start_offset, next_offset FROM partitions").fetchall()
    return {row_id: (start, end) for row_id, start, end in rows}


def read_records(
    connection: sqlite3.Connection,
    partition: TopicPartition,
    row_id: int,
    span: tuple[int, int, int],
) -> Iterator[Record]:
    """Records of a span in order: from this offset on, below that one, at most so many."""
    rows = connection.execute(
        "SELECT offset, timestamp_ms, headers, value FROM records"
        " WHERE partition_id = ? AND offset >= ? AND offset < ? ORDER BY offset LIMIT ?",
        (row_id, *span),
    )
    with closing(rows):
        for offset, timestamp_ms, headers, value in rows:
            yield Record(
                topic=partition.topic,
                partition=partition.partition,
                offset=offset,
                value=value,
                headers=decode_headers(headers),
                timestamp_ms=timestamp_ms,
            )
