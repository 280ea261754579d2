"""The store in memory, for tests of the workers and the read routes.

It keeps the contract of `schemas.store` with InfluxDB 2's semantics: points merge field by
field, a batch with a malformed line stores nothing, a point whose field has another type than
before is dropped while the others stay.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from schemas import canary
from schemas.line_protocol import codec
from schemas.line_protocol.bounds import MAX_TIME_NS
from schemas.line_protocol.precision import Precision
from schemas.retention import DEFAULT_CLASS, STEP_CLASS
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
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    WriteTooLarge,
)
from schemas.store.run_state import asked_since_ns, step_of, with_states
from schemas.store.windows import Buckets, cut

_RESERVED = ("nonfinite", "run_config", "run_state", "checkpoint", "delivery")

_KINDS = {float: "float", int: "integer", bool: "boolean", str: "string"}

#: Measurement and tags in the order of their keys.
Series = tuple[str, tuple[tuple[str, str], ...]]
Fields = dict[str, FieldValue]


@dataclass(frozen=True, slots=True)
class Write:
    """One call of `MemoryStore.write`, whatever came of it."""

    namespace: str
    retention_class: str
    lines: bytes
    precision: Precision


@dataclass(frozen=True, slots=True)
class Fault:
    """What the next write does instead: run `before`, store or not, raise `error` or not.

    error with stored=True is the answer that got lost: the lines are stored all the same.
    """

    error: StoreError | None = None
    stored: bool = False
    before: Callable[[], None] | None = None


class MemoryStore:
    """Implements LineWriter, StoreReader and AttemptStore. Safe to call from several threads.

    Knobs, all of which may be changed at any time:

    - `faults`: each write takes the first one out and does as it says.
    - `away`: every write and ping raises StoreUnavailable.
    - `missing`: buckets (namespace, class) that are not there: StoreMisconfigured.
    - `max_bytes`: larger writes raise WriteTooLarge.
    - `dies_of`: a write with a line for which it is true fails as if the store had died of it;
      so do the next `restart_writes` writes, whatever they hold. `deaths` counts.
    - `refuse`: lines for which it returns a reason are dropped (422), the others stored.

    `writes` lists every call in order, `deletions` every one of delete_steps.
    """

    def __init__(self) -> None:
        self.faults: deque[Fault] = deque()
        self.away = False
        self.missing: set[tuple[str, str]] = set()
        self.max_bytes: int | None = None
        self.refuse: Callable[[bytes], str | None] = lambda _line: None
        self.dies_of: Callable[[bytes], bool] = lambda _line: False
        self.restart_writes = 0
        self.deaths = 0
        self._restarting = 0
        self.writes: list[Write] = []
        self.deletions: list[StaleSteps] = []
        self.closed = False
        self._lock = threading.RLock()
        self._points: dict[tuple[str, str], dict[Series, dict[int, Fields]]] = {}
        self._types: dict[tuple[str, str, str, str], type] = {}

    # -- LineWriter -----------------------------------------------------------------------

    def write(
        self, namespace: str, retention_class: str, lines: bytes, precision: Precision
    ) -> None:
        with self._lock:
            self.writes.append(Write(namespace, retention_class, lines, precision))
            fault = self.faults.popleft() if self.faults else Fault()
        if fault.before is not None:
            fault.before()
        with self._lock:
            if self.away:
                raise StoreUnavailable("the memory store is away")
            if self._restarting:
                self._restarting -= 1
                raise StoreUnavailable("the memory store restarts")
            if any(self.dies_of(line) for line in lines.split(b"\n")):
                self.deaths += 1
                self._restarting = self.restart_writes
                raise StoreUnavailable("connection lost", may_be_the_lines=True)
            if fault.error is None or fault.stored:
                self._write(namespace, retention_class, lines, precision)
            if fault.error is not None:
                raise fault.error

    def ping(self) -> None:
        if self.away:
            raise StoreUnavailable("the memory store is away")

    def close(self) -> None:
        self.closed = True

    def _write(
        self, namespace: str, retention_class: str, lines: bytes, precision: Precision
    ) -> None:
        if (namespace, retention_class) in self.missing:
            raise StoreMisconfigured(f'bucket "{namespace}/{retention_class}" not found')
        if self.max_bytes is not None and len(lines) > self.max_bytes:
            raise WriteTooLarge(f"{len(lines)} bytes are too many")
        parsed = [_parse(line, precision) for _number, line in codec.split(lines)]
        conflicts: list[FieldConflict] = []
        reasons = [self._store(namespace, retention_class, point, conflicts) for point in parsed]
        dropped = [reason for reason in reasons if reason is not None]
        if dropped:
            raise LinesRefused(
                f"partial write: {dropped[0]} dropped={len(dropped)}",
                stored_others=True,
                dropped=len(dropped),
                conflict=conflicts[0] if conflicts else None,
            )

    def _store(
        self,
        namespace: str,
        retention_class: str,
        point: _Point,
        conflicts: list[FieldConflict],
    ) -> str | None:
        """Merge one point in, or say why it is dropped."""
        reason = self.refuse(point.line)
        if reason is not None:
            return reason
        for name, value in point.fields.items():
            key = (namespace, retention_class, point.series[0], name)
            known = self._types.setdefault(key, type(value))
            if known is not type(value):
                conflicts.append(FieldConflict(point.series[0], name, _KINDS[type(value)]))
                return (
                    f'field type conflict: input field "{name}" on measurement '
                    f'"{point.series[0]}" is type {type(value).__name__}, '
                    f"already exists as type {known.__name__}"
                )
        bucket = self._points.setdefault((namespace, retention_class), {})
        bucket.setdefault(point.series, {}).setdefault(point.time_ns, {}).update(point.fields)
        return None

    # -- StoreReader ----------------------------------------------------------------------

    def experiments(self, namespace: str) -> list[str]:
        self.ping()
        with self._lock:
            bucket = self._points.get((namespace, DEFAULT_CLASS), {})
            names = {measurement for measurement, _tags in bucket}
        return sorted(n for n in names if n not in _RESERVED and not n.startswith("_"))

    def runs(self, namespace: str, experiment: str) -> list[RunSummary]:
        steps: dict[str, list[int]] = {}
        times: dict[str, list[int]] = {}
        for point in self.points(namespace, DEFAULT_CLASS, experiment):
            run = point.tags.get("run")
            if run is None:
                continue
            times.setdefault(run, []).append(point.time_ns)
            step = point.fields.get("step")
            if isinstance(step, int):
                steps.setdefault(run, []).append(step)
        found = [
            RunSummary(
                run,
                first_step=min(steps[run]) if run in steps else None,
                last_step=max(steps[run]) if run in steps else None,
                last_time_ns=max(times[run]),
            )
            for run in sorted(times)
        ]
        if not found:
            return []
        said = self.attempt_states(namespace, asked_since_ns(found))
        return with_states(found, experiment, said)

    def metrics(self, namespace: str, experiment: str, clock: Clock) -> list[str]:
        retention_class = STEP_CLASS if clock is Clock.STEP else DEFAULT_CLASS
        return sorted(
            {
                name
                for point in self.points(namespace, retention_class, experiment)
                for name, value in point.fields.items()
                if type(value) in (int, float) and name != "step"
            }
        )

    def series(self, query: SeriesQuery) -> list[RunSeries]:
        steps = query.clock is Clock.STEP
        unit_ns = Precision.MS.ns if steps else 1
        found: dict[str, list[tuple[int, float]]] = {}
        retention_class = STEP_CLASS if steps else DEFAULT_CLASS
        for point in self.points(query.namespace, retention_class, query.experiment):
            run, value = point.tags.get("run"), point.fields.get(query.metric)
            t = point.time_ns // unit_ns
            if (
                run is not None
                and (not query.runs or run in query.runs)
                and isinstance(value, float)
                and (query.start is None or t >= query.start)
                and (query.end is None or t < query.end)
            ):
                found.setdefault(run, []).append((t, value))
        if not found:
            return []
        times = [t for values in found.values() for t, _value in values]
        buckets = cut(query, min(times), max(times))
        if buckets is None:
            return []
        return [_downsample(run, found[run], buckets) for run in sorted(found)]

    def points(
        self, namespace: str, retention_class: str, experiment: str, run: str | None = None
    ) -> Iterator[StoredPoint]:
        self.ping()
        content = self.content(namespace, retention_class)
        for ((measurement, tags), time_ns), fields in sorted(content.items(), key=_by_series):
            if measurement == experiment and (run is None or dict(tags).get("run") == run):
                yield StoredPoint(measurement, dict(tags), time_ns, fields)

    # -- AttemptStore ---------------------------------------------------------------------

    def attempt_steps(self, namespace: str) -> list[AttemptSteps]:
        self.ping()
        steps: dict[tuple[str, str, str, str], list[int]] = {}
        for (name, tags), time_ns in self.content(namespace, STEP_CLASS):
            found = dict(tags)
            experiment = found.get("experiment", "") if name in _RESERVED else name
            if experiment and "run" in found and "attempt" in found:
                of = (name, experiment, found["run"], found["attempt"])
                steps.setdefault(of, []).append(time_ns // Precision.MS.ns)
        return [AttemptSteps(*of, min(found), max(found)) for of, found in sorted(steps.items())]

    def attempt_states(self, namespace: str, since_ns: int) -> list[AttemptState]:
        self.ping()
        newest: dict[Series, AttemptState] = {}
        content = self.content(namespace, "events")
        for (series, time_ns), fields in sorted(content.items(), key=lambda item: item[0][1]):
            tags = dict(series[1])
            if series[0] == "run_state" and "run" in tags and "state" in fields:
                if time_ns < since_ns:
                    continue
                newest[series] = AttemptState(
                    tags.get("experiment", ""),
                    tags["run"],
                    time_ns,
                    fields["state"],
                    tags.get("rank", ""),
                    tags.get("attempt", ""),
                    tags.get("by", ""),
                    step_of(fields.get("first_step")),
                    step_of(fields.get("step")),
                    fields.get("reason", ""),
                )
        return list(newest.values())

    def canary_ns(self, retention_class: str) -> int | None:
        self.ping()
        content = self.content(canary.NAMESPACE, retention_class)
        times = [
            time_ns
            for ((name, _tags), time_ns), fields in content.items()
            if name == canary.MEASUREMENT.decode() and "gateway" in fields
        ]
        return max(times, default=None)

    def delete_steps(self, namespace: str, stale: StaleSteps) -> None:
        self.ping()
        with self._lock:
            self.deletions.append(stale)
            for (name, tags), by_time in self._points.get((namespace, STEP_CLASS), {}).items():
                found = dict(tags)
                if (
                    name == stale.measurement
                    and stale.experiment in (name, found.get("experiment"))
                    and (found.get("run"), found.get("attempt")) == (stale.run, stale.attempt)
                ):
                    for time_ns in [t for t in by_time if t >= stale.from_step * Precision.MS.ns]:
                        del by_time[time_ns]

    # -- for assertions -------------------------------------------------------------------

    def content(self, namespace: str, retention_class: str) -> dict[tuple[Series, int], Fields]:
        """Every point of a bucket, to compare two stores."""
        with self._lock:
            bucket = self._points.get((namespace, retention_class), {})
            return {
                (series, time_ns): dict(fields)
                for series, by_time in bucket.items()
                for time_ns, fields in by_time.items()
            }


@dataclass(frozen=True, slots=True)
class _Point:
    line: bytes
    series: Series
    time_ns: int
    fields: Fields


def _parse(line: bytes, precision: Precision) -> _Point:
    """Raises LinesRefused (400: nothing of the batch is stored)."""
    try:
        parsed = codec.parse(line)
    except codec.Refused as exc:
        raise LinesRefused(
            f"unable to parse: {exc.reason} at column {exc.column}", stored_others=False
        ) from exc
    if parsed.time is None:
        raise LinesRefused("a line without a time", stored_others=False)
    time_ns = parsed.time * precision.ns
    if abs(time_ns) > MAX_TIME_NS:
        raise LinesRefused("time outside range", stored_others=False)
    return _Point(
        line,
        (
            parsed.measurement.decode(),
            tuple(sorted((k.decode(), v.decode()) for k, v in parsed.tags)),
        ),
        time_ns,
        {name.decode(): codec.field_value(token) for name, token in parsed.fields},
    )


def _by_series(item: tuple[tuple[Series, int], Fields]) -> tuple[Series, int]:
    return item[0]


def _downsample(run: str, values: list[tuple[int, float]], cuts: Buckets) -> RunSeries:
    buckets: dict[int, list[float]] = {}
    for t, value in values:
        start = cuts.start + (t - cuts.start) // cuts.width * cuts.width
        buckets.setdefault(start, []).append(value)
    rows = sorted(buckets.items())
    return RunSeries(
        run,
        t=tuple(t for t, _ in rows),
        mean=tuple(sum(v) / len(v) for _, v in rows),
        min=tuple(min(v) for _, v in rows),
        max=tuple(max(v) for _, v in rows),
        count=tuple(len(v) for _, v in rows),
    )
