"""The lag command: figures in, advice out."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from typer.testing import CliRunner

from admin.__main__ import app
from admin.lag.command import show
from admin.lag.figures import EmbeddedFigures
from admin.lag.report import Look, PartitionFigures, duration, report
from embedded.log.file import SqliteLog
from embedded.log.publisher import SqlitePublisher
from embedded.log.source import SqliteSource
from embedded.serve import log_path, store_path
from native.ports import free_ports
from schemas.log.protocols import LogUnavailable, TopicPartition
from tests.fakes.worker_rig import RAW, TOPICS

HOUR_MS = 3_600_000
AT_MS = 1_700_000_000_000


def look(at_s=0.0, *, partitions=4, members=2, keep_h=168, oldest_h=None, **rows):
    """rows: p0=(end, next_offset), …; partitions not named are empty."""
    oldest_ms = None if oldest_h is None else AT_MS - int(oldest_h * HOUR_MS)
    figures = {
        TopicPartition(RAW, n): PartitionFigures(0, *rows.get(f"p{n}", (0, 0)), oldest_ms)
        for n in range(partitions)
    }
    return Look(at_s, AT_MS, figures, members, {RAW: None if keep_h is None else keep_h * HOUR_MS})


def evenly(at_s, end, next_offset, **more):
    return look(at_s, **{f"p{n}": (end, next_offset) for n in range(4)}, **more)


def advice(now, before=None):
    return " / ".join(report(now, before).advice)


def test_nothing_waits_when_all_is_settled():
    found = report(evenly(10, 500, 500), evenly(0, 0, 0))
    assert (found.forecast, found.advice) == ("nothing waits", ())
    assert (found.rates.produced, found.rates.settled) == (200, 200)


def test_one_look_knows_the_lag_and_no_rates():
    found = report(evenly(0, 100, 75), None)
    assert (found.now.lag, found.rates, found.forecast) == (100, None, "100 records wait")


def test_a_lag_that_shrinks_says_when_it_is_gone():
    found = report(evenly(10, 5100, 1000), evenly(0, 5000, 0))
    assert found.rates.growth == -360
    assert found.forecast == f"drains in {duration(4 * 4100 / 360)}"
    assert found.advice == ()


def test_a_lag_that_grows_says_how_fast_and_that_more_consumers_help():
    before, now = evenly(0, 1000, 900, members=2), evenly(10, 1400, 1000, members=2)
    found = report(now, before)
    assert found.forecast == "grows by 120 records/s"
    assert "more consumers help, up to 4 (there are 2)" in found.advice[0]


def test_as_many_consumers_as_waiting_partitions_can_not_be_helped_by_more():
    before, now = evenly(0, 1000, 900, members=4), evenly(10, 1400, 1000, members=4)
    assert "more won't help; look at the store" in advice(now, before)


def test_a_lag_that_neither_grows_nor_shrinks_is_steady():
    found = report(evenly(10, 1101, 1000), evenly(0, 1000, 900))
    assert found.rates.growth == 0
    assert found.forecast.startswith("steady: what waits is 10 s")


def test_rates_that_were_not_measured_make_no_forecast():
    assert report(evenly(0, 100, 0), evenly(0, 50, 0)).rates is None


def test_nobody_in_the_group_is_the_first_thing_to_say():
    assert "start one" in advice(evenly(0, 10, 0, members=0))


@pytest.mark.parametrize(
    ("members", "says"),
    [(3, "3 consumers are there and settle nothing"), (None, "whether a worker")],
)
def test_consumers_that_settle_nothing_point_to_the_store(members, says):
    before = evenly(0, 100, 50, members=members)
    assert says in advice(evenly(10, 100, 50, members=members), before)
    assert report(evenly(10, 100, 50), before).forecast == "stands still"


def test_a_hot_partition_is_named_and_no_more_consumers_are_asked_for():
    before = look(0, p0=(1000, 0), p1=(10, 0))
    now = look(10, p0=(2000, 100), p1=(20, 10))
    said = advice(now, before)
    assert f"{RAW}[0] holds 99% of the lag" in said
    assert "up to" not in said


def test_one_partition_alone_is_not_hot():
    before, now = look(0, partitions=1, p0=(100, 0)), look(10, partitions=1, p0=(200, 10))
    assert "holds" not in advice(now, before)


def test_the_time_until_retention_is_that_of_the_oldest_unsettled_record():
    found = report(evenly(0, 10, 0, oldest_h=3, keep_h=168), None)
    assert found.retention_left_h == 165
    assert found.advice == ()
    found = report(evenly(0, 10, 0, oldest_h=160, keep_h=168), None)
    assert "in 8.0 h the log may delete" in found.advice[0]
    assert report(evenly(0, 10, 0, oldest_h=200), None).retention_left_h == 0
    assert report(evenly(0, 10, 0, oldest_h=200, keep_h=None), None).retention_left_h is None


def test_a_group_that_has_committed_nothing_lags_from_the_logs_start():
    assert PartitionFigures(5, 9, None).lag == 4
    assert PartitionFigures(5, 9, None).lost == 0


def test_records_deleted_unread_are_counted_and_not_as_lag():
    figures = PartitionFigures(5, 9, 2)
    assert (figures.lag, figures.lost) == (4, 3)
    now = Look(0, AT_MS, {TopicPartition(RAW, 0): figures}, 1)
    assert "3 records were deleted before they were read" in advice(now)
    assert "--accept-loss" in advice(now)


def test_times_are_for_people():
    found = [duration(s) for s in (0, 59.6, 119, 180, 7200, 200_000)]
    assert found == ["0 s", "60 s", "119 s", "3 min", "2.0 h", "2.3 d"]


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("STEPCLOCK_DATA_DIR", str(tmp_path))
    publisher = SqlitePublisher(SqliteLog(log_path(tmp_path), TOPICS))
    for _ in range(3):
        publisher.send(RAW, 0, b"x", ()).result(5)
    publisher.close(5)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["lag", *arguments])


class Nobody:
    def on_assigned(self, partitions):
        pass


def settle(data_dir, next_offset):
    source = SqliteSource(SqliteLog(log_path(data_dir), TOPICS), store_path(data_dir))
    source.subscribe([RAW], Nobody())
    source.poll(0)
    source.commit({TopicPartition(RAW, 0): next_offset})
    source.close()


def test_the_log_of_serve_is_looked_at_without_making_its_store(data_dir):
    result = run("--json", "--every", "0.2")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["lag"], found["members"], found["settled_per_s"]) == (3, None, 0)
    assert not store_path(data_dir).exists()
    settle(data_dir, 2)
    found = json.loads(run("--json", "--every", "0.2").stdout)
    [raw] = [p for p in found["partitions"] if p["topic"] == RAW]
    assert (raw["end"], raw["committed"], raw["lag"]) == (3, 2, 1)
    assert raw["oldest_unsettled"] is not None


@pytest.mark.usefixtures("data_dir")
def test_the_table_names_what_waits():
    result = run("--every", "0.2")
    assert result.exit_code == 0, result.output
    assert "nothing yet" in result.stdout
    assert "stands still" in result.stdout


def test_records_settled_between_two_looks_are_a_rate(data_dir):
    with closing(EmbeddedFigures(log_path(data_dir), store_path(data_dir), TOPICS)) as figures:
        before = figures.look()
        settle(data_dir, 3)
        found = report(figures.look(), before)
    assert found.rates.settled * found.rates.over_s == pytest.approx(3)
    assert show(found)


def test_a_kafka_that_is_away_is_exit_code_1(monkeypatch):
    class Away:
        def __init__(self, *_):
            pass

        def look(self):
            raise LogUnavailable("no broker answers")

        def close(self):
            pass

    monkeypatch.setattr("admin.lag.command.KafkaFigures", Away)
    monkeypatch.setattr("admin.lag.command._PATIENCE_S", 0.0)
    (port,) = free_ports(1)
    result = run("--kafka", f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert "no broker answers" in result.stderr


def test_without_any_log_the_command_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.delenv("STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    result = run("--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "--kafka" in result.stderr


@pytest.mark.parametrize("command", ["lag", "check-config", "dlq export", "dlq replay", "dlq list"])
def test_the_commands_of_operators_have_help_with_an_example(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"Example: stepclock-server {command}" in result.stdout
