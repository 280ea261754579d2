"""Cutting what was admitted into pieces that fit a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ingest.errors import Internal
from schemas.admission.admission import Part
from schemas.line_protocol.codec import split
from schemas.log.block import MAX_BLOCK_BYTES

#: Where a newline may stand in a string, only the exact parser finds lines: so many at once.
_STEP_LINES = 250
_STEP_BYTES = 64 * 1024


def steps_of(part: Part) -> Iterator[Part]:
    """The part cut between lines, so that each step takes milliseconds and fits a block."""
    if part.multiline:
        steps = _multiline_steps(part.lines)
    elif len(part.lines) < MAX_BLOCK_BYTES:
        yield part
        return
    else:
        steps = _pieces(part.lines)
    for lines, points in steps:
        yield replace(part, lines=lines, points=points)


def joined(steps: Iterable[Part]) -> Iterator[Part]:
    """The steps of one part, in as few pieces as fit a block each."""
    piece: list[Part] = []
    size = 0
    for step in steps:
        if piece and size + len(step.lines) >= MAX_BLOCK_BYTES:
            yield _join(piece)
            piece, size = [], 0
        piece.append(step)
        size += len(step.lines) + 1
    yield _join(piece)


def _join(steps: list[Part]) -> Part:
    if len(steps) == 1:
        return steps[0]
    lines = b"\n".join([step.lines for step in steps])
    return replace(steps[0], lines=lines, points=sum([step.points for step in steps]))


def _pieces(lines: bytes) -> Iterator[tuple[bytes, int]]:
    start = 0
    while len(lines) - start >= MAX_BLOCK_BYTES:
        cut = lines.rfind(b"\n", start, start + MAX_BLOCK_BYTES)
        if cut < 0:
            raise Internal("BUG: a line longer than a block was admitted")
        yield lines[start:cut], lines.count(b"\n", start, cut) + 1
        start = cut + 1
    yield lines[start:], lines.count(b"\n", start) + 1


def _multiline_steps(lines: bytes) -> Iterator[tuple[bytes, int]]:
    step: list[bytes] = []
    size = 0
    for _, line in split(lines):
        if step and (len(step) >= _STEP_LINES or size + len(line) >= _STEP_BYTES):
            yield b"\n".join(step), len(step)
            step, size = [], 0
        step.append(line)
        size += len(line) + 1
    yield b"\n".join(step), len(step)
