"""How long bodies of 32 MiB hold the event loop of a gateway, and with it everybody else."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import uvloop

from bench.isolation import hostile
from bench.lab.connection import Connection, build_post, write_target
from bench.lab.figures import Spread, short
from bench.lab.services import UNLIMITED_POINTS, Tell, gateway_backend, host_and_port
from bench.report import Section, Table
from demo.gateway import get
from demo.pipeline import start_service
from schemas.tenants.keys import new_key

#: Bodies that are sent at the same moment, each by a tenant of its own.
_AT_ONCE = 6

_IDLE_S = 1.0

#: So that all bodies are taken, those too that are sent as they are.
_SETTINGS = {
    "STEPCLOCK_MAX_BODY_BYTES": str(33 * 1024 * 1024),
    "STEPCLOCK_MAX_READING_BYTES": str(1024 * 1024 * 1024),
    "STEPCLOCK_MAX_PENDING_BYTES": str(1024 * 1024 * 1024),
    "STEPCLOCK_CANARY_S": "0",
}


@dataclass(frozen=True)
class Plan:
    """How often each kind of body is sent, and how long its answers are waited for."""

    rounds: Annotated[int, "Repetitions, all kinds taking turns."] = 5
    seconds: Annotated[float, "Seconds after which the answers of a round are given up."] = 15.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A body and where it is sent. make: makes it."""

    name: str
    target: str
    make: Callable[[], bytes]
    gzipped: bool = False


KINDS = tuple(
    Kind(f"{what}, {'gzip' if gzipped else 'as it is'}", target, make, gzipped)
    for gzipped in (True, False)
    for what, target, make in (
        *((f"JSON, {name}", hostile.ROWS_TARGET, make) for name, make in hostile.JSON.items()),
        ("bad lines", write_target(), hostile.bad_lines),
    )
)


@dataclass(slots=True)
class Seen:
    """The longest stall of each round and its most CPU in seconds, and all answers by status."""

    stalls_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Every kind in turns, and the idle loop. Raises StartFailed, ReadFailed."""
    seen = {name: Seen() for name in ("idle", *(kind.name for kind in KINDS))}
    for number in range(1, plan.rounds + 1):
        tell(f"round {number} of {plan.rounds}")
        for place, kind in enumerate((None, *KINDS)):
            found = seen["idle" if kind is None else kind.name]
            _watch(folder / f"{number}-{place}", kind, plan.seconds, found, tell)
    return section(seen, plan)


def _watch(folder: Path, kind: Kind | None, seconds: float, seen: Seen, tell: Tell) -> None:
    """One stall, of a server of its own: tenants rest, and wait, for what others sent before."""
    made = [
        new_key(f"t{number}", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
        for number in range(_AT_ONCE)
    ]
    keys, records = zip(*made, strict=True)
    with (
        gateway_backend(folder, records, kafka_too=False, tell=tell) as backend,
        start_service(
            "serve", ["bench.isolation.ticking_serve"], folder, {**backend.environment, **_SETTINGS}
        ) as server,
    ):
        address = host_and_port(server.url)
        requests = [] if kind is None else _requests(address, kind, keys)
        _take(server.url)
        if requests:
            seen.answers += uvloop.run(_send(address, requests, seconds))
        else:
            time.sleep(_IDLE_S)
        stall_s, cpu_s = _take(server.url)
    seen.stalls_s.append(stall_s)
    seen.cpu_s.append(cpu_s)


def _take(url: str) -> tuple[float, float]:
    stall_s, cpu_s = json.loads(get(f"{url}/stall"))
    return stall_s, cpu_s


def _requests(address: tuple[str, int], kind: Kind, keys: Sequence[str]) -> list[bytes]:
    body = kind.make()
    if kind.gzipped:
        body = gzip.compress(body)
    return [build_post(*address, key, kind.target, body, gzipped=kind.gzipped) for key in keys]


async def _send(
    address: tuple[str, int], requests: Sequence[bytes], seconds: float
) -> Counter[str]:
    """All requests at once; their answers by status."""
    connections = [await Connection.connect(*address) for _ in requests]
    tasks = [
        asyncio.create_task(connection.send(request))
        for connection, request in zip(connections, requests, strict=True)
    ]
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for connection in connections:
        connection.close()
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    answers = Counter("broken" if task.exception() else str(task.result().status) for task in done)
    if late:
        answers["none"] = len(late)
    return answers


def section(seen: Mapping[str, Seen], plan: Plan) -> Section:
    """What was found."""
    return Section(
        f"Stalls of the event loop: {_AT_ONCE} bodies of 32 MiB at once (embedded server)",
        [
            Table(
                (
                    "bodies",
                    "longest stall ms: median",
                    "worst",
                    "most CPU ms: median",
                    "worst CPU ms",
                    "answers",
                ),
                [_row(name, found) for name, found in seen.items()],
            )
        ],
        [
            (
                "A task of the server wakes up each millisecond; a stall is by how much it was "
                f"late. The longest of each of {plan.rounds} rounds; idle is the floor, which "
                "other work on the machine raises. CPU: the most that the loop's thread used "
                "between two ticks, whatever else ran. Each measurement has a server of its own, "
                f"and each body a tenant; answers are waited for {plan.seconds:g} s. The gateway's "
                "room for bodies is raised so that it reads all of them at once."
            )
        ],
    )


def _row(name: str, found: Seen) -> list[str]:
    spreads = Spread.of(found.stalls_s), Spread.of(found.cpu_s)
    figures = [short(value * 1000) for each in spreads for value in (each.median, each.high)]
    answers = ", ".join(f"{status}: {n:,}" for status, n in sorted(found.answers.items()))
    return [name, *figures, answers]
