"""Metrics into PostgreSQL: row by row, many rows an INSERT, COPY; and what they take on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from time import perf_counter, process_time
from typing import Any

from bench.lab.figures import percentile
from bench.lab.lines import RUNS, Shape
from bench.postgres.cluster import Cluster, cpu_s

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

# Widest columns first, so that no row is padded; names are numbers that two small tables
# explain. The key is the question that everybody asks, one metric of one run by step; times
# come in order, so a BRIN index finds them at next to no cost.
_TABLES = """
DROP TABLE IF EXISTS point, run, metric;
CREATE TABLE run (id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE metric (id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE point (
    step bigint NOT NULL, time timestamptz NOT NULL, value double precision NOT NULL,
    run int NOT NULL, metric int NOT NULL, PRIMARY KEY (run, metric, step)
);
CREATE INDEX ON point USING brin (time);
"""

# The textbook's table: names in every row.
_PLAIN_TABLES = """
DROP TABLE IF EXISTS point;
CREATE TABLE point (
    run text NOT NULL, metric text NOT NULL, step bigint NOT NULL, time timestamptz NOT NULL,
    value double precision NOT NULL, PRIMARY KEY (run, metric, step)
);
CREATE INDEX ON point USING brin (time);
"""

_COLUMNS = "(run, metric, step, time, value)"
# A point that comes twice overwrites itself, as it does in the pipeline.
_UPSERT = (
    "ON CONFLICT (run, metric, step) DO UPDATE SET time = excluded.time, value = excluded.value"
)
_ROW = f"INSERT INTO point {_COLUMNS} VALUES (%s, %s, %s, %s, %s) {_UPSERT}"
_MANY = (
    f"INSERT INTO point {_COLUMNS} SELECT * FROM "
    f"unnest(%s::int[], %s::int[], %s::bigint[], %s::timestamptz[], %s::float8[]) {_UPSERT}"
)

Row = tuple[int | str, int | str, int, datetime, float]


@dataclass(frozen=True, slots=True)
class PgWay:
    """rows: of all transactions together; batch: of one; copy: COPY, which can't overwrite."""

    title: str
    rows: int
    batch: int
    synchronous: bool
    connections: int = 1
    copy: bool = False


@dataclass(frozen=True, slots=True)
class PgWritten:
    """What came of it. stored: rows counted afterwards."""

    rows: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    p50_ms: float
    p99_ms: float
    stored: int


@dataclass(frozen=True, slots=True)
class PgSize:
    """Bytes after VACUUM and CHECKPOINT: table, indexes, and the log that was written."""

    table: int
    indexes: int
    wal: int
    rows: int


def rows_of(shape: Shape, lines: int, *, names: bool = False) -> Iterator[Row]:
    """A row for each metric of each line; names: as text instead of numbers."""
    for run, step, time_ms, found in shape.rows(lines, 0):
        at = _EPOCH + timedelta(milliseconds=time_ms)
        for number, value in enumerate(found):
            yield (
                (run, shape.names[number], step, at, value)
                if names
                else (int(run[1:]), number, step, at, value)
            )


def write(cluster: Cluster, way: PgWay, shape: Shape) -> PgWritten:
    """Write new rows in a new table by one way."""
    _prepare(cluster, _TABLES)
    every = list(rows_of(shape, -(-way.rows // shape.metrics // RUNS) * RUNS))[: way.rows]
    shares = [every[number :: way.connections] for number in range(way.connections)]
    connections = [_session(cluster, synchronous=way.synchronous) for _ in shares]
    try:
        began, cpu, server = perf_counter(), process_time(), cpu_s(cluster.process.pid)
        if way.connections == 1:
            took = _write_share(connections[0], way, every)
        else:
            with ThreadPoolExecutor(way.connections) as pool:
                parts = pool.map(_write_share, connections, [way] * way.connections, shares)
                took = list(chain.from_iterable(parts))
        seconds, client = perf_counter() - began, process_time() - cpu
        spent = cpu_s(cluster.process.pid) - server
        (stored,) = connections[0].execute("SELECT count(*) FROM point").fetchone() or (0,)
    finally:
        for connection in connections:
            connection.close()
    p50_ms, p99_ms = (percentile(took, percent) * 1000 for percent in (50, 99))
    return PgWritten(len(every), seconds, client, spent, p50_ms, p99_ms, stored)


def size(cluster: Cluster, shape: Shape, lines: int, *, names: bool) -> PgSize:
    """What the points of so many lines take, written by COPY, 5,000 rows at a time."""
    _prepare(cluster, _PLAIN_TABLES if names else _TABLES)
    with _session(cluster, synchronous=False) as connection:
        before = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        every = rows_of(shape, lines, names=names)
        while rows := list(islice(every, 5_000)):
            _copy(connection, rows)
        connection.execute("VACUUM ANALYZE point")
        connection.execute("CHECKPOINT")
        found = connection.execute(
            "SELECT pg_table_size('point'), pg_indexes_size('point'),"
            " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)::bigint,"
            " (SELECT count(*) FROM point)",
            before,
        ).fetchone()
    assert found is not None
    return PgSize(*found)


def _write_share(connection: Any, way: PgWay, rows: Sequence[Row]) -> list[float]:
    """Seconds of each transaction."""
    took = []
    for first in range(0, len(rows), way.batch):
        began = perf_counter()
        if way.copy:
            _copy(connection, rows[first : first + way.batch])
        elif way.batch == 1:
            connection.execute(_ROW, rows[first], prepare=True)
        else:
            columns = [
                list(column) for column in zip(*rows[first : first + way.batch], strict=True)
            ]
            connection.execute(_MANY, columns, prepare=True)
        took.append(perf_counter() - began)
    return took


def _copy(connection: Any, rows: Iterable[Row]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY point {_COLUMNS} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _session(cluster: Cluster, *, synchronous: bool) -> Any:
    connection = cluster.connect()
    connection.execute(f"SET synchronous_commit = {'on' if synchronous else 'off'}")
    return connection


def _prepare(cluster: Cluster, tables: str) -> None:
    with cluster.connect() as connection:
        for statement in tables.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        if "CREATE TABLE run" in tables:
            connection.cursor().executemany(
                "INSERT INTO run VALUES (%s, %s)", [(n, f"r{n}") for n in range(RUNS)]
            )
        connection.execute("CHECKPOINT")
