"""What the Kafka log does while its broker is killed or frozen for longer than it waits."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import pytest

from adapters.kafka.admin import KafkaAdmin, TopicSpec
from adapters.kafka.client import connect_admin
from adapters.kafka.publisher import KafkaPublisher
from adapters.kafka.reader import KafkaReader
from adapters.kafka.source import KafkaSource
from native.kafka import Broker
from native.ports import free_ports
from schemas.log.protocols import LogUnavailable, Publisher, RecordRefused, TopicPartition
from tests.contract.log.logs import WAIT_S, Member, poll_until, send_all

pytestmark = [pytest.mark.slow]

TOPIC = "faults"
PARTITION = TopicPartition(TOPIC, 0)
ACK_DEADLINE_S = 2.0
#: How late a future may fail: the watcher's period, and a machine that is busy.
LATE_S = 1.0

StartBroker = Callable[..., Broker]


@dataclass
class Fault:
    """A way for a broker to go away and come back."""

    begin: Callable[[Broker], None]
    end: Callable[[Broker], object]


FAULTS = {
    "killed": Fault(lambda b: b.process.kill(), lambda b: b.process.restart()),
    "frozen": Fault(lambda b: b.process.pause(), lambda b: b.process.resume()),
}


@pytest.fixture(params=sorted(FAULTS))
def fault(request: pytest.FixtureRequest) -> Fault:
    return FAULTS[request.param]


@pytest.fixture
def broker(kafka_process: StartBroker) -> Broker:
    broker = kafka_process()
    make_topic(broker)
    return broker


@pytest.fixture
def publisher(broker: Broker) -> Iterator[KafkaPublisher]:
    publisher = KafkaPublisher(
        broker.bootstrap_servers, topics=[TOPIC], ack_deadline_s=ACK_DEADLINE_S
    )
    publisher.probe(10.0)
    yield publisher
    publisher.close(1.0)


def make_topic(broker: Broker) -> None:
    with KafkaAdmin(broker.bootstrap_servers) as admin:
        admin.create_topics([TopicSpec(TOPIC, 1, 1, 3_600_000)])


@dataclass
class Sent:
    value: bytes
    at_s: float
    future: Future[int]
    done_s: float = field(default=float("inf"))

    @property
    def acknowledged(self) -> bool:
        return self.future.done() and self.future.exception() is None


def send(publisher: Publisher, value: bytes) -> Sent:
    at_s = time.monotonic()
    sent = Sent(value, at_s, publisher.send(TOPIC, 0, value, ()))
    assert time.monotonic() - at_s < 0.5, "send waited for the network"
    sent.future.add_done_callback(lambda _: setattr(sent, "done_s", time.monotonic()))
    return sent


def probe_until_mended(publisher: Publisher) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            publisher.probe(2.0)
        except LogUnavailable:
            assert time.monotonic() < deadline_s
        else:
            return


def in_log(broker: Broker) -> list[bytes]:
    return [r.value for r in KafkaReader(broker.bootstrap_servers).read(TOPIC)]


def assert_each_acknowledged_record_once_in_order(broker: Broker, sent: list[Sent]) -> None:
    found = in_log(broker)
    counts = Counter(found)
    acknowledged = [s.value for s in sent if s.acknowledged]
    assert {v: counts[v] for v in acknowledged} == dict.fromkeys(acknowledged, 1)
    wanted = set(acknowledged)
    assert [v for v in found if v in wanted] == acknowledged


def test_publisher_fails_in_time_and_mends_after_each_of_two_outages(
    broker: Broker, publisher: KafkaPublisher, fault: Fault
) -> None:
    sent = [send(publisher, b"healthy %d" % n) for n in range(10)]
    for s in sent:
        s.future.result(WAIT_S)
    for outage in range(2):
        fault.begin(broker)
        lost = [send(publisher, b"lost %d %d" % (outage, n)) for n in range(10)]
        for s in lost:
            with pytest.raises(LogUnavailable):
                s.future.result(WAIT_S)
            assert s.done_s - s.at_s < ACK_DEADLINE_S + LATE_S
        refused = send(publisher, b"refused %d" % outage)
        assert refused.future.done(), "a broken publisher must refuse at once"
        with pytest.raises(LogUnavailable):
            publisher.probe(1.0)
        with pytest.raises(LogUnavailable):
            refused.future.result(0)
        fault.end(broker)
        probe_until_mended(publisher)
        mended = [send(publisher, b"mended %d %d" % (outage, n)) for n in range(10)]
        for s in mended:
            s.future.result(WAIT_S)
        sent += [*lost, refused, *mended]
    assert_each_acknowledged_record_once_in_order(broker, sent)


def test_nothing_acknowledged_is_lost_doubled_or_reordered_under_load(
    broker: Broker, publisher: KafkaPublisher, fault: Fault
) -> None:
    sent: list[Sent] = []
    stop = threading.Event()

    def send_on() -> None:
        while not stop.wait(0.005):
            sent.append(send(publisher, b"%d" % len(sent)))

    def probe_on() -> None:
        while not stop.wait(0.2):
            try:
                publisher.probe(1.0)
            except LogUnavailable:
                continue

    def acknowledged_since(index: int) -> bool:
        return sum(s.acknowledged for s in sent[index:]) > 50

    threads = [threading.Thread(target=work) for work in (send_on, probe_on)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: acknowledged_since(0))
        for _ in range(2):
            begun = len(sent)
            fault.begin(broker)
            wait_until(partial(any_failed, sent, begun))
            fault.end(broker)
            ended = len(sent)
            wait_until(partial(acknowledged_since, ended))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    publisher.close(10.0)
    for s in sent:
        assert s.done_s - s.at_s < ACK_DEADLINE_S + LATE_S
    assert_each_acknowledged_record_once_in_order(broker, sent)


def any_failed(sent: list[Sent], since: int) -> bool:
    return any(s.future.done() and not s.acknowledged for s in sent[since:])


def wait_until(reached: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_publisher_starts_while_kafka_is_away(kafka_process: StartBroker) -> None:
    (port,) = free_ports(1)
    publisher = KafkaPublisher(f"127.0.0.1:{port}", topics=[TOPIC], ack_deadline_s=ACK_DEADLINE_S)
    early = send(publisher, b"early")
    assert early.future.done()
    with pytest.raises(LogUnavailable):
        early.future.result(0)
    with pytest.raises(LogUnavailable):
        publisher.partition_count(TOPIC)
    with pytest.raises(LogUnavailable):
        publisher.probe(0.5)
    broker = kafka_process(port=port)
    with pytest.raises(LogUnavailable, match="provision"):
        publisher.probe(10.0)
    with KafkaAdmin(broker.bootstrap_servers) as admin:
        assert admin.describe_topics() == {}
    make_topic(broker)
    probe_until_mended(publisher)
    assert publisher.partition_count(TOPIC) == 1
    assert send(publisher, b"x").future.result(WAIT_S) == 0
    publisher.close(1.0)


def test_closing_while_the_broker_is_frozen_fails_what_is_in_flight(
    broker: Broker, publisher: KafkaPublisher
) -> None:
    broker.process.pause()
    sent = send(publisher, b"x")
    before_s = time.monotonic()
    publisher.close(0.5)
    assert time.monotonic() - before_s < 2.0
    with pytest.raises(LogUnavailable):
        sent.future.result(0)
    broker.process.resume()


def test_bytes_in_flight_are_bounded(broker: Broker) -> None:
    publisher = KafkaPublisher(
        broker.bootstrap_servers, topics=[TOPIC], max_in_flight_bytes=1_000_000
    )
    publisher.probe(10.0)
    broker.process.pause()
    futures = [publisher.send(TOPIC, 0, bytes(400_000), ()) for _ in range(3)]
    assert [f.done() for f in futures] == [False, False, True]
    with pytest.raises(LogUnavailable):
        futures[2].result(0)
    broker.process.resume()
    assert [f.result(WAIT_S) for f in futures[:2]] == [0, 1]
    assert publisher.send(TOPIC, 0, bytes(400_000), ()).result(WAIT_S) == 2
    publisher.close(1.0)


def test_record_that_only_the_broker_refuses_costs_a_probe_not_the_publisher(
    kafka_process: StartBroker,
) -> None:
    broker = kafka_process()
    with closing(connect_admin(broker.bootstrap_servers, timeout_s=10.0)) as admin:
        admin.create_topics({TOPIC: {"configs": {"max.message.bytes": "1000"}}})
        admin.wait_for_topics([TOPIC])
    publisher = KafkaPublisher(broker.bootstrap_servers, topics=[TOPIC])
    publisher.probe(10.0)
    with pytest.raises(RecordRefused):
        publisher.send(TOPIC, 0, os.urandom(5000), ()).result(WAIT_S)
    with pytest.raises(LogUnavailable):
        publisher.send(TOPIC, 0, b"x", ()).result(WAIT_S)
    publisher.probe(10.0)
    assert publisher.send(TOPIC, 0, b"x", ()).result(WAIT_S) == 0
    publisher.close(1.0)


def test_source_polls_through_an_outage_and_reads_on(
    broker: Broker, publisher: KafkaPublisher, fault: Fault
) -> None:
    source = KafkaSource(
        broker.bootstrap_servers, "g", session_timeout_s=6.0, request_timeout_s=1.0
    )
    member = Member(source, [TOPIC])
    send_all(publisher, PARTITION, [b"before"])
    member.read(1)
    fault.begin(broker)
    for _ in range(4):
        before_s = time.monotonic()
        assert member.poll(0.5) == []
        assert time.monotonic() - before_s < 2.0
    for ask in (
        lambda: source.commit({PARTITION: 1}),
        lambda: source.committed([PARTITION]),
        lambda: source.end_offsets([PARTITION]),
    ):
        with pytest.raises(LogUnavailable):
            ask()
    fault.end(broker)
    probe_until_mended(publisher)
    send_all(publisher, PARTITION, [b"after"])
    poll_until(lambda: b"after" in member.values(), member)
    poll_until(lambda: committed(member), member)
    source.close()
    again = Member(KafkaSource(broker.bootstrap_servers, "g"), [TOPIC])
    send_all(publisher, PARTITION, [b"sentinel"])
    again.read(1)
    assert again.values() == [b"sentinel"]
    again.source.close()


def test_source_closes_while_the_broker_is_away(broker: Broker, fault: Fault) -> None:
    member = Member(KafkaSource(broker.bootstrap_servers, "g"), [TOPIC])
    poll_until(lambda: bool(member.owned), member)
    fault.begin(broker)
    before_s = time.monotonic()
    member.source.close()
    assert time.monotonic() - before_s < 6.0
    fault.end(broker)


def committed(member: Member) -> bool:
    try:
        member.commit()
    except LogUnavailable:
        return False
    return bool(member.next_offsets)


def test_source_starts_while_kafka_is_away(kafka_process: StartBroker) -> None:
    (port,) = free_ports(1)
    threads = threading.active_count()
    member = Member(KafkaSource(f"127.0.0.1:{port}", "g"), [TOPIC])
    for _ in range(3):
        assert member.poll(0.3) == []
    with pytest.raises(LogUnavailable):
        member.source.end_offsets([PARTITION])
    assert threading.active_count() == threads, "failed attempts to connect leave threads"
    broker = kafka_process(port=port)
    make_topic(broker)
    publisher = KafkaPublisher(broker.bootstrap_servers, topics=[TOPIC])
    publisher.probe(10.0)
    send_all(publisher, PARTITION, [b"x"])
    member.read(1)
    assert member.values() == [b"x"]
    member.source.close()
    publisher.close(1.0)


def test_reader_says_when_kafka_is_away(broker: Broker, fault: Fault) -> None:
    fault.begin(broker)
    with pytest.raises(LogUnavailable):
        list(KafkaReader(broker.bootstrap_servers, timeout_s=1.0).read(TOPIC))
    fault.end(broker)
