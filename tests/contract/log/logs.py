"""The three logs, each with fresh topics, behind one small surface for the contract suite."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Protocol

from adapters.kafka.admin import KafkaAdmin, TopicSpec
from adapters.kafka.client import connect_admin, to_library
from adapters.kafka.publisher import KafkaPublisher
from adapters.kafka.reader import KafkaReader
from adapters.kafka.source import KafkaSource
from embedded.log.file import SqliteLog
from embedded.log.publisher import SqlitePublisher
from embedded.log.reader import SqliteReader
from embedded.log.source import SqliteSource
from schemas.log.protocols import Publisher, Reader, Record, Source, TopicPartition
from tests.fakes.memory_log import MemoryLog

PARTITIONS = 3
WAIT_S = 30.0


class Log(Protocol):
    """One log with two topics of three partitions, and a way to reach what no protocol has."""

    topic: str
    other_topic: str

    def publisher(self) -> Publisher: ...
    def source(self) -> Source: ...
    def reader(self) -> Reader: ...
    def reopen(self) -> None: ...
    def delete_before(self, partition: TopicPartition, offset: int) -> None: ...
    def close(self) -> None: ...


class Closing:
    """Closes whatever a test has opened."""

    def __init__(self) -> None:
        self._publishers: list[Publisher] = []
        self._sources: list[Source] = []

    def publishing(self, publisher: Publisher) -> Publisher:
        self._publishers.append(publisher)
        return publisher

    def reading(self, source: Source) -> Source:
        self._sources.append(source)
        return source

    def close(self) -> None:
        for source in self._sources:
            source.close()
        for publisher in self._publishers:
            publisher.close(5.0)


class InMemory(Closing):
    topic = "one"
    other_topic = "two"

    def __init__(self) -> None:
        super().__init__()
        self._log = MemoryLog({self.topic: PARTITIONS, self.other_topic: PARTITIONS})

    def publisher(self) -> Publisher:
        return self.publishing(self._log.publisher())

    def source(self) -> Source:
        return self.reading(self._log.source())

    def reader(self) -> Reader:
        return self._log.reader()

    def reopen(self) -> None:
        """Nothing survives the process here, and nothing is claimed to."""

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        self._log.delete_before(partition, offset)


class InSqlite(Closing):
    topic = "one"
    other_topic = "two"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.reopen()

    def publisher(self) -> Publisher:
        return self.publishing(SqlitePublisher(self._log))

    def source(self) -> Source:
        return self.reading(SqliteSource(self._log, self._folder / "store.db"))

    def reader(self) -> Reader:
        return SqliteReader(self._log)

    def reopen(self) -> None:
        self._log = SqliteLog(
            self._folder / "log.db", [self.topic, self.other_topic], partitions=PARTITIONS
        )

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        later_ms = int(time.time() * 1000) + 60_000
        self._log.trim(partition.topic, later_ms, {partition: offset})


class InKafka(Closing):
    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__()
        self._servers = bootstrap_servers
        unique = uuid.uuid4().hex[:12]
        self.topic = f"log-{unique}-one"
        self.other_topic = f"log-{unique}-two"
        self._group = f"log-{unique}"
        with KafkaAdmin(bootstrap_servers) as admin:
            admin.create_topics(
                TopicSpec(topic, PARTITIONS, 1, 3_600_000)
                for topic in (self.topic, self.other_topic)
            )

    def publisher(self) -> Publisher:
        publisher = KafkaPublisher(self._servers, topics=[self.topic, self.other_topic])
        self.publishing(publisher)
        publisher.probe(10.0)
        return publisher

    def source(self) -> Source:
        return self.reading(KafkaSource(self._servers, self._group))

    def reader(self) -> Reader:
        return KafkaReader(self._servers)

    def reopen(self) -> None:
        """Each publisher and source has its own connection already."""

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        with closing(connect_admin(self._servers, timeout_s=10.0)) as admin:
            admin.delete_records({to_library(partition): offset})


class Member:
    """A source with a listener that remembers, and commits on revocation if it is told to."""

    def __init__(self, source: Source, topics: Collection[str]) -> None:
        self.source = source
        self.owned: set[TopicPartition] = set()
        self.events: list[tuple[str, frozenset[TopicPartition]]] = []
        self.records: list[Record] = []
        self.next_offsets: dict[TopicPartition, int] = {}
        self.commits_when_revoked = False
        source.subscribe(topics, self)

    def on_assigned(self, partitions: Collection[TopicPartition]) -> None:
        self.owned |= set(partitions)
        self.events.append(("assigned", frozenset(partitions)))

    def on_revoked(self, partitions: Collection[TopicPartition]) -> None:
        if self.commits_when_revoked:
            going = {p: o for p, o in self.next_offsets.items() if p in partitions}
            self.source.commit(going)
        self._drop(partitions)
        self.events.append(("revoked", frozenset(partitions)))

    def on_lost(self, partitions: Collection[TopicPartition]) -> None:
        self._drop(partitions)
        self.events.append(("lost", frozenset(partitions)))

    def poll(self, timeout_s: float = 0.3) -> list[Record]:
        records = self.source.poll(timeout_s)
        self.records += records
        for record in records:
            self.next_offsets[record.topic_partition] = record.next_offset
        return records

    def values(self) -> list[bytes]:
        return [record.value for record in self.records]

    def read(self, count: int) -> list[Record]:
        """Poll until so many records have come in all."""
        poll_until(lambda: len(self.records) >= count, self)
        return self.records

    def commit(self) -> None:
        self.source.commit(self.next_offsets)

    def _drop(self, partitions: Collection[TopicPartition]) -> None:
        self.owned -= set(partitions)
        for partition in partitions:
            self.next_offsets.pop(partition, None)


def poll_until(reached: Callable[[], bool], *members: Member, within_s: float = WAIT_S) -> None:
    """Poll the members in turn until it is so; fail if that takes too long."""
    deadline_s = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline_s, [m.events for m in members]
        for member in members:
            member.poll(0.1)


def send_all(publisher: Publisher, partition: TopicPartition, values: Collection[bytes]) -> None:
    """Send in order and wait for every acknowledgement."""
    futures = [publisher.send(partition.topic, partition.partition, v, ()) for v in values]
    for future in futures:
        future.result(WAIT_S)


def integrity(path: Path) -> str:
    """What SQLite says of a database file: ok."""
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
