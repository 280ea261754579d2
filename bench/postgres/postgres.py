"""The field's textbook case: metrics into PostgreSQL, against this pipeline."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from bench.consumer.disk import bytes_of, size_in_influxdb
from bench.embedded.embedded import stored_by
from bench.embedded.flood import Flood, flood
from bench.lab.figures import whole
from bench.lab.lines import NARROW, RUNS, STEP_MS, WIDE, Shape
from bench.lab.services import (
    UNLIMITED_POINTS,
    Tell,
    gateway_backend,
    host_and_port,
    provision,
    start_influxdb,
    start_kafka,
    write_keys,
)
from bench.postgres.cluster import Cluster, start_postgres
from bench.postgres.report import Load, Size, section
from bench.postgres.writer import PgSize, PgWay, PgWritten, size, write
from bench.report import Section
from demo.pipeline import start_service
from embedded.store.store import SqliteStore
from schemas.line_protocol.precision import Precision
from schemas.tenants.keys import new_key

_BODY_LINES = 500
_SIZED = RUNS * _BODY_LINES * WIDE.metrics

_PG_WAYS = (
    PgWay("PostgreSQL, row by row", 8_000, 1, synchronous=True),
    PgWay("PostgreSQL, row by row, 8 connections", 16_000, 1, synchronous=True, connections=8),
    PgWay("PostgreSQL, row by row, asynchronous", 16_000, 1, synchronous=False),
    PgWay("PostgreSQL, INSERT of 1,000", 100_000, 1_000, synchronous=True),
    PgWay("PostgreSQL, INSERT of 1,000, asynchronous", 100_000, 1_000, synchronous=False),
    PgWay("PostgreSQL, COPY of 5,000", 200_000, 5_000, synchronous=True, copy=True),
    PgWay("PostgreSQL, COPY of 5,000, asynchronous", 200_000, 5_000, synchronous=False, copy=True),
)


@dataclass(frozen=True)
class Plan:
    """How much and how often."""

    values: Annotated[int, "Metric values of each measurement of a pipeline, about."] = 80_000
    rounds: Annotated[int, "Repetitions, the ways taking turns."] = 3
    sized: Annotated[int, f"Values whose bytes are measured; a multiple of {_SIZED:,}."] = 320_000

    def __post_init__(self) -> None:
        """Raise ValueError for values that don't fill the bodies of all runs."""
        if self.sized % _SIZED:
            raise ValueError(f"sized must be a multiple of {_SIZED:,}")


_LOADS = (Load(NARROW, 1, 0.1, connections=64), Load(NARROW, _BODY_LINES), Load(WIDE, _BODY_LINES))


@dataclass(frozen=True, slots=True)
class Target:
    """A pipeline that runs: where to send, whose CPU counts, and how many points it holds."""

    title: str
    address: tuple[str, int]
    key: str
    watched: Mapping[str, int]
    stored: Callable[[], int]


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """PostgreSQL, then both pipelines, all with the same values.

    Raises PreparationFailed, StartFailed, Stalled.
    """
    rows: dict[PgWay, list[PgWritten]] = defaultdict(list)
    with start_postgres(tell) as cluster:
        for number in range(1, plan.rounds + 1):
            for way in _PG_WAYS:
                rows[way].append(write(cluster, way, NARROW))
                tell(
                    f"round {number} of {plan.rounds}, {way.title}: "
                    f"{whole(rows[way][-1].rows / rows[way][-1].seconds)} rows/s"
                )
        pg_sizes = _pg_sizes(cluster, plan)
    floods: dict[tuple[str, Load], list[Flood]] = defaultdict(list)
    failures: list[str] = []
    for start in (_embedded, _chain):
        with start(folder, tell) as target:
            epoch_ms = time.time_ns() // 1_000_000 - 86_400_000
            for number in range(1, plan.rounds + 1):
                for load in _LOADS:
                    lines = load.lines(plan.values)
                    bodies = list(load.shape.bodies(lines, load.body_lines, epoch_ms))
                    epoch_ms += lines * STEP_MS  # no point twice
                    found = flood(
                        target.address,
                        target.key,
                        bodies,
                        target.watched,
                        target.stored,
                        connections=load.connections,
                    )
                    floods[target.title, load].append(found)
                    tell(
                        f"round {number} of {plan.rounds}, {target.title}, {load.shape.title}, "
                        f"{load.body_lines} a body: {whole(found.lines / found.stored_s)} points/s"
                    )
            sent = sum(
                run.lines
                for (title, _), runs in floods.items()
                for run in runs
                if title == target.title
            )
            if target.stored() != sent:
                failures.append(f"{target.title}: {target.stored():,} points of {sent:,} stored")
    sizes = _sizes(folder, plan)
    version = cluster.version
    return section(plan.rounds, plan.sized, version, rows, pg_sizes, floods, sizes, failures)


def _pg_sizes(cluster: Cluster, plan: Plan) -> dict[tuple[Shape, bool], PgSize]:
    return {
        (shape, names): size(cluster, shape, plan.sized // shape.metrics, names=names)
        for shape in (NARROW, WIDE)
        for names in (False, True)
    }


def _sizes(folder: Path, plan: Plan) -> dict[Shape, Size]:
    found = {}
    for shape in (NARROW, WIDE):
        lines = plan.sized // shape.metrics
        epoch_ms = time.time_ns() // 1_000_000 - lines * STEP_MS
        bodies = list(shape.bodies(lines, _BODY_LINES, epoch_ms))
        path = folder / f"size-{shape.metrics}.db"
        store = SqliteStore(path)
        for body in bodies:
            store.write("bench", "raw", body, Precision.MS)
        store.close()  # which copies its write-ahead log into the file
        folder_of = folder / f"size-{shape.metrics}"
        found[shape] = Size(bytes_of(path), size_in_influxdb(folder_of, bodies, steps=True))
    return found


@contextmanager
def _embedded(folder: Path, tell: Tell) -> Iterator[Target]:
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    with (
        gateway_backend(folder / "embedded", [record], kafka_too=False, tell=tell) as backend,
        start_service(
            "serve",
            backend.argv,
            folder / "embedded",
            {**backend.environment, "STEPCLOCK_CANARY_S": "0"},
        ) as server,
    ):
        yield Target(
            "embedded server",
            host_and_port(server.url),
            key,
            {"serve": server.process.pid},
            stored_by(server),
        )


@contextmanager
def _chain(folder: Path, tell: Tell) -> Iterator[Target]:
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    place = folder / "chain"
    place.mkdir()
    with start_kafka(place, tell) as broker, start_influxdb(place, tell) as database:
        environment = write_keys(place, [record]) | {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STEPCLOCK_INFLUX_URL": database.url,
            "STEPCLOCK_INFLUX_TOKEN": database.token,
            "STEPCLOCK_INFLUX_ORG": database.org,
            "STEPCLOCK_CANARY_S": "0",
        }
        provision(place, environment, tell)
        with (
            start_service(
                "consumer",
                ["consumers"],
                place,
                environment,
                port_variable="STEPCLOCK_PROBE_PORT",
            ) as worker,
            start_service("gateway", ["ingest"], place, environment) as gateway,
        ):
            yield Target(
                "gateway, Kafka, worker, InfluxDB",
                host_and_port(gateway.url),
                key,
                {
                    "gateway": gateway.process.pid,
                    "Kafka": broker.process.pid,
                    "worker": worker.process.pid,
                    "InfluxDB": database.process.pid,
                },
                stored_by(worker),
            )
