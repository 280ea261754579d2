"""How a series is cut into buckets: one rule for every store."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.store.protocols import SeriesQuery


@dataclass(frozen=True, slots=True)
class Buckets:
    """Bucket k holds start + k*width <= t < start + (k+1)*width, and t < end; width >= 1."""

    start: int
    end: int
    width: int


def cut(query: SeriesQuery, first: int, last: int) -> Buckets | None:
    """The buckets that answer a query whose values lie from `first` to `last`, both included.

    They begin at the query's start, or at the first value where that is open, so zooming
    by the same start gives the same buckets. There are at most `query.points` of them.
    None where the query's range is empty.
    """
    start = first if query.start is None else query.start
    end = last + 1 if query.end is None else query.end
    if end <= start:
        return None
    return Buckets(start, end, -(-(end - start) // query.points))
