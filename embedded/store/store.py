"""The store of one machine: points in a SQLite file, by wall time and by training step."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from operator import itemgetter
from pathlib import Path

from embedded.store import attempts, queries
from embedded.store.file import StoreFile
from embedded.store.points import Point, PointParser, fault
from embedded.store.series import SeriesIds, StoredSeries
from schemas import retention as retention_classes
from schemas.line_protocol.precision import Precision
from schemas.retention import DEFAULT_CLASS, STEP_CLASS, RetentionClass
from schemas.store.attempts import AttemptState, AttemptSteps, StaleSteps
from schemas.store.protocols import (
    Clock,
    FieldConflict,
    FieldValue,
    LinesRefused,
    RunSeries,
    RunSummary,
    SeriesQuery,
    StoredPoint,
    StoreMisconfigured,
)
from schemas.store.run_state import asked_since_ns, with_states

_NS_PER_S = 10**9

#: Values that one transaction of sweep or delete_steps deletes.
_SWEPT_VALUES = 10_000

#: Series, field, time in ns, value.
_Row = tuple[int, int, int, FieldValue]

_UPSERT = """
INSERT INTO value (series_id, field_id, time_ns, value) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value
"""


class SqliteStore:
    """Implements LineWriter, StoreReader and AttemptStore. Safe to call from any thread.

    The step clock is written with the points themselves, in the same transaction: a point of
    class raw that has a step, and one of measurement nonfinite of class events, also stands
    in class steps at that step, without the volatile tags. So class steps takes no writes.

    now_ns: Unix time, to judge by what is too old. retention: the classes that there are.
    busy_timeout_s: how long a write waits for that of another connection to the file.
    Raises StoreUnavailable where the file can't be opened or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        retention: Mapping[str, RetentionClass] | None = None,
        volatile_tags: Collection[str] = ("node", "host", "pod", "slurm_job_id"),
        busy_timeout_s: float = 5.0,
    ) -> None:
        self._now_ns = now_ns
        self._retention = retention or retention_classes.parse(retention_classes.default_text())
        self._volatile = frozenset(tag.encode() for tag in volatile_tags)
        self._parser = PointParser()
        self._ids = SeriesIds()
        self._lock = threading.Lock()
        self._file = StoreFile(path, busy_timeout_s=busy_timeout_s)

    # -- LineWriter -----------------------------------------------------------------------

    def write(
        self, namespace: str, retention_class: str, lines: bytes, precision: Precision
    ) -> None:
        """Store lines in one transaction. Raises a StoreError as InfluxDB would.

        A malformed line: nothing is stored. A line older than its class keeps, or with a
        field of another kind than before: the others are stored.
        """
        if retention_class == STEP_CLASS:
            raise StoreMisconfigured(f"class {STEP_CLASS!r} is derived here: it takes no writes")
        oldest_ns = self._oldest_ns(retention_class)
        points = self._parser.parse(lines, precision)
        refusals: list[str] = []
        conflicts: list[FieldConflict] = []
        outdated = False
        rows: list[_Row] = []
        with self._lock:
            try:
                with self._file.transaction() as connection:
                    for point in points:
                        if oldest_ns is not None and point.time_ns < oldest_ns:
                            outdated = True
                            refusals.append("older than its class keeps")
                            continue
                        try:
                            reason = self._add(connection, namespace, retention_class, point, rows)
                        except _KindConflict as exc:
                            conflicts.append(exc.conflict)
                            reason = str(exc)
                        if reason is not None:
                            refusals.append(reason)
                    rows.sort(key=itemgetter(0, 1, 2))  # neighbours in the file; stable: last wins
                    connection.executemany(_UPSERT, rows)
            except BaseException:
                self._ids.forget()  # what the undone transaction made
                raise
        if refusals:
            raise LinesRefused(
                f"{len(refusals)} of {len(points)} lines refused; the first: {refusals[0]}",
                stored_others=True,
                dropped=len(refusals),
                conflict=conflicts[0] if conflicts else None,
                outdated=outdated,
            )

    def ping(self) -> None:
        """Return if the file can be read."""
        with self._file.reading() as connection:
            connection.execute("SELECT 1 FROM measurement LIMIT 1")

    def close(self) -> None:
        """Close the connections. Idempotent."""
        with self._lock:
            self._file.close()

    # -- StoreReader ----------------------------------------------------------------------

    def experiments(self, namespace: str) -> list[str]:
        """Experiments with points in class raw, sorted; reserved names left out."""
        with self._file.reading() as connection:
            return queries.experiments(connection, namespace)

    def runs(self, namespace: str, experiment: str) -> list[RunSummary]:
        """Runs of an experiment sorted by name; [] for an unknown experiment."""
        with self._file.reading() as connection:
            found = queries.runs(connection, namespace, experiment)
            if not found:
                return []
            since_ns = asked_since_ns(found)
            said = attempts.attempt_states(connection, namespace, since_ns, experiment)
        return with_states(found, experiment, said)

    def metrics(self, namespace: str, experiment: str, clock: Clock) -> list[str]:
        """Numeric fields of an experiment, sorted, without `step`."""
        retention_class = STEP_CLASS if clock is Clock.STEP else DEFAULT_CLASS
        with self._file.reading() as connection:
            return queries.metrics(connection, namespace, retention_class, experiment)

    def series(self, query: SeriesQuery) -> list[RunSeries]:
        """The downsampled series, sorted by run; runs without values are left out."""
        with self._file.reading() as connection:
            return queries.series(connection, query)

    def points(
        self, namespace: str, retention_class: str, experiment: str, run: str | None = None
    ) -> Iterator[StoredPoint]:
        """Every point of one measurement in one class, by series and ascending time."""
        with self._file.reading() as connection:
            yield from queries.points(connection, namespace, retention_class, experiment, run)

    # -- AttemptStore ---------------------------------------------------------------------

    def attempt_steps(self, namespace: str) -> list[AttemptSteps]:
        """Every attempt with points in class steps; none without a tag attempt."""
        with self._file.reading() as connection:
            return attempts.attempt_steps(connection, namespace)

    def attempt_states(self, namespace: str, since_ns: int) -> list[AttemptState]:
        """The newest line of each series of run_state, of those from since_ns on."""
        with self._file.reading() as connection:
            return attempts.attempt_states(connection, namespace, since_ns)

    def canary_ns(self, retention_class: str) -> int | None:
        """When the newest canary of a gateway that is stored was sent; None without any."""
        with self._file.reading() as connection:
            return attempts.canary_ns(connection, retention_class)

    def delete_steps(self, namespace: str, stale: StaleSteps) -> None:
        """Delete these points from class steps. Writes wait for a part of it only."""
        with self._file.reading() as connection:
            found = attempts.stale(connection, namespace, stale)
            while keys := found.fetchmany(_SWEPT_VALUES):
                self._delete(keys)

    # -- retention ------------------------------------------------------------------------

    def sweep(self, max_values: int = 1_000_000) -> int:
        """Delete values that are older than their class keeps, about max_values at most.

        Says how many were deleted; max_values or more means that there may be others.
        Writes wait for a part of it only. Class steps is kept for ever, so curves by step
        outlive the points they came from. The file does not shrink; its pages are used again.
        """
        deleted = 0
        for name in self._retention:
            oldest_ns = self._oldest_ns(name)
            if oldest_ns is None:
                continue
            with self._file.reading() as connection:
                expired = queries.expired(connection, name, oldest_ns)
                while deleted < max_values and (keys := expired.fetchmany(_SWEPT_VALUES)):
                    self._delete(keys)
                    deleted += len(keys)
        return deleted

    def _delete(self, keys: list[tuple[int, int, int]]) -> None:
        with self._lock, self._file.transaction() as connection:
            connection.executemany(
                "DELETE FROM value WHERE series_id = ? AND field_id = ? AND time_ns = ?", keys
            )
            if queries.delete_empty_series(connection, {key[0] for key in keys}):
                self._ids.forget()

    def _add(
        self,
        connection: sqlite3.Connection,
        namespace: str,
        retention_class: str,
        point: Point,
        rows: list[_Row],
    ) -> str | None:
        """Append the rows of a point, in both clocks; or say why it is refused.

        Raises _KindConflict.
        """
        reason = fault(point)
        if reason is not None:
            return reason
        ids = (connection, namespace)
        series = self._ids.series(*ids, retention_class, point.measurement, point.tags)
        found = _rows(connection, series, point, point.time_ns)
        if point.step is not None and _has_step_clock(retention_class, point):
            tags = tuple([tag for tag in point.tags if tag[0] not in self._volatile])
            series = self._ids.series(*ids, STEP_CLASS, point.measurement, tags)
            found += _rows(connection, series, point, point.step * Precision.MS.ns)
        rows += found
        return None

    def _oldest_ns(self, retention_class: str) -> int | None:
        """The oldest time that a class keeps; None where it keeps for ever."""
        found = self._retention.get(retention_class)
        if found is None:
            raise StoreMisconfigured(f"there is no class {retention_class!r}")
        return None if found.keep_s is None else self._now_ns() - found.keep_s * _NS_PER_S


def _has_step_clock(retention_class: str, point: Point) -> bool:
    return retention_class == DEFAULT_CLASS or (
        retention_class == "events" and point.measurement == b"nonfinite"
    )


class _KindConflict(Exception):
    """A field that has another kind already; nothing of its point is stored then."""

    def __init__(self, message: str, conflict: FieldConflict) -> None:
        super().__init__(message)
        self.conflict = conflict


def _rows(
    connection: sqlite3.Connection, series: StoredSeries, point: Point, time_ns: int
) -> list[_Row]:
    """The rows of a point at one of its times. Raises _KindConflict."""
    known = series.measurement.fields
    for name, kind, _value in point.fields:
        if name in known and known[name].kind != kind:
            raise _KindConflict(
                f"field type conflict: {name.decode()!r} is {kind}, was {known[name].kind} before",
                FieldConflict(point.measurement.decode(), name.decode(), kind),
            )
    make = series.measurement.field
    return [
        (series.id, make(connection, name, kind).id, time_ns, value)
        for name, kind, value in point.fields
    ]
