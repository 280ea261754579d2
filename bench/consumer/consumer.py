"""One worker from Kafka to InfluxDB, and the same points written to InfluxDB directly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.kafka.publisher import KafkaPublisher
from bench.consumer.drain import DIRECT_LINES, WRITERS, Drained, Reading, Rig, by_worker, directly
from bench.lab.blocks import BLOCK_LINES, RUNS, Workload
from bench.lab.figures import column, per_million, share_percent, short, whole
from bench.lab.influx import DirectWriter
from bench.lab.services import (
    UNLIMITED_POINTS,
    Tell,
    ingest_topics,
    provision,
    start_influxdb,
    start_kafka,
    write_keys,
)
from bench.report import Section, Table
from native.kafka import Broker
from schemas.tenants.keys import new_key

_PROBE_S = 10.0


@dataclass(frozen=True)
class Plan:
    """Points of each measurement, and how often each is made."""

    points: int = 500_000
    rounds: int = 5

    def __post_init__(self) -> None:
        Workload.recent(self.points)


@dataclass(frozen=True, slots=True)
class Way:
    """A way of the points into the store: in which views, by which class, and by whom.

    Class system has no view by step: its points are written by wall time only.
    """

    title: str
    class_name: str
    drain: Callable[[Rig, str, str], Drained]


_WORKER_BOTH = Way("worker, wall and steps", "raw", by_worker)
_DIRECT_BOTH = Way("direct, wall and steps", "raw", directly)
_WORKER_WALL = Way("worker, wall only", "system", by_worker)
_DIRECT_WALL = Way("direct, wall only", "system", directly)
_WAYS = (_WORKER_BOTH, _DIRECT_BOTH, _WORKER_WALL, _DIRECT_WALL)


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Drain what was published ahead, the ways in turns.

    Raises StartFailed, PreparationFailed, Stalled.
    """
    workload = Workload.recent(plan.points)
    # A namespace for each drain, so that nothing is overwritten.
    namespaces = {
        (number, way): f"round{number}-way{place}"
        for number in range(1, plan.rounds + 1)
        for place, way in enumerate(_WAYS)
    }
    records = [
        new_key(name, namespace=name, rate=UNLIMITED_POINTS)[1] for name in namespaces.values()
    ]
    runs: dict[Way, list[Drained]] = defaultdict(list)
    with (
        start_kafka(folder, tell) as broker,
        start_influxdb(folder, tell) as database,
        DirectWriter(database) as writer,
    ):
        environment = write_keys(folder, records) | {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STEPCLOCK_INFLUX_URL": database.url,
            "STEPCLOCK_INFLUX_TOKEN": database.token,
            "STEPCLOCK_INFLUX_ORG": database.org,
        }
        provision(folder, environment, tell)
        with _publisher(broker) as publisher:
            rig = Rig(folder, environment, broker, database, writer, publisher, workload)
            for (number, way), namespace in namespaces.items():
                drained = way.drain(rig, namespace, way.class_name)
                runs[way].append(drained)
                tell(
                    f"round {number} of {plan.rounds}, {way.title}: "
                    f"{whole(drained.points_per_s)} points/s"
                )
    return _section(plan, runs)


@contextmanager
def _publisher(broker: Broker) -> Iterator[KafkaPublisher]:
    publisher = KafkaPublisher(broker.bootstrap_servers, topics=ingest_topics())
    try:
        publisher.probe(_PROBE_S)
        yield publisher
    finally:
        publisher.close(_PROBE_S)


def _section(plan: Plan, runs: Mapping[Way, Sequence[Drained]]) -> Section:
    failures = [
        f"{way.title}: class {name} holds {count:,} of {plan.points:,} points"
        for way, found in runs.items()
        for run in found
        for name, count in run.stored.items()
        if count != plan.points
    ]
    return Section(
        "Consumer: one worker process from Kafka to InfluxDB, and the same points directly",
        [
            Table(
                ("way", "points/s", "own CPU s/M", "influxd CPU s/M"),
                [_row(way, found) for way, found in runs.items()],
            ),
            Table(
                ("way", "broker CPU s/M", "cores taken by others", "worker peak MiB"),
                [_side_row(way, found) for way, found in runs.items()],
            ),
        ],
        [
            (
                "Share of the direct writer's points/s that the worker reaches: "
                f"{_share(runs, _WORKER_BOTH, _DIRECT_BOTH)} % with both views, "
                f"{_share(runs, _WORKER_WALL, _DIRECT_WALL)} % by wall time only. Each drain is "
                "compared with the direct one that follows it, so that a slow minute hits both."
            ),
            (
                f"Each drain: {plan.points:,} points of two fields in {RUNS} series, blocks of "
                f"{BLOCK_LINES:,} lines; both views write each of them twice, and a point counts "
                "once. Every point was counted in the store afterwards, in each view."
            ),
            (
                f"Least / median / greatest of {plan.rounds} drains, the ways taking turns. The "
                f"direct writer sends ready bytes from memory, {DIRECT_LINES:,} lines a request, "
                f"over {WRITERS} keep-alive connections without a client library, which is the "
                "fastest way; the worker process has as many by default."
            ),
            "Wall only is measured with class system, which has no view by step.",
        ],
        failures,
    )


def _share(runs: Mapping[Way, Sequence[Drained]], part: Way, whole_way: Way) -> str:
    shares = [
        share_percent(one.points_per_s, other.points_per_s)
        for one, other in zip(runs[part], runs[whole_way], strict=True)
    ]
    return column(shares, whole)


def _row(way: Way, runs: Sequence[Drained]) -> list[str]:
    return [
        way.title,
        column([run.points_per_s for run in runs], whole),
        column([_cost(run, lambda reading: reading.own_cpu_s) for run in runs], short),
        column([_cost(run, lambda reading: reading.influxd_cpu_s) for run in runs], short),
    ]


def _side_row(way: Way, runs: Sequence[Drained]) -> list[str]:
    return [
        way.title,
        column([_cost(run, lambda reading: reading.broker_cpu_s) for run in runs], short),
        column([run.others_cores for run in runs], short),
        whole(max(run.peak_mib for run in runs)),
    ]


def _cost(run: Drained, of: Callable[[Reading], float]) -> float:
    return per_million(of(run.last) - of(run.first), run.points)
