"""What the workers' progress looks like to a gateway, on every log."""

import uuid
from contextlib import closing

import pytest

from adapters.kafka.admin import KafkaAdmin, TopicSpec
from adapters.kafka.progress import KafkaProgress
from adapters.kafka.publisher import KafkaPublisher
from adapters.kafka.source import KafkaSource
from embedded.log.file import SqliteLog
from embedded.log.progress import SqliteProgress
from embedded.log.publisher import SqlitePublisher
from embedded.log.source import SqliteSource
from schemas.log.protocols import LogUnavailable, TopicPartition
from tests.deadline import eventually
from tests.fakes.memory_log import MemoryLog


class Silent:
    def on_assigned(self, partitions):
        pass

    on_revoked = on_lost = on_assigned


class Rig:
    """One topic that workers read and that is followed as well, which needs no second one."""

    def __init__(self, topic, publisher, source, progress):
        self.topic = topic
        self.publisher = publisher
        self.source = source
        self.new_progress = progress

    def send(self, *values):
        for value in values:
            self.publisher.send(self.topic, 0, value, (("h", b"1"),)).result(30)

    def close(self):
        self.source.close()
        self.publisher.close(5.0)


def in_memory(_request, _tmp_path):
    log = MemoryLog({"one": 2})
    return Rig("one", log.publisher(), log.source(), lambda: log.progress("one"))


def in_sqlite(_request, tmp_path):
    log, offsets = SqliteLog(tmp_path / "log.db", ["one"], partitions=2), tmp_path / "store.db"
    return Rig(
        "one",
        SqlitePublisher(log),
        SqliteSource(log, offsets),
        lambda: SqliteProgress(log, offsets, "one"),
    )


def in_kafka(request, _tmp_path):
    servers = request.getfixturevalue("kafka").bootstrap_servers
    topic = group = f"progress-{uuid.uuid4().hex[:12]}"
    with KafkaAdmin(servers) as admin:
        admin.create_topics([TopicSpec(topic, 2, 1, 3_600_000)])
    publisher = KafkaPublisher(servers, topics=[topic])
    publisher.probe(30.0)
    return Rig(
        topic,
        publisher,
        KafkaSource(servers, group),
        lambda: KafkaProgress(servers, group, topic),
    )


@pytest.fixture(
    params=[in_memory, in_sqlite, pytest.param(in_kafka, marks=pytest.mark.real)],
    ids=["memory", "sqlite", "kafka"],
)
def rig(request, tmp_path):
    with closing(request.param(request, tmp_path)) as rig:
        yield rig


def test_committed_offsets_are_seen_from_outside_the_group(rig):
    partition = TopicPartition(rig.topic, 0)
    rig.source.subscribe([rig.topic], Silent())
    rig.send(b"a", b"b")
    read = []
    eventually(lambda: read.extend(rig.source.poll(0.2)) or len(read) == 2)
    rig.source.commit({partition: 2})
    with closing(rig.new_progress()) as progress:
        assert progress.committed()[partition] == 2


def test_appended_gives_every_record_once_from_the_first_on(rig):
    rig.send(b"a", b"b")
    with closing(rig.new_progress()) as progress:
        assert [record.value for record in progress.appended()] == [b"a", b"b"]
        assert list(progress.appended()) == []
        rig.send(b"c")
        [record] = progress.appended()
        assert (record.value, record.offset, record.headers) == (b"c", 2, (("h", b"1"),))


def test_an_empty_topic_appends_nothing(rig):
    with closing(rig.new_progress()) as progress:
        assert list(progress.appended()) == []


@pytest.mark.slow
def test_progress_on_kafka_recovers_after_the_broker_was_away(kafka_process):
    broker = kafka_process()
    topic = "followed"
    with KafkaAdmin(broker.bootstrap_servers) as admin:
        admin.create_topics([TopicSpec(topic, 1, 1, 3_600_000)])
    publisher = KafkaPublisher(broker.bootstrap_servers, topics=[topic])
    publisher.probe(30.0)
    with closing(KafkaProgress(broker.bootstrap_servers, "g", topic, timeout_s=2.0)) as progress:
        publisher.send(topic, 0, b"before", ()).result(30)
        assert [record.value for record in progress.appended()] == [b"before"]
        broker.process.kill()
        with pytest.raises(LogUnavailable):
            list(progress.appended())
        broker.process.start()

        def probed():
            try:
                publisher.probe(5.0)
                publisher.send(topic, 0, b"after", ()).result(15)
            except LogUnavailable:
                return False
            return True

        eventually(probed, within_s=60)
        found = []

        def looked():
            try:
                found.extend(record.value for record in progress.appended())
            except LogUnavailable:
                return False
            return b"after" in found

        eventually(looked, within_s=60)
        assert b"before" not in found
    publisher.close(5.0)
