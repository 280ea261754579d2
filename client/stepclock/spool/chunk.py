"""A chunk: lines of one class behind a header with a checksum, as segments hold them.

One whose end is missing was never whole, and is not read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

#: Classes by their number in a chunk's header.
CLASSES = ("raw", "events", "system")

#: Lines and bytes of one chunk, and of the body of one request.
MAX_LINES = 1000
MAX_BYTES = 1024 * 1024

_MAGIC = b"SCK1"
# magic, payload bytes, class, lines, rows, lines of the stream before it, checksum of all of it
_HEADER = struct.Struct(">4sIBIIQI")


@dataclass(frozen=True)
class Chunk:
    """Lines of one class.

    first: how many lines of the stream, of all classes, come before, so that missing ones are
    known. rows: log calls in it. end: offset behind it in its segment.
    """

    class_name: str
    lines: int
    rows: int
    first: int
    payload: bytes
    end: int


def encode_chunk(class_name: str, lines: int, rows: int, first: int, payload: bytes) -> bytes:
    """A chunk as it stands in a segment."""
    fields = (_MAGIC, len(payload), CLASSES.index(class_name), lines, rows, first)
    checksum = zlib.crc32(payload, zlib.crc32(_HEADER.pack(*fields, 0)))
    return _HEADER.pack(*fields, checksum) + payload


def chunks(data: bytes, start: int = 0) -> Iterator[Chunk]:
    """The whole chunks of a segment from an offset on; damaged ones are passed over."""
    while True:
        chunk = _chunk_at(data, start)
        if chunk is None:
            start = data.find(_MAGIC, start + 1)
            if start < 0:
                return
        else:
            yield chunk
            start = chunk.end


def _chunk_at(data: bytes, start: int) -> Chunk | None:
    if len(data) < start + _HEADER.size:
        return None
    magic, length, kind, lines, rows, first, checksum = _HEADER.unpack_from(data, start)
    end = start + _HEADER.size + length
    if magic != _MAGIC or kind >= len(CLASSES) or len(data) < end:
        return None
    payload = data[start + _HEADER.size : end]
    head = _HEADER.pack(magic, length, kind, lines, rows, first, 0)
    if zlib.crc32(payload, zlib.crc32(head)) != checksum:
        return None
    return Chunk(CLASSES[kind], lines, rows, first, payload, end)


def damaged_lines(data: bytes, first: int | None) -> int:
    """How many lines were in what is no whole chunk, at the end of a stream; at least.

    first: the number that the first line of it has, if that is known. The beginning of a chunk
    was never written to its end, and holds none.
    """
    lost = start = 0
    while len(data) >= start + _HEADER.size:
        magic, length, _, lines, _, number, _ = _HEADER.unpack_from(data, start)
        end = start + _HEADER.size + length
        if magic == _MAGIC and end > len(data):
            break
        counted = data.count(b"\n", start + _HEADER.size, end) + 1
        if (magic, number, lines) != (_MAGIC, first, counted):
            return lost + 1
        lost, first, start = lost + lines, number + lines, end
    return lost
