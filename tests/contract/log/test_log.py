"""What every log promises: the fake, SQLite and a real Kafka pass the same tests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.log.block import MAX_BLOCK_BYTES
from schemas.log.protocols import LogUnavailable, OffsetsLost, RecordRefused, TopicPartition
from tests.contract.log.logs import (
    PARTITIONS,
    WAIT_S,
    InKafka,
    InMemory,
    InSqlite,
    Log,
    Member,
    poll_until,
    send_all,
)

REAL_KAFKA = pytest.param("kafka", marks=pytest.mark.real)


def make_log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    if request.param == "memory":
        return InMemory()
    if request.param == "sqlite":
        return InSqlite(tmp_path)
    return InKafka(request.getfixturevalue("kafka").bootstrap_servers)


@pytest.fixture(params=["memory", "sqlite", REAL_KAFKA])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    log = make_log(request, tmp_path)
    yield log
    log.close()


@pytest.fixture(params=["memory", REAL_KAFKA])
def group_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    """A log whose groups have more than one member."""
    log = make_log(request, tmp_path)
    yield log
    log.close()


@pytest.fixture
def first(log: Log) -> TopicPartition:
    return TopicPartition(log.topic, 0)


@pytest.fixture
def second(log: Log) -> TopicPartition:
    return TopicPartition(log.topic, 1)


def join(log: Log) -> Member:
    """A member that owns every partition of the first topic."""
    member = Member(log.source(), [log.topic])
    poll_until(lambda: len(member.owned) == PARTITIONS, member)
    return member


# Publisher


def test_offsets_count_up_from_zero_in_each_partition(log: Log) -> None:
    publisher = log.publisher()
    futures = [publisher.send(log.topic, n % PARTITIONS, b"x", ()) for n in range(9)]
    assert [f.result(WAIT_S) for f in futures] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_topics_count_apart(log: Log) -> None:
    publisher = log.publisher()
    assert publisher.send(log.topic, 0, b"x", ()).result(WAIT_S) == 0
    assert publisher.send(log.other_topic, 0, b"x", ()).result(WAIT_S) == 0


def test_publisher_knows_how_many_partitions_a_topic_has(log: Log) -> None:
    publisher = log.publisher()
    assert publisher.partition_count(log.topic) == PARTITIONS
    with pytest.raises(RecordRefused):
        publisher.partition_count("unheard-of")


def test_unknown_topics_and_partitions_are_refused_at_once(log: Log) -> None:
    publisher = log.publisher()
    for topic, partition in (("unheard-of", 0), (log.topic, PARTITIONS), (log.topic, -1)):
        before_s = time.monotonic()
        future = publisher.send(topic, partition, b"x", ())
        assert time.monotonic() - before_s < 0.5
        with pytest.raises(RecordRefused):
            future.result(WAIT_S)


def test_record_that_is_too_large_is_refused_and_the_next_one_taken(log: Log) -> None:
    publisher = log.publisher()
    with pytest.raises(RecordRefused):
        publisher.send(log.topic, 0, os.urandom(1_100_000), ()).result(WAIT_S)
    assert publisher.send(log.topic, 0, b"x", ()).result(WAIT_S) == 0


def test_largest_block_passes_though_it_does_not_compress(log: Log, first: TopicPartition) -> None:
    block = os.urandom(MAX_BLOCK_BYTES)
    send_all(log.publisher(), first, [block] * 3)
    assert [r.value for r in log.reader().read(log.topic)] == [block] * 3


def test_records_of_many_threads_all_arrive_each_thread_in_order(log: Log) -> None:
    publisher = log.publisher()

    def send(name: int) -> None:
        send_all(publisher, TopicPartition(log.topic, 0), [b"%d %d" % (name, n) for n in range(50)])

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    values = [r.value for r in log.reader().read(log.topic)]
    assert len(values) == 200
    for name in range(4):
        ours = [v for v in values if v.startswith(b"%d " % name)]
        assert ours == [b"%d %d" % (name, n) for n in range(50)]


def test_acknowledged_records_are_there_after_reopening(log: Log, first: TopicPartition) -> None:
    publisher = log.publisher()
    send_all(publisher, first, [b"1", b"2"])
    publisher.close(5.0)
    log.reopen()
    publisher = log.publisher()
    assert publisher.send(first.topic, first.partition, b"3", ()).result(WAIT_S) == 2
    assert [r.value for r in log.reader().read(log.topic)] == [b"1", b"2", b"3"]


def test_waiter_that_gives_up_does_not_cancel_its_record(log: Log) -> None:
    publisher = log.publisher()
    future = publisher.send(log.topic, 0, b"x", ())
    assert not future.cancel()
    assert future.result(WAIT_S) == 0


def test_probe_succeeds_while_the_log_takes_records(log: Log) -> None:
    log.publisher().probe(10.0)


def test_close_waits_for_records_in_flight(log: Log) -> None:
    publisher = log.publisher()
    futures = [publisher.send(log.topic, 0, b"x", ()) for _ in range(100)]
    publisher.close(10.0)
    assert [f.result(0) for f in futures] == list(range(100))


def test_closed_publisher_takes_nothing_and_closes_again(log: Log) -> None:
    publisher = log.publisher()
    publisher.close(1.0)
    publisher.close(1.0)
    with pytest.raises(LogUnavailable):
        publisher.send(log.topic, 0, b"x", ()).result(WAIT_S)
    with pytest.raises(LogUnavailable):
        publisher.probe(1.0)


# Source


def test_records_come_as_they_were_sent(log: Log, first: TopicPartition) -> None:
    publisher = log.publisher()
    headers = (("v", b"1"), ("tag", b"a"), ("tag", b"\x00\xff"), ("empty", b""), ("größe", b"9"))
    before_ms = int(time.time() * 1000)
    publisher.send(first.topic, first.partition, b"m f=1\nm f=2", headers).result(WAIT_S)
    publisher.send(first.topic, first.partition, b"", ()).result(WAIT_S)
    one, two = join(log).read(2)
    assert (one.topic_partition, one.offset, one.next_offset) == (first, 0, 1)
    assert (one.value, one.headers) == (b"m f=1\nm f=2", headers)
    assert abs(one.timestamp_ms - before_ms) < 60_000
    assert (two.value, two.headers) == (b"", ())


def test_records_of_one_partition_come_in_the_order_of_sends(
    log: Log, first: TopicPartition, second: TopicPartition
) -> None:
    publisher = log.publisher()
    values = [b"%d" % n for n in range(300)]
    send_all(publisher, first, values)
    send_all(publisher, second, values)
    records = join(log).read(600)
    for partition in (first, second):
        ours = [r for r in records if r.topic_partition == partition]
        assert [r.value for r in ours] == values
        assert [r.offset for r in ours] == list(range(300))


def test_partitions_are_assigned_within_a_poll(log: Log) -> None:
    member = Member(log.source(), [log.topic, log.other_topic])
    assert member.events == []
    poll_until(lambda: len(member.owned) == 2 * PARTITIONS, member)


def test_partitions_are_assigned_however_short_the_polls_are(log: Log) -> None:
    member = Member(log.source(), [log.topic])
    deadline_s = time.monotonic() + WAIT_S
    while len(member.owned) < PARTITIONS:
        assert time.monotonic() < deadline_s
        member.poll(0.01)
    send_all(log.publisher(), min(member.owned), [b"x"])
    member.read(1)


def test_poll_returns_nothing_when_its_time_is_up(log: Log) -> None:
    member = join(log)
    before_s = time.monotonic()
    assert member.poll(0.5) == []
    assert 0.4 < time.monotonic() - before_s < 5.0


def test_waiting_poll_returns_what_is_sent_meanwhile(log: Log) -> None:
    publisher = log.publisher()
    member = join(log)
    sender = threading.Timer(0.2, publisher.send, (log.topic, 0, b"x", ()))
    before_s = time.monotonic()
    sender.start()
    assert [r.value for r in member.poll(20.0)] == [b"x"]
    assert time.monotonic() - before_s < 10.0
    sender.join()


def test_uncommitted_records_come_again_to_the_next_member(log: Log, first: TopicPartition) -> None:
    send_all(log.publisher(), first, [b"1", b"2"])
    member = join(log)
    member.read(2)
    member.source.close()
    again = join(log)
    again.read(2)
    assert again.values() == [b"1", b"2"]


def test_next_member_begins_at_what_was_committed_of_each_partition(
    log: Log, first: TopicPartition, second: TopicPartition
) -> None:
    publisher = log.publisher()
    send_all(publisher, first, [b"a0", b"a1", b"a2"])
    send_all(publisher, second, [b"b0", b"b1"])
    member = join(log)
    member.read(5)
    member.source.commit({first: 2})
    member.source.close()
    again = join(log)
    again.read(3)
    send_all(publisher, first, [b"sentinel"])
    again.read(4)
    assert sorted(again.values()) == [b"a2", b"b0", b"b1", b"sentinel"]


def test_commits_are_remembered(log: Log, first: TopicPartition, second: TopicPartition) -> None:
    send_all(log.publisher(), first, [b"1", b"2"])
    member = join(log)
    member.read(2)
    assert member.source.committed([first, second]) == {first: None, second: None}
    member.source.commit({first: 1})
    member.source.commit({first: 2})
    member.source.commit({})
    assert member.source.committed([first, second]) == {first: 2, second: None}


def test_commit_for_a_partition_of_others_is_unavailable(log: Log) -> None:
    member = join(log)
    foreign = TopicPartition(log.other_topic, 0)
    with pytest.raises(LogUnavailable):
        member.source.commit({foreign: 1})
    assert member.source.committed([foreign]) == {foreign: None}


def test_end_offset_is_that_of_the_next_record(
    log: Log, first: TopicPartition, second: TopicPartition
) -> None:
    send_all(log.publisher(), first, [b"1", b"2"])
    member = join(log)
    assert member.source.end_offsets([first, second]) == {first: 2, second: 0}


def test_paused_partition_gives_nothing_until_it_is_resumed(
    log: Log, first: TopicPartition, second: TopicPartition
) -> None:
    publisher = log.publisher()
    send_all(publisher, first, [b"a0"])
    member = join(log)
    member.read(1)
    member.source.pause([first])
    send_all(publisher, first, [b"a1"])
    for n in range(3):
        send_all(publisher, second, [b"sentinel %d" % n])
        member.read(2 + n)
    assert member.values()[1:] == [b"sentinel 0", b"sentinel 1", b"sentinel 2"]
    member.source.resume([first])
    member.read(5)
    assert member.values()[4] == b"a1"


def test_a_partition_that_was_paused_when_half_read_goes_on_after_others_were_read_out(
    log: Log, first: TopicPartition, second: TopicPartition
) -> None:
    publisher = log.publisher()
    values = [b"%d" % n for n in range(100)]
    for partition in (first, second):
        send_all(publisher, partition, values)
    member = join(log)
    member.read(1)
    half_read = member.records[-1].topic_partition
    member.source.pause([half_read])
    (other,) = {first, second} - {half_read}
    poll_until(lambda: len(values_of(member, other)) == 100, member)
    member.source.resume([half_read])
    poll_until(lambda: len(member.records) == 200, member)
    assert values_of(member, half_read) == values_of(member, other) == values


def values_of(member: Member, partition: TopicPartition) -> list[bytes]:
    return [record.value for record in member.records if record.topic_partition == partition]


def test_poll_with_everything_paused_returns_and_keeps_the_partitions(log: Log) -> None:
    member = join(log)
    member.source.pause(member.owned)
    assert member.poll(0.5) == []
    assert len(member.owned) == PARTITIONS


def test_partition_without_a_commit_is_read_from_the_first_record_left(
    log: Log, first: TopicPartition
) -> None:
    send_all(log.publisher(), first, [b"1", b"2", b"3"])
    log.delete_before(first, 2)
    member = join(log)
    member.read(1)
    assert (member.records[0].value, member.records[0].offset) == (b"3", 2)


def test_records_deleted_before_they_were_read_are_reported(
    log: Log, first: TopicPartition, second: TopicPartition
) -> None:
    publisher = log.publisher()
    send_all(publisher, first, [b"1", b"2", b"3", b"4"])
    send_all(publisher, second, [b"1"])
    member = join(log)
    member.read(5)
    member.source.commit({first: 1, second: 1})
    member.source.close()
    log.delete_before(first, 3)
    unlucky = Member(log.source(), [log.topic])
    with pytest.raises(OffsetsLost) as caught:
        poll_until(lambda: False, unlucky)
    assert caught.value.lost == {first: (1, 3)}
    assert unlucky.values() == []


def test_loss_is_reported_until_the_start_of_the_log_is_committed(
    log: Log, first: TopicPartition
) -> None:
    send_all(log.publisher(), first, [b"1", b"2", b"3"])
    member = join(log)
    member.read(3)
    member.source.commit({first: 0})
    member.source.close()
    log.delete_before(first, 2)
    unlucky = Member(log.source(), [log.topic])
    for _ in range(2):
        with pytest.raises(OffsetsLost):
            poll_until(lambda: False, unlucky)
    unlucky.source.commit({first: 2})
    unlucky.read(1)
    assert unlucky.values() == [b"3"]


def test_committed_offset_beyond_the_end_is_reported(log: Log, first: TopicPartition) -> None:
    send_all(log.publisher(), first, [b"1", b"2"])
    member = join(log)
    member.read(2)
    member.source.commit({first: 7})
    member.source.close()
    with pytest.raises(OffsetsLost) as caught:
        poll_until(lambda: False, Member(log.source(), [log.topic]))
    assert caught.value.lost == {first: (7, 0)}


def test_source_closes_again(log: Log) -> None:
    member = join(log)
    member.source.close()
    member.source.close()
    assert [kind for kind, _ in member.events] == ["assigned"]


# Groups of several members


def test_two_members_share_the_partitions(group_log: Log) -> None:
    one, two = (Member(group_log.source(), [group_log.topic]) for _ in range(2))
    poll_until(lambda: bool(one.owned and two.owned) and settled(one, two), one, two)
    publisher = group_log.publisher()
    for partition in range(PARTITIONS):
        publisher.send(group_log.topic, partition, b"%d" % partition, ()).result(WAIT_S)
    poll_until(lambda: len(one.records) + len(two.records) == PARTITIONS, one, two)
    assert sorted(one.values() + two.values()) == [b"0", b"1", b"2"]


def test_member_takes_over_where_the_one_that_left_had_committed(group_log: Log) -> None:
    publisher = group_log.publisher()
    one, two = (Member(group_log.source(), [group_log.topic]) for _ in range(2))
    poll_until(lambda: bool(one.owned and two.owned) and settled(one, two), one, two)
    taken = min(one.owned)
    send_all(publisher, taken, [b"settled", b"open"])
    poll_until(lambda: len(one.records) == 2, one, two)
    one.source.commit({taken: 1})
    one.source.close()
    poll_until(lambda: len(two.owned) == PARTITIONS, two)
    two.read(1)
    assert two.values() == [b"open"]


def test_commit_from_within_the_revocation_counts(group_log: Log) -> None:
    publisher = group_log.publisher()
    one = Member(group_log.source(), [group_log.topic])
    one.commits_when_revoked = True
    poll_until(lambda: len(one.owned) == PARTITIONS, one)
    for partition in range(PARTITIONS):
        send_all(publisher, TopicPartition(group_log.topic, partition), [b"before"])
    one.read(PARTITIONS)
    two = Member(group_log.source(), [group_log.topic])
    poll_until(lambda: bool(one.owned and two.owned) and settled(one, two), one, two)
    assert "revoked" in [kind for kind, _ in one.events]
    for partition in range(PARTITIONS):
        send_all(publisher, TopicPartition(group_log.topic, partition), [b"after"])
    poll_until(lambda: len(one.records) + len(two.records) >= 2 * PARTITIONS, one, two)
    assert sorted(one.values() + two.values()) == [b"after"] * PARTITIONS + [b"before"] * PARTITIONS


def test_commit_for_a_partition_that_moved_on_is_unavailable(group_log: Log) -> None:
    publisher = group_log.publisher()
    one = Member(group_log.source(), [group_log.topic])
    poll_until(lambda: len(one.owned) == PARTITIONS, one)
    for partition in range(PARTITIONS):
        send_all(publisher, TopicPartition(group_log.topic, partition), [b"x"])
    one.read(PARTITIONS)
    two = Member(group_log.source(), [group_log.topic])
    poll_until(lambda: bool(one.owned and two.owned) and settled(one, two), one, two)
    with pytest.raises(LogUnavailable):
        one.source.commit({min(two.owned): 1})


def test_what_a_listener_raises_comes_out_of_poll(group_log: Log) -> None:
    class Broken(Member):
        def on_assigned(self, partitions: object) -> None:
            raise ZeroDivisionError(partitions)

    broken = Broken(group_log.source(), [group_log.topic])
    with pytest.raises(ZeroDivisionError):
        poll_until(lambda: False, broken)


def settled(one: Member, two: Member) -> bool:
    return len(one.owned) + len(two.owned) == PARTITIONS and not one.owned & two.owned


# Reader


def test_reader_gives_every_record_of_every_partition_and_stops(log: Log) -> None:
    publisher = log.publisher()
    for partition in range(PARTITIONS):
        send_all(
            publisher,
            TopicPartition(log.topic, partition),
            [b"%d %d" % (partition, n) for n in range(100)],
        )
    records = list(log.reader().read(log.topic))
    assert len(records) == 100 * PARTITIONS
    for partition in range(PARTITIONS):
        ours = [r for r in records if r.partition == partition]
        assert [r.offset for r in ours] == list(range(100))
        assert [r.value for r in ours] == [b"%d %d" % (partition, n) for n in range(100)]


def test_reader_begins_at_the_first_record_left(log: Log, first: TopicPartition) -> None:
    send_all(log.publisher(), first, [b"1", b"2", b"3"])
    log.delete_before(first, 2)
    assert [r.value for r in log.reader().read(log.topic)] == [b"3"]


def test_reader_of_an_empty_topic_gives_nothing(log: Log) -> None:
    assert list(log.reader().read(log.topic)) == []


def test_reader_refuses_an_unknown_topic(log: Log) -> None:
    with pytest.raises(RecordRefused):
        list(log.reader().read("unheard-of"))
