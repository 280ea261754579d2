"""What the worker and InfluxDB cost by the number of series, and by partitions and consumers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from adapters.kafka.publisher import KafkaPublisher
from bench.consumer.drain import Stalled, outcomes
from bench.growth.memory import bodies
from bench.lab.blocks import publish
from bench.lab.figures import per_million
from bench.lab.influx import DirectWriter
from bench.lab.machine import cpu_s, rss_mib
from bench.lab.services import (
    UNLIMITED_POINTS,
    Tell,
    ingest_topics,
    provision,
    start_kafka,
    write_keys,
)
from demo.gateway import get
from demo.pipeline import HttpService, start_service
from native.influxd import InfluxDB
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block
from schemas.log.protocols import topic_of
from schemas.retention import DEFAULT_CLASS, STEP_CLASS
from schemas.tenants.keys import new_key

_PROBE_S = 10.0
_STALL_S = 60.0
_SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Drained:
    """CPU seconds for a million points, of the workers and of InfluxDB; MiB; points/s."""

    worker_s: float
    influxd_s: float
    worker_mib: float
    influxd_mib: float
    points_per_s: float


@dataclass(frozen=True, slots=True)
class Job:
    """What is drained: so many lines of so many series, into a class, by so many consumers.

    warmup: lines of them that come before the first reading.
    """

    series: int
    lines: int
    warmup: int
    class_name: str
    consumers: int = 1

    def blocks(self, namespace: str, epoch_ms: int) -> Iterator[Block]:
        """Blocks of a thousand lines, each of the next series."""
        for lines in bodies(self.series, 0, self.lines, epoch_ms):
            yield Block("bench", namespace, Precision.MS, 1_000, time.time_ns(), lines)


def drain_all(
    folder: Path, database: InfluxDB, partitions: int, jobs: Sequence[Job], tell: Tell
) -> list[Drained]:
    """Drain one job after the other, each from topics of a namespace of its own."""
    namespaces = [f"p{partitions}-{number}" for number in range(len(jobs))]
    folder.mkdir()
    records = [new_key(name, namespace=name, rate=UNLIMITED_POINTS)[1] for name in namespaces]
    with start_kafka(folder, tell) as broker:
        environment = write_keys(folder, records) | {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STEPCLOCK_INFLUX_URL": database.url,
            "STEPCLOCK_INFLUX_TOKEN": database.token,
            "STEPCLOCK_INFLUX_ORG": database.org,
        }
        provision(folder, environment, tell, partitions=partitions)
        publisher = KafkaPublisher(broker.bootstrap_servers, topics=ingest_topics())
        try:
            publisher.probe(_PROBE_S)
            found = []
            for namespace, job in zip(namespaces, jobs, strict=True):
                found.append(_drain(folder, environment, database, publisher, namespace, job))
                _count(database, namespace, job)
                tell(
                    f"{job.series:,} series, {partitions} partitions, {job.consumers} consumers: "
                    f"{found[-1].points_per_s:,.0f} points/s, {found[-1].worker_s:.2f} s/M"
                )
            return found
        finally:
            publisher.close(_PROBE_S)


def _drain(
    folder: Path,
    environment: Mapping[str, str],
    database: InfluxDB,
    publisher: KafkaPublisher,
    namespace: str,
    job: Job,
) -> Drained:
    """Publish in front of workers that are there already, so that each takes its share."""
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                start_service(
                    f"consumer-{number}",
                    ["consumers"],
                    folder,
                    environment,
                    port_variable="STEPCLOCK_PROBE_PORT",
                )
            )
            for number in range(job.consumers)
        ]
        epoch_ms = time.time_ns() // 1_000_000 - 3_600_000
        blocks = job.blocks(namespace, epoch_ms)
        publish(publisher, topic_of(job.class_name), blocks, evenly=True)
        pids = [worker.process.pid for worker in workers]
        first = _wait(workers, job.warmup)
        began, spent = perf_counter(), sum(map(cpu_s, pids))
        influxd = cpu_s(database.process.pid)
        last = _wait(workers, job.lines)
        points = last - first
        return Drained(
            per_million(sum(map(cpu_s, pids)) - spent, points),
            per_million(cpu_s(database.process.pid) - influxd, points),
            max(map(rss_mib, pids)),
            rss_mib(database.process.pid),
            points / (perf_counter() - began),
        )


def _count(database: InfluxDB, namespace: str, job: Job) -> None:
    """Raises Stalled unless InfluxDB holds every point, by step as well if that view takes it."""
    classes = (DEFAULT_CLASS, STEP_CLASS) if job.class_name == DEFAULT_CLASS else (job.class_name,)
    with DirectWriter(database) as writer:
        for name in classes:
            held = writer.count(namespace, name, "metric", "train/loss")
            if held != job.lines:
                raise Stalled(f"{namespace}/{name} holds {held:,} of {job.lines:,} points")


def _wait(workers: Sequence[HttpService], wanted: int) -> int:
    """Points stored by all of them, once there are so many. Raises Stalled."""
    seen, moved_at = -1, perf_counter()
    while True:
        each = [outcomes(get(f"{worker.url}/metrics")) for worker in workers]
        stored, dead = sum(stored for stored, _ in each), sum(dead for _, dead in each)
        if dead:
            raise Stalled(f"{dead} points became dead letters")
        if stored >= wanted:
            return stored
        if stored > seen:
            seen, moved_at = stored, perf_counter()
        elif perf_counter() - moved_at > _STALL_S:
            raise Stalled(f"{stored} of {wanted} points are stored, and no more come")
        time.sleep(_SAMPLE_S)
