"""What a line may say beyond its form: times, steps and names that the pipeline can keep."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.line_protocol.precision import Precision
from schemas.line_protocol.scanner import Refused, Scanned
from schemas.line_protocol.tokens import integer

#: Largest step; as milliseconds it is the largest time that InfluxDB keeps, rounded down.
MAX_STEP = 9_200_000_000_000

# Digits of any 64-bit integer, and the i.
_MAX_STEP_BYTES = 20

#: Earliest and latest time that InfluxDB keeps, in ns since 1970: int64 less its outermost values
#: (``models.MinNanoTime``, ``models.MaxNanoTime``).
MIN_TIME_NS = -(2**63) + 2
MAX_TIME_NS = 2**63 - 2


@dataclass(frozen=True, slots=True)
class Rules:
    """What one retention class takes at this moment.

    oldest_ns, newest_ns: earliest and latest time that is taken; oldest None is no bound.
    keep: how long the class keeps points (``90d``), for messages. reserved: measurements that
    are Stepclock's own there; those with a leading underscore are everywhere.
    """

    oldest_ns: int | None
    newest_ns: int
    keep: str
    reserved: frozenset[str]


def check(scanned: Scanned, precision: Precision, rules: Rules) -> None:
    """Raise Refused for a line that is out of bounds."""
    line = scanned.line
    name = line.measurement.decode()
    if name.startswith("_") or name in rules.reserved:
        raise Refused(
            scanned.measurement_column,
            "name is reserved: expected one that does not begin with _ and is not "
            + ", ".join(sorted(rules.reserved)),
        )
    for key, value in line.fields:
        if key == b"step":
            _check_step(value, scanned.field_columns[key])
    if line.time is not None:
        _check_time(line.time, scanned.time_column, precision, rules)


def _check_step(value: bytes, column: int) -> None:
    if not value.endswith(b"i") or value.startswith(b'"'):
        raise Refused(column, "step is not an integer: expected an integer field, as in step=1200i")
    # A sign or a row of zeros would have to be undone by whoever makes a time of the step.
    if value.startswith(b"-") or len(value) > _MAX_STEP_BYTES or integer(value[:-1]) > MAX_STEP:
        raise Refused(column, f"step out of range: expected 0 to {MAX_STEP}")


def _check_time(time: int, column: int, precision: Precision, rules: Rules) -> None:
    time_ns = time * precision.ns
    if (MIN_TIME_NS if rules.oldest_ns is None else rules.oldest_ns) > time_ns:
        reason = f"time too old: the class keeps points for {rules.keep}"
    elif time_ns > rules.newest_ns:
        reason = "time too far ahead: expected no later than an hour from now"
    else:
        return
    raise Refused(column, reason + _hint(time, precision, rules))


def _hint(time: int, precision: Precision, rules: Rules) -> str:
    """The other precision in which this time would lie in the window, if there is one."""
    if rules.oldest_ns is None:
        return ""
    for other in Precision:
        if rules.oldest_ns <= time * other.ns <= rules.newest_ns:
            return f"; it was read as {precision.value}, did you mean precision={other.value}?"
    return f"; it was read as {precision.value}"
