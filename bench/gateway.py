"""The gateway in front of Kafka: points/s, latency, CPU, and that nothing is lost."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adapters.kafka import KafkaReader
from bench.figures import column, per_million, short, whole
from bench.generator import Load, Outcome
from bench.machine import peak_rss_mib
from bench.report import Section, Table
from bench.services import (
    UNLIMITED_POINTS,
    Tell,
    gateway_backend,
    host_and_port,
    ingest_topics,
)
from demo.pipeline import start_service
from native.process import StartFailed, log_tail, spawn
from schemas.block import decode
from schemas.keys import new_key

_FIRST_S = 4.0
_WARMUP_S = 0.7
_ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Plan:
    """How long and how often; shapes: lines of a body."""

    seconds: float = 4.0
    rounds: int = 3
    connections: int = 64
    shapes: Sequence[int] = (1, 100, 1000)


@dataclass(frozen=True, slots=True)
class Counted:
    """What lies in the log: points as the blocks' headers say, and the blocks."""

    points: int
    blocks: int


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Run the shapes in turns against one gateway process; then count what Kafka holds.

    Raises StartFailed, PreparationFailed.
    """
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    outcomes: dict[int, list[Outcome]] = defaultdict(list)
    peaks: dict[int, float] = {}
    with (
        gateway_backend(folder, [record], kafka_too=True, tell=tell) as backend,
        start_service("gateway", backend.argv, folder, backend.environment) as gateway,
    ):
        assert backend.broker is not None
        watched = {"gateway": gateway.process.pid, "broker": backend.broker.process.pid}
        host, port = host_and_port(gateway.url)
        tell("warming up: a broker's virtual machine is slow at first")
        first = Load(host, port, key, plan.connections, 100, 0.0, _FIRST_S, watched)
        uncounted = [run_generator(folder, first)]
        for number in range(plan.rounds):
            for lines in plan.shapes:
                load = Load(
                    host, port, key, plan.connections, lines, _WARMUP_S, plan.seconds, watched
                )
                outcome = run_generator(folder, load)
                outcomes[lines].append(outcome)
                peaks[lines] = peak_rss_mib(gateway.process.pid)
                tell(
                    f"round {number + 1} of {plan.rounds}, {lines} lines a body: "
                    f"{whole(outcome.requests * lines / outcome.window_s)} points/s"
                )
        tell("counting the points in Kafka")
        counted = count(backend.broker.bootstrap_servers)
    return _section(plan, outcomes, uncounted, peaks, counted)


def run_generator(folder: Path, load: Load) -> Outcome:
    """Run the load generator to its end. Raises StartFailed with its log if it fails."""
    plan_path, outcome_path = folder / "load.json", folder / "outcome.json"
    log_path = folder / "generator.log"
    plan_path.write_text(json.dumps(asdict(load)), "utf-8")
    child = spawn(
        [sys.executable, "-m", "bench.generator", str(plan_path), str(outcome_path)],
        log_path=log_path,
    )
    try:
        status = child.wait(load.warmup_s + load.seconds + _ANSWER_TIMEOUT_S)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if status != 0:
        raise StartFailed(f"the load generator failed; {log_path}:\n{log_tail(log_path)}")
    return Outcome(**json.loads(outcome_path.read_text("utf-8")))


def count(bootstrap_servers: str) -> Counted:
    """Every block that the ingest topics hold. Raises LogUnavailable."""
    reader = KafkaReader(bootstrap_servers)
    points = blocks = 0
    for topic in ingest_topics():
        for record in reader.read(topic):
            points += decode(record.headers, record.value).points
            blocks += 1
    return Counted(points, blocks)


def _section(
    plan: Plan,
    outcomes: Mapping[int, Sequence[Outcome]],
    uncounted: Sequence[Outcome],
    peaks: Mapping[int, float],
    counted: Counted,
) -> Section:
    runs = [*uncounted, *(outcome for found in outcomes.values() for outcome in found)]
    acknowledged = sum(run.acknowledged_points for run in runs)
    failures = []
    statuses = {status for run in runs for status in run.statuses}
    if statuses - {"204"}:
        failures.append(f"answers {sorted(statuses)}; expected 204 only")
    if counted.points < acknowledged or (counted.points > acknowledged and statuses == {"204"}):
        failures.append(f"Kafka holds {counted.points:,} points of {acknowledged:,} acknowledged")
    return Section(
        f"Gateway in front of Kafka, acks=all: one process, {plan.connections} connections",
        [
            Table(
                ("lines a body", "points/s", "requests/s", "p50 ms", "p99 ms"),
                [_speed_row(lines, found) for lines, found in outcomes.items()],
            ),
            Table(
                (
                    "lines a body",
                    "gateway CPU s/M",
                    "gateway µs/request",
                    "broker CPU s/M",
                    "generator CPU s/M",
                    "cores taken by others",
                    "gateway peak MiB",
                ),
                [_cost_row(lines, found, peaks[lines]) for lines, found in outcomes.items()],
            ),
        ],
        [
            (
                f"Kafka holds {counted.points:,} points in {counted.blocks:,} blocks; acknowledged "
                f"with 204 were {acknowledged:,}."
            ),
            (
                f"Least / median / greatest of {plan.rounds} runs of {plan.seconds:g} s, the "
                "shapes taking turns. A closed loop: each connection waits for its answer. s/M: "
                "CPU seconds for a million points. The peak of memory is that of the process so "
                "far."
            ),
        ],
        failures,
    )


def _speed_row(lines: int, runs: Sequence[Outcome]) -> list[str]:
    return [
        whole(lines),
        column([run.requests * lines / run.window_s for run in runs], whole),
        column([run.requests / run.window_s for run in runs], whole),
        column([run.p50_ms for run in runs], short),
        column([run.p99_ms for run in runs], short),
    ]


def _cost_row(lines: int, runs: Sequence[Outcome], peak_mib: float) -> list[str]:
    def cost(name: str) -> str:
        return column([per_million(r.cpu_s[name], r.requests * lines) for r in runs], short)

    others = [(run.busy_s - sum(run.cpu_s.values())) / run.window_s for run in runs]
    return [
        whole(lines),
        cost("gateway"),
        column([run.cpu_s["gateway"] * 1e6 / max(1, run.requests) for run in runs], whole),
        cost("broker"),
        cost("load"),
        column([max(0.0, value) for value in others], short),
        whole(peak_mib),
    ]
