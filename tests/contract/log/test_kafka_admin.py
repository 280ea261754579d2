"""What `provision` needs of a Kafka cluster."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from adapters.kafka.admin import KafkaAdmin, TopicDescription, TopicSpec
from adapters.kafka.publisher import KafkaPublisher
from adapters.kafka.source import KafkaSource
from native.ports import free_ports
from schemas.log.protocols import LogUnavailable, TopicPartition
from tests.contract.log.logs import WAIT_S, Member

if TYPE_CHECKING:
    from tests.services import Kafka

DAY_MS = 86_400_000


@pytest.fixture
def admin(kafka: Kafka) -> Iterator[KafkaAdmin]:
    with KafkaAdmin(kafka.bootstrap_servers) as admin:
        yield admin


@pytest.fixture
def name() -> str:
    return f"admin-{uuid.uuid4().hex[:12]}"


def test_topics_are_made_as_described(admin: KafkaAdmin, name: str) -> None:
    assert admin.create_topics([TopicSpec(name, 12, 1, 7 * DAY_MS)]) == [name]
    assert admin.describe_topics()[name] == TopicDescription(12, 1, 7 * DAY_MS)
    assert admin.partition_counts([name, "unheard-of"]) == {name: 12}
    assert admin.partition_counts()[name] == 12


def test_topics_that_exist_are_left_as_they_are(admin: KafkaAdmin, name: str) -> None:
    admin.create_topics([TopicSpec(name, 2, 1, DAY_MS)])
    assert admin.create_topics([TopicSpec(name, 3, 1, None)]) == []
    assert admin.describe_topics()[name] == TopicDescription(2, 1, DAY_MS)
    assert admin.create_topics([]) == []


def test_retention_can_be_set_and_unlimited(admin: KafkaAdmin, name: str) -> None:
    admin.create_topics([TopicSpec(name, 1, 1, DAY_MS)])
    admin.set_retention(name, 2 * DAY_MS)
    assert admin.describe_topics()[name].retention_ms == 2 * DAY_MS
    admin.set_retention(name, None)
    assert admin.describe_topics()[name].retention_ms is None


def test_impossible_topics_are_named(admin: KafkaAdmin, name: str) -> None:
    with pytest.raises(LogUnavailable, match=name):
        admin.create_topics([TopicSpec(name, 1, 99, DAY_MS)])
    with pytest.raises(LogUnavailable, match=name):
        admin.set_retention(name, DAY_MS)


def test_brokers_are_counted(admin: KafkaAdmin) -> None:
    assert admin.broker_count() >= 1


def test_committed_offsets_of_a_group_are_known(admin: KafkaAdmin, kafka: Kafka, name: str) -> None:
    admin.create_topics([TopicSpec(name, 1, 1, DAY_MS)])
    publisher = KafkaPublisher(kafka.bootstrap_servers, topics=[name])
    publisher.probe(10.0)
    publisher.send(name, 0, b"x", ()).result(WAIT_S)
    publisher.close(5.0)
    member = Member(KafkaSource(kafka.bootstrap_servers, name), [name])
    member.read(1)
    member.commit()
    member.source.close()
    assert admin.committed(name) == {TopicPartition(name, 0): 1}
    assert admin.committed("unheard-of") == {}


def test_cluster_that_is_away_is_unavailable() -> None:
    (port,) = free_ports(1)
    admin = KafkaAdmin(f"127.0.0.1:{port}", timeout_s=0.5)
    for ask in (
        admin.describe_topics,
        admin.broker_count,
        lambda: admin.create_topics([TopicSpec("x", 1, 1, None)]),
        lambda: admin.set_retention("x", None),
        lambda: admin.committed("x"),
    ):
        with pytest.raises(LogUnavailable):
            ask()
