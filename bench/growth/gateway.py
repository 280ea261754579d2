"""What the gateway costs by tenants and by the size of bodies, and the server by its log."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter

import uvloop

from bench.consumer.drain import Stalled
from bench.gateway.gateway import run_generator
from bench.gateway.generator import Load
from bench.lab.connection import Connection, build_request
from bench.lab.figures import percentile
from bench.lab.lines import body
from bench.lab.machine import cpu_s, rss_mib
from bench.lab.services import UNLIMITED_POINTS, Tell, host_and_port, write_keys
from demo.pipeline import start_service
from embedded.log.file import SqliteLog
from embedded.log.publisher import SqlitePublisher
from native.kafka import Broker
from schemas.line_protocol.precision import Precision
from schemas.log import dead_letter
from schemas.log.block import Block, encode_headers
from schemas.log.dead_letter import DeadLetter, Reason
from schemas.log.protocols import DEAD_LETTER_TOPIC, topic_of
from schemas.tenants.keys import KeyRecord, new_key

_CONNECTIONS = 16
_REQUESTS = 3_000
_RUNS = 101  # shares no divisor with numbers of tenants
_WRITES = 20
_WARMUP_S = 0.5
_TICK_S = 0.01  # no CPU time is measured more finely
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class TenantCost:
    """A gateway that knows so many tenants: seconds until ready, MiB, µs of CPU a request."""

    ready_s: float
    held_mib: float
    request_us: float


def tenants(folder: Path, broker: Broker, count: int, tell: Tell) -> TenantCost:
    """Requests of one line, of every tenant in turn."""
    keys, records = zip(
        *(
            new_key(f"tenant-{n}", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
            for n in range(count)
        ),
        strict=True,
    )
    folder.mkdir()
    environment = _environment(folder, records, broker)
    began = perf_counter()
    with start_service("gateway", ["ingest"], folder, environment) as gateway:
        ready_s = perf_counter() - began
        pid = gateway.process.pid
        address = host_and_port(gateway.url)
        uvloop.run(_send(address, keys, max(_REQUESTS, count)))
        spent = cpu_s(pid)
        uvloop.run(_send(address, keys, _REQUESTS))
        spent = cpu_s(pid) - spent
        found = TenantCost(ready_s, rss_mib(pid), spent / _REQUESTS * 1e6)
    tell(f"{count:,} tenants: {found.request_us:.0f} µs a request, {found.held_mib:.0f} MiB")
    return found


def body_sizes(
    folder: Path, broker: Broker, sizes: Sequence[int], seconds: float, tell: Tell
) -> Mapping[int, float]:
    """µs of the gateway's CPU for a request, by its lines."""
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    folder.mkdir()
    found = {}
    environment = _environment(folder, [record], broker)
    with start_service("gateway", ["ingest"], folder, environment) as gateway:
        watched = {"gateway": gateway.process.pid}
        host, port = host_and_port(gateway.url)
        for lines in sizes:
            load = Load(host, [port], key, _CONNECTIONS, lines, _WARMUP_S, seconds, watched)
            outcome = run_generator(folder, load)
            if set(outcome.statuses) != {"204"}:
                raise Stalled(f"answers {sorted(outcome.statuses)}; expected 204 only")
            found[lines] = outcome.cpu_s["gateway"] / outcome.requests * 1e6
            tell(f"{lines:,} lines a body: {found[lines]:,.0f} µs a request")
    return found


@dataclass(frozen=True, slots=True)
class LogCost:
    """What an embedded server does behind so many records.

    Seconds until ready, and until a first write is stored; then of 20 further writes the middle
    one and the CPU of one, in ms.
    """

    ready_s: float
    first_s: float
    stored_ms: float
    cpu_ms: float


def log_length(folder: Path, records: int, topic: str, tell: Tell) -> LogCost:
    """A log that holds so many settled records of a topic, dead letters among others."""
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    environment = write_keys(folder, [record]) | {"STEPCLOCK_CANARY_S": "0"}
    _fill(folder, records, topic)
    began = perf_counter()
    with start_service("serve", ["admin", "serve"], folder, environment) as server:
        ready_s = perf_counter() - began
        with closing(HTTPConnection(*host_and_port(server.url), timeout=60.0)) as connection:
            first_s = _write_and_wait(connection, key, 0)
            spent = cpu_s(server.process.pid)
            took = [_write_and_wait(connection, key, 1 + number) for number in range(_WRITES)]
            spent = cpu_s(server.process.pid) - spent
    found = LogCost(
        ready_s, first_s, percentile(took, 50) * 1000, max(spent, _TICK_S) / _WRITES * 1000
    )
    tell(f"{records:,} records of {topic}: ready in {ready_s:.2f} s, first {first_s:.2f} s")
    return found


def _fill(folder: Path, records: int, topic: str) -> None:
    """Append records; those of class raw are marked as consumed."""
    epoch_ms = time.time_ns() // 1_000_000 - _DAY_MS // 2
    lines = body("r0", 0, 1, epoch_ms)
    if topic == DEAD_LETTER_TOPIC:
        letter = DeadLetter(
            lines,
            Reason.REFUSED,
            "refused",
            "bench",
            "bench",
            "wall",
            "ms",
            topic_of("raw"),
            partition=0,
            offset=10**9,  # no block that is asked for
        )
        headers = dead_letter.encode_headers(letter)
    else:
        headers = encode_headers(Block("bench", "bench", Precision.MS, 1, 0, lines))
    log = SqliteLog(folder / "log.db", [topic])
    publisher = SqlitePublisher(log)
    last: Future[int] | None = None
    for number in range(records):
        last = publisher.send(topic, 0, lines, headers)
        if number % 10_000 == 0:
            last.result()
    assert last is not None
    end = last.result() + 1
    publisher.close(60.0)
    if topic != DEAD_LETTER_TOPIC:
        with closing(sqlite3.connect(folder / "store.db")) as connection, connection:
            connection.execute(
                "CREATE TABLE offsets (topic TEXT NOT NULL, partition INTEGER NOT NULL,"
                " next_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition))"
            )
            connection.execute("INSERT INTO offsets VALUES (?, 0, ?)", (topic, end))


def _write_and_wait(connection: HTTPConnection, key: str, number: int) -> float:
    """Seconds until a line is stored. Raises Stalled."""
    headers = {"Authorization": f"Bearer {key}"}
    began = perf_counter()
    lines = body("fresh", number, 1, time.time_ns() // 1_000_000 - 60_000)
    connection.request("POST", "/api/v2/write?bucket=raw&precision=ms", lines, headers)
    answer = connection.getresponse()
    answer.read()
    receipt = answer.headers["Stepclock-Receipt"]
    connection.request("GET", f"/api/v1/receipts/{receipt}?wait_s=30", headers=headers)
    state = connection.getresponse().read()
    if answer.status != 204 or b'"stored":true' not in state.replace(b" ", b""):
        raise Stalled(f"a write got {answer.status}, then {state[:200]!r}")
    return perf_counter() - began


def _environment(folder: Path, records: Sequence[KeyRecord], broker: Broker) -> dict[str, str]:
    return write_keys(folder, records) | {
        "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "STEPCLOCK_CANARY_S": "0",
    }


async def _send(address: tuple[str, int], keys: Sequence[str], count: int) -> None:
    """One line a request, the keys and the runs in turns. Raises Stalled unless all get a 204."""
    epoch_ms = time.time_ns() // 1_000_000 - 60_000
    # Runs of any number of tenants, so that these alone tell the measurements apart.
    lines = [body(f"r{run}", 0, 1, epoch_ms) for run in range(_RUNS)]
    numbers = iter(range(count))

    async def client() -> None:
        connection = await Connection.connect(*address)
        for number in numbers:
            request = build_request(*address, keys[number % len(keys)], lines[number % _RUNS])
            status = (await connection.send(request)).status
            if status != 204:
                raise Stalled(f"a write got {status}; expected 204 only")
        connection.close()

    await asyncio.gather(*(client() for _ in range(_CONNECTIONS)))
