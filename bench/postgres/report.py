"""The report of the textbook case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.consumer.disk import InfluxSize
from bench.embedded.flood import Flood
from bench.lab.figures import Spread, column, per_million, short, whole
from bench.lab.lines import RUNS, Shape
from bench.postgres.cluster import SETTINGS
from bench.postgres.writer import PgSize, PgWay, PgWritten
from bench.report import Section, Table

#: What the textbook case asks for: 100,000 metrics a minute.
TEXTBOOK_PER_S = 100_000 / 60

#: Processes whose CPU is ours; the others are the stores'.
_OURS = frozenset({"serve", "gateway", "worker"})


@dataclass(frozen=True, slots=True)
class Load:
    """A shape, and the lines of a body."""

    shape: Shape
    body_lines: int
    share: float = 1.0
    connections: int = 8

    def lines(self, values: int) -> int:
        """Lines that hold about so many values, whole bodies for every run."""
        step = RUNS * self.body_lines
        return max(1, round(values * self.share / self.shape.metrics / step)) * step


@dataclass(frozen=True, slots=True)
class Size:
    """What the same points take in our two stores, in bytes."""

    embedded: int
    influx: InfluxSize


def section(
    rounds: int,
    sized: int,
    version: str,
    rows: Mapping[PgWay, Sequence[PgWritten]],
    pg_sizes: Mapping[tuple[Shape, bool], PgSize],
    floods: Mapping[tuple[str, Load], Sequence[Flood]],
    sizes: Mapping[Shape, Size],
    failures: Sequence[str],
) -> Section:
    """What was found."""
    lost = [
        f"{way.title}: {run.stored:,} rows of {run.rows:,} stored"
        for way, runs in rows.items()
        for run in runs
        if run.stored != run.rows
    ]
    lost += [
        f"PostgreSQL, for the sizes: {found.rows:,} rows of {sized:,} stored"
        for found in pg_sizes.values()
        if found.rows != sized
    ]
    lost += [
        f"InfluxDB, for the sizes: {count:,} points of {sized // shape.metrics:,} stored"
        for shape, found in sizes.items()
        for count in found.influx.stored
        if count != sized // shape.metrics
    ]
    return Section(
        f"PostgreSQL {version} row by row and in batches, and the same metrics through us",
        [
            Table(
                (
                    "way",
                    "values/s",
                    "times 100,000 a minute",
                    "client",
                    "stores",
                    "p50 ms",
                    "p99 ms",
                ),
                [
                    *(_pg_row(way, runs) for way, runs in rows.items()),
                    *(_flood_row(title, load, runs) for (title, load), runs in floods.items()),
                ],
            ),
            Table(
                ("bytes a value", *(shape.title for shape in sizes)),
                _size_rows(sized, pg_sizes, sizes),
            ),
        ],
        [
            (
                "A value is one metric at one step. client, stores: CPU seconds for a million "
                "values, of the process that writes (ours: the server's own processes, gateway, "
                "worker) and of PostgreSQL or of Kafka and InfluxDB; the embedded server is its "
                "own store. The generator of ready bodies is left out, the making of rows too."
            ),
            (
                f"Least / median / greatest of {rounds} rounds, in turns for each system. "
                "values/s: until committed, for us until stored, in both clocks (PostgreSQL has "
                "one table for both). p50 and p99: of a transaction, for us of the 204, "
                "over connections that send as fast as they can."
            ),
            (
                "PostgreSQL: " + ", ".join(f"{k}={v}" for k, v in SETTINGS.items()) + "; Unix "
                "socket, psycopg 3 with prepared statements. Asynchronous: synchronous_commit=off, "
                "a power cut or a crash takes up to 0.6 s of what was committed. INSERTs overwrite "
                "a row that comes again, as points do; COPY can't. A 204 of ours: on the disk "
                "(embedded), or in the page cache of one broker, which survives a killed process."
            ),
            (
                "Primary key (run, metric, step), BRIN on time; names as numbers, and, for the "
                "sizes, as text too. After VACUUM and CHECKPOINT; the write-ahead log is apart, "
                "as it is used again. InfluxDB: as it stands after the last write, and compacted."
            ),
        ],
        [*lost, *failures],
    )


def _pg_row(way: PgWay, runs: Sequence[PgWritten]) -> list[str]:
    rates = [run.rows / run.seconds for run in runs]
    return [
        way.title,
        column(rates, whole),
        _times_the_textbook(rates),
        column([per_million(run.client_cpu_s, run.rows) for run in runs], short),
        column([per_million(run.server_cpu_s, run.rows) for run in runs], short),
        column([run.p50_ms for run in runs], short),
        column([run.p99_ms for run in runs], short),
    ]


def _flood_row(title: str, load: Load, runs: Sequence[Flood]) -> list[str]:
    metrics = load.shape.metrics
    rates = [run.lines * metrics / run.stored_s for run in runs]

    def cost(names: frozenset[str], *, others: bool) -> str:
        spent = [
            (sum(s for name, s in run.cpu_s.items() if (name in names) != others), run.lines)
            for run in runs
        ]
        return column([per_million(s, lines * metrics) for s, lines in spent], short)

    return [
        f"{title}, {load.shape.title}, {load.body_lines} a body, {load.connections} connections",
        column(rates, whole),
        _times_the_textbook(rates),
        cost(_OURS, others=False),
        cost(_OURS, others=True) if set(runs[0].cpu_s) - _OURS else "-",
        column([run.p50_ms for run in runs], short),
        column([run.p99_ms for run in runs], short),
    ]


def _times_the_textbook(rates: Sequence[float]) -> str:
    return f"{Spread.of(rates).median / TEXTBOOK_PER_S:,.1f}"


def _size_rows(
    sized: int, pg_sizes: Mapping[tuple[Shape, bool], PgSize], sizes: Mapping[Shape, Size]
) -> list[list[str]]:
    def row(title: str, of: Callable[[Shape], int]) -> list[str]:
        return [title, *(short(of(shape) / sized) for shape in sizes)]

    return [
        row("PostgreSQL, numbers: table", lambda shape: pg_sizes[shape, False].table),
        row("PostgreSQL, numbers: indexes", lambda shape: pg_sizes[shape, False].indexes),
        row("PostgreSQL, numbers: log written", lambda shape: pg_sizes[shape, False].wal),
        row("PostgreSQL, text: table", lambda shape: pg_sizes[shape, True].table),
        row("PostgreSQL, text: indexes", lambda shape: pg_sizes[shape, True].indexes),
        row("embedded store, both clocks", lambda shape: sizes[shape].embedded),
        row("InfluxDB, both clocks, as it stands", lambda shape: sizes[shape].influx.written),
        row("InfluxDB, both clocks, compacted", lambda shape: sizes[shape].influx.compacted),
    ]
