"""What InfluxDB answers to InfluxQL: tables in JSON, in which numbers don't tell their types."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from schemas.line_protocol.precision import Precision
from schemas.retention import RESERVED
from schemas.store.attempts import AttemptState, AttemptSteps
from schemas.store.protocols import FieldValue, RunSeries, StoredPoint, StoreUnavailable
from schemas.store.run_state import step_of

#: From the type that the server names to the value that stands for the JSON token, in which
#: integers are left as text. In the order in which the server prefers them, where a field has
#: several in shards of different times: values of the others read as absent, numbers as casts.
_VALUE = {"float": float, "integer": int, "unsigned": int, "string": str, "boolean": bool}
_PREFERRED = list(_VALUE)

#: One table of an answer: ``name``, ``tags``, ``columns``, ``values``.
Table = dict[str, Any]


def results_of(data: bytes) -> list[dict[str, Any]]:
    """What the server says to each statement. Raises StoreUnavailable for what is no answer.

    Integers are left as text: only the type of their field tells what they are.
    """
    try:
        results: list[dict[str, Any]] = json.loads(data, parse_int=str)["results"]
    except (ValueError, LookupError, TypeError) as exc:
        raise StoreUnavailable(f"InfluxDB's answer can't be read: {exc!r}") from exc
    return results


def time_ns(table: Table) -> int:
    """The time of the first row."""
    return int(table["values"][0][0])


def time_by_run(tables: list[Table]) -> dict[str, int]:
    """The time of the first row of each run."""
    return {table["tags"]["run"]: time_ns(table) for table in tables}


def step_by_run(tables: list[Table]) -> dict[str, int]:
    """The same in steps, for class steps."""
    return {run: first_ns // Precision.MS.ns for run, first_ns in time_by_run(tables).items()}


def field_types(tables: list[Table]) -> dict[str, str]:
    """Types by field; of several the one that the server's answers have."""
    types: dict[str, str] = {}
    for table in tables:
        for name, kind in table["values"]:
            types[name] = min(kind, types.get(name, kind), key=_PREFERRED.index)
    return types


def run_series(table: Table, unit_ns: int) -> RunSeries:
    """Rows of time, mean, min, max and count; t in units of unit_ns."""
    times, means, lows, highs, counts = zip(*table["values"], strict=True)
    return RunSeries(
        run=table["tags"]["run"],
        t=tuple(int(time) // unit_ns for time in times),
        mean=tuple(map(float, means)),
        min=tuple(map(float, lows)),
        max=tuple(map(float, highs)),
        count=tuple(map(int, counts)),
    )


def stored_points(table: Table, types: Mapping[str, str]) -> Iterator[StoredPoint]:
    """The points of one series; types as field_types gives them, from before the question.

    A field that has come since has no type there: it is left out, like a point that has no
    other, as if the question had been a little earlier.
    """
    tags = {key: value for key, value in table.get("tags", {}).items() if value}
    columns = [(name, types.get(name)) for name in table["columns"][1:]]
    for time, *values in table["values"]:
        fields: dict[str, FieldValue] = {
            name: _VALUE[kind](value)
            for (name, kind), value in zip(columns, values, strict=True)
            if value is not None and kind is not None
        }
        if fields:
            yield StoredPoint(table["name"], tags, int(time), fields)


def attempt_steps(first: list[Table], last: list[Table]) -> list[AttemptSteps]:
    """Attempts by the two ends that were asked for one after the other.

    One of which only one end was found is left out: it came or went in between.
    """
    starts, ends = _ends(first, min), _ends(last, max)
    return [
        AttemptSteps(*of, starts[of], ends[of])
        for of in sorted(starts.keys() & ends.keys())
        if starts[of] <= ends[of]
    ]


def attempt_states(tables: list[Table]) -> list[AttemptState]:
    """What `influxql.newest_states` asks for: time, state, first_step, step, reason in each."""
    return [
        AttemptState(
            experiment=tags.get("experiment", ""),
            run=tags["run"],
            time_ns=int(time),
            state=str(state),
            rank=tags.get("rank", ""),
            attempt=tags.get("attempt", ""),
            by=tags.get("by", ""),
            first_step=step_of(first_step),
            step=step_of(step),
            reason=reason or "",
        )
        for tags, (time, state, first_step, step, reason) in (
            (table["tags"], table["values"][0]) for table in tables
        )
    ]


def _ends(
    tables: list[Table], end: Callable[[int, int], int]
) -> dict[tuple[str, str, str, str], int]:
    """The step of each table by measurement, experiment, run and attempt."""
    found: dict[tuple[str, str, str, str], int] = {}
    for table in tables:
        name, tags = table["name"], table["tags"]
        # An experiment may have a free tag of that name.
        experiment = tags["experiment"] if name in RESERVED else name
        if not experiment:
            continue
        of = (name, experiment, tags["run"], tags["attempt"])
        step = time_ns(table) // Precision.MS.ns
        found[of] = end(found.get(of, step), step)
    return found
