"""Downsampling one metric: mean, min, max and count of each bucket, scanned in key order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from schemas.store.protocols import RunSeries

#: From so many values a bucket on, a query for each bucket beats one that sorts by bucket.
_DENSE = 8

_HAS_MORE_THAN = """
SELECT 1 FROM value
WHERE series_id = :series AND field_id = :field AND time_ns >= :start AND time_ns < :end
LIMIT 1 OFFSET :count
"""

_BY_BUCKET = """
SELECT (time_ns - :origin) / :width, total(value), min(value), max(value), count(*)
FROM value
WHERE series_id = :series AND field_id = :field AND time_ns >= :start AND time_ns < :end
GROUP BY 1
"""

_ONE_BUCKET = """
SELECT total(value), min(value), max(value), count(*) FROM value
WHERE series_id = ? AND field_id = ? AND time_ns >= ? AND time_ns < ?
"""

#: Sum, min, max, count.
_Values = tuple[float, float, float, int]


@dataclass(frozen=True, slots=True)
class Span:
    """The values of one field of one series that a query asks for; times in ns."""

    series_id: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Where buckets lie, in ns: bucket k begins at origin + k*width; what is asked ends at end."""

    origin_ns: int
    end_ns: int
    width_ns: int


def downsample(
    connection: sqlite3.Connection,
    run: str,
    field_id: int,
    spans: Iterable[Span],
    grid: Grid,
    unit_ns: int,
) -> RunSeries:
    """The buckets of one run, whose series are merged; t in units of unit_ns."""
    buckets: dict[int, _Values] = {}
    for span in spans:
        for bucket, found in _scan(connection, field_id, span, grid):
            buckets[bucket] = _merged(buckets[bucket], found) if bucket in buckets else found
    rows = sorted(buckets.items())
    return RunSeries(
        run=run,
        t=tuple((grid.origin_ns + bucket * grid.width_ns) // unit_ns for bucket, _ in rows),
        mean=tuple(total / count for _, (total, _low, _high, count) in rows),
        min=tuple(float(low) for _, (_total, low, _high, _count) in rows),
        max=tuple(float(high) for _, (_total, _low, high, _count) in rows),
        count=tuple(count for _, (_total, _low, _high, count) in rows),
    )


def _scan(
    connection: sqlite3.Connection, field_id: int, span: Span, grid: Grid
) -> Iterator[tuple[int, _Values]]:
    """The buckets of one series that hold values."""
    first = (span.first_ns - grid.origin_ns) // grid.width_ns
    last = (span.last_ns - grid.origin_ns) // grid.width_ns
    where = {
        "series": span.series_id,
        "field": field_id,
        "start": span.first_ns,
        "end": grid.end_ns,
        "origin": grid.origin_ns,
        "width": grid.width_ns,
        "count": _DENSE * (last - first + 1),
    }
    if connection.execute(_HAS_MORE_THAN, where).fetchone() is None:
        for bucket, *values in connection.execute(_BY_BUCKET, where):
            yield bucket, (values[0], values[1], values[2], values[3])
        return
    for bucket in range(first, last + 1):
        start_ns = grid.origin_ns + bucket * grid.width_ns
        end_ns = min(start_ns + grid.width_ns, grid.end_ns)
        (row,) = connection.execute(_ONE_BUCKET, (span.series_id, field_id, start_ns, end_ns))
        if row[3]:
            yield bucket, row


def _merged(one: _Values, other: _Values) -> _Values:
    return one[0] + other[0], min(one[1], other[1]), max(one[2], other[2]), one[3] + other[3]
