"""kill -9 of a gateway at full speed: which acknowledged points are missing from the store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter

from adapters.influx.connection import InfluxConnection
from adapters.influx.reader import InfluxReader
from bench.lab.connection import Connection, build_request
from bench.lab.figures import short, whole
from bench.lab.influx import DirectWriter
from bench.lab.lines import STEP_MS, body
from bench.lab.services import (
    UNLIMITED_POINTS,
    Tell,
    host_and_port,
    provision,
    start_influxdb,
    start_kafka,
    write_keys,
)
from bench.report import Section, Table
from demo.pipeline import HttpService, start_service
from native.influxd import InfluxDB
from schemas.line_protocol.precision import Precision
from schemas.retention import DEFAULT_CLASS, STEP_CLASS
from schemas.store.protocols import StoredPoint
from schemas.tenants.keys import new_key

LINES = 1000

_NAMESPACE = "stepclock"
_CLASSES = (DEFAULT_CLASS, STEP_CLASS)
_MEASUREMENT = "metric"
#: A refused connection is tried again after this: the gateway is being started.
_AGAIN_S = 0.05
_SAMPLE_S = 0.01
_STALL_S = 60.0
_COUNT_EVERY_S = 1.0


@dataclass(frozen=True)
class Plan:
    """How many points, over how many connections; each has a run of its own."""

    points: int = 1_500_000
    connections: int = 30

    def __post_init__(self) -> None:
        if self.points % self.smallest:
            raise ValueError(f"points must be a multiple of {self.smallest:,}")

    @property
    def steps(self) -> int:
        """Points of each run. They fill whole bodies."""
        return self.points // self.connections

    @property
    def smallest(self) -> int:
        """Points are a multiple of this."""
        return self.connections * LINES


@dataclass(slots=True)
class Ledger:
    """What the clients were told.

    acknowledged_at: when each 204 came. answers: by status, 0 for a broken connection.
    """

    acknowledged_at: list[float] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)

    @property
    def points(self) -> int:
        """Points that a 204 was seen for."""
        return len(self.acknowledged_at) * LINES


@dataclass(frozen=True, slots=True)
class Compared:
    """What a class holds, point by point."""

    stored: int
    missing: int
    invented: int


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Send at full speed, kill the gateway half way, start it again, compare every point.

    Raises StartFailed, PreparationFailed.
    """
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    with start_kafka(folder, tell) as broker, start_influxdb(folder, tell) as database:
        environment = write_keys(folder, [record]) | {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STEPCLOCK_INFLUX_URL": database.url,
            "STEPCLOCK_INFLUX_TOKEN": database.token,
            "STEPCLOCK_INFLUX_ORG": database.org,
        }
        provision(folder, environment, tell)
        with (
            start_service("gateway", ["ingest"], folder, environment) as gateway,
            start_service(
                "consumer",
                ["consumers"],
                folder,
                environment,
                port_variable="STEPCLOCK_PROBE_PORT",
            ),
        ):
            epoch_ms = _epoch_ms(plan)
            tell(f"sending {whole(plan.points)} points at full speed")
            ledger = Ledger()
            down_s = asyncio.run(_drive(plan, gateway, key, epoch_ms, ledger, tell))
            tell("waiting for the consumer, then comparing every point")
            _wait_for(database, ledger.points)
        at = InfluxConnection(database.url, database.token, database.org)
        with closing(InfluxReader(at)) as reader:
            compared = {
                name: compare(reader.points(_NAMESPACE, name, _MEASUREMENT), plan, name, epoch_ms)
                for name in _CLASSES
            }
    return _section(plan, ledger, down_s, compared)


def _epoch_ms(plan: Plan) -> int:
    return time.time_ns() // 1_000_000 - plan.steps * STEP_MS


async def _drive(
    plan: Plan, gateway: HttpService, key: str, epoch_ms: int, ledger: Ledger, tell: Tell
) -> float:
    """Send everything until it is acknowledged; how long the gateway was away, in seconds."""
    host, port = host_and_port(gateway.url)
    clients = asyncio.gather(
        *(
            _send_run(host, port, _requests(plan, number, host, port, key, epoch_ms), ledger)
            for number in range(plan.connections)
        )
    )
    while ledger.points < plan.points // 2:
        await asyncio.wait([clients], timeout=_SAMPLE_S)
    tell(f"kill -9 with {whole(ledger.points)} points acknowledged")
    killed_at = perf_counter()
    await asyncio.to_thread(gateway.process.kill)
    await asyncio.to_thread(gateway.process.start)
    down_s = perf_counter() - killed_at
    await clients
    return down_s


def _requests(
    plan: Plan, number: int, host: str, port: int, key: str, epoch_ms: int
) -> Iterator[bytes]:
    for first_step in range(0, plan.steps, LINES):
        yield build_request(host, port, key, body(f"r{number}", first_step, LINES, epoch_ms))


async def _send_run(host: str, port: int, requests: Iterator[bytes], ledger: Ledger) -> None:
    """One request after the other, each with the same bytes until it is acknowledged."""
    connection: Connection | None = None
    for request in requests:
        while True:
            try:
                connection = connection or await Connection.connect(host, port)
                answer = await connection.send(request)
            except OSError:
                connection = None
                ledger.answers[0] += 1
                await asyncio.sleep(_AGAIN_S)
                continue
            ledger.answers[answer.status] += 1
            if answer.status == 204:
                ledger.acknowledged_at.append(perf_counter())
                break
            await asyncio.sleep(float(answer.retry_after or _AGAIN_S))
    if connection is not None:
        connection.close()


def _wait_for(database: InfluxDB, points: int) -> None:
    """Until both classes hold so many, or gain none for a minute: then the rest is missing."""
    seen, moved_at = 0, perf_counter()
    with DirectWriter(database) as writer:
        while True:
            found = [writer.count(_NAMESPACE, n, _MEASUREMENT, "train/loss") for n in _CLASSES]
            if min(found) >= points:
                return
            if sum(found) > seen:
                seen, moved_at = sum(found), perf_counter()
            elif perf_counter() - moved_at > _STALL_S:
                return
            time.sleep(_COUNT_EVERY_S)


def compare(points: Iterable[StoredPoint], plan: Plan, class_name: str, epoch_ms: int) -> Compared:
    """Every point that a class holds against what was sent, all of which was acknowledged."""
    seen = {f"r{number}": bytearray(plan.steps) for number in range(plan.connections)}
    invented = 0
    for point in points:
        run, step = point.tags["run"], int(point.fields.get("step", -1))
        at_ms = step if class_name == STEP_CLASS else epoch_ms + step * STEP_MS
        if (
            run in seen
            and 0 <= step < plan.steps
            and point.time_ns == at_ms * Precision.MS.ns
            and len(point.fields) == 2
        ):
            seen[run][step] = 1
        else:
            invented += 1
    stored = sum(map(sum, seen.values()))
    return Compared(stored, plan.points - stored, invented)


def _section(plan: Plan, ledger: Ledger, down_s: float, compared: dict[str, Compared]) -> Section:
    stall_s = max(later - earlier for earlier, later in pairwise(ledger.acknowledged_at))
    missing = max(found.missing for found in compared.values())
    failures = [
        f"class {name}: {found.missing:,} acknowledged points missing, {found.invented:,} invented"
        for name, found in compared.items()
        if found.missing or found.invented
    ]
    sent_s = ledger.acknowledged_at[-1] - ledger.acknowledged_at[0]
    return Section(
        f"kill -9 of the gateway at full speed: {plan.connections} connections, {LINES:,} lines a "
        "body",
        [
            Table(
                (
                    "acknowledged",
                    "missing",
                    "invented",
                    "points/s",
                    "broken requests",
                    "503s",
                    "gateway away s",
                    "no 2xx for s",
                ),
                [
                    [
                        whole(ledger.points),
                        whole(missing),
                        whole(max(found.invented for found in compared.values())),
                        whole(ledger.points / sent_s),
                        whole(ledger.answers[0]),
                        whole(ledger.answers[503]),
                        short(down_s),
                        short(stall_s),
                    ]
                ],
            )
        ],
        [
            f"acknowledged={ledger.points:,} missing={missing:,}",
            (
                "Clients repeat the same bytes after a broken connection or a 503 until they get a "
                "204. A consumer writes to the database meanwhile. Every point of both views was "
                "compared in the end; the figures are those of the worse view."
            ),
        ],
        failures,
    )
