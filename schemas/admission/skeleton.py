"""Finds lines with a name that is there twice, among lines whose form is known to be good.

The lines of a job differ in digits only: numbers, steps, times, ranks. Without their digits
they are a few skeletons, and where the names in a skeleton differ from each other, so do
those of every line that has it. A skeleton is looked at once and remembered.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache
from typing import Any

import re2

from schemas.line_protocol.scanner import ENGINE_SEPARATOR

_DIGITS = b"0123456789"

# Bounds of the memories: skeletons and the patterns of names; longer lines are not remembered.
_SKELETONS = 8192
_PATTERNS = 64
_MAX_REMEMBERED_BYTES = 1024

# Making a pattern costs as much as looking at some ten lines one by one.
_LINES_FOR_A_PATTERN = 16

# Names may be empty here, where their digits are gone.
_MEASUREMENT = re.compile(rb"(?:[^ ,\\]++|\\.)*+")
_SERIES = re.compile(rb"(?:[^ \\]++|\\.)*+")
_TAG = re.compile(rb",((?:[^,=\\]++|\\.)*+)=")
_FIELD = re.compile(rb'((?:[^,=\\]++|\\.)*+)=(?:"(?:[^"\\]++|\\.)*+"|[^, "]*+),?+')

_Names = tuple[tuple[bytes, ...], tuple[bytes, ...]]


def doubtful_lines(lines: bytes) -> frozenset[bytes]:
    """Those of the lines, joined by newline, that may hold a name twice, or ``#!~``.

    Every line must match a run pattern (`schemas.admission.run_pattern`).
    """
    skeletons = lines.translate(None, _DIGITS).split(b"\n")
    unclear = {skeleton for skeleton in set(skeletons) if not _is_clear(skeleton)}
    if not unclear:
        return frozenset()
    # Names such as layer1 and layer2 differ in digits only, so look at the lines themselves.
    groups: dict[bytes, list[bytes]] = defaultdict(list)
    for skeleton, line in zip(skeletons, lines.split(b"\n"), strict=True):
        if skeleton in unclear:
            groups[skeleton].append(line)
    return frozenset(line for group in groups.values() for line in _doubtful_of(group))


def _doubtful_of(group: list[bytes]) -> list[bytes]:
    """The doubtful among lines with one skeleton."""
    first = group[0]
    names = names_of(first)
    is_plain = len(first) <= _MAX_REMEMBERED_BYTES and b'"' not in first and b"\\" not in first
    joined = b"\n".join(group)
    # Mostly all have the very names of the first. A digit may have stood in its separator.
    if is_plain and all_differ(first, names) and ENGINE_SEPARATOR not in joined:
        pattern = _known(names).pattern_after(len(group))
        if pattern is not None and pattern.fullmatch(joined) is not None:
            return []
    return [line for line in group if not all_differ(line, names_of(line))]


def _is_clear(skeleton: bytes) -> bool:
    if len(skeleton) > _MAX_REMEMBERED_BYTES:
        return all_differ(skeleton, names_of(skeleton))
    return _is_clear_remembered(skeleton)


@lru_cache(maxsize=_SKELETONS)
def _is_clear_remembered(skeleton: bytes) -> bool:
    return all_differ(skeleton, names_of(skeleton))


def all_differ(line: bytes, names: _Names) -> bool:
    """Whether no name is there twice, and no ``#!~`` in the line or skeleton."""
    tags, fields = names
    return (
        len(set(tags)) == len(tags)
        and len(set(fields)) == len(fields)
        and ENGINE_SEPARATOR not in line
    )


def names_of(line: bytes) -> _Names:
    """Tag keys and field keys of a line or a skeleton, escaped as they stand."""
    measurement = _MEASUREMENT.match(line)
    series = _SERIES.match(line)
    assert measurement is not None
    assert series is not None
    tags = _TAG.findall(line, measurement.end(), series.end())
    fields = _FIELD.findall(line, series.end() + 1)
    return tuple(tags), tuple(fields)


class _KnownNames:
    """Names of lines, how many such lines came, and their pattern once that is worth it."""

    __slots__ = ("_lines", "_names", "_pattern")

    def __init__(self, names: _Names) -> None:
        self._names = names
        self._lines = 0
        self._pattern: Any = None

    def pattern_after(self, lines: int) -> Any:
        """The pattern, once so many lines more make it worth its making; else None."""
        self._lines += lines
        if self._pattern is None and self._lines >= _LINES_FOR_A_PATTERN:
            self._pattern = _lines_with(self._names)
        return self._pattern


_known = lru_cache(maxsize=_PATTERNS)(_KnownNames)


def _lines_with(names: _Names) -> Any:
    """Pattern of lines, without quotes and backslashes, that have these very names."""
    tags, fields = names
    line = (
        rb"[^, \n]*"
        + b"".join(b"," + re2.escape(key) + rb"=[^,= \n]*" for key in tags)
        + b" "
        + b",".join(re2.escape(key) + rb"=[^,=\n]*" for key in fields)
    )
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(rb"(?:" + line + rb"(?:\n|\z))*", options)
