"""What the log of one machine promises beyond the contract of every log."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedded.log.file import SqliteLog
from embedded.log.publisher import SqlitePublisher
from embedded.log.reader import SqliteReader
from embedded.log.record import decode_headers, encode_headers
from embedded.log.source import SqliteSource
from schemas.log.protocols import LogUnavailable, TopicPartition
from tests.contract.log.logs import WAIT_S, Member, integrity, send_all

TOPIC = "one"
PARTITION = TopicPartition(TOPIC, 0)
MINUTE_MS = 60_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def log(path: Path) -> SqliteLog:
    return SqliteLog(path, [TOPIC], busy_timeout_s=0.05)


@pytest.fixture
def publisher(log: SqliteLog) -> Iterator[SqlitePublisher]:
    publisher = SqlitePublisher(log)
    yield publisher
    publisher.close(5.0)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection writes for as long as the block lasts."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def values(log: SqliteLog) -> list[bytes]:
    return [record.value for record in SqliteReader(log).read(TOPIC)]


@given(st.lists(st.tuples(st.text(), st.binary())).map(tuple))
def test_headers_decode_to_what_was_encoded(headers: tuple[tuple[str, bytes], ...]) -> None:
    assert decode_headers(encode_headers(headers)) == headers


WRITER = """
import itertools, sys
from pathlib import Path
from embedded.log.file import SqliteLog
from embedded.log.publisher import SqlitePublisher
publisher = SqlitePublisher(SqliteLog(Path(sys.argv[1]), ["one"]))
for n in itertools.count():
    futures = [publisher.send("one", 0, b"%d" % (n * 10 + i), ()) for i in range(10)]
    for future in futures:
        print(future.result(), flush=True)
"""


def test_acknowledged_records_survive_kill_9(path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(205)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout if line.endswith(b"\n")]
    writer.stdout.close()
    writer.wait()
    assert integrity(path) == "ok"
    log = SqliteLog(path, [TOPIC])
    records = list(SqliteReader(log).read(TOPIC))
    assert [r.offset for r in records] == list(range(len(records)))
    assert [r.value for r in records] == [b"%d" % n for n in range(len(records))]
    assert len(records) >= len(acknowledged)
    publisher = SqlitePublisher(log)
    assert publisher.send(TOPIC, 0, b"x", ()).result(WAIT_S) == len(records)
    publisher.close(5.0)


def test_everything_that_waits_is_one_transaction(path: Path) -> None:
    log = SqliteLog(path, [TOPIC], busy_timeout_s=10.0)
    publisher = SqlitePublisher(log)
    with locked(path):
        futures = [publisher.send(TOPIC, 0, b"x", ()) for _ in range(100)]
    assert [f.result(WAIT_S) for f in futures] == list(range(100))
    assert log.appends <= 2  # the first may have gone alone
    publisher.close(5.0)


def test_locked_log_is_unavailable_and_takes_records_afterwards(
    log: SqliteLog, publisher: SqlitePublisher, path: Path
) -> None:
    with locked(path):
        with pytest.raises(LogUnavailable):
            publisher.send(TOPIC, 0, b"lost", ()).result(WAIT_S)
        with pytest.raises(LogUnavailable):
            publisher.probe(WAIT_S)
        with pytest.raises(LogUnavailable):
            log.trim(TOPIC, 0, {PARTITION: 0})
    publisher.probe(WAIT_S)
    assert publisher.send(TOPIC, 0, b"kept", ()).result(WAIT_S) == 0
    assert values(log) == [b"kept"]


def test_probe_gives_up_in_time(path: Path) -> None:
    publisher = SqlitePublisher(SqliteLog(path, [TOPIC], busy_timeout_s=1.0))
    with locked(path):
        before_s = time.monotonic()
        with pytest.raises(LogUnavailable):
            publisher.probe(0.1)
        assert time.monotonic() - before_s < 0.8
    publisher.close(5.0)


class SmallDisk(SqliteLog):
    """A log whose file may not grow beyond so many pages."""

    pages = 100

    def connect(self) -> sqlite3.Connection:
        connection = super().connect()
        connection.execute(f"PRAGMA max_page_count = {self.pages}")
        return connection


def test_full_disk_is_unavailable_and_loses_nothing_acknowledged(path: Path) -> None:
    log = SmallDisk(path, [TOPIC])
    publisher = SqlitePublisher(log)
    record = os.urandom(50_000)
    errors = [publisher.send(TOPIC, 0, record, ()).exception(WAIT_S) for _ in range(20)]
    kept = errors.count(None)
    assert 0 < kept < 20
    assert {type(error) for error in errors[kept:]} == {LogUnavailable}
    log.pages = 10_000
    assert publisher.send(TOPIC, 0, record, ()).result(WAIT_S) == kept
    assert values(log) == [record] * (kept + 1)
    publisher.close(5.0)


def test_queue_is_bounded(path: Path) -> None:
    publisher = SqlitePublisher(
        SqliteLog(path, [TOPIC], busy_timeout_s=10.0), max_queued_bytes=1_000_000
    )
    with locked(path):
        futures = [publisher.send(TOPIC, 0, bytes(400_000), ()) for _ in range(5)]
        assert futures[4].done()
        with pytest.raises(LogUnavailable):
            futures[4].result(0)
    assert futures[0].result(WAIT_S) == 0
    publisher.close(5.0)


def test_closing_in_time_fails_what_is_still_queued(path: Path) -> None:
    publisher = SqlitePublisher(SqliteLog(path, [TOPIC], busy_timeout_s=10.0))
    with locked(path):
        being_written = publisher.send(TOPIC, 0, b"x", ())
        while publisher._queue:
            time.sleep(0.001)
        queued = publisher.send(TOPIC, 0, b"y", ())
        publisher.close(0.1)
        with pytest.raises(LogUnavailable):
            queued.result(0)
    assert being_written.result(WAIT_S) == 0


class Broken(SqliteLog):
    broken = False

    def connect(self) -> sqlite3.Connection:
        if self.broken:
            raise ZeroDivisionError
        return super().connect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_senders_hear_of_a_writer_that_died_of_an_unknown_error(path: Path) -> None:
    log = Broken(path, [TOPIC])
    publisher = SqlitePublisher(log)
    log.broken = True
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            publisher.send(TOPIC, 0, b"x", ()).result(WAIT_S)
    publisher.close(5.0)


def test_folder_that_is_missing_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable):
        SqliteLog(tmp_path / "missing" / "log.db", [TOPIC])


def test_topics_and_partitions_can_be_added(path: Path, log: SqliteLog) -> None:
    publisher = SqlitePublisher(log)
    send_all(publisher, PARTITION, [b"x"])
    publisher.close(5.0)
    grown = SqliteLog(path, [TOPIC, "new"], partitions=2)
    publisher = SqlitePublisher(grown)
    assert publisher.partition_count("new") == 2
    assert publisher.send(TOPIC, 0, b"y", ()).result(WAIT_S) == 1
    assert publisher.send(TOPIC, 1, b"z", ()).result(WAIT_S) == 0
    publisher.close(5.0)


# Source


@pytest.fixture
def member(log: SqliteLog, tmp_path: Path) -> Iterator[Member]:
    member = Member(SqliteSource(log, tmp_path / "store.db"), [TOPIC])
    yield member
    member.source.close()


def test_offsets_lie_in_the_file_of_the_store(
    publisher: SqlitePublisher, member: Member, tmp_path: Path
) -> None:
    send_all(publisher, PARTITION, [b"x"])
    member.read(1)
    member.commit()
    with closing(sqlite3.connect(tmp_path / "store.db")) as store:
        assert store.execute("SELECT * FROM offsets").fetchall() == [(TOPIC, 0, 1)]


def test_records_of_another_process_are_seen_too(path: Path, member: Member) -> None:
    assert member.poll(0.0) == []
    other = SqlitePublisher(SqliteLog(path, [TOPIC]))
    send_all(other, PARTITION, [b"x"])
    other.close(5.0)
    assert [r.value for r in member.poll(10.0)] == [b"x"]


def test_commit_is_unavailable_while_the_store_is_locked(
    publisher: SqlitePublisher, member: Member, tmp_path: Path
) -> None:
    send_all(publisher, PARTITION, [b"x"])
    member.read(1)
    member.source.commit({})
    with locked(tmp_path / "store.db"), pytest.raises(LogUnavailable):
        member.commit()
    member.commit()
    assert member.source.committed([PARTITION]) == {PARTITION: 1}


def test_poll_is_bounded_in_records_and_bytes(
    log: SqliteLog, publisher: SqlitePublisher, tmp_path: Path
) -> None:
    send_all(publisher, PARTITION, [bytes(100)] * 10)
    few = SqliteSource(log, tmp_path / "a.db", max_poll_records=3)
    small = SqliteSource(log, tmp_path / "b.db", max_poll_bytes=250)
    for source in (few, small):
        member = Member(source, [TOPIC])
        assert len(member.poll(0.0)) == 3
        member.read(10)
        assert [r.offset for r in member.records] == list(range(10))
        source.close()


def test_partitions_take_turns(path: Path, tmp_path: Path) -> None:
    log = SqliteLog(path, [TOPIC], partitions=2)
    publisher = SqlitePublisher(log)
    for partition in range(2):
        send_all(publisher, TopicPartition(TOPIC, partition), [b"x"] * 4)
    member = Member(SqliteSource(log, tmp_path / "store.db", max_poll_records=2), [TOPIC])
    turns = [{r.partition for r in member.poll(0.0)} for _ in range(4)]
    assert turns == [{0}, {1}, {0}, {1}]
    member.source.close()
    publisher.close(5.0)


# Trimming


class Clock:
    """Unix time that tests set, in seconds."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def aged(log: SqliteLog) -> Iterator[SqlitePublisher]:
    """A publisher that has sent 0 to 4, one a minute from time zero on."""
    clock = Clock()
    publisher = SqlitePublisher(log, clock=clock)
    for n in range(5):
        clock.time_s = n * 60.0
        send_all(publisher, PARTITION, [b"%d" % n])
    yield publisher
    publisher.close(5.0)


@pytest.mark.usefixtures("aged")
def test_trim_deletes_what_is_both_old_and_settled(log: SqliteLog) -> None:
    assert log.trim(TOPIC, 3 * MINUTE_MS, {PARTITION: 2}) == 2
    assert values(log) == [b"2", b"3", b"4"]
    assert log.trim(TOPIC, 3 * MINUTE_MS, {PARTITION: 5}) == 1
    assert values(log) == [b"3", b"4"]
    assert log.trim(TOPIC, 3 * MINUTE_MS, {PARTITION: 5}) == 0


@pytest.mark.usefixtures("aged")
def test_trim_leaves_partitions_that_nobody_has_settled(log: SqliteLog) -> None:
    assert log.trim(TOPIC, 9 * MINUTE_MS, {}) == 0
    assert log.trim("other", 9 * MINUTE_MS, {PARTITION: 5}) == 0
    assert len(values(log)) == 5


def test_offsets_go_on_after_everything_was_trimmed(
    path: Path, log: SqliteLog, aged: SqlitePublisher
) -> None:
    assert log.trim(TOPIC, 9 * MINUTE_MS, {PARTITION: 5}) == 5
    aged.close(5.0)
    again = SqliteLog(path, [TOPIC])
    publisher = SqlitePublisher(again)
    assert publisher.send(TOPIC, 0, b"5", ()).result(WAIT_S) == 5
    assert values(again) == [b"5"]
    publisher.close(5.0)


def test_trim_takes_many_records_in_pieces(log: SqliteLog, publisher: SqlitePublisher) -> None:
    send_all(publisher, PARTITION, [b"x"] * 1300)
    later_ms = int(time.time() * 1000) + MINUTE_MS
    assert log.trim(TOPIC, later_ms, {PARTITION: 1234}) == 1234
    assert len(values(log)) == 66
