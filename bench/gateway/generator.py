"""The load generator: ``python -m bench.gateway.generator PLAN.json OUTCOME.json``.

A closed loop: each connection sends its next body as soon as the last one was answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter

import uvloop

from bench.lab.connection import Connection, build_request
from bench.lab.figures import percentile
from bench.lab.lines import STEP_MS, bodies
from bench.lab.machine import busy_s, cpu_s

#: Lines that are made ahead; bodies are sent again once all of them were sent.
_POOL_LINES = 200_000
_MAX_BODIES = 200


@dataclass(frozen=True, slots=True)
class Load:
    """What to send where; connections are dealt round the ports.

    watched: processes whose CPU time is read, by name.
    """

    host: str
    ports: Sequence[int]
    key: str
    connections: int
    lines: int
    warmup_s: float
    seconds: float
    watched: Mapping[str, int]


@dataclass(slots=True)
class Outcome:
    """What came of it. In the window: seconds, requests, latencies, and the CPU seconds.

    acknowledged_points: of all 2xx, those before and after the window included. statuses: of
    all answers. busy_s: CPU seconds of the whole machine, whoever used them.
    """

    acknowledged_points: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    window_s: float = 0.0
    requests: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)
    busy_s: float = 0.0


async def drive(load: Load) -> Outcome:
    """Send for warmup_s and then for the window; wait for the last answers."""
    requests = _requests(load)
    connections = [
        await Connection.connect(load.host, _port(load, number))
        for number in range(load.connections)
    ]
    statuses: Counter[int] = Counter()
    took_s: list[float] = []
    measuring, stopped = asyncio.Event(), asyncio.Event()

    async def send_all(connection: Connection, own: Sequence[bytes]) -> None:
        for request in cycle(own):
            if stopped.is_set():
                return
            sent_at = perf_counter()
            answer = await connection.send(request)
            statuses[answer.status] += 1
            if answer.status != 204:
                # Anything else is a finding, which the report names; it must not spin.
                await asyncio.sleep(0.1)
            elif measuring.is_set():
                took_s.append(perf_counter() - sent_at)

    clients = [
        asyncio.create_task(send_all(connection, own))
        for connection, own in zip(connections, requests, strict=True)
    ]
    await _let_run(clients, load.warmup_s)
    measuring.set()
    began, cpu_began, busy_began = perf_counter(), _read_cpu(load.watched), busy_s()
    await _let_run(clients, load.seconds)
    measuring.clear()
    window_s, cpu, busy = perf_counter() - began, _read_cpu(load.watched), busy_s() - busy_began
    stopped.set()
    await asyncio.gather(*clients)
    for connection in connections:
        connection.close()
    return Outcome(
        acknowledged_points=statuses[204] * load.lines,
        statuses={str(status): count for status, count in statuses.items()},
        window_s=window_s,
        requests=len(took_s),
        p50_ms=percentile(took_s, 50) * 1000,
        p99_ms=percentile(took_s, 99) * 1000,
        cpu_s={name: cpu[name] - cpu_began[name] for name in cpu},
        busy_s=busy,
    )


async def _let_run(clients: list[asyncio.Task[None]], seconds: float) -> None:
    """Sleep, unless a client fails: then raise what it raised."""
    done, _ = await asyncio.wait(clients, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for client in done:
        client.result()


def _requests(load: Load) -> list[list[bytes]]:
    """The requests of each connection, which has a run, and so mostly a partition, of its own."""
    count = _POOL_LINES // (load.connections * load.lines)
    count = max(2, min(_MAX_BODIES, count))
    epoch_ms = time.time_ns() // 1_000_000 - count * load.lines * STEP_MS
    return [
        [
            build_request(load.host, _port(load, number), load.key, body)
            for body in bodies(f"r{number}", load.lines, count, epoch_ms)
        ]
        for number in range(load.connections)
    ]


def _port(load: Load, number: int) -> int:
    return load.ports[number % len(load.ports)]


def _read_cpu(watched: Mapping[str, int]) -> dict[str, float]:
    return {name: cpu_s(pid) for name, pid in watched.items()} | {"load": cpu_s(os.getpid())}


def main(plan_path: str, outcome_path: str) -> None:
    """Read the plan, send, write down the outcome."""
    load = Load(**json.loads(Path(plan_path).read_text("utf-8")))
    outcome = uvloop.run(drive(load))
    Path(outcome_path).write_text(json.dumps(asdict(outcome)), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
