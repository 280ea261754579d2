"""Ranges of a log, read once outside any group: the fake and a real Kafka pass the same tests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from adapters.kafka.admin import KafkaAdmin
from adapters.kafka.range import KafkaRange
from schemas.log.protocols import RecordRefused, TopicPartition
from schemas.log.ranges import LogRange, RangeSource
from tests.contract.log.logs import PARTITIONS, InKafka, InMemory, Log, Member, poll_until, send_all

Ranges = dict[TopicPartition, LogRange]


class Ranged:
    """A log, and how its ranges are found and read."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.topic = log.topic
        self.ends = 0
        self._sources: list[RangeSource] = []

    def since(self, since_ms: int | None = None, *topics: str) -> Ranges:
        if isinstance(self.log, InMemory):
            return self.log._log.ranges_since(topics or [self.topic], since_ms)
        with KafkaAdmin(self.log._servers) as admin:
            return admin.ranges_since(topics or [self.topic], since_ms)

    def reading(self, ranges: Ranges) -> Member:
        def ended() -> None:
            self.ends += 1

        if isinstance(self.log, InMemory):
            source: RangeSource = self.log._log.range(ranges, ended)
        else:
            source = KafkaRange(self.log._servers, ranges, ended)
        self._sources.append(source)
        return Member(source, [self.topic])

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self.log.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.real)])
def ranged(request: pytest.FixtureRequest) -> Iterator[Ranged]:
    if request.param == "memory":
        log: Log = InMemory()
    else:
        log = InKafka(request.getfixturevalue("kafka").bootstrap_servers)
    ranged = Ranged(log)
    yield ranged
    ranged.close()


@pytest.fixture
def first(ranged: Ranged) -> TopicPartition:
    return TopicPartition(ranged.topic, 0)


@pytest.fixture
def second(ranged: Ranged) -> TopicPartition:
    return TopicPartition(ranged.topic, 1)


def end(ranged: Ranged, member: Member) -> None:
    """Commit what comes until the source says that this was all."""

    def ended() -> bool:
        member.commit()
        return ranged.ends > 0

    poll_until(ended, member)


def values(count: int, prefix: bytes = b"") -> list[bytes]:
    return [prefix + b"%d" % n for n in range(count)]


def later(ranged: Ranged, partition: TopicPartition) -> int:
    """A time after that of every record so far, and not after that of the next."""
    newest_ms = max(r.timestamp_ms for r in ranged.log.reader().read(partition.topic))
    while int(time.time() * 1000) <= newest_ms:
        time.sleep(0.001)
    return newest_ms + 1


def test_what_the_log_held_is_read_in_order_and_nothing_that_comes_later(ranged, first, second):
    publisher = ranged.log.publisher()
    send_all(publisher, first, values(150))
    send_all(publisher, second, values(100, b"x"))
    ranges = ranged.since()
    assert {p: r.records for p, r in ranges.items()} == {
        first: 150,
        second: 100,
        TopicPartition(ranged.topic, 2): 0,
    }
    send_all(publisher, first, [b"late"] * 100)
    member = ranged.reading(ranges)
    end(ranged, member)
    for partition, expected in ((first, values(150)), (second, values(100, b"x"))):
        ours = [r for r in member.records if r.topic_partition == partition]
        assert [r.value for r in ours] == expected
        assert [r.offset for r in ours] == list(range(len(expected)))
    assert [kind for kind, _ in member.events] == ["assigned"]


def test_it_ends_once_and_not_before_everything_is_committed(ranged, first):
    send_all(ranged.log.publisher(), first, values(3))
    member = ranged.reading(ranged.since())
    member.read(3)
    for _ in range(3):
        member.poll(0.05)
    assert not ranged.ends
    member.source.commit({first: 2})
    member.poll(0.05)
    assert not ranged.ends
    member.source.commit({first: 3})
    for _ in range(3):
        member.poll(0.05)
    assert ranged.ends == 1
    assert member.source.progress.finished


def test_a_range_begins_with_the_first_record_of_that_time_or_later(ranged, first, second):
    publisher = ranged.log.publisher()
    send_all(publisher, first, values(5))
    send_all(publisher, second, values(5))
    since_ms = later(ranged, first)
    send_all(publisher, first, [b"new"])
    ranges = ranged.since(since_ms)
    assert (ranges[first].start, ranges[first].end) == (5, 6)
    assert ranges[first].first_ms >= since_ms
    assert ranges[second].records == 0
    assert not any(r.cut for r in ranges.values())
    member = ranged.reading(ranges)
    end(ranged, member)
    assert member.values() == [b"new"]


def test_a_log_that_begins_later_than_asked_says_so(ranged, first):
    send_all(ranged.log.publisher(), first, values(5))
    ranged.log.delete_before(first, 2)
    found = ranged.since(1)[first]
    assert (found.start, found.records, found.cut) == (2, 3, True)
    found = ranged.since()[first]
    assert (found.start, found.records, found.cut) == (2, 3, False)
    assert found.first_ms > 1


def test_a_topic_that_is_not_there_is_refused(ranged):
    with pytest.raises(RecordRefused, match="unheard-of"):
        ranged.since(None, f"unheard-of-{uuid.uuid4().hex}")


def test_paused_partitions_give_nothing_and_all_of_it_once_they_are_resumed(ranged, first, second):
    publisher = ranged.log.publisher()
    for partition in (first, second):
        send_all(publisher, partition, values(200))
    member = ranged.reading(ranged.since())
    poll_until(lambda: bool(member.owned), member)
    member.source.pause([first])
    poll_until(lambda: len(of(member, second)) == 200, member)
    held = len(of(member, first))
    member.poll(0.1)
    assert len(of(member, first)) == held
    member.source.resume([first, second])
    end(ranged, member)
    assert of(member, first) == of(member, second) == values(200)


def of(member: Member, partition: TopicPartition) -> list[bytes]:
    return [record.value for record in member.records if record.topic_partition == partition]


def test_what_is_deleted_before_it_was_read_is_passed_over_and_counted(ranged, first, second):
    publisher = ranged.log.publisher()
    for partition in (first, second):
        send_all(publisher, partition, values(10))
    ranges = ranged.since()
    ranged.log.delete_before(first, 7)
    ranged.log.delete_before(second, 10)
    member = ranged.reading(ranges)
    end(ranged, member)
    assert member.values() == [b"7", b"8", b"9"]
    assert member.source.progress.deleted == 17
    assert member.source.progress.settled == 20


def test_groups_hear_nothing_of_it(ranged, first):
    send_all(ranged.log.publisher(), first, values(5))
    worker = Member(ranged.log.source(), [ranged.topic])
    worker.read(5)
    worker.source.commit({first: 2})
    member = ranged.reading(ranged.since())
    end(ranged, member)
    worker.poll(0.5)
    assert worker.source.committed([first]) == {first: 2}
    assert len(worker.owned) == PARTITIONS
    assert [kind for kind, _ in worker.events] == ["assigned"]


def test_nothing_to_read_ends_at_once(ranged):
    member = ranged.reading(ranged.since())
    poll_until(lambda: ranged.ends == 1, member)
    assert member.records == []
