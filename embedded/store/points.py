"""Points as the store's file takes them: lines parsed, values typed, time in ns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.line_protocol.bounds import MAX_STEP, MAX_TIME_NS, MIN_TIME_NS
from schemas.line_protocol.codec import Line, Refused, field_value, parse, split
from schemas.line_protocol.precision import Precision
from schemas.store.protocols import FieldValue, LinesRefused

#: Kinds of which a mean can be taken.
NUMERIC_KINDS = frozenset({"float", "integer"})

_KIND = {float: "float", int: "integer", bool: "boolean", str: "string"}

# Numbers that are certainly within range; group 1 is an integer's.
_NUMBER = re.compile(rb"(-?[0-9]{1,18})i|-?[0-9]{1,18}(?:\.[0-9]{1,25})?(?:[eE][+-]?[0-9]{1,2})?")

#: Series and field names remembered, each; beyond that the memory starts over.
_MAX_REMEMBERED = 100_000

#: Longer lines may exceed the bound of a series with its field.
_MAX_PLAIN_BYTES = 60_000

#: Name, kind and value of each field, in the order given.
Fields = tuple[tuple[bytes, str, FieldValue], ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One line. step: the integer field `step`, where it is one that the step clock can show."""

    measurement: bytes
    tags: tuple[tuple[bytes, bytes], ...]
    fields: Fields
    time_ns: int
    step: int | None


class PointParser:
    """Parses batches, and remembers the series and fields that the exact parser admitted.

    A line of a known series and known fields, with plain numbers and neither quote nor
    backslash, is cut at its spaces, commas and equals signs (ten times as fast). Every
    other line takes the exact parser, which gives the same for those.
    """

    def __init__(self) -> None:
        self._series: dict[bytes, tuple[bytes, tuple[tuple[bytes, bytes], ...]]] = {}
        self._fields: set[bytes] = set()

    def parse(self, lines: bytes, precision: Precision) -> list[Point]:
        """The points of a batch. Raises LinesRefused for the first line that can't be one."""
        texts = split(lines) if b'"' in lines else enumerate(lines.split(b"\n"), 1)
        points: list[Point] = []
        for number, text in texts:
            point = self._plain(text, precision.ns)
            if point is not None:
                points.append(point)
            else:
                points += self._exact(number, text, precision.ns)
        return points

    def _plain(self, text: bytes, unit_ns: int) -> Point | None:
        """The point of a line of which everything is known but its numbers, else None."""
        series, _, rest = text.partition(b" ")
        known = self._series.get(series)
        if known is None or len(text) > _MAX_PLAIN_BYTES:
            return None
        written, _, time = rest.rpartition(b" ")
        if not time.isdigit() or len(time) > 19:
            return None
        time_ns = int(time) * unit_ns
        if time_ns > MAX_TIME_NS:
            return None
        step = None
        fields: list[tuple[bytes, str, FieldValue]] = []
        seen = set()
        for field in written.split(b","):
            name, _, token = field.partition(b"=")
            number = _NUMBER.fullmatch(token)
            if number is None or name in seen or name not in self._fields:
                return None
            seen.add(name)
            if number[1] is None:
                fields.append((name, "float", float(token)))
            else:
                value = int(number[1])
                fields.append((name, "integer", value))
                if name == b"step" and 0 <= value <= MAX_STEP:
                    step = value
        return Point(*known, tuple(fields), time_ns, step)

    def _exact(self, number: int, text: bytes, unit_ns: int) -> Iterator[Point]:
        """The point of a line; none of a blank one or a comment. Raises LinesRefused."""
        for _number, line_text in split(text):
            try:
                line = parse(line_text)
            except Refused as exc:
                raise LinesRefused(
                    f"line {number}, column {exc.column}: {exc.reason}", stored_others=False
                ) from exc
            if line.time is None:
                raise LinesRefused(f"line {number}: no time", stored_others=False)
            time_ns = line.time * unit_ns
            if not MIN_TIME_NS <= time_ns <= MAX_TIME_NS:
                raise LinesRefused(f"line {number}: time outside range", stored_others=False)
            self._remember(line_text, line)
            fields = tuple((name, *_typed(token)) for name, token in line.fields)
            yield Point(line.measurement, line.tags, fields, time_ns, _step(fields))

    def _remember(self, text: bytes, line: Line) -> None:
        if text.startswith(b" ") or b"\\" in text or b'"' in text:
            return
        for memory in (self._series, self._fields):
            if len(memory) >= _MAX_REMEMBERED:
                memory.clear()
        self._series[text.partition(b" ")[0]] = (line.measurement, line.tags)
        self._fields.update(name for name, _token in line.fields)


def fault(point: Point) -> str | None:
    """Why the file can't hold a point that InfluxDB could; None where it can."""
    for _name, _kind, value in point.fields:
        if isinstance(value, int) and value >= 2**63:
            return "an unsigned integer above 2^63-1 can't be held here"
    return None


def value_of(kind: str, stored: float | str) -> FieldValue:
    """The value that a row of the file stands for: booleans are stored as 0 and 1."""
    return bool(stored) if kind == "boolean" else stored


def _typed(token: bytes) -> tuple[str, FieldValue]:
    value = field_value(token)
    return _KIND[type(value)], value


def _step(fields: Fields) -> int | None:
    for name, _kind, value in fields:
        if name == b"step" and type(value) is int and 0 <= value <= MAX_STEP:
            return value
    return None
