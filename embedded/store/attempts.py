"""Attempts of runs in the store's file: which there are, what they said last, stale points."""

from __future__ import annotations

import sqlite3

from embedded.store.series import decode_tags
from schemas import canary
from schemas.line_protocol.precision import Precision
from schemas.retention import EVENTS_CLASS, RESERVED, STEP_CLASS
from schemas.store.attempts import AttemptState, AttemptSteps, StaleSteps
from schemas.store.run_state import MEASUREMENT, step_of

# Both ends of each series: two seeks, however many points lie between.
_ENDS = """
SELECT measurement.name, series.tags,
    (SELECT min(time_ns) FROM value WHERE series_id = series.id AND field_id = field.id),
    (SELECT max(time_ns) FROM value WHERE series_id = series.id AND field_id = field.id)
FROM measurement
CROSS JOIN series ON series.measurement_id = measurement.id
CROSS JOIN field ON field.measurement_id = measurement.id AND field.name = 'step'
WHERE namespace = ? AND class = ? AND run IS NOT NULL
    AND json_extract(tags, '$.attempt') IS NOT NULL
"""

_NEWEST = """
SELECT series.id, series.tags,
    (SELECT max(time_ns) FROM value WHERE series_id = series.id AND field_id = field.id) AS last_ns
FROM measurement
CROSS JOIN series ON series.measurement_id = measurement.id
CROSS JOIN field ON field.measurement_id = measurement.id AND field.name = 'state'
WHERE namespace = :namespace AND class = :class AND measurement.name = :measurement
    AND run IS NOT NULL
    AND (:experiment IS NULL OR json_extract(tags, '$.experiment') = :experiment)
    AND last_ns >= :since
"""

_AT = """
SELECT field.name, value.value FROM field JOIN value ON field_id = field.id
WHERE field.measurement_id = (SELECT measurement_id FROM series WHERE id = :series)
    AND series_id = :series AND time_ns = :time
"""

_CANARY = """
SELECT max((SELECT max(time_ns) FROM value WHERE series_id = series.id AND field_id = field.id))
FROM measurement
CROSS JOIN series ON series.measurement_id = measurement.id
CROSS JOIN field ON field.measurement_id = measurement.id AND field.name = 'gateway'
WHERE namespace = ? AND class = ? AND measurement.name = ?
"""

_STALE = """
SELECT series_id, field_id, time_ns
FROM measurement
CROSS JOIN series ON series.measurement_id = measurement.id AND run = :run
    AND json_extract(tags, '$.attempt') = :attempt
    AND (measurement.name = :experiment OR json_extract(tags, '$.experiment') = :experiment)
CROSS JOIN field ON field.measurement_id = measurement.id
CROSS JOIN value ON series_id = series.id AND field_id = field.id AND time_ns >= :from_ns
WHERE namespace = :namespace AND class = :class AND measurement.name = :measurement
"""


def attempt_steps(connection: sqlite3.Connection, namespace: str) -> list[AttemptSteps]:
    """Every attempt with points in class steps; its series of several ranks are one."""
    ends: dict[tuple[str, str, str, str], tuple[int, int]] = {}
    for name, text, first_ns, last_ns in connection.execute(_ENDS, (namespace, STEP_CLASS)):
        tags = decode_tags(text)
        experiment = tags.get("experiment", "") if name in RESERVED else name
        if first_ns is None or not experiment:
            continue
        of = (name, experiment, tags["run"], tags["attempt"])
        first, last = first_ns // Precision.MS.ns, last_ns // Precision.MS.ns
        known = ends.get(of, (first, last))
        ends[of] = (min(known[0], first), max(known[1], last))
    return [AttemptSteps(*of, *steps) for of, steps in sorted(ends.items())]


def attempt_states(
    connection: sqlite3.Connection, namespace: str, since_ns: int, experiment: str | None = None
) -> list[AttemptState]:
    """The newest line of each series of run_state, of those from since_ns on."""
    newest = connection.execute(
        _NEWEST,
        {
            "namespace": namespace,
            "class": EVENTS_CLASS,
            "measurement": MEASUREMENT,
            "experiment": experiment,
            "since": since_ns,
        },
    )
    states = []
    for series_id, text, last_ns in newest.fetchall():
        tags = decode_tags(text)
        fields = dict(connection.execute(_AT, {"series": series_id, "time": last_ns}).fetchall())
        states.append(
            AttemptState(
                experiment=tags.get("experiment", ""),
                run=tags["run"],
                time_ns=last_ns,
                state=str(fields["state"]),
                rank=tags.get("rank", ""),
                attempt=tags.get("attempt", ""),
                by=tags.get("by", ""),
                first_step=step_of(fields.get("first_step")),
                step=step_of(fields.get("step")),
                reason=str(fields.get("reason", "")),
            )
        )
    return states


def canary_ns(connection: sqlite3.Connection, retention_class: str) -> int | None:
    """The time of the newest canary of a gateway; what workers write has another field."""
    of_canaries = (canary.NAMESPACE, retention_class, canary.MEASUREMENT.decode())
    (newest_ns,) = connection.execute(_CANARY, of_canaries).fetchone()
    assert newest_ns is None or isinstance(newest_ns, int)
    return newest_ns


def stale(connection: sqlite3.Connection, namespace: str, steps: StaleSteps) -> sqlite3.Cursor:
    """Keys (series, field, time) of the values of these points, as they were when asked."""
    return connection.execute(
        _STALE,
        {
            "namespace": namespace,
            "class": STEP_CLASS,
            "measurement": steps.measurement,
            "experiment": steps.experiment,
            "run": steps.run,
            "attempt": steps.attempt,
            "from_ns": steps.from_step * Precision.MS.ns,
        },
    )
