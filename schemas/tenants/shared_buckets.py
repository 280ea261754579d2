"""The protocol of token buckets that several gateways share, its data and its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class SharedBucketsAway(Exception):
    """The buckets can't be reached, or not in time. Whether a charge was taken is unknown."""


@dataclass(frozen=True, slots=True)
class Charged:
    """What became of a charge: wait_s 0.0 if it was taken, else the seconds until it would be.

    debt_s: seconds until one point may be sent. remaining: whole points that may be sent now.
    """

    wait_s: float
    debt_s: float
    remaining: int


class SharedBuckets(Protocol):
    """Buckets by name. rate in points/s; burst and points in points. One event loop."""

    async def charge(self, name: str, rate: int, burst: int, points: int) -> Charged:
        """Charge a bucket as `ingest.limits.token_bucket` does. Raises SharedBucketsAway."""
        ...

    async def refund(self, name: str, rate: int, burst: int, points: int) -> None:
        """Give back what was charged and then not taken. Raises SharedBucketsAway."""
        ...

    async def ping(self) -> None:
        """Raise SharedBucketsAway if the buckets don't answer in time."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
