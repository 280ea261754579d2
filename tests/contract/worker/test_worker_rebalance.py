"""Workers that come and go on a real Kafka: whose partition is it, when a write starts?"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import pytest

from adapters.kafka.admin import KafkaAdmin, TopicSpec
from adapters.kafka.publisher import KafkaPublisher
from adapters.kafka.source import KafkaSource
from consumers.dead_letters import DeadLetters
from consumers.settings import WorkerSettings
from consumers.views import StepsView, WallView
from consumers.worker import Worker
from native.kafka import Broker
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, encode_headers
from schemas.log.protocols import DEAD_LETTER_TOPIC, RebalanceListener, TopicPartition, topic_of
from tests.deadline import eventually
from tests.fakes.memory_store import MemoryStore

pytestmark = pytest.mark.slow

RAW = topic_of("raw")
PARTITIONS = 6
START_MS = 1_700_000_000_000


class Member(MemoryStore):
    """One worker; it and the others write into one store, and know whose partitions are whose."""

    def __init__(self, bootstrap_servers: str, shared: MemoryStore, others: list[Member]) -> None:
        super().__init__()
        self.owned: set[int] = set()
        self.strays: list[tuple[str, set[int]]] = []
        self.started = 0
        self._shared = shared
        self._others = others
        self._waiting = threading.Event()  # never set
        self._publisher = KafkaPublisher(bootstrap_servers, topics=[DEAD_LETTER_TOPIC])
        self._publisher.probe(10)
        self.worker = Worker(
            WatchedSource(bootstrap_servers, self),
            self,
            DeadLetters(self._publisher),
            topics=[RAW],
            views=[WallView(), StepsView(frozenset())],
            # Batches wait to fill: a rebalance finds some that are not written yet.
            settings=WorkerSettings(batch_age_s=0.4),
        )

    def write(
        self, namespace: str, retention_class: str, lines: bytes, precision: Precision
    ) -> None:
        written = {int(found) for found in re.findall(rb"part=(\d+)", lines)}
        self.started += 1
        if written - self.owned:
            self.strays.append(("not ours", written - self.owned))
        for other in self._others:
            if other is not self and written & other.owned:
                self.strays.append(("someone else's", written & other.owned))
        self._waiting.wait(0.005)  # a write takes time: rebalances fall into it
        self._shared.write(namespace, retention_class, lines, precision)

    @contextmanager
    def working(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self.worker.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
            self._publisher.close(1)
        assert not thread.is_alive()


class WatchedSource(KafkaSource):
    """Notes what is the member's: until on_revoked has returned, and until on_lost is called."""

    def __init__(self, bootstrap_servers: str, member: Member) -> None:
        super().__init__(bootstrap_servers, "workers")
        self._member = member

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        self._inner = listener
        super().subscribe(topics, self)

    def on_assigned(self, partitions: Collection[TopicPartition]) -> None:
        self._member.owned |= numbers(partitions)
        self._inner.on_assigned(partitions)

    def on_revoked(self, partitions: Collection[TopicPartition]) -> None:
        self._inner.on_revoked(partitions)
        self._member.owned -= numbers(partitions)

    def on_lost(self, partitions: Collection[TopicPartition]) -> None:
        self._member.owned -= numbers(partitions)
        self._inner.on_lost(partitions)

    def close(self) -> None:
        self._member.owned.clear()
        super().close()


def numbers(partitions: Collection[TopicPartition]) -> set[int]:
    return {partition.partition for partition in partitions}


class Sender(threading.Thread):
    """Sends blocks to the partitions in turns until it is told to stop."""

    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__()
        self.sent = 0
        self.stop = threading.Event()
        self._publisher = KafkaPublisher(bootstrap_servers, topics=[RAW])
        self._publisher.probe(10)

    def run(self) -> None:
        futures = []
        while not self.stop.wait(0.005):
            partition = self.sent % PARTITIONS
            lines = b"m,part=%d,block=%d v=1,step=1i %d" % (partition, self.sent, START_MS)
            block = Block("vision", "stepclock", Precision.MS, 1, START_MS * 10**6, lines)
            futures.append(self._publisher.send(RAW, partition, lines, encode_headers(block)))
            self.sent += 1
        for future in futures:
            future.result(20)
        self._publisher.close(5)


def test_no_write_starts_for_a_partition_that_was_revoked_or_is_anothers(
    kafka_process: Callable[..., Broker],
) -> None:
    servers = kafka_process().bootstrap_servers
    with KafkaAdmin(servers) as admin:
        admin.create_topics(
            TopicSpec(name, PARTITIONS, 1, None) for name in (RAW, DEAD_LETTER_TOPIC)
        )
    sender = Sender(servers)
    store, members = MemoryStore(), []
    members += [Member(servers, store, members) for _ in range(3)]
    sender.start()
    with members[0].working():
        assert eventually(lambda: members[0].started > 10)
        for joins in members[1:]:
            with joins.working():
                assert eventually(lambda joins=joins: joins.started > 10)
        sender.stop.set()
        sender.join()
        assert eventually(lambda: len(list(store.points("stepclock", "steps", "m"))) == sender.sent)
    assert [member.strays for member in members] == [[], [], []]
