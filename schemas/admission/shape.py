"""The shape of a job's lines, their names in order, and one pattern that spares a second pass.

Mostly all lines of a body have the names of its first. A pattern that spells those names out
sees in one pass what a run pattern (`run_pattern`) and a look for names that are there twice
(`skeleton`) see in two.
"""

from __future__ import annotations

from functools import lru_cache

from schemas.admission.run_pattern import RunPattern, Window, line_of_names, timed
from schemas.admission.skeleton import all_differ, names_of
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import Precision
from schemas.line_protocol.scanner import ENGINE_SEPARATOR

# Bounds of the memory: shapes, and the line that one is learned from.
_SHAPES = 64
_MAX_LINE_BYTES = 1024


def shaped(line: bytes, precision: Precision, rules: Rules) -> RunPattern | None:
    """The pattern of timed lines with the very names of this one, in this order.

    None for a line that is not certainly good, and for a shape that comes for the first time:
    making a pattern costs as much as some thousand lines, and a shape may never come again.
    What it matches may still hold ``#!~``, be too long, or no UTF-8.
    """
    if len(line) > _MAX_LINE_BYTES or b'"' in line or b"\\" in line:
        return None
    window = Window.of(precision, rules)
    shape = _shape(names_of(line), window)
    if not shape.has_come_before:
        shape.has_come_before = True
    elif shape.pattern is None and _is_certain(line, precision, rules):
        shape.pattern = RunPattern(line_of_names(*shape.names, window))
    return shape.pattern


class _Shape:
    """Names of tags and fields, how often they came, and their pattern once that is worth it."""

    __slots__ = ("has_come_before", "names", "pattern")

    def __init__(self, names: tuple[tuple[bytes, ...], tuple[bytes, ...]]) -> None:
        self.names = names
        self.has_come_before = False
        self.pattern: RunPattern | None = None


@lru_cache(maxsize=_SHAPES)
def _shape(names: tuple[tuple[bytes, ...], tuple[bytes, ...]], _window: Window) -> _Shape:
    return _Shape(names)


def _is_certain(line: bytes, precision: Precision, rules: Rules) -> bool:
    """Whether the names can be spelled out: each is admitted and different from the others."""
    whole = timed(precision, rules).end(line, 0, len(line)) == len(line)
    return whole and ENGINE_SEPARATOR not in line and all_differ(line, names_of(line))
