"""Cutting what was admitted into pieces that fit a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ingest.errors import Internal
from schemas.admission.admission import Part
from schemas.line_protocol.codec import split
from schemas.log.block import MAX_BLOCK_BYTES


def pieces_of(part: Part) -> Iterable[tuple[bytes, int]]:
    """The part in pieces that fit a block, cut between lines, each with its points."""
    if len(part.lines) < MAX_BLOCK_BYTES:
        return ((part.lines, part.points),)
    return _multiline_pieces(part.lines) if part.multiline else _pieces(part.lines)


def _pieces(lines: bytes) -> Iterator[tuple[bytes, int]]:
    start = 0
    while len(lines) - start >= MAX_BLOCK_BYTES:
        cut = lines.rfind(b"\n", start, start + MAX_BLOCK_BYTES)
        if cut < 0:
            raise Internal("BUG: a line longer than a block was admitted")
        yield lines[start:cut], lines.count(b"\n", start, cut) + 1
        start = cut + 1
    yield lines[start:], lines.count(b"\n", start) + 1


def _multiline_pieces(lines: bytes) -> Iterator[tuple[bytes, int]]:
    piece: list[bytes] = []
    size = 0
    for _, line in split(lines):
        if piece and size + len(line) >= MAX_BLOCK_BYTES:
            yield b"\n".join(piece), len(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line) + 1
    yield b"\n".join(piece), len(piece)
