"""`stepclock-server ledger` on the files of the embedded server."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest
from typer.testing import CliRunner

from admin.__main__ import app
from embedded.store.store import SqliteStore
from schemas.line_protocol.precision import Precision
from schemas.store.delivery import DeliveryRecord

START_NS = (time.time_ns() // 10**9 - 3600) * 10**9


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A run of 100 steps, ten to a request, as a worker leaves it."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("STEPCLOCK_INFLUX_URL", raising=False)
    with closing(SqliteStore(tmp_path / "store.db")) as store:
        for sequence in range(10):
            steps = range(10 * sequence, 10 * sequence + 10)
            text = "\n".join(
                f"resnet,run=r1,host=n1 loss=0.5,step={step}i {START_NS + step}" for step in steps
            )
            store.write("stepclock", "raw", text.encode(), Precision.NS)
            store.write("stepclock", "events", record(sequence, steps).line(), Precision.NS)
    return tmp_path


def record(sequence, steps):
    first_ns, last_ns = START_NS + steps[0], START_NS + steps[-1]
    return DeliveryRecord(
        *("resnet", "r1", "job-7", "stepclock.raw"),
        *(START_NS, sequence, 0, 1, len(steps), 0, first_ns, last_ns),
    )


def ledger(data_dir, *arguments):
    return CliRunner().invoke(app, ["ledger", *arguments, "--data-dir", str(data_dir)])


def delete(data_dir, condition):
    with closing(sqlite3.connect(data_dir / "store.db")) as connection, connection:
        connection.execute(f"DELETE FROM value WHERE {condition}")


def test_a_run_that_is_whole_is_told_so(data_dir):
    result = ledger(data_dir)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == (
        "ledger: runs=1 delivered=100 dead=0 stored=100 findings=0"
    )


def test_a_row_deleted_from_the_store_is_named_with_run_stream_and_range(data_dir):
    delete(data_dir, f"time_ns = {START_NS + 42}")
    result = ledger(data_dir, "r1")
    assert result.exit_code == 1
    assert "resnet run r1, stream job-7: 1 of 10 lines are not in class raw" in result.stdout
    assert "class steps still has step 42" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("stored=99 findings=1")


def test_a_row_deleted_from_the_step_clock_is_named(data_dir):
    delete(data_dir, f"time_ns = {42 * 10**6}")
    result = ledger(data_dir, "--experiment", "resnet")
    assert result.exit_code == 1
    assert "1 lines of class raw are not in class steps, in step 42" in result.stdout


def test_a_request_of_which_there_is_nothing_is_named(data_dir):
    steps = range(30, 40)
    delete(
        data_dir,
        f"time_ns BETWEEN {START_NS + steps[0]} AND {START_NS + steps[-1]} "
        f"OR time_ns = {START_NS + 3} AND field_id IN (SELECT id FROM field WHERE name = 'parts') "
        f"OR time_ns = {START_NS + 3}",
    )
    result = ledger(data_dir, "r1")
    assert result.exit_code == 1
    assert "stream job-7: request 3 never reached the store" in result.stdout


def test_a_run_without_deliveries_is_an_error(data_dir):
    result = ledger(data_dir, "r2")
    assert result.exit_code == 1
    assert "no deliveries of run r2 are recorded" in result.stderr


def test_where_no_client_names_its_stream_there_is_nothing_to_find(data_dir):
    result = ledger(data_dir, "--namespace", "lab")
    assert result.exit_code == 0
    assert "no client has named its stream yet" in result.stderr


def test_without_a_store_there_is_nothing_to_compare(tmp_path, monkeypatch):
    monkeypatch.delenv("STEPCLOCK_INFLUX_URL", raising=False)
    assert ledger(tmp_path).exit_code == 2
