"""The series of lines: measurement and tags, which stand before the first unescaped space."""

from __future__ import annotations

import re

from schemas.line_protocol.codec import split

_SERIES = re.compile(rb"(?:[^ \\]++|\\.)*+", re.DOTALL)
_MEASUREMENT = re.compile(rb"(?:[^,\\]++|\\.)*+", re.DOTALL)
_TAG = re.compile(rb",((?:[^,=\\]++|\\.)*+)=((?:[^,\\]++|\\.)*+)", re.DOTALL)

#: Stands for the measurement among the names of tags, none of which is empty.
MEASUREMENT = b""


def distinct_series(lines: bytes, points: int, *, multiline: bool = False) -> set[bytes]:
    """The series of admitted lines, each with a time, joined by newline; escaped as they stand.

    points: how many lines they are. multiline: some line may hold a newline within a string.
    """
    if multiline:
        return {series_of(line) for _, line in split(lines)}
    if b"\\" in lines:
        return {series_of(line) for line in lines.split(b"\n")}
    if b'"' in lines:
        return {line.partition(b" ")[0] for line in lines.split(b"\n")}
    # Mostly a job writes one series. Looking for it again and again costs a third of the rest.
    first = lines[: lines.find(b" ") + 1]
    last = lines.rfind(b"\n") + 1
    if lines.startswith(first, last) and lines.count(b"\n" + first) == points - 1:
        return {first[:-1]}
    # Every line is three words: series, fields, time. Nothing else splits them as fast.
    return set(lines.split()[::3])


def tags_of(series: bytes) -> list[tuple[bytes, bytes]]:
    """Tags by key, with the measurement under MEASUREMENT; all escaped as they stand."""
    measurement = _MEASUREMENT.match(series)
    assert measurement is not None
    end = measurement.end()
    return [(MEASUREMENT, series[:end]), *_TAG.findall(series, end)]


def series_of(line: bytes) -> bytes:
    """The series of one line, escaped as it stands; empty if the line begins with a space."""
    found = _SERIES.match(line)
    assert found is not None
    return found[0]
