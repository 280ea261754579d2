"""What the store can be asked, as SQL over the tables of `embedded.store.file`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

from embedded.store.downsampling import Grid, Span, downsample
from embedded.store.points import NUMERIC_KINDS, value_of
from embedded.store.series import decode_tags
from schemas.line_protocol.bounds import MAX_TIME_NS, MIN_TIME_NS
from schemas.line_protocol.precision import Precision
from schemas.retention import DEFAULT_CLASS, STEP_CLASS, is_reserved
from schemas.store.protocols import Clock, RunSeries, RunSummary, SeriesQuery, StoredPoint
from schemas.store.windows import cut

# The first time that no point can have.
_END_NS = MAX_TIME_NS + 1

_EXPERIMENTS = """
SELECT name FROM measurement
WHERE namespace = ? AND class = ? AND EXISTS (
    SELECT 1 FROM series JOIN value ON value.series_id = series.id
    WHERE series.measurement_id = measurement.id
)
"""

_LAST_TIMES = """
SELECT run, max((
    SELECT max(time_ns) FROM value WHERE series_id = series.id AND field_id = field.id
)) AS last_ns
FROM series JOIN field USING (measurement_id)
WHERE measurement_id = ? AND run IS NOT NULL
GROUP BY run HAVING last_ns IS NOT NULL ORDER BY run
"""

_STEPS = """
SELECT run,
    min((SELECT min(time_ns) FROM value WHERE series_id = series.id AND field_id = :field)),
    max((SELECT max(time_ns) FROM value WHERE series_id = series.id AND field_id = :field))
FROM series WHERE measurement_id = :measurement AND run IS NOT NULL GROUP BY run
"""

# Both ends of each series' range of keys: two seeks, however many values lie between.
_SPANS = """
SELECT run, id,
    (SELECT min(time_ns) FROM value WHERE series_id = series.id AND field_id = :field
     AND time_ns >= :start AND time_ns < :end) AS first_ns,
    (SELECT max(time_ns) FROM value WHERE series_id = series.id AND field_id = :field
     AND time_ns >= :start AND time_ns < :end)
FROM series
WHERE measurement_id = :measurement AND run IS NOT NULL AND first_ns IS NOT NULL
    AND (:runs = '[]' OR run IN (SELECT value FROM json_each(:runs)))
ORDER BY run
"""

_EXPIRED = """
SELECT series_id, field_id, time_ns
FROM measurement
CROSS JOIN series ON series.measurement_id = measurement.id
CROSS JOIN field ON field.measurement_id = measurement.id
CROSS JOIN value ON series_id = series.id AND field_id = field.id AND time_ns < ?
WHERE class = ?
"""

_DELETE_EMPTY_SERIES = """
DELETE FROM series
WHERE id = ? AND NOT EXISTS (SELECT 1 FROM value WHERE series_id = series.id)
"""


def experiments(connection: sqlite3.Connection, namespace: str) -> list[str]:
    """Measurements of class raw that have points, sorted; reserved names left out."""
    rows = connection.execute(_EXPERIMENTS, (namespace, DEFAULT_CLASS))
    return sorted(name for (name,) in rows if not is_reserved(name))


def runs(connection: sqlite3.Connection, namespace: str, experiment: str) -> list[RunSummary]:
    """Runs with points in class raw, without states; their steps are the ends of class steps."""
    raw_id = _measurement_id(connection, namespace, DEFAULT_CLASS, experiment)
    steps_id = _measurement_id(connection, namespace, STEP_CLASS, experiment)
    step_field, _kind = _field(connection, steps_id, "step")
    steps = {
        run: (_step(first_ns), _step(last_ns))
        for run, first_ns, last_ns in connection.execute(
            _STEPS, {"measurement": steps_id, "field": step_field}
        )
    }
    return [
        RunSummary(run, *steps.get(run, (None, None)), last_ns)
        for run, last_ns in connection.execute(_LAST_TIMES, (raw_id,))
    ]


def metrics(
    connection: sqlite3.Connection, namespace: str, retention_class: str, experiment: str
) -> list[str]:
    """Numeric fields of the experiment in one class, sorted, without `step`."""
    measurement_id = _measurement_id(connection, namespace, retention_class, experiment)
    rows = connection.execute(
        "SELECT name, kind FROM field WHERE measurement_id = ?", (measurement_id,)
    )
    return sorted(name for name, kind in rows if kind in NUMERIC_KINDS and name != "step")


def series(connection: sqlite3.Connection, query: SeriesQuery) -> list[RunSeries]:
    """The series. Fields that hold no numbers have none."""
    steps = query.clock is Clock.STEP
    unit_ns = Precision.MS.ns if steps else 1
    measurement_id = _measurement_id(
        connection, query.namespace, STEP_CLASS if steps else DEFAULT_CLASS, query.experiment
    )
    field_id, kind = _field(connection, measurement_id, query.metric)
    if field_id is None or kind not in NUMERIC_KINDS:
        return []
    where = {
        "measurement": measurement_id,
        "field": field_id,
        "runs": json.dumps(query.runs),
        "start": _clamped(query.start, unit_ns, MIN_TIME_NS),
        "end": _clamped(query.end, unit_ns, _END_NS),
    }
    found = [(run, Span(*span)) for run, *span in connection.execute(_SPANS, where)]
    if not found:
        return []
    first = min(span.first_ns for _run, span in found) // unit_ns
    last = max(span.last_ns for _run, span in found) // unit_ns
    buckets = cut(query, first, last)
    if buckets is None:
        return []
    # Count from the first bucket that holds a value: its distance to any value fits 64 bits.
    origin = buckets.start + (first - buckets.start) // buckets.width * buckets.width
    grid = Grid(origin * unit_ns, (last + 1) * unit_ns, buckets.width * unit_ns)
    return [
        downsample(connection, run, field_id, [span for _run, span in spans], grid, unit_ns)
        for run, spans in groupby(found, key=itemgetter(0))
    ]


def points(
    connection: sqlite3.Connection,
    namespace: str,
    retention_class: str,
    experiment: str,
    wanted_run: str | None,
) -> Iterator[StoredPoint]:
    """Every point, one series after the other; no more than one series is sorted at a time."""
    measurement_id = _measurement_id(connection, namespace, retention_class, experiment)
    fields = {
        row_id: (name, kind)
        for row_id, name, kind in connection.execute(
            "SELECT id, name, kind FROM field WHERE measurement_id = ?", (measurement_id,)
        )
    }
    every = connection.execute(
        "SELECT id, tags FROM series WHERE measurement_id = :measurement "
        "AND (:run IS NULL OR run = :run) ORDER BY tags",
        {"measurement": measurement_id, "run": wanted_run},
    ).fetchall()
    for series_id, tags in every:
        values = connection.execute(
            "SELECT time_ns, field_id, value FROM value WHERE series_id = ? ORDER BY time_ns",
            (series_id,),
        )
        for time_ns, group in groupby(values, key=itemgetter(0)):
            found = {}
            for _time_ns, field_id, stored in group:
                name, kind = fields[field_id]
                found[name] = value_of(kind, stored)
            yield StoredPoint(experiment, decode_tags(tags), time_ns, found)


def expired(connection: sqlite3.Connection, retention_class: str, oldest_ns: int) -> sqlite3.Cursor:
    """Keys (series, field, time) of the values before oldest_ns, as they were when asked."""
    return connection.execute(_EXPIRED, (oldest_ns, retention_class))


def delete_empty_series(connection: sqlite3.Connection, series_ids: Iterable[int]) -> bool:
    """Delete those of the series that have no values left; whether there were any."""
    deleted = connection.executemany(_DELETE_EMPTY_SERIES, [(row_id,) for row_id in series_ids])
    return deleted.rowcount > 0


def _measurement_id(
    connection: sqlite3.Connection, namespace: str, retention_class: str, name: str
) -> int | None:
    row = connection.execute(
        "SELECT id FROM measurement WHERE namespace = ? AND class = ? AND name = ?",
        (namespace, retention_class, name),
    ).fetchone()
    return None if row is None else row[0]


def _field(
    connection: sqlite3.Connection, measurement_id: int | None, name: str
) -> tuple[int | None, str | None]:
    row = connection.execute(
        "SELECT id, kind FROM field WHERE measurement_id = ? AND name = ?", (measurement_id, name)
    ).fetchone()
    return (None, None) if row is None else row


def _step(time_ns: int | None) -> int | None:
    return None if time_ns is None else time_ns // Precision.MS.ns


def _clamped(t: int | None, unit_ns: int, otherwise_ns: int) -> int:
    """A bound in ns, within what SQLite's integers hold."""
    if t is None:
        return otherwise_ns
    return min(max(t * unit_ns, MIN_TIME_NS), _END_NS)
