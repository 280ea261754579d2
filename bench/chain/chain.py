"""The whole chain on this machine: its ceiling, and the latency below it; nothing may be lost."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated

from bench.chain import peer
from bench.chain.flow import Flow, Flowed
from bench.chain.report import Run, Way, section
from bench.lab.figures import Spread, whole
from bench.lab.influx import Address, DirectWriter
from bench.lab.load_process import run_load
from bench.lab.machine import peak_rss_mib
from bench.lab.services import (
    UNLIMITED_POINTS,
    Tell,
    host_and_port,
    provision,
    start_influxdb,
    start_kafka,
    write_keys,
)
from bench.report import Section
from demo.pipeline import start_service
from native.influxd import InfluxDB
from native.kafka import Broker
from native.process import Process
from schemas.retention import DEFAULT_CLASS, STEP_CLASS
from schemas.tenants.keys import new_key

_WARMUP_S = 4.0
_ANSWER_TIMEOUT_S = 120.0
#: The store gains nothing for so long: what is missing then is lost.
_STALL_S = 20.0
_COUNT_EVERY_S = 0.5

#: Ours by wall time only is class system, which has no view by step.
WALL = Way("ours, wall only", ("system",), target=150_000)
BOTH = Way("ours, both views", (DEFAULT_CLASS, STEP_CLASS), target=75_000)
PEER = Way("Telegraf, wall only", ("system",), ours=False)


@dataclass(frozen=True)
class Plan:
    """How long and how often, and at which shares of its ceiling each way is measured."""

    seconds: Annotated[float, "Seconds of each measurement, behind a warm-up."] = 10.0
    rounds: Annotated[int, "Measurements of each ceiling, the ways taking turns."] = 3
    loads: Annotated[Sequence[int], "Percent of the ceiling at which latency is measured."] = (
        20,
        50,
        80,
    )
    lines: Annotated[int, "Lines of a body."] = 1000
    connections: Annotated[int, "Keep-alive connections."] = 64
    backlog: Annotated[int, "Points sent and not stored at most, at full speed."] = 300_000


@dataclass(frozen=True, slots=True)
class Running:
    """A chain that takes writes: where, with which key, and its processes."""

    url: str
    key: str
    gateway: Process
    consumer: Process


@dataclass(frozen=True, slots=True)
class Rig:
    """The services that all chains share, and a key for each measurement by its namespace."""

    folder: Path
    environment: Mapping[str, str]
    broker: Broker
    database: InfluxDB
    keys: Mapping[str, str]


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """The ceilings of the ways in turns, then their latencies at shares of them.

    Raises StartFailed, PreparationFailed, WriteFailed.
    """
    program = peer.binary()
    starts: dict[Way, Callable[[Rig, str], AbstractContextManager[Running]]] = {
        WALL: _ours,
        BOTH: _ours,
    }
    if program is not None:
        starts[PEER] = partial(_peer, program)
    # Every measurement has a namespace of its own, so that its points can be counted.
    names = [f"run{n}" for n in range(len(starts) * (plan.rounds + len(plan.loads)))]
    made = {
        name: new_key(name, namespace=name, rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
        for name in names
    }
    ceilings: dict[Way, list[Run]] = defaultdict(list)
    below: dict[Way, list[Run]] = defaultdict(list)
    with start_kafka(folder, tell) as broker, start_influxdb(folder, tell) as database:
        environment = write_keys(folder, [record for _key, record in made.values()]) | {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STEPCLOCK_INFLUX_URL": database.url,
            "STEPCLOCK_INFLUX_TOKEN": database.token,
            "STEPCLOCK_INFLUX_ORG": database.org,
            "STEPCLOCK_CANARY_S": "0",  # what the store gains is counted
        }
        provision(folder, environment, tell)
        keys = {name: key for name, (key, _record) in made.items()}
        rig = Rig(folder, environment, broker, database, keys)
        unused = iter(names)
        for number in range(1, plan.rounds + 1):
            for way, start in starts.items():
                run = _run(rig, plan, way, start, next(unused), 0, 0.0)
                ceilings[way].append(run)
                tell(
                    f"round {number} of {plan.rounds}, {way.title}: "
                    f"{whole(run.stored_per_s)} points/s stored"
                )
        for load in plan.loads:
            for way, start in starts.items():
                ceiling = Spread.of(run.stored_per_s for run in ceilings[way]).median
                run = _run(rig, plan, way, start, next(unused), load, ceiling * load / 100)
                below[way].append(run)
                tell(f"{load} % of its ceiling, {way.title}: {whole(run.rate)} points/s offered")
    return section(plan.seconds, plan.rounds, plan.lines, plan.backlog, ceilings, below)


def _run(
    rig: Rig,
    plan: Plan,
    way: Way,
    start: Callable[[Rig, str], AbstractContextManager[Running]],
    namespace: str,
    load: int,
    rate: float,
) -> Run:
    with start(rig, namespace) as chain:
        host, port = host_and_port(chain.url)
        database = rig.database
        flow = Flow(
            host=host,
            port=port,
            key=chain.key,
            class_name=way.classes[0],
            connections=plan.connections,
            lines=plan.lines,
            warmup_s=_WARMUP_S,
            seconds=plan.seconds,
            rate=rate,
            backlog=plan.backlog,
            watched={
                "gateway": chain.gateway.pid,
                "consumer": chain.consumer.pid,
                "broker": rig.broker.process.pid,
                "influxd": database.process.pid,
            },
            store=Address(database.port, database.org, database.token),
            namespace=namespace,
            marked_class=way.classes[-1],
            views=len(way.classes),
        )
        flowed = _send(rig.folder, flow)
        stored = _count(rig, way, namespace, flowed.acknowledged)
        peaks = {"gateway": chain.gateway.pid, "consumer": chain.consumer.pid}
        return Run(
            load,
            rate,
            flowed,
            stored,
            {name: peak_rss_mib(pid) for name, pid in peaks.items()},
        )


def _send(folder: Path, flow: Flow) -> Flowed:
    """Run the load to its end. Raises StartFailed with its log if it fails."""
    within_s = flow.warmup_s + flow.seconds + _ANSWER_TIMEOUT_S
    return Flowed(**run_load(folder, "bench.chain.flow", flow, within_s=within_s))


def _count(rig: Rig, way: Way, namespace: str, expected: int) -> dict[str, int]:
    """Points of each class, once all are there that are expected, or no more come."""
    seen, moved_at = -1, perf_counter()
    with DirectWriter(rig.database) as writer:
        while True:
            found = {c: writer.count(namespace, c, "metric", "step") for c in way.classes}
            if min(found.values()) >= expected or perf_counter() - moved_at > _STALL_S:
                return found
            if sum(found.values()) > seen:
                seen, moved_at = sum(found.values()), perf_counter()
            time.sleep(_COUNT_EVERY_S)


@contextmanager
def _ours(rig: Rig, namespace: str) -> Iterator[Running]:
    with (
        start_service(
            "consumer",
            ["consumers"],
            rig.folder,
            rig.environment,
            port_variable="STEPCLOCK_PROBE_PORT",
        ) as consumer,
        start_service("gateway", ["ingest"], rig.folder, rig.environment) as gateway,
    ):
        yield Running(gateway.url, rig.keys[namespace], gateway.process, consumer.process)


@contextmanager
def _peer(program: Path, rig: Rig, namespace: str) -> Iterator[Running]:
    bucket = f"{namespace}/{PEER.classes[0]}"
    with peer.chain(program, rig.folder, rig.broker, rig.database, bucket) as (url, front, back):
        yield Running(url, rig.keys[namespace], front, back)
