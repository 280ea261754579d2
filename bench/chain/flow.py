"""The load of a whole chain: ``python -m bench.chain.flow PLAN.json OUTCOME.json``.

No two points are alike, so that the store can be counted afterwards. Full speed means that so
many points at most are sent and not yet stored. A rate is an open loop: every body has its
moment, whatever became of those before, and latencies count from that moment on, not from when a
connection was free at last. Latency is measured with markers: bodies of runs of their own, which
the store is asked for until all of their lines can be read.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

import uvloop

from bench.lab.connection import Connection, build_request
from bench.lab.influx import Address, DirectWriter
from bench.lab.lines import STEP_MS, body
from bench.lab.machine import busy_s, cpu_s

#: Runs that are written at the same time, and bodies of each before the next ones begin.
_RUNS = 64
_BODIES = 20
_TEMPLATE = "r0000000"

_MARK_EVERY_S = 0.05
_LOOK_EVERY_S = 0.05
_SAMPLE_EVERY_S = 0.1
#: After the last answer: what can't be read by then never will be.
_LAST_LOOK_S = 30.0
#: A refused body is sent again after Retry-After, or this.
_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Flow:
    """What to send where.

    rate: points/s; 0 for full speed, with so many points of backlog at most. watched: processes
    whose CPU time is read, by name. marked_class: where markers are looked for, in the view that
    is written last. views: how many times the store is given each point.
    """

    host: str
    port: int
    key: str
    class_name: str
    connections: int
    lines: int
    warmup_s: float
    seconds: float
    rate: float
    backlog: int
    watched: Mapping[str, int]
    store: Address
    namespace: str
    marked_class: str
    views: int


@dataclass(slots=True)
class Flowed:
    """What came of it. In the window: seconds, points stored, CPU seconds.

    acknowledged: points of all 2xx, those before and after the window included. statuses: of all
    answers. answered_ms, readable_ms: of bodies, and of markers, due in the window. unseen:
    markers that could not be read in the end. busy_s: CPU seconds of the whole machine.
    """

    acknowledged: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    window_s: float = 0.0
    stored: int = 0
    cpu_s: dict[str, float] = field(default_factory=dict)
    busy_s: float = 0.0
    answered_ms: list[float] = field(default_factory=list)
    readable_ms: list[float] = field(default_factory=list)
    unseen: int = 0


class Sender:
    """Hands out distinct bodies at their moments, and keeps the books."""

    def __init__(self, flow: Flow, sampled: DirectWriter, looked_at: DirectWriter) -> None:
        self._flow = flow
        self._sampled = sampled
        self._looked_at = looked_at
        self._written_before = sampled.written()
        self._sampling = asyncio.Lock()
        epoch_ms = time.time_ns() // 1_000_000 - _BODIES * flow.lines * STEP_MS
        self._templates = [
            body(_TEMPLATE, number * flow.lines, flow.lines, epoch_ms) for number in range(_BODIES)
        ]
        self._stored_moved = asyncio.Condition()
        self._sent = self._stored = self._turn = self._bodies = 0
        self._began = self._mark_due = perf_counter()
        self._until = float("inf")
        self._marks = 0
        self._waiting: dict[str, float] = {}
        self._all_read = asyncio.Event()
        self.statuses: Counter[int] = Counter()
        self.answered: list[tuple[float, float]] = []
        self.readable: list[tuple[float, float]] = []

    async def send_all(self, connection: Connection) -> None:
        """Send one body after the other until `stop`; a refused one again until it is taken."""
        while (due := await self._next_turn()) < self._until:
            request = self._request(due)
            self._sent += self._flow.lines
            while True:
                answer = await connection.send(request)
                self.statuses[answer.status] += 1
                if answer.status not in (429, 503):
                    break
                await asyncio.sleep(float(answer.retry_after or _AGAIN_S))
            self.answered.append((due, perf_counter()))

    def stop(self) -> None:
        """Send nothing more that is due from now on."""
        self._until = perf_counter()

    async def sample(self) -> int:
        """How many points the store has gained, each counted once whatever its views."""
        async with self._sampling:
            written = await asyncio.to_thread(self._sampled.written)
        async with self._stored_moved:
            self._stored = (written - self._written_before) // self._flow.views
            self._stored_moved.notify_all()
        return self._stored

    async def keep_sampling(self) -> None:
        """Look again and again how much is stored."""
        while True:
            await self.sample()
            await asyncio.sleep(_SAMPLE_EVERY_S)

    async def keep_looking(self) -> None:
        """Look again and again which markers can be read."""
        while True:
            if self._waiting:
                names = list(self._waiting)
                counts = await asyncio.to_thread(
                    self._looked_at.counts, self._flow.namespace, self._flow.marked_class, names
                )
                now = perf_counter()
                for name, count in counts.items():
                    if count == self._flow.lines:
                        self.readable.append((self._waiting.pop(name), now))
            if not self._waiting:
                self._all_read.set()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def last_look(self) -> int:
        """Wait until every marker can be read, within bounds; how many can't."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_LOOK_S):
                await self._all_read.wait()
        return len(self._waiting)

    async def _next_turn(self) -> float:
        """The moment at which the next body is due, once it has come."""
        if not self._flow.rate:
            async with self._stored_moved:
                await self._stored_moved.wait_for(
                    lambda: (
                        self._sent - self._stored <= self._flow.backlog
                        or perf_counter() >= self._until
                    )
                )
            return perf_counter()
        due = self._began + self._turn * self._flow.lines / self._flow.rate
        self._turn += 1
        if (wait_s := due - perf_counter()) > 0:
            await asyncio.sleep(wait_s)
        return due

    def _request(self, due: float) -> bytes:
        if due >= self._mark_due:
            self._mark_due = due + _MARK_EVERY_S
            self._marks += 1
            run, template = f"m{self._marks:07}", self._templates[0]
            self._waiting[run] = due
            self._all_read.clear()
        else:
            chunk, lane = divmod(self._bodies, _RUNS)
            generation, number = divmod(chunk, _BODIES)
            run, template = f"r{generation * _RUNS + lane:07}", self._templates[number]
            self._bodies += 1
        flow = self._flow
        lines = template.replace(b"run=" + _TEMPLATE.encode(), b"run=" + run.encode())
        return build_request(flow.host, flow.port, flow.key, lines, class_name=flow.class_name)


async def drive(flow: Flow) -> Flowed:
    """Send for warmup_s and then for the window; wait for answers and markers."""
    connections = [await Connection.connect(flow.host, flow.port) for _ in range(flow.connections)]
    # Each connection to the store is used by one thread at a time.
    with DirectWriter(flow.store) as sampled, DirectWriter(flow.store) as looked_at:
        sender = Sender(flow, sampled, looked_at)
        watching = [
            asyncio.create_task(sender.keep_sampling()),
            asyncio.create_task(sender.keep_looking()),
        ]
        clients = [asyncio.create_task(sender.send_all(connection)) for connection in connections]
        everyone = [*clients, *watching]
        try:
            await _let_run(everyone, flow.warmup_s)
            first = await sender.sample()
            began, cpu_began, busy_began = perf_counter(), _read_cpu(flow.watched), busy_s()
            await _let_run(everyone, flow.seconds)
            stored = await sender.sample() - first
            ended, cpu, busy = perf_counter(), _read_cpu(flow.watched), busy_s() - busy_began
            sender.stop()
            await asyncio.gather(*clients)
            unseen = await sender.last_look()
            await _let_run(watching, 0.0)
        finally:
            for task in everyone:
                task.cancel()
            await asyncio.gather(*everyone, return_exceptions=True)
            for connection in connections:
                connection.close()

    def in_window(pairs: list[tuple[float, float]]) -> list[float]:
        return [(done - due) * 1000 for due, done in pairs if began <= due < ended]

    return Flowed(
        acknowledged=sender.statuses[204] * flow.lines,
        statuses={str(status): count for status, count in sender.statuses.items()},
        window_s=ended - began,
        stored=stored,
        cpu_s={name: cpu[name] - cpu_began[name] for name in cpu},
        busy_s=busy,
        answered_ms=in_window(sender.answered),
        readable_ms=in_window(sender.readable),
        unseen=unseen,
    )


async def _let_run(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    """Let the tasks go on; raise at once what one of them raises."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def _read_cpu(watched: Mapping[str, int]) -> dict[str, float]:
    return {name: cpu_s(pid) for name, pid in watched.items()} | {"load": cpu_s(os.getpid())}


def main(plan_path: str, outcome_path: str) -> None:
    """Read the plan, send, write down the outcome."""
    plan = json.loads(Path(plan_path).read_text("utf-8"))
    flow = Flow(**{**plan, "store": Address(**plan["store"])})
    flowed = uvloop.run(drive(flow))
    Path(outcome_path).write_text(json.dumps(asdict(flowed)), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
