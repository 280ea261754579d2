"""Consumers between a topic that is full and a database that answers late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.kafka.admin import KafkaAdmin
from adapters.kafka.publisher import KafkaPublisher
from bench.consumer.drain import outcomes
from bench.lab.blocks import Workload, publish
from bench.lab.services import (
    PARTITIONS,
    UNLIMITED_POINTS,
    Tell,
    ingest_topics,
    provision,
    start_influxdb,
    start_kafka,
    write_keys,
)
from demo.gateway import get
from demo.pipeline import HttpService, start_service
from native.ports import LOOPBACK
from native.proxy import Proxy
from schemas.log.protocols import TopicPartition, topic_of
from schemas.retention import DEFAULT_CLASS
from schemas.tenants.keys import new_key

#: What each answer of the database is late by.
LATENCY_S = 0.2
#: Points of one write; a consumer writes a batch by wall time, then by step.
BATCH_POINTS = 2000

_TOPIC = topic_of(DEFAULT_CLASS)
_NAMESPACE = "stepclock"
_PROBE_S = 10.0


@dataclass(frozen=True, slots=True)
class SlowStore:
    """A full topic, and what a consumer needs to drain it by way of the slow proxy."""

    folder: Path
    environment: Mapping[str, str]
    admin: KafkaAdmin
    proxy: Proxy

    def consumer(
        self, name: str, group: str, settings: Mapping[str, str]
    ) -> AbstractContextManager[HttpService]:
        """One consumer of a group; a new group begins at the start of the topic."""
        own = {
            "STEPCLOCK_CONSUMER_GROUP": group,
            "STEPCLOCK_BATCH_POINTS": str(BATCH_POINTS),
            # Of one size, so that runs of any length compare, unless settings say otherwise.
            "STEPCLOCK_BATCH_POINTS_MAX": str(BATCH_POINTS),
            **settings,
        }
        return start_service(
            name,
            ["consumers"],
            self.folder,
            {**self.environment, **own},
            port_variable="STEPCLOCK_PROBE_PORT",
        )

    def committed(self, group: str) -> list[int]:
        """What the group has settled of each partition, in blocks."""
        found = self.admin.committed(group)
        return [found.get(TopicPartition(_TOPIC, n), 0) for n in range(PARTITIONS)]


@contextmanager
def slow_store(folder: Path, points: int, *, tell: Tell) -> Iterator[SlowStore]:
    """Kafka with so many points in 12 partitions, and InfluxDB behind a proxy.

    Raises PreparationFailed, StartFailed, LogUnavailable.
    """
    _key, record = new_key("bench", namespace=_NAMESPACE, rate=UNLIMITED_POINTS)
    with (
        start_kafka(folder, tell) as broker,
        start_influxdb(folder, tell) as database,
        Proxy(LOOPBACK, database.port) as proxy,
        KafkaAdmin(broker.bootstrap_servers) as admin,
    ):
        environment = write_keys(folder, [record]) | {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STEPCLOCK_INFLUX_URL": database.url,
            "STEPCLOCK_INFLUX_TOKEN": database.token,
            "STEPCLOCK_INFLUX_ORG": database.org,
        }
        provision(folder, environment, tell)
        tell(f"filling the topic with {points:,} points")
        publisher = KafkaPublisher(broker.bootstrap_servers, topics=ingest_topics())
        try:
            publisher.probe(_PROBE_S)
            publish(publisher, _TOPIC, Workload.recent(points).blocks(_NAMESPACE), evenly=True)
        finally:
            publisher.close(_PROBE_S)
        proxy.slow(LATENCY_S, answers_only=True)
        by_proxy = {"STEPCLOCK_INFLUX_URL": f"http://{LOOPBACK}:{proxy.port}"}
        yield SlowStore(folder, environment | by_proxy, admin, proxy)


def stored_points(consumer: HttpService) -> int:
    """Points that a consumer has stored so far. Raises ReadFailed."""
    return outcomes(get(f"{consumer.url}/metrics"))[0]
