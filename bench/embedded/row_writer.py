"""SQLite as a tracker on one machine uses it: a row for each step, or for each metric."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time

from bench.consumer.disk import bytes_of
from bench.lab.figures import percentile
from bench.lab.lines import Shape

_JSON_TABLE = """
CREATE TABLE metrics (
    id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp TEXT NOT NULL, run TEXT NOT NULL,
    step INTEGER NOT NULL, metrics TEXT NOT NULL
);
CREATE INDEX by_run ON metrics (run, step);
"""
_VALUE_TABLE = """
CREATE TABLE metrics (
    id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp TEXT NOT NULL, run TEXT NOT NULL,
    step INTEGER NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL
);
CREATE INDEX by_run ON metrics (run, metric, step);
"""


@dataclass(frozen=True, slots=True)
class RowWay:
    """as_json: a row holds all metrics of a step. batch: steps of one transaction."""

    title: str
    as_json: bool
    batch: int


@dataclass(frozen=True, slots=True)
class RowsWritten:
    """What came of it: seconds, CPU seconds, bytes, and the rows counted afterwards."""

    lines: int
    seconds: float
    cpu_s: float
    p50_ms: float
    p99_ms: float
    size: int
    rows: int
    total: float


def write_rows(path: Path, way: RowWay, shape: Shape, lines: int) -> RowsWritten:
    """Write steps into a new file (WAL, synchronous=NORMAL), and count them."""
    epoch_ms = time.time_ns() // 1_000_000
    rows = shape.rows(lines, epoch_ms)
    took: list[float] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_JSON_TABLE if way.as_json else _VALUE_TABLE)
        began, cpu = perf_counter(), process_time()
        while taken := list(islice(rows, way.batch)):
            logged_at = perf_counter()
            connection.execute("BEGIN")
            if way.as_json:
                connection.executemany(
                    "INSERT INTO metrics (timestamp, run, step, metrics) VALUES (?, ?, ?, ?)",
                    _json_rows(shape, taken),
                )
            else:
                connection.executemany(
                    "INSERT INTO metrics (timestamp, run, step, metric, value)"
                    " VALUES (?, ?, ?, ?, ?)",
                    _value_rows(shape, taken),
                )
            connection.execute("COMMIT")
            took.append(perf_counter() - logged_at)
        seconds, cpu_s = perf_counter() - began, process_time() - cpu
        value = "json_extract(metrics, '$.\"train/loss\"')" if way.as_json else "value"
        where = "" if way.as_json else " WHERE metric = 'train/loss'"
        count, total = connection.execute(
            f"SELECT count(*), total({value}) FROM metrics{where}"
        ).fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    p50_ms, p99_ms = (percentile(took, percent) * 1000 for percent in (50, 99))
    return RowsWritten(lines, seconds, cpu_s, p50_ms, p99_ms, bytes_of(path), count, total)


_Steps = Iterable[tuple[str, int, int, list[float]]]


def _json_rows(shape: Shape, steps: _Steps) -> Iterator[tuple[str, str, int, str]]:
    for run, step, time_ms, found in steps:
        yield _text(time_ms), run, step, json.dumps(dict(zip(shape.names, found, strict=True)))


def _value_rows(shape: Shape, steps: _Steps) -> Iterator[tuple[str, str, int, str, float]]:
    for run, step, time_ms, found in steps:
        timestamp = _text(time_ms)
        for name, value in zip(shape.names, found, strict=True):
            yield timestamp, run, step, name, value


def _text(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()
