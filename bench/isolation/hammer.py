"""A tenant at full rate: ``python -m bench.isolation.hammer PLAN.json OUTCOME.json``.

It sends the same body on every connection, again as soon as it was answered, whatever the
answer says: Retry-After is not obeyed. It runs at a lower priority, since it stands for
other machines: what it does to the gateway is measured, not what it does to the cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import uvloop

from bench.lab.connection import Connection, build_post

_NICENESS = 15


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send where: the body that lies in a file, on each connection."""

    host: str
    port: int
    key: str
    connections: int
    target: str
    body: str
    gzipped: bool
    seconds: float


async def hammer(plan: Plan, body: bytes) -> Counter[str]:
    """Send until the time is over; the answers by status, and broken connections."""
    request = build_post(plan.host, plan.port, plan.key, plan.target, body, gzipped=plan.gzipped)
    answers: Counter[str] = Counter()
    until = perf_counter() + plan.seconds

    async def send_all() -> None:
        while perf_counter() < until:
            try:
                connection = await Connection.connect(plan.host, plan.port)
                while perf_counter() < until:
                    answers[str((await connection.send(request)).status)] += 1
            except OSError:
                answers["broken"] += 1

    clients = [asyncio.create_task(send_all()) for _ in range(plan.connections)]
    # Those that are not answered yet are left: a body of megabytes may take minutes.
    await asyncio.wait(clients, timeout=plan.seconds)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return answers


def write_plan(path: Path, plan: Plan) -> None:
    """Write down what `main` reads."""
    path.write_text(json.dumps(asdict(plan)), "utf-8")


def main(plan_path: str, outcome_path: str) -> None:
    """Read the plan, send, write down the answers."""
    os.nice(_NICENESS)
    plan = Plan(**json.loads(Path(plan_path).read_text("utf-8")))
    answers = uvloop.run(hammer(plan, Path(plan.body).read_bytes()))
    Path(outcome_path).write_text(json.dumps(answers), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
