"""The account of runs: what their deliveries say against what the store holds. No I/O here."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from schemas.log.protocols import class_of
from schemas.store.delivery import DeliveryRecord
from schemas.store.run_state import number_of


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A stored point of a run. series: its tags without those that the step clock leaves out."""

    time_ns: int
    step: int | None
    series: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Something that was delivered and is not there. stream: one, or several with commas."""

    stream: str
    what: str


@dataclass(frozen=True, slots=True)
class RunAccount:
    """The account of one run. The unit is the line; a line that is expired is not compared."""

    experiment: str
    run: str
    streams: int
    delivered: int
    dead: int
    stored: int
    findings: tuple[Discrepancy, ...]


def account(
    deliveries: Sequence[DeliveryRecord],
    rows: Mapping[str, Sequence[StoredRow]],
    steps: Sequence[StoredRow],
    oldest_ns: Mapping[str, int],
) -> RunAccount:
    """Compare one run's deliveries with its rows.

    deliveries: all of the run, at least one. rows: what each retention class holds of it,
    without classes that can't be compared. steps: what class steps holds of it. oldest_ns: by
    class, the time before which points have expired.
    """
    by_class: dict[str, list[DeliveryRecord]] = defaultdict(list)
    for delivery in deliveries:
        by_class[class_of(delivery.topic)].append(delivery)
    findings = [finding for stream in _by_stream(deliveries) for finding in _gaps(stream)]
    for name, of_class in sorted(by_class.items()):
        if name in rows:
            kept = [d for d in of_class if d.first_ns >= oldest_ns.get(name, d.first_ns)]
            findings += _shortfalls(name, kept, rows[name], steps)
    findings += _absent_steps(rows.get("raw", ()), steps)
    first = deliveries[0]
    return RunAccount(
        first.experiment,
        first.run,
        streams=len({(d.stream, d.start_ns) for d in deliveries}),
        delivered=sum(d.lines for d in deliveries),
        dead=sum(d.dead for d in deliveries),
        stored=sum(len(found) for found in rows.values()),
        findings=tuple(findings),
    )


def _by_stream(deliveries: Iterable[DeliveryRecord]) -> Iterator[list[DeliveryRecord]]:
    streams: dict[tuple[str, int], list[DeliveryRecord]] = defaultdict(list)
    for delivery in deliveries:
        streams[delivery.stream, delivery.start_ns].append(delivery)
    yield from streams.values()


def _gaps(stream: list[DeliveryRecord]) -> Iterator[Discrepancy]:
    """Requests, or pieces of them, that are missing below the stream's last one."""
    pieces: dict[int, set[int]] = defaultdict(set)
    expected: dict[int, int] = {}
    for delivery in stream:
        pieces[delivery.sequence].add(delivery.part)
        expected[delivery.sequence] = delivery.parts
    name = stream[0].stream
    next_sequence = 0
    for sequence in sorted(pieces):
        if sequence > next_sequence:
            yield Discrepancy(
                name,
                f"{_range('request', next_sequence, sequence - 1)} never reached the store: "
                "lost, or refused as a whole with 400",
            )
        next_sequence = sequence + 1
        absent = set(range(expected[sequence])) - pieces[sequence]
        if absent:
            yield Discrepancy(
                name,
                f"request {sequence}: {len(absent)} of its {expected[sequence]} blocks "
                "never reached the store",
            )


def _shortfalls(
    class_name: str,
    deliveries: list[DeliveryRecord],
    rows: Sequence[StoredRow],
    steps: Sequence[StoredRow],
) -> Iterator[Discrepancy]:
    """Times in which fewer rows are stored than were delivered alive.

    Deliveries whose times overlap, as those of several ranks do, are compared together.
    """
    times = sorted(row.time_ns for row in rows)
    held = {(row.series, row.step) for row in rows}
    for cluster in _clusters(deliveries):
        first_ns = min(d.first_ns for d in cluster)
        last_ns = max(d.last_ns for d in cluster)
        alive = sum(d.lines - d.dead for d in cluster)
        stored = bisect_right(times, last_ns) - bisect_left(times, first_ns)
        if stored >= alive:
            continue
        between = {row.step for row in rows if first_ns <= row.time_ns <= last_ns}
        near = [step for step in between if step is not None]
        only_by_step = sorted(
            row.step
            for row in steps
            if row.step is not None
            and near
            and min(near) - 1 <= row.step <= max(near) + 1
            and (row.series, row.step) not in held
        )
        text = (
            f"{alive - stored} of {alive} lines are not in class {class_name}, "
            f"between {_time(first_ns)} and {_time(last_ns)}"
        )
        if only_by_step:
            text += f"; class steps still has {_range('step', only_by_step[0], only_by_step[-1])}"
        elif near:
            text += f", where {_range('step', min(near), max(near))} stand"
        yield Discrepancy(", ".join(sorted({d.stream for d in cluster})), text)


def _clusters(deliveries: list[DeliveryRecord]) -> Iterator[list[DeliveryRecord]]:
    cluster: list[DeliveryRecord] = []
    until_ns = 0
    for delivery in sorted(deliveries, key=lambda d: d.first_ns):
        if cluster and delivery.first_ns > until_ns:
            yield cluster
            cluster = []
        until_ns = max(until_ns, delivery.last_ns) if cluster else delivery.last_ns
        cluster.append(delivery)
    if cluster:
        yield cluster


def _absent_steps(raw: Sequence[StoredRow], steps: Sequence[StoredRow]) -> Iterator[Discrepancy]:
    """Rows by wall time that the step clock lacks.

    Of several attempts only the last is compared: of earlier ones, class steps holds only
    what came before the point from which the run was resumed.
    """
    attempts = [_attempt(row) for row in raw]
    last = max(attempts, default=0)
    shown = {(row.series, row.step) for row in steps}
    absent = sorted(
        row.step
        for row, attempt in zip(raw, attempts, strict=True)
        if row.step is not None and attempt == last and (row.series, row.step) not in shown
    )
    if absent:
        yield Discrepancy(
            "",
            f"{len(absent)} lines of class raw are not in class steps, "
            f"in {_range('step', absent[0], absent[-1])}",
        )


def _attempt(row: StoredRow) -> int:
    return number_of(dict(row.series).get("attempt", "")) or 0


def _range(noun: str, first: int, last: int) -> str:
    return f"{noun} {first}" if first == last else f"{noun}s {first} to {last}"


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
