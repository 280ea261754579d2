"""What became of a body: lines that are admitted, in parts, and lines that are refused."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.line_protocol.precision import Precision

#: Refusals that an answer lists; all are counted.
MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that was not admitted: 1-based number, column in bytes, and what was expected."""

    line: int
    column: int
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """Admitted lines of one precision, each with a time, joined by newline, in body order.

    multiline: each line holds a newline within a string, so only the exact parser may split.
    """

    lines: bytes
    points: int
    precision: Precision
    multiline: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a body.

    parts: at most one each of the request's precision, of ns, and of multiline lines.
    stamped: how many admitted lines came without a time. refusals: the first MAX_LISTED of
    refused_total.
    """

    parts: tuple[Part, ...]
    points: int
    stamped: int
    refusals: tuple[Refusal, ...]
    refused_total: int
