"""The embedded server, SQLite written row by row, and the bytes that each needs for the same."""

from __future__ import annotations

import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from bench.consumer.disk import InfluxSize, bytes_of, size_in_influxdb
from bench.consumer.drain import outcomes
from bench.embedded.flood import Flood, flood
from bench.embedded.row_writer import RowsWritten, RowWay, write_rows
from bench.isolation.isolation import Waited, watch
from bench.lab.figures import column, per_million, percentile, short, whole
from bench.lab.lines import NARROW, RUNS, STEP_MS, WIDE, Shape
from bench.lab.services import UNLIMITED_POINTS, Tell, gateway_backend, host_and_port
from bench.report import Section, Table
from demo.gateway import get
from demo.pipeline import HttpService, start_service
from native import influxd
from native.step import PreparationFailed
from schemas.tenants.keys import new_key

#: Lines of a body, and of one write to InfluxDB.
_BODY_LINES = 500

#: A drain each half second at ten thousand steps a second.
_ROW_WAYS = (
    RowWay("SQLite, JSON a step, a transaction each", as_json=True, batch=1),
    RowWay("SQLite, JSON a step, 5,000 a transaction", as_json=True, batch=5_000),
    RowWay("SQLite, row a metric, 5,000 a transaction", as_json=False, batch=5_000),
)

_COUNT = """
SELECT count(*), total(value) FROM measurement
JOIN series ON series.measurement_id = measurement.id
JOIN field ON field.measurement_id = measurement.id AND field.name = 'train/loss'
JOIN value ON value.series_id = series.id AND value.field_id = field.id
WHERE measurement.class = ? AND measurement.name = 'metric'
"""


@dataclass(frozen=True)
class Plan:
    """Lines of each measurement by shape; how often; seconds of the paced one."""

    narrow: Annotated[int, f"Lines of one metric; a multiple of {RUNS * _BODY_LINES:,}."] = 100_000
    wide: Annotated[int, f"Lines of eight metrics; a multiple of {RUNS * _BODY_LINES:,}."] = 40_000
    rounds: Annotated[int, "Repetitions, everybody taking turns."] = 3
    seconds: Annotated[float, "Seconds of writes whose latency is measured."] = 8.0

    def __post_init__(self) -> None:
        """Raise ValueError for lines that don't fill the bodies of all runs."""
        if self.narrow % (RUNS * _BODY_LINES) or self.wide % (RUNS * _BODY_LINES):
            raise ValueError(f"lines must be multiples of {RUNS * _BODY_LINES:,}")

    @property
    def lines(self) -> Mapping[Shape, int]:
        """Lines of each shape."""
        return {NARROW: self.narrow, WIDE: self.wide}


@dataclass(frozen=True, slots=True)
class Served:
    """One flood of the embedded server, the bytes it left, and what those hold by class."""

    flood: Flood
    store: int
    log: int
    found: Mapping[str, tuple[int, float]]


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Everybody in turns, then InfluxDB for the size. Raises StartFailed, Stalled, WriteFailed."""
    if influxd.missing():
        raise PreparationFailed(f"InfluxDB needs {', '.join(influxd.missing())}")
    influxd.ensure(tell)
    served: dict[Shape, list[Served]] = defaultdict(list)
    rows: dict[tuple[RowWay, Shape], list[RowsWritten]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for shape, lines in plan.lines.items():
            place = folder / f"serve-{number}-{shape.metrics}"
            served[shape].append(_serve(place, shape, lines, tell))
            tell(
                f"round {number} of {plan.rounds}, {shape.title}: "
                f"{whole(lines / served[shape][-1].flood.stored_s)} points/s"
            )
            for place_of, way in enumerate(_ROW_WAYS):
                path = folder / f"rows-{number}-{shape.metrics}-{place_of}.db"
                rows[way, shape].append(write_rows(path, way, shape, lines))
    waited, failed = _paced(folder / "paced", plan.seconds, tell)
    sizes = {
        (shape, steps): size_in_influxdb(
            folder / f"influxd-{shape.metrics}-{steps}",
            shape.bodies(lines, _BODY_LINES, _epoch_ms(lines)),
            steps=steps,
        )
        for shape, lines in plan.lines.items()
        for steps in (False, True)
    }
    return section(plan, served, rows, sizes, waited, failed)


def _epoch_ms(lines: int) -> int:
    return time.time_ns() // 1_000_000 - lines // RUNS * STEP_MS


def _serve(folder: Path, shape: Shape, lines: int, tell: Tell) -> Served:
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    bodies = list(shape.bodies(lines, _BODY_LINES, _epoch_ms(lines)))
    with (
        gateway_backend(folder, [record], kafka_too=False, tell=tell) as backend,
        start_service(
            "serve", backend.argv, folder, {**backend.environment, "STEPCLOCK_CANARY_S": "0"}
        ) as server,
    ):
        watched = {"serve": server.process.pid}
        found = flood(host_and_port(server.url), key, bodies, watched, stored_by(server))
    # Ended, it has copied its write-ahead logs into the files.
    with closing(sqlite3.connect(folder / "store.db")) as connection:
        held = {name: connection.execute(_COUNT, (name,)).fetchone() for name in ("raw", "steps")}
    return Served(found, bytes_of(folder / "store.db"), bytes_of(folder / "log.db"), held)


def stored_by(service: HttpService) -> Callable[[], int]:
    """What asks a worker, or the embedded server, how many points it has stored."""
    return lambda: outcomes(get(f"{service.url}/metrics"))[0]


def _paced(folder: Path, seconds: float, tell: Tell) -> tuple[list[Waited], list[str]]:
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    with (
        gateway_backend(folder, [record], kafka_too=False, tell=tell) as backend,
        start_service("serve", backend.argv, folder, backend.environment) as server,
    ):
        watch(server.url, key, 1.0)
        return watch(server.url, key, seconds)


def section(
    plan: Plan,
    served: Mapping[Shape, Sequence[Served]],
    rows: Mapping[tuple[RowWay, Shape], Sequence[RowsWritten]],
    sizes: Mapping[tuple[Shape, bool], InfluxSize],
    waited: Sequence[Waited],
    failed: Sequence[str],
) -> Section:
    """What was found."""
    return Section(
        "Embedded: SQLite as log and as store, against a row for each step, and InfluxDB's files",
        [
            Table(
                ("writer", "line", "points/s", "values/s", "CPU s/M", "p50 ms", "p99 ms"),
                [
                    *(_served_row(shape, found) for shape, found in served.items()),
                    *(_rows_row(way, shape, found) for (way, shape), found in rows.items()),
                ],
            ),
            Table(
                ("MB for a million points", *(shape.title for shape in plan.lines)),
                _size_rows(plan, served, rows, sizes),
            ),
            Table(
                ("one write of 100 lines, 8 clients", "p50 ms", "p99 ms"),
                [
                    ["until the 204", *_percentiles(w.answered_s for w in waited)],
                    ["until stored", *_percentiles(w.stored_s for w in waited)],
                ],
            ),
        ],
        [
            (
                f"{plan.narrow:,} lines of one metric and {plan.wide:,} of eight, {RUNS} runs, "
                f"{_BODY_LINES} lines a body, least / median / greatest of {plan.rounds} rounds. A "
                "point is a line; values leave out the step. points/s: until stored, in both "
                "clocks; the 204s come sooner, and their p50 and p99 under this flood are shown. "
                "For rows: of a transaction."
            ),
            (
                "The server's CPU holds HTTP, checking, log and store; the row writers get Python "
                "objects in their own process, sync nothing (WAL, synchronous=NORMAL) and keep one "
                "clock. A 204 of the server is on the disk (synchronous=FULL)."
            ),
            (
                "Sizes: files after a checkpoint; the log is kept for a day. InfluxDB: as it "
                "stands after the last write (mostly its write-ahead log), and compacted."
            ),
            (
                "Until stored holds up to 0.25 s in which a batch fills, and the look at receipts "
                "each 0.1 s."
            ),
        ],
        [*_lost(plan, served, rows, sizes), *sorted(set(failed))],
    )


def _lost(
    plan: Plan,
    served: Mapping[Shape, Sequence[Served]],
    rows: Mapping[tuple[RowWay, Shape], Sequence[RowsWritten]],
    sizes: Mapping[tuple[Shape, bool], InfluxSize],
) -> list[str]:
    """Every count, and the sum of a metric, must be what was sent."""
    sums = {
        shape: math.fsum(found[0] for _r, _s, _t, found in shape.rows(lines, 0))
        for shape, lines in plan.lines.items()
    }
    held = [
        (f"serve, class {name}", shape, *found)
        for shape, runs in served.items()
        for run in runs
        for name, found in run.found.items()
    ]
    held += [
        (way.title, shape, run.rows, run.total)
        for (way, shape), runs in rows.items()
        for run in runs
    ]
    held += [
        ("InfluxDB", shape, count, sums[shape])
        for (shape, _steps), size in sizes.items()
        for count in size.stored
    ]
    return [
        f"{who}, {shape.title}: holds {count:,} of {plan.lines[shape]:,} points, "
        f"which sum up to {total:.3f} instead of {sums[shape]:.3f}"
        for who, shape, count, total in held
        if count != plan.lines[shape] or not math.isclose(total, sums[shape], rel_tol=1e-9)
    ]


def _served_row(shape: Shape, runs: Sequence[Served]) -> list[str]:
    floods = [run.flood for run in runs]
    return [
        "stepclock-server serve",
        shape.title,
        column([run.lines / run.stored_s for run in floods], whole),
        column([run.lines * shape.metrics / run.stored_s for run in floods], whole),
        column([per_million(run.cpu_s["serve"], run.lines) for run in floods], short),
        column([run.p50_ms for run in floods], short),
        column([run.p99_ms for run in floods], short),
    ]


def _rows_row(way: RowWay, shape: Shape, runs: Sequence[RowsWritten]) -> list[str]:
    return [
        way.title,
        shape.title,
        column([run.lines / run.seconds for run in runs], whole),
        column([run.lines * shape.metrics / run.seconds for run in runs], whole),
        column([per_million(run.cpu_s, run.lines) for run in runs], short),
        column([run.p50_ms for run in runs], short),
        column([run.p99_ms for run in runs], short),
    ]


def _size_rows(
    plan: Plan,
    served: Mapping[Shape, Sequence[Served]],
    rows: Mapping[tuple[RowWay, Shape], Sequence[RowsWritten]],
    sizes: Mapping[tuple[Shape, bool], InfluxSize],
) -> list[list[str]]:
    def row(title: str, size_of: Callable[[Shape], int]) -> list[str]:
        # Bytes a point are megabytes for a million points.
        return [title, *(short(size_of(shape) / plan.lines[shape]) for shape in plan.lines)]

    return [
        row("serve: store.db, both clocks", lambda shape: served[shape][-1].store),
        row("serve: log.db, for a day", lambda shape: served[shape][-1].log),
        *(
            row(way.title, partial(_rows_size, rows, way))
            for way in dict.fromkeys(way for way, _shape in rows)
        ),
        row("InfluxDB, wall only, as it stands", lambda shape: sizes[shape, False].written),
        row("InfluxDB, wall only, compacted", lambda shape: sizes[shape, False].compacted),
        row("InfluxDB, both clocks, as it stands", lambda shape: sizes[shape, True].written),
        row("InfluxDB, both clocks, compacted", lambda shape: sizes[shape, True].compacted),
    ]


def _rows_size(
    rows: Mapping[tuple[RowWay, Shape], Sequence[RowsWritten]], way: RowWay, shape: Shape
) -> int:
    return rows[way, shape][-1].size


def _percentiles(seconds: Iterable[float]) -> list[str]:
    values = [each * 1000 for each in seconds]
    return [short(percentile(values, 50)), short(percentile(values, 99))]
