"""What of a segment one request of each class can carry."""

from __future__ import annotations

from dataclasses import dataclass

from stepclock.spool.chunk import chunks


@dataclass(frozen=True)
class Portion:
    """The chunks at the beginning of what was read, without those that are damaged.

    lines: how many there are, by class. end: offset behind the last of the chunks. lost: lines
    that are missing before and between them. next_line: the number of the line behind them. more:
    whether others follow that were too many.
    """

    lines: dict[str, int]
    end: int
    lost: int
    next_line: int | None
    more: bool


def portion(data: bytes, next_line: int | None, max_lines: int, max_bytes: int) -> Portion:
    """At least one chunk, if there is one. next_line: its number, unless lines are missing."""
    lines: dict[str, int] = {}
    sizes: dict[str, int] = {}
    end = lost = 0
    for chunk in chunks(data):
        name = chunk.class_name
        count = lines.get(name, 0) + chunk.lines
        size = sizes.get(name, 0) + len(chunk.payload) + 1
        if lines and (count > max_lines or size > max_bytes):
            return Portion(lines, end, lost, next_line, more=True)
        lines[name], sizes[name] = count, size
        if next_line is not None:
            lost += max(0, chunk.first - next_line)
        next_line, end = chunk.first + chunk.lines, chunk.end
    return Portion(lines, end, lost, next_line, more=False)
