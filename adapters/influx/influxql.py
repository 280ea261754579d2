"""InfluxQL text: identifiers, string literals and conditions, escaped so that names stay names.

Reference: https://docs.influxdata.com/influxdb/v1/query_language/spec/
"""

from __future__ import annotations

from collections.abc import Collection

from schemas.line_protocol.bounds import MAX_TIME_NS, MIN_TIME_NS
from schemas.retention import EVENTS_CLASS
from schemas.store.run_state import MEASUREMENT

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def identifier(name: str) -> str:
    """A name of a database, class, measurement, field or tag, in double quotes."""
    return '"' + name.translate(_ESCAPES).replace('"', '\\"') + '"'


def string(value: str) -> str:
    """A string literal, in single quotes."""
    return "'" + value.translate(_ESCAPES).replace("'", "\\'") + "'"


def measurement(retention_class: str, name: str) -> str:
    """A measurement of one class: ``"steps"."resnet50"``."""
    return f"{identifier(retention_class)}.{identifier(name)}"


def of_runs(runs: Collection[str]) -> str:
    """The condition that a point belongs to one of the runs; without runs: to any run."""
    if not runs:
        return "\"run\" != ''"
    return "(" + " OR ".join(f'"run" = {string(run)}' for run in runs) + ")"


def within(start_ns: int | None, end_ns: int | None) -> str:
    """The condition that start_ns <= time < end_ns, as far as the server's times go.

    Both sides are always said: a query that groups by time would else end at the present.
    """
    start = MIN_TIME_NS if start_ns is None else max(start_ns, MIN_TIME_NS)
    end = MAX_TIME_NS if end_ns is None else min(end_ns - 1, MAX_TIME_NS)
    return f"time >= {start} AND time <= {end}"


def select(what: str, source: str, *conditions: str, tail: str = "") -> str:
    """A query; `tail` is what follows the conditions."""
    clauses = ["SELECT", what, "FROM", source]
    if conditions:
        clauses += ["WHERE", " AND ".join(conditions)]
    return " ".join([*clauses, tail])


def group_by(width_ns: int, start_ns: int) -> str:
    """Groups by run and by buckets of width_ns, one of which begins at start_ns; no empty ones."""
    return f'GROUP BY time({width_ns}ns, {start_ns % width_ns}ns), "run" fill(none)'


def newest_states(since_ns: int, experiment: str | None = None) -> str:
    """The query for the newest line of each series of `run_state`, and what it holds."""
    of_experiment = [] if experiment is None else [f'"experiment" = {string(experiment)}']
    return select(
        'last("state"), "first_step", "step", "reason"',
        measurement(EVENTS_CLASS, MEASUREMENT),
        "\"run\" != ''",
        *of_experiment,
        within(since_ns, None),
        tail='GROUP BY "experiment", "run", "rank", "attempt", "by"',
    )


def show_measurements(namespace: str, retention_class: str) -> str:
    """The query for the measurements of a class, whatever the mappings are."""
    return f"SHOW MEASUREMENTS ON {measurement(namespace, retention_class)}"


def show_field_keys(namespace: str, retention_class: str, name: str) -> str:
    """The query for the fields of a measurement and their types."""
    source = measurement(retention_class, name)
    return f"SHOW FIELD KEYS ON {identifier(namespace)} FROM {source}"
