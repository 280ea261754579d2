"""Whether a tenant that sends nothing but trouble is felt by another one."""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import perf_counter

from bench.isolation import hammer, hostile
from bench.lab.connection import write_target
from bench.lab.figures import percentile, short, whole
from bench.lab.lines import STEP_MS, body
from bench.lab.machine import cpu_s
from bench.lab.services import UNLIMITED_POINTS, Tell, gateway_backend, host_and_port
from bench.report import Section, Table
from demo.pipeline import start_service
from native.process import StartFailed, log_tail, spawn
from schemas.tenants.keys import new_key

TARGET_RATIO = 2.0

#: The modest tenant: so many clients, each writing LINES lines and then waiting until stored.
_CLIENTS = 8
_LINES = 100
_WAIT_S = 30
_WARMUP_S = 3.0

#: Behind the hammer's start: its process has to come up first.
_HEAD_START_S = 1.5


@dataclass(frozen=True)
class Plan:
    """Seconds of each measurement."""

    seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What the other tenant sends meanwhile, on each connection. make: makes the body."""

    name: str
    connections: int
    make: Callable[[], bytes]
    target: str = write_target()
    gzipped: bool = False
    limited: bool = False


def _gzipped(make: Callable[[], bytes]) -> bytes:
    return gzip.compress(make())


def _bad_lines(count: int) -> bytes:
    return b"\n".join([b"resnet,run=r1 loss=,step=1i"] * count)


TROUBLES = (
    Trouble("one bad line a body", 64, lambda: b"x"),
    Trouble("bad lines, 32 KiB a body", 64, lambda: _bad_lines(1_000)),
    Trouble("bad lines, 10 MiB a body", 8, lambda: _bad_lines(370_000)),
    Trouble(
        "good lines, 100 a body, far over its limit",
        64,
        lambda: b"\n".join([b"m f=1"] * 100),
        limited=True,
    ),
    *(
        Trouble(
            f"JSON, {name}, 32 MiB in 32 KiB of gzip",
            8,
            partial(_gzipped, make),
            target=hostile.ROWS_TARGET,
            gzipped=True,
        )
        for name, make in hostile.JSON.items()
    ),
)


@dataclass(frozen=True, slots=True)
class Waited:
    """One write of the modest tenant, in seconds: until its 204, and until it was stored."""

    answered_s: float
    stored_s: float


@dataclass(slots=True)
class Phase:
    """What the modest tenant saw, and the trouble meanwhile with its answers by status."""

    name: str
    waited: list[Waited]
    failures: list[str]
    gateway_cpu_s: float
    answers: Mapping[str, int]


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Run the modest tenant alone, beside each trouble, and alone again. Raises StartFailed."""
    made = {
        "modest": new_key("modest", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS),
        "troubled": new_key("troubled", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS),
        "limited": new_key("limited", rate=1_000, burst=1_000),
    }
    keys = {tenant: key for tenant, (key, _record) in made.items()}
    records = [record for _key, record in made.values()]
    with (
        gateway_backend(folder, records, kafka_too=False, tell=tell) as backend,
        start_service("gateway", backend.argv, folder, backend.environment) as gateway,
    ):
        pid = gateway.process.pid
        watch(gateway.url, keys["modest"], _WARMUP_S)
        phases = [
            _run(folder, gateway.url, pid, keys, trouble, plan.seconds, tell)
            for trouble in (None, *TROUBLES, None)
        ]
    return _section(phases, plan.seconds)


def _run(
    folder: Path,
    url: str,
    pid: int,
    keys: Mapping[str, str],
    trouble: Trouble | None,
    seconds: float,
    tell: Tell,
) -> Phase:
    name = "alone" if trouble is None else trouble.name
    tell(f"the modest tenant, {seconds:g} s: {name}")
    if trouble is None:
        cpu_began = cpu_s(pid)
        waited, failures = watch(url, keys["modest"], seconds)
        return Phase(name, waited, failures, cpu_s(pid) - cpu_began, {})
    plan_path, outcome_path = folder / "hammer.json", folder / "hammered.json"
    log_path, body_path = folder / "hammer.log", folder / "hammer.body"
    body_path.write_bytes(trouble.make())
    host, port = host_and_port(url)
    load = hammer.Plan(
        host,
        port,
        keys["limited" if trouble.limited else "troubled"],
        trouble.connections,
        trouble.target,
        str(body_path),
        trouble.gzipped,
        seconds + 2 * _HEAD_START_S,
    )
    hammer.write_plan(plan_path, load)
    child = spawn(
        [sys.executable, "-m", "bench.isolation.hammer", str(plan_path), str(outcome_path)],
        log_path=log_path,
    )
    try:
        time.sleep(_HEAD_START_S)
        cpu_began = cpu_s(pid)
        waited, failures = watch(url, keys["modest"], seconds)
        spent_s = cpu_s(pid) - cpu_began
        status = child.wait(load.seconds)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if status != 0:
        raise StartFailed(f"the hammer failed; {log_path}:\n{log_tail(log_path)}")
    return Phase(name, waited, failures, spent_s, json.loads(outcome_path.read_text("utf-8")))


def watch(url: str, key: str, seconds: float) -> tuple[list[Waited], list[str]]:
    """Write and wait until stored, again and again, on every connection."""
    until = perf_counter() + seconds
    with ThreadPoolExecutor(_CLIENTS) as pool:
        clients = [pool.submit(_one_client, url, key, n, until) for n in range(_CLIENTS)]
        done = [client.result() for client in clients]
    return [w for waited, _ in done for w in waited], [f for _, failures in done for f in failures]


def _one_client(url: str, key: str, number: int, until: float) -> tuple[list[Waited], list[str]]:
    waited: list[Waited] = []
    failures: list[str] = []
    headers = {"Authorization": f"Bearer {key}"}
    connection = HTTPConnection(*host_and_port(url), timeout=2 * _WAIT_S)
    epoch_ms = time.time_ns() // 1_000_000 - 3_600_000
    run = f"c{number}-{epoch_ms}"
    step = 0
    while perf_counter() < until:
        lines = body(run, step, _LINES, epoch_ms - step * STEP_MS)
        step += _LINES
        sent_at = perf_counter()
        try:
            connection.request("POST", "/api/v2/write?bucket=raw&precision=ms", lines, headers)
            answer = connection.getresponse()
            answer.read()
            answered_s = perf_counter() - sent_at
            if answer.status != 204:
                failures.append(f"a write got {answer.status}")
                continue
            receipt = answer.headers["Stepclock-Receipt"]
            connection.request(
                "GET", f"/api/v1/receipts/{receipt}?wait_s={_WAIT_S}", headers=headers
            )
            state = json.load(connection.getresponse())
        except (OSError, HTTPException) as exc:
            failures.append(f"the connection failed: {exc!r}")
            connection.close()
            continue
        if not state.get("stored"):
            failures.append(f"not stored after {_WAIT_S} s")
        waited.append(Waited(answered_s, perf_counter() - sent_at))
    connection.close()
    return waited, failures


def _section(phases: list[Phase], seconds: float) -> Section:
    alone = phases[0]
    failures = [f"{phase.name}: {text}" for phase in phases for text in set(phase.failures)]
    rows = []
    for number, phase in enumerate(phases):
        ratio = _stored(phase, 99) / _stored(alone, 99)
        rows.append(
            [
                "alone again" if number == len(phases) - 1 else phase.name,
                whole(len(phase.waited)),
                short(_answered(phase, 50)),
                short(_answered(phase, 99)),
                short(_stored(phase, 50)),
                short(_stored(phase, 99)),
                short(ratio),
                short(phase.gateway_cpu_s / seconds),
                ", ".join(f"{status}: {n:,}" for status, n in sorted(phase.answers.items())),
            ]
        )
        if ratio >= TARGET_RATIO:
            failures.append(
                f"{phase.name}: p99 until stored is {ratio:.1f} times what it is alone; "
                f"expected less than {TARGET_RATIO:g}"
            )
    return Section(
        "Isolation: a modest tenant beside one that sends nothing but trouble (embedded server)",
        [
            Table(
                (
                    "the other tenant",
                    "writes",
                    "204 p50 ms",
                    "204 p99 ms",
                    "stored p50 ms",
                    "stored p99 ms",
                    "ratio of p99",
                    "server cores",
                    "its answers",
                ),
                rows,
            )
        ],
        [
            (
                f"The modest tenant: {_CLIENTS} clients that write {_LINES} lines and wait until "
                f"the receipt says stored (looked at every 0.1 s), for {seconds:g} s each. The "
                "other one obeys no Retry-After; its process runs at low priority, standing for "
                "other machines. Server cores: CPU of gateway, worker and store together."
            )
        ],
        failures,
    )


def _answered(phase: Phase, percent: float) -> float:
    return percentile((w.answered_s * 1000 for w in phase.waited), percent)


def _stored(phase: Phase, percent: float) -> float:
    return percentile((w.stored_s * 1000 for w in phase.waited), percent)
