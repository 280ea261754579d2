"""Bodies through a gateway as fast as it takes them, each once, until all of them are stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import uvloop

from bench.consumer.drain import Stalled
from bench.lab.connection import Connection, build_request
from bench.lab.figures import percentile
from bench.lab.machine import cpu_s

_CONNECTIONS = 8
_SAMPLE_S = 0.05
_STALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Flood:
    """In seconds: until the last 204, until all was stored, and the CPU of each process."""

    lines: int
    answered_s: float
    stored_s: float
    p50_ms: float
    p99_ms: float
    cpu_s: Mapping[str, float]


def flood(
    address: tuple[str, int],
    key: str,
    bodies: Sequence[bytes],
    watched: Mapping[str, int],
    stored: Callable[[], int],
    *,
    connections: int = _CONNECTIONS,
) -> Flood:
    """Send every body once, then wait until `stored()` has grown by all their lines.

    watched: processes by name. Raises Stalled if an answer is not 204, or points don't arrive.
    """
    lines = sum(body.count(b"\n") + 1 for body in bodies)
    requests = [build_request(*address, key, body) for body in bodies]
    before = stored()
    began, cpu = perf_counter(), {name: cpu_s(pid) for name, pid in watched.items()}
    took = uvloop.run(_send(address, iter(requests), connections))
    answered_s = perf_counter() - began
    _wait(stored, before + lines)
    return Flood(
        lines,
        answered_s,
        perf_counter() - began,
        percentile(took, 50) * 1000,
        percentile(took, 99) * 1000,
        {name: cpu_s(pid) - cpu[name] for name, pid in watched.items()},
    )


async def _send(
    address: tuple[str, int], requests: Iterator[bytes], connections: int
) -> list[float]:
    """Seconds of each request; every connection takes the next one when it has its answer."""
    took: list[float] = []

    async def client() -> None:
        connection = await Connection.connect(*address)
        for request in requests:
            sent_at = perf_counter()
            status = (await connection.send(request)).status
            if status != 204:
                raise Stalled(f"a write got {status}; expected 204 only")
            took.append(perf_counter() - sent_at)
        connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return took


def _wait(stored: Callable[[], int], wanted: int) -> None:
    seen, moved_at = -1, perf_counter()
    while (found := stored()) < wanted:
        if found > seen:
            seen, moved_at = found, perf_counter()
        elif perf_counter() - moved_at > _STALL_S:
            raise Stalled(f"{found} of {wanted} points are stored, and no more come")
        time.sleep(_SAMPLE_S)
