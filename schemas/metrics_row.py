"""The JSON route's request: rows of metrics, and the line protocol that they become."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from schemas.json_rows import Unrepresentable
from schemas.line_protocol.bounds import MAX_STEP, MAX_TIME_NS, MIN_TIME_NS
from schemas.line_protocol.codec import escape_key, escape_measurement
from schemas.retention import is_reserved

#: Spellings of what JSON can't say as a number. Bare NaN and Infinity are taken as well.
_NONFINITE_STRINGS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_BEYOND = 'beyond the range of a 64-bit float: send it scaled, or as "Infinity"'


def _name(text: str) -> str:
    escape_key(text.encode())  # raises ValueError for what no line can carry
    return text


def _text(value: object) -> object:
    if isinstance(value, Unrepresentable):  # it is a str too
        raise ValueError(f"expected a string, not the number {value}")
    return value


def _experiment(text: str) -> str:
    if is_reserved(text):
        raise ValueError("the name is reserved: use one that does not begin with _")
    escape_measurement(text.encode())
    return text


Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    BeforeValidator(_text),
    AfterValidator(_name),
]
Experiment = Annotated[Name, AfterValidator(_experiment)]


class MetricsRow(BaseModel):
    """All metrics of one step of one run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    experiment: Experiment = Field(description="Experiment: the measurement of the line.")
    run: Name = Field(description="Run: the tag `run`.")
    step: int = Field(ge=0, le=MAX_STEP, description="Training step.")
    rank: int | None = Field(default=None, ge=0, description="Rank in a distributed job.")
    attempt: int | None = Field(default=None, ge=0, description="Attempt, after a restart.")
    tags: dict[Name, Name] = Field(default_factory=dict, description="Free tags.")
    time: int | None = Field(
        default=None,
        ge=MIN_TIME_NS,
        le=MAX_TIME_NS,
        description="Unix time in ns. Without it the gateway gives its own, and a repeated "
        "request makes new points instead of overwriting the old.",
    )
    values: dict[str, Any] = Field(
        description='Metrics by name: numbers, booleans, NaN and infinities, bare or as "NaN", '
        '"Infinity", "-Infinity". A row counts as one point against the limit, each value that is '
        "not finite as one more. At most 10,000 in a row, which is at most 256 KiB of text."
    )


# Members of one row: each that is wrong is named, and each value that is not finite is a line.
_MAX_WITHIN = (("values", 10_000), ("tags", 1_000))
_MAX_MEMBERS = len(MetricsRow.model_fields) + 20


def excess(row: object) -> tuple[str, str] | None:
    """Which part of a row has too many members to validate one by one, and how many it may have."""
    if not isinstance(row, dict):
        return None
    if len(row) > _MAX_MEMBERS:
        return "row", _too_many(row, _MAX_MEMBERS)
    for field, most in _MAX_WITHIN:
        members = row.get(field)
        if isinstance(members, dict) and len(members) > most:
            return field, _too_many(members, most)
    return None


def _too_many(members: dict[str, object], most: int) -> str:
    return f"{len(members)} members; at most {most} are taken in one row"


class MetricsRequest(BaseModel):
    """Body of `POST /api/v1/metrics`. Rows are validated one by one; this is for the OpenAPI."""

    model_config = ConfigDict(extra="forbid")

    rows: list[MetricsRow] = Field(min_length=1)


class RejectedValue(BaseModel):
    """One row or value that was not taken; the rest of the request was."""

    index: int = Field(description="Index of the row in the request, from 0.")
    field: str = Field(description="Which member of the row: `step`, `values.loss`, …")
    reason: str = Field(description="What is wrong and what is expected.")


class MetricsAnswer(BaseModel):
    """Answer 202: what was taken is durable in the log."""

    accepted: int = Field(description="Rows of which anything was taken.")
    stamped: int = Field(description="Accepted rows that got the gateway's time.")
    rejected: list[RejectedValue] = Field(description="Rows and values not taken, 1,000 at most.")
    rejected_total: int = Field(description="How many rows and values were not taken.")
    receipt: str | None = Field(description="Ask for it at /api/v1/receipts; null: nothing taken.")


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Lines of one row, without times: `line` for class raw, `events` for class events.

    events is made while it is read, once: it may be many times as large as the row.
    """

    line: bytes
    events: Iterator[bytes]
    rejected: tuple[tuple[str, str], ...]  # (field, reason)


_RESERVED_TAGS = frozenset({"run", "rank", "attempt", "time", "_measurement", "_field"})
_RESERVED_METRICS = frozenset({"step", "time"})


def encode_row(row: MetricsRow) -> EncodedRow:
    """The row as line protocol without times. A row of non-finite values only has `step` alone."""
    rejected: list[tuple[str, str]] = []
    tags = dict(_identity_tags(row))
    for key, value in row.tags.items():
        if key in _RESERVED_TAGS:
            rejected.append((f"tags.{key}", f"a free tag can't be called {key!r}: rename it"))
        else:
            tags[key] = value
    fields: list[bytes] = []
    nonfinite: list[tuple[bytes, bytes]] = []
    for metric, value in row.values.items():
        try:
            name, number = escape_key(metric.encode()), _number(metric, value)
        except ValueError as exc:
            rejected.append((f"values.{metric}", str(exc)))
            continue
        if math.isfinite(number):
            fields.append(name + b"=" + repr(number).encode())
        else:
            nonfinite.append((name, _kind(number)))
    fields.append(b"step=%di" % row.step)
    line = b"%b%b %b" % (
        escape_measurement(row.experiment.encode()),
        _encode_tags(tags),
        b",".join(fields),
    )
    return EncodedRow(line, _nonfinite_lines(row, nonfinite), tuple(rejected))


def _identity_tags(row: MetricsRow) -> Iterator[tuple[str, str]]:
    yield "run", row.run
    if row.rank is not None:
        yield "rank", str(row.rank)
    if row.attempt is not None:
        yield "attempt", str(row.attempt)


def _nonfinite_lines(row: MetricsRow, metrics: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """metrics: names, escaped, and kinds."""
    if not metrics:
        return
    tags = _encode_tags({"experiment": row.experiment, **dict(_identity_tags(row))})
    for name, kind in metrics:
        yield b"nonfinite%b,metric=%b,kind=%b count=1,step=%di" % (tags, name, kind, row.step)


def _encode_tags(tags: Mapping[str, str]) -> bytes:
    return b"".join(
        b",%b=%b" % (escape_key(key.encode()), escape_key(value.encode()))
        for key, value in tags.items()
    )


def _number(metric: str, value: object) -> float:
    if metric in _RESERVED_METRICS:
        raise ValueError(f"a metric can't be called {metric!r}: rename it")
    if isinstance(value, Unrepresentable):
        raise ValueError(f"the number {value} is {_BEYOND}")
    if isinstance(value, str) and value in _NONFINITE_STRINGS:
        return _NONFINITE_STRINGS[value]
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"the number is {_BEYOND}") from None
    raise ValueError(
        f"a metric is a number, not {type(value).__name__}; "
        'NaN and infinities may be written "NaN", "Infinity", "-Infinity"'
    )


def _kind(number: float) -> bytes:
    if math.isnan(number):
        return b"nan"
    return b"inf" if number > 0 else b"-inf"
