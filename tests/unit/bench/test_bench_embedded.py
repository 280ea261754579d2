import math
import sqlite3
from contextlib import closing

import pytest

from bench.consumer.disk import InfluxSize, bytes_of
from bench.embedded.embedded import Plan, Served, section
from bench.embedded.flood import Flood
from bench.embedded.row_writer import RowWay, write_rows
from bench.lab.lines import NARROW, RUNS, WIDE
from schemas.line_protocol.codec import parse

PLAN = Plan(narrow=10_000, wide=10_000, rounds=1)
EPOCH_MS = 1_795_277_400_000


def total(shape):
    return math.fsum(values[0] for _, _, _, values in shape.rows(10_000, EPOCH_MS))


def found(count, of_narrow):
    flood = Flood(10_000, 1.0, 2.0, 3.0, 4.0, {"serve": 0.5})
    held = {NARROW: (count, of_narrow), WIDE: (10_000, total(WIDE))}
    served = {s: [Served(flood, 10, 10, {"raw": h, "steps": h})] for s, h in held.items()}
    sizes = {(s, steps): InfluxSize(9, 8, [10_000]) for s in held for steps in (False, True)}
    return section(PLAN, served, {}, sizes, [], [])


def test_everything_found_is_no_failure():
    assert not found(10_000, total(NARROW)).failures


@pytest.mark.parametrize(("count", "of_narrow"), [(9_999, total(NARROW)), (10_000, 1.0)])
def test_a_missing_point_or_another_value_is_a_failure_in_each_clock(count, of_narrow):
    assert len(found(count, of_narrow).failures) == 2


@pytest.mark.parametrize("shape", [NARROW, WIDE])
def test_bodies_and_rows_of_a_shape_are_the_same_points(shape):
    lines = [
        parse(line)
        for body in shape.bodies(2 * RUNS * 10, 10, EPOCH_MS)
        for line in body.split(b"\n")
    ]
    by_line = {
        (dict(line.tags)[b"run"].decode(), line.time, *(float(v) for _, v in line.fields[:-1]))
        for line in lines
    }
    assert by_line == {
        (run, time_ms, *values) for run, _, time_ms, values in shape.rows(2 * RUNS * 10, EPOCH_MS)
    }


@pytest.mark.parametrize("as_json", [True, False])
def test_the_row_writer_counts_what_it_has_written(tmp_path, as_json):
    path = tmp_path / "rows.db"
    written = write_rows(path, RowWay("rows", as_json, batch=7), WIDE, 10 * RUNS)
    with closing(sqlite3.connect(path)) as connection:
        [(rows,)] = connection.execute("SELECT count(*) FROM metrics")
    assert rows == 10 * RUNS * (1 if as_json else WIDE.metrics)
    assert written.rows == 10 * RUNS
    assert written.size == bytes_of(path) > 0


def test_lines_that_leave_a_run_short_are_refused():
    with pytest.raises(ValueError, match="multiples of 10,000"):
        Plan(narrow=15_000)
