"""Timestamp precisions of line protocol."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """Unit of a line's timestamp.

    InfluxDB 2 knows ns, us, ms and s. Minutes and hours come from InfluxDB 1
    clients only; blocks never carry them (lines are scaled to ns on admission).
    """

    NS = "ns"
    US = "us"
    MS = "ms"
    S = "s"
    M = "m"
    H = "h"

    # Enum's own is written in Python; blocks are looked up by their precision all the time.
    __hash__ = str.__hash__

    @property
    def ns(self) -> int:
        """Nanoseconds in one unit."""
        return _NS_PER_UNIT[self]

    @property
    def digits(self) -> int:
        """Decimal digits to append to a timestamp of this precision to make it ns.

        Raises ValueError for M and H, which are no power of ten.
        """
        try:
            return _DIGITS[self]
        except KeyError:
            raise ValueError(f"precision {self.value!r} is no power of ten of ns") from None


_NS_PER_UNIT = {
    Precision.NS: 1,
    Precision.US: 10**3,
    Precision.MS: 10**6,
    Precision.S: 10**9,
    Precision.M: 60 * 10**9,
    Precision.H: 3600 * 10**9,
}
_DIGITS = {Precision.NS: 0, Precision.US: 3, Precision.MS: 6, Precision.S: 9}

#: Precisions that a block in the log, and an InfluxDB 2 write, may have.
BLOCK_PRECISIONS = frozenset(_DIGITS)

#: What a request may ask for (v1 spells ns as "n" and us as "u" or "µ"), lower case.
REQUEST_PRECISIONS = {p.value: p for p in Precision} | {
    "n": Precision.NS,
    "u": Precision.US,
    "µ": Precision.US,
}
