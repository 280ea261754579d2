"""One drain: prepared points into the store, by the worker or directly, timed and counted."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from prometheus_client.parser import text_string_to_metric_families

from adapters.kafka.publisher import KafkaPublisher
from bench.lab.blocks import BLOCK_LINES, Workload, batches, publish
from bench.lab.influx import DirectWriter
from bench.lab.machine import busy_s, cpu_s, peak_rss_mib
from consumers.settings import ConsumerSettings
from consumers.views import StepsView
from demo.gateway import get
from demo.pipeline import HttpService, start_service
from native.influxd import InfluxDB
from native.kafka import Broker
from schemas.line_protocol.precision import Precision
from schemas.log.protocols import topic_of
from schemas.retention import DEFAULT_CLASS, STEP_CLASS

#: Lines of one direct write: what the worker batches by default.
DIRECT_LINES: int = ConsumerSettings.model_fields["batch_points"].default

#: Connections of the direct writer: as many as a worker process has by default.
WRITERS: int = ConsumerSettings.model_fields["threads"].default

_SAMPLE_S = 0.2
_STALL_S = 60.0


class Stalled(Exception):
    """The worker stores nothing more, or points became dead letters; the message says which."""


@dataclass(frozen=True, slots=True)
class Rig:
    """The services and the points of a measurement."""

    folder: Path
    environment: Mapping[str, str]
    broker: Broker
    database: InfluxDB
    writer: DirectWriter
    publisher: KafkaPublisher
    workload: Workload


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds so far, at a moment at which so many points were stored."""

    points: int
    at: float
    own_cpu_s: float
    influxd_cpu_s: float
    broker_cpu_s: float
    busy_s: float


@dataclass(frozen=True, slots=True)
class Drained:
    """The course of one drain, and what the store holds after it.

    peak_mib: most memory of the worker; nan for a direct writer, which holds all points.
    """

    first: Reading
    last: Reading
    peak_mib: float
    stored: Mapping[str, int]

    @property
    def points(self) -> int:
        """Points between the readings, each counted once whatever the number of its views."""
        return self.last.points - self.first.points

    @property
    def seconds(self) -> float:
        """Time between the readings."""
        return self.last.at - self.first.at

    @property
    def points_per_s(self) -> float:
        """Points that went through."""
        return self.points / self.seconds

    @property
    def others_cores(self) -> float:
        """Cores that processes of others took meanwhile."""
        ours = (
            self.last.own_cpu_s
            - self.first.own_cpu_s
            + self.last.influxd_cpu_s
            - self.first.influxd_cpu_s
            + self.last.broker_cpu_s
            - self.first.broker_cpu_s
        )
        return max(0.0, (self.last.busy_s - self.first.busy_s - ours) / self.seconds)


def by_worker(rig: Rig, namespace: str, class_name: str) -> Drained:
    """Publish all points, then start one worker and wait until it has stored them.

    The readings begin when the first points are stored: starting a process and joining a
    group is no part of it. Raises StartFailed, Stalled.
    """
    publish(rig.publisher, topic_of(class_name), rig.workload.blocks(namespace))
    with start_service(
        "consumer",
        ["consumers"],
        rig.folder,
        rig.environment,
        port_variable="STEPCLOCK_PROBE_PORT",
    ) as worker:
        # Each worker process counts from 0.
        first = _wait_for(rig, worker, 1)
        last = _wait_for(rig, worker, rig.workload.points)
        peak_mib = peak_rss_mib(worker.process.pid)
    return Drained(first, last, peak_mib, _stored(rig, namespace, class_name))


def directly(rig: Rig, namespace: str, class_name: str) -> Drained:
    """Write the same points from memory, in batches of the worker's size, WRITERS at a time.

    Everything is prepared ahead, the lines by step as well. Raises WriteFailed.
    """
    views = [(class_name, batches(rig.workload.lines(), DIRECT_LINES // BLOCK_LINES))]
    if class_name == DEFAULT_CLASS:
        view = StepsView(ConsumerSettings.model_fields["volatile_tags"].default)
        steps = (
            view.render(block, class_name, Precision.MS) for block in rig.workload.blocks(namespace)
        )
        views.append((STEP_CLASS, batches(steps, DIRECT_LINES // BLOCK_LINES)))
    waiting = deque(
        (f"{namespace}/{target}", lines[number])
        for number in range(len(views[0][1]))
        for target, lines in views
    )
    first = _read(rig, os.getpid(), 0)
    with ThreadPoolExecutor(WRITERS) as pool:
        for writing in [pool.submit(_write, rig.database, waiting) for _ in range(WRITERS)]:
            writing.result()
    last = _read(rig, os.getpid(), rig.workload.points)
    return Drained(first, last, float("nan"), _stored(rig, namespace, class_name))


def _write(database: InfluxDB, waiting: deque[tuple[str, bytes]]) -> None:
    """What one writer does: batch after batch over one connection until none waits."""
    with DirectWriter(database) as writer:
        while True:
            try:
                bucket, lines = waiting.popleft()
            except IndexError:
                return
            writer.write(bucket, lines, Precision.MS)


def _wait_for(rig: Rig, worker: HttpService, points: int) -> Reading:
    """The reading once the worker has stored so many points. Raises Stalled."""
    seen, moved_at = -1, perf_counter()
    while True:
        stored, dead = outcomes(get(f"{worker.url}/metrics"))
        now = perf_counter()
        if dead:
            raise Stalled(f"{dead} points became dead letters")
        if stored >= points:
            return _read(rig, worker.process.pid, stored)
        if stored > seen:
            seen, moved_at = stored, now
        elif now - moved_at > _STALL_S:
            raise Stalled(f"the worker stored {stored} of {points} points and no more")
        time.sleep(_SAMPLE_S)


def outcomes(exposition: str) -> tuple[int, int]:
    """Points that a worker's ``/metrics`` page counts as stored, and as dead."""
    found = {"stored": 0.0, "dead": 0.0}
    for family in text_string_to_metric_families(exposition):
        if family.name == "stepclock_consumer_points":
            for sample in family.samples:
                if sample.name == "stepclock_consumer_points_total":
                    found[sample.labels["outcome"]] += sample.value
    return int(found["stored"]), int(found["dead"])


def _read(rig: Rig, pid: int, points: int) -> Reading:
    return Reading(
        points,
        perf_counter(),
        cpu_s(pid),
        cpu_s(rig.database.process.pid),
        cpu_s(rig.broker.process.pid),
        busy_s(),
    )


def _stored(rig: Rig, namespace: str, class_name: str) -> dict[str, int]:
    classes = [class_name, STEP_CLASS] if class_name == DEFAULT_CLASS else [class_name]
    return {name: rig.writer.count(namespace, name, "metric", "train/loss") for name in classes}
