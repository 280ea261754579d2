"""The worker between a real Kafka and a real InfluxDB."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from adapters.influx.admin import InfluxAdmin
from adapters.influx.connection import InfluxConnection
from adapters.influx.reader import InfluxReader
from adapters.kafka.admin import KafkaAdmin, TopicSpec
from adapters.kafka.publisher import KafkaPublisher
from adapters.kafka.reader import KafkaReader
from consumers.__main__ import work
from consumers.settings import ConsumerSettings
from native.ports import free_ports
from native.proxy import Proxy
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, encode_headers
from schemas.log.dead_letter import Reason, decode
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, TopicPartition
from tests.deadline import eventually
from tests.services import Influx

pytestmark = [pytest.mark.real, pytest.mark.slow]

RAW, EVENTS, SYSTEM = "stepclock.raw", "stepclock.events", "stepclock.system"
PARTITIONS = 3
START_MS = 1_700_000_000_000


class Rig:
    """One namespace in InfluxDB, the topics in a broker of this test's own."""

    def __init__(self, kafka: str, influx: Influx) -> None:
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.kafka = kafka
        self.influx = influx
        self.at = InfluxConnection(influx.url, influx.token, influx.org)
        self.reader = InfluxReader(self.at)
        self.publisher: KafkaPublisher | None = None

    def provision_topics(self) -> None:
        with KafkaAdmin(self.kafka) as admin:
            admin.create_topics(
                TopicSpec(name, PARTITIONS, 1, None)
                for name in (RAW, EVENTS, SYSTEM, DEAD_LETTER_TOPIC)
            )
        self.publisher = KafkaPublisher(self.kafka, topics=[RAW, EVENTS, SYSTEM])
        self.publisher.probe(10)

    def provision_buckets(self) -> None:
        with InfluxAdmin(self.at) as admin:
            for name in ("raw", "events", "system", "steps"):
                admin.create_bucket(f"{self.namespace}/{name}", None, None)

    def close(self) -> None:
        if self.publisher is not None:
            self.publisher.close(5)
        self.reader.close()

    def settings(self, **changes: object) -> ConsumerSettings:
        values = {
            "kafka_bootstrap_servers": self.kafka,
            "influx_url": self.influx.url,
            "influx_token": self.influx.token,
            "influx_org": self.influx.org,
            "consumer_group": self.namespace,
            "probe_port": 0,
            "influx_timeout_s": 2.0,
            "retry_cap_s": 0.5,
        }
        return ConsumerSettings(**values | changes)  # type: ignore[arg-type]  # keywords of a test

    def send(self, first: int, count: int, *, partition: int = 0) -> None:
        lines = b"\n".join(point(n) for n in range(first, first + count))
        self.send_lines(lines, partition=partition)

    def send_lines(self, lines: bytes, *, topic: str = RAW, partition: int = 0) -> None:
        block = Block(
            tenant="vision",
            namespace=self.namespace,
            precision=Precision.MS,
            points=lines.count(b"\n") + 1,
            received_ns=START_MS * 10**6,
            lines=lines,
        )
        assert self.publisher is not None
        self.publisher.send(topic, partition, lines, encode_headers(block)).result(20)

    def times(self, retention_class: str, experiment: str = "resnet") -> list[int]:
        found = self.reader.points(self.namespace, retention_class, experiment)
        return sorted(stored.time_ns for stored in found)

    def committed(self) -> dict[TopicPartition, int]:
        with KafkaAdmin(self.kafka) as admin, suppress(LogUnavailable):  # no coordinator yet
            return admin.committed(self.namespace)
        return {}

    @contextmanager
    def working(self, settings: ConsumerSettings) -> Iterator[threading.Thread]:
        """A worker on a thread; leaving the block drains it, and fails if it failed."""
        stop, failures = threading.Event(), []

        def target() -> None:
            try:
                work(settings, stop)
            except BaseException as exc:  # noqa: BLE001  # raised below, in the test's thread
                failures.append(exc)

        thread = threading.Thread(target=target, name="worker")
        thread.start()
        try:
            yield thread
        finally:
            stop.set()
            thread.join(30)
        assert not thread.is_alive()
        if failures:
            raise failures[0]


def point(n: int) -> bytes:
    return f"resnet,run=a,host=n1 loss=0.5,step={n}i {START_MS + n}".encode()


@contextmanager
def provisioned(bootstrap_servers: str, influx: Influx) -> Iterator[Rig]:
    """A rig with its topics and buckets, until the block ends."""
    rig = Rig(bootstrap_servers, influx)
    try:
        rig.provision_topics()
        rig.provision_buckets()
        yield rig
    finally:
        rig.close()


@pytest.fixture
def rig(kafka_process: Callable[..., Any], influx: Influx) -> Iterator[Rig]:
    with provisioned(kafka_process().bootstrap_servers, influx) as rig:
        yield rig


def test_blocks_in_kafka_become_points_by_wall_time_and_by_step(rig: Rig) -> None:
    for partition in range(PARTITIONS):
        rig.send(1000 * partition, 1000, partition=partition)
    rig.send_lines(
        b"nonfinite,experiment=resnet,run=a,host=n1 count=1,step=7i 1700000000007", topic=EVENTS
    )
    with rig.working(rig.settings()):
        assert eventually(lambda: len(rig.times("steps")) == 3000)
        assert eventually(lambda: len(rig.times("steps", "nonfinite")) == 1)
    assert rig.times("raw") == [(START_MS + n) * 10**6 for n in range(3000)]
    assert rig.times("steps") == [n * 10**6 for n in range(3000)]
    assert set(rig.committed().values()) == {1}
    (shown,) = rig.reader.points(rig.namespace, "steps", "nonfinite")
    assert dict(shown.tags) == {"experiment": "resnet", "run": "a"}


def test_one_bad_line_among_5000_goes_to_the_dead_letters_alone(rig: Rig) -> None:
    rig.send(0, 1)
    bad = point(2345).replace(b"loss=0.5", b'loss="high"')
    lines = [point(n) for n in range(1, 5000)]
    rig.send_lines(b"\n".join([*lines[:2344], bad, *lines[2345:]]))
    with rig.working(rig.settings()):
        assert eventually(lambda: rig.committed() == {TopicPartition(RAW, 0): 2})
    letters = [decode(record) for record in KafkaReader(rig.kafka).read(DEAD_LETTER_TOPIC)]
    assert {(one.view, one.reason, one.lines) for one in letters} == {
        ("wall", Reason.REFUSED, bad),
        ("steps", Reason.REFUSED, bad),
    }
    assert "field type conflict" in letters[0].detail
    assert len(rig.times("raw")) == len(rig.times("steps")) == 4999


def test_what_comes_while_influxdb_is_away_is_stored_when_it_is_back(rig: Rig) -> None:
    host, _, port = rig.influx.url.removeprefix("http://").partition(":")
    with Proxy(host, int(port)) as proxy:
        settings = rig.settings(influx_url=f"http://127.0.0.1:{proxy.port}")
        with rig.working(settings):
            rig.send(0, 10)
            assert eventually(lambda: len(rig.times("steps")) == 10)
            proxy.cut()
            rig.send(10, 10)
            proxy.restore()
            assert eventually(lambda: len(rig.times("steps")) == 20)
            proxy.freeze()
            rig.send(20, 10)
            assert eventually(lambda: proxy.open_connections > 0)
            proxy.restore()
            assert eventually(lambda: len(rig.times("steps")) == 30)
    assert len(rig.times("raw")) == 30
    assert rig.committed() == {TopicPartition(RAW, 0): 3}


def test_two_workers_share_the_partitions_and_what_one_leaves_the_other_takes(rig: Rig) -> None:
    with rig.working(rig.settings()):
        rig.send(0, 10)
        assert eventually(lambda: len(rig.times("steps")) == 10)
        with rig.working(rig.settings()):
            for n in range(1, 10):
                rig.send(10 * n, 10, partition=n % PARTITIONS)
            assert eventually(lambda: len(rig.times("steps")) == 100)
        for n in range(10, 16):
            rig.send(10 * n, 10, partition=n % PARTITIONS)
        assert eventually(lambda: len(rig.times("steps")) == 160)
    assert len(rig.times("raw")) == 160
    assert sum(rig.committed().values()) == 16


def test_a_worker_that_starts_before_kafka_and_its_topics_waits_for_them(
    kafka_process: Callable[..., Any], influx: Influx
) -> None:
    (port,) = free_ports(1)
    with ExitStack() as stack:
        rig = Rig(f"127.0.0.1:{port}", influx)
        stack.callback(rig.close)
        rig.provision_buckets()
        worker = stack.enter_context(rig.working(rig.settings()))
        kafka_process(port=port)
        assert worker.is_alive()
        rig.provision_topics()
        rig.send(0, 10)
        assert eventually(lambda: len(rig.times("steps")) == 10, within_s=40)


def test_the_process_drains_on_sigterm_and_exits_with_0(rig: Rig) -> None:
    settings = rig.settings(batch_age_s=60.0)
    environment = os.environ | {
        "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "STEPCLOCK_INFLUX_URL": settings.influx_url,
        "STEPCLOCK_INFLUX_TOKEN": rig.influx.token,
        "STEPCLOCK_INFLUX_ORG": settings.influx_org,
        "STEPCLOCK_CONSUMER_GROUP": settings.consumer_group,
        "STEPCLOCK_PROBE_PORT": "0",
        "STEPCLOCK_BATCH_AGE_S": "60",
        "STEPCLOCK_BATCH_POINTS": "10",
    }
    rig.send(0, 10)  # a full batch, written at once: the sign that the next one is there too
    rig.send(10, 1)  # less than the smallest batch
    process = subprocess.Popen([sys.executable, "-m", "consumers"], env=environment)
    try:
        assert eventually(lambda: len(rig.times("steps")) == 10, within_s=40)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert len(rig.times("raw")) == len(rig.times("steps")) == 11
    assert rig.committed() == {TopicPartition(RAW, 0): 2}
