"""Whether the rate limit is kept, whether Retry-After is honest, and whether others feel it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import uvloop

from bench.gateway.patience import (
    NeverRefused,
    Record,
    Verdict,
    first_refusal,
    judge,
    send_patiently,
    send_steadily,
)
from bench.lab.connection import Connection, build_request
from bench.lab.figures import deviation_percent, percentile, share_percent, short, whole
from bench.lab.lines import bodies
from bench.lab.services import UNLIMITED_POINTS, Tell, gateway_backend, host_and_port
from bench.report import Section, Table
from demo.pipeline import start_service
from schemas.tenants.keys import new_key

RATE = 10_000
BURST = 20_000
LINES = 100
TOLERANCE_PERCENT = 5.0
CONNECTIONS = (1, 64)

#: The other tenant sends a body of LINES lines this often.
OTHER_EVERY_S = 0.05
ALONE_S = 4.0

#: The burst must be spent within this time, else the clients are too slow to say anything.
_BURST_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Plan:
    """Seconds behind the burst; the gateway with Kafka, or else the embedded server."""

    seconds: float = 30.0
    kafka: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """One measurement: the limited tenant's answers, and the other tenant's meanwhile.

    connections 0: the other tenant alone.
    """

    connections: int
    began: float
    record: Record
    other: Record


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Run both measurements against a gateway of their own.

    Raises StartFailed, PreparationFailed.
    """
    made = {
        f"limited-{count}": new_key(f"limited-{count}", rate=RATE, burst=BURST)
        for count in CONNECTIONS
    }
    made["other"] = new_key("other", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    records = [record for _key, record in made.values()]
    with (
        gateway_backend(folder, records, kafka_too=plan.kafka, tell=tell) as backend,
        start_service("gateway", backend.argv, folder, backend.environment) as gateway,
    ):
        keys = {tenant: key for tenant, (key, _record) in made.items()}
        phases = uvloop.run(_run_phases(gateway.url, keys, plan.seconds, tell))
    return _section(phases, plan.seconds, kafka=plan.kafka)


async def _run_phases(url: str, keys: dict[str, str], seconds: float, tell: Tell) -> list[Phase]:
    host, port = host_and_port(url)
    tell(f"the other tenant alone, {ALONE_S:g} s")
    other = await Connection.connect(host, port)
    alone = Record()
    requests = _requests(host, port, keys["other"], "other")
    with suppress(TimeoutError):
        async with asyncio.timeout(ALONE_S):
            await send_steadily(other, requests, OTHER_EVERY_S, alone)
    other.close()
    phases = [Phase(0, 0.0, Record(), alone)]
    for count in CONNECTIONS:
        tell(f"{_name(count)} against the limit, {seconds:g} s behind the burst")
        phases.append(await _run_phase(host, port, keys, count, seconds))
    return phases


async def _run_phase(
    host: str, port: int, keys: dict[str, str], count: int, seconds: float
) -> Phase:
    connections = [await Connection.connect(host, port) for _ in range(count)]
    other = await Connection.connect(host, port)
    record, beside = Record(), Record()
    steady = asyncio.create_task(
        send_steadily(other, _requests(host, port, keys["other"], "other"), OTHER_EVERY_S, beside)
    )
    key = keys[f"limited-{count}"]
    requests = [_requests(host, port, key, f"c{n}-of-{count}") for n in range(count)]
    began = perf_counter()
    until = began + _BURST_TIMEOUT_S + seconds
    clients = [
        asyncio.create_task(send_patiently(connection, own, until, record))
        for connection, own in zip(connections, requests, strict=True)
    ]
    try:
        while perf_counter() < began + _BURST_TIMEOUT_S and first_refusal(record) is None:
            await _or_fail(clients, 0.05)
        spent_at = first_refusal(record) or perf_counter() - seconds
        await _or_fail(clients, max(0.0, spent_at + seconds - perf_counter()))
    finally:
        for task in (*clients, steady):
            task.cancel()
        outcomes = await asyncio.gather(*clients, steady, return_exceptions=True)
        for connection in (*connections, other):
            connection.close()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return Phase(count, began, record, beside)


async def _or_fail(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    """Let the tasks go on for a while; raise at once what one of them raises."""
    done, _pending = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def _requests(host: str, port: int, key: str, run: str) -> list[bytes]:
    epoch_ms = time.time_ns() // 1_000_000 - 3_600_000
    return [build_request(host, port, key, body) for body in bodies(run, LINES, 32, epoch_ms)]


def _section(phases: list[Phase], seconds: float, *, kafka: bool) -> Section:
    limited_rows: list[list[str]] = []
    other_rows: list[list[str]] = []
    failures: list[str] = []
    for phase in phases:
        name = _name(phase.connections)
        failures += [f"{name}: {text}" for text in _other_failures(phase.other)]
        other_rows.append([name, *_other_cells(phase.other)])
        if phase.connections == 0:
            continue
        try:
            verdict = judge(
                phase.record, began=phase.began, rate=RATE, points=LINES, window_s=seconds
            )
        except NeverRefused as exc:
            failures.append(f"{name}: {exc}")
            continue
        limited_rows.append([name, *_limited_cells(verdict, phase.record)])
        failures += [f"{name}: {text}" for text in _limited_failures(verdict, phase.record)]
    backend = "gateway with Kafka" if kafka else "embedded server"
    return Section(
        f"Rate limit: {RATE:,} points/s, burst {BURST:,}, bodies of {LINES} lines ({backend})",
        [
            Table(
                (
                    "the limited tenant",
                    "points/s",
                    "off by",
                    "burst taken",
                    "429s",
                    "Retry-After",
                    "retries let in",
                    "p50 ms",
                ),
                limited_rows,
            ),
            Table(("the other tenant", "requests", "p50 ms", "p99 ms", "429s"), other_rows),
        ],
        [
            (
                f"Measured over {seconds:g} s from the first refused request on. Every connection "
                "obeys Retry-After by itself, in whole seconds, and repeats the same body then. "
                "Retries let in: requests that were taken when they came back; the others had been "
                "overtaken by connections of the same tenant."
            ),
            f"The other tenant, unlimited, sends {LINES} lines every {OTHER_EVERY_S * 1000:g} ms.",
        ],
        failures,
    )


def _name(connections: int) -> str:
    if connections == 0:
        return "alone"
    return f"{connections} connection" + ("s" if connections > 1 else "")


def _limited_cells(verdict: Verdict, record: Record) -> list[str]:
    taken_ms = [event.took_s * 1000 for event in record.events if event.status == 204]
    return [
        whole(verdict.points_per_s),
        f"{deviation_percent(verdict.points_per_s, RATE):+.1f} %",
        whole(verdict.burst),
        whole(verdict.refusals),
        ", ".join(f"{wait_s} s: {count}" for wait_s, count in sorted(record.waits.items())),
        (
            f"{verdict.admitted} of {verdict.retries} "
            f"({share_percent(verdict.admitted, verdict.retries):.0f} %)"
        ),
        short(percentile(taken_ms, 50)),
    ]


def _limited_failures(verdict: Verdict, record: Record) -> list[str]:
    failures = []
    off = deviation_percent(verdict.points_per_s, RATE)
    if abs(off) > TOLERANCE_PERCENT:
        failures.append(f"{off:+.1f} % off the limit; allowed are {TOLERANCE_PERCENT:g} %")
    if record.unreadable:
        failures.append(f"Retry-After is not in whole seconds: {dict(record.unreadable)}")
    if strange := {event.status for event in record.events} - {204, 429}:
        failures.append(f"answers {sorted(strange)}")
    return failures


def _other_cells(record: Record) -> list[str]:
    took_ms = [event.took_s * 1000 for event in record.events]
    return [
        whole(len(record.events)),
        short(percentile(took_ms, 50)),
        short(percentile(took_ms, 99)),
        whole(sum(event.status == 429 for event in record.events)),
    ]


def _other_failures(record: Record) -> list[str]:
    refused = sum(event.status != 204 for event in record.events)
    return [f"{refused} requests of the other tenant were not taken"] if refused else []
