"""The store behind the workers: what it takes, how it refuses, what it can be asked.

InfluxDB 2 (`adapters.influx`) and SQLite (`embedded.store.store`) implement these protocols and
pass the same contract suite (`tests/contract/store/test_store.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from schemas.line_protocol.precision import Precision


class StoreError(Exception):
    """Root of what a write can come to; each subclass is one reaction of the worker."""


class StoreUnavailable(StoreError):
    """Outcome unknown (5xx, 429, timeout, lost connection): write the same bytes again later.

    `may_be_the_lines`: a 500, or a connection that was lost within the request. Some lines make
    a store fail so, or die; a line that is known to be good tells them from a store that is ill.
    `late`: it took longer than it may; fewer lines might not.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        may_be_the_lines: bool = False,
        late: bool = False,
    ) -> None:
        super().__init__(message)
        self.may_be_the_lines = may_be_the_lines
        self.late = late
        #: The store's own Retry-After in seconds, where it sent one.
        self.retry_after_s = retry_after_s


class WriteTooLarge(StoreError):
    """Too many bytes for one write (413); nothing was stored: halve."""


@dataclass(frozen=True, slots=True)
class FieldConflict:
    """A field came as one kind and is there as another.

    kind: what came: float, integer, unsigned, boolean or string.
    """

    measurement: str
    field: str
    kind: str


class LinesRefused(StoreError):
    """Some line is bad: isolate it.

    `stored_others` tells whether the good lines were stored (422) or nothing was (400).
    `dropped` is the number of refused lines where the store said so, else None. What the store
    says of the first of them may shorten the search: `conflict`, or that it is `outdated`,
    older than its class keeps.
    """

    def __init__(
        self,
        message: str,
        *,
        stored_others: bool,
        dropped: int | None = None,
        conflict: FieldConflict | None = None,
        outdated: bool = False,
    ) -> None:
        super().__init__(message)
        self.stored_others = stored_others
        self.dropped = dropped
        self.conflict = conflict
        self.outdated = outdated


class StoreMisconfigured(StoreError):
    """Our token, organisation or bucket is wrong (401, 403, 404): no fault of the data."""


class LineWriter(Protocol):
    """Takes batches of line protocol. Used by one thread at a time."""

    def write(
        self, namespace: str, retention_class: str, lines: bytes, precision: Precision
    ) -> None:
        """Store lines (joined by newline, every one with a time). Returns once stored.

        Points that are already there are overwritten field by field. Raises a StoreError.
        """
        ...

    def ping(self) -> None:
        """Return if the store answers; raise StoreUnavailable if not."""
        ...

    def close(self) -> None:
        """Release connections. Idempotent."""
        ...


class Clock(StrEnum):
    """What the x axis of a series is."""

    STEP = "step"  # training step
    WALL = "wall"  # nanoseconds since 1970


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run of an experiment: its newest point in class raw, its ends in class steps.

    state, attempt and reason: how it stands (`schemas.store.run_state.standings`); None where no
    line tells.
    """

    run: str
    first_step: int | None
    last_step: int | None
    last_time_ns: int
    state: str | None = None
    attempt: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SeriesQuery:
    """One metric of some runs, downsampled by the store into at most `points` buckets.

    start is included, end is not; both in steps or in ns by `clock`; None leaves the side
    open. `runs` empty means every run of the experiment.
    """

    namespace: str
    experiment: str
    metric: str
    runs: tuple[str, ...] = ()
    clock: Clock = Clock.STEP
    start: int | None = None
    end: int | None = None
    points: int = 1000


@dataclass(frozen=True, slots=True)
class RunSeries:
    """Columns of one run: one entry a bucket that holds values, ascending in t.

    t is the start of the bucket, in steps or ns.
    """

    run: str
    t: tuple[int, ...]
    mean: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    count: tuple[int, ...]


FieldValue = float | int | bool | str


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """One point as stored. Integer fields come back as int, float fields as float."""

    experiment: str
    tags: Mapping[str, str]
    time_ns: int
    fields: Mapping[str, FieldValue]


class StoreReader(Protocol):
    """Answers the read routes. Safe to call from several threads. Raises StoreUnavailable."""

    def experiments(self, namespace: str) -> list[str]:
        """Experiments with points in class raw, sorted; reserved names left out."""
        ...

    def runs(self, namespace: str, experiment: str) -> list[RunSummary]:
        """Runs of an experiment sorted by name, with their states; [] for an unknown experiment."""
        ...

    def metrics(self, namespace: str, experiment: str, clock: Clock) -> list[str]:
        """What a series of the experiment can be asked for by this clock, sorted; not `step`.

        Numeric fields; some may be of points that are gone by now.
        """
        ...

    def series(self, query: SeriesQuery) -> list[RunSeries]:
        """The downsampled series, sorted by run; runs without values are left out."""
        ...

    def points(
        self, namespace: str, retention_class: str, experiment: str, run: str | None = None
    ) -> Iterator[StoredPoint]:
        """Every point of one measurement in one class, by series and ascending time.

        run: only those of this run; None for all, also those that have none.
        For `steps` the time is the step in ms: time_ns == step * 1_000_000. Streamed.
        """
        ...
