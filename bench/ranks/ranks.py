"""A job of many ranks through one gateway: what is missing, and what the client costs each rank."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import stepclock

from adapters.influx.connection import InfluxConnection
from adapters.influx.reader import InfluxReader
from bench.lab import machine
from bench.lab.figures import percentile, share_percent, short, whole
from bench.lab.services import (
    UNLIMITED_POINTS,
    Tell,
    provision,
    start_influxdb,
    start_kafka,
    write_keys,
)
from bench.ranks.fleet import Job, Server, run_job
from bench.ranks.rank import EXPERIMENT, RUN, value
from bench.report import Section, Table
from demo.pipeline import start_service
from embedded.store.store import SqliteStore
from schemas.retention import DEFAULT_CLASS, STEP_CLASS
from schemas.store.protocols import StoredPoint
from schemas.tenants.keys import new_key

_NAMESPACE = "stepclock"

#: What a rank is reckoned with; one holds about half of it.
_RANK_MIB = 64


@dataclass(frozen=True)
class Plan:
    """A job, all of whose ranks log at the same moments."""

    processes: int = 64
    metrics: Annotated[int, "Metrics of each step."] = 100
    steps_per_s: Annotated[int, "Steps that each process logs a second."] = 10
    seconds: int = 60
    embedded: Annotated[bool, "All in one process on SQLite; else Kafka and InfluxDB."] = False

    @property
    def steps(self) -> int:
        """Steps of each process."""
        return self.steps_per_s * self.seconds

    @property
    def points(self) -> int:
        """Steps of all processes together."""
        return self.processes * self.steps


@dataclass(frozen=True, slots=True)
class Compared:
    """What a class holds, point by point and value by value. wrong: changed, doubled, invented."""

    missing: int
    wrong: int


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Run the job, then compare its receipts and the store with what it logged.

    Raises PreparationFailed, StartFailed, Stalled.
    """
    wanted = plan.processes
    plan = replace(plan, processes=min(wanted, _processes_that_fit()))
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    environment = write_keys(folder / "server", [record])
    serve = _embedded if plan.embedded else _on_kafka_and_influxdb
    options = {"metrics": plan.metrics, "steps": plan.steps, "steps-per-s": plan.steps_per_s}
    with serve(folder / "server", key, environment, tell) as server:
        job = run_job(folder / "job", server, plan.processes, options, tell)
        tell("comparing every value in the store")
        compared = {
            name: compare(server.reader.points(_NAMESPACE, name, EXPERIMENT, RUN), plan)
            for name in (DEFAULT_CLASS, STEP_CLASS)
        }
    return section(plan, wanted, job, compared)


def compare(points: Iterable[StoredPoint], plan: Plan) -> Compared:
    """Every value that a class holds against what the ranks logged."""
    seen = {str(rank): bytearray(plan.steps) for rank in range(plan.processes)}
    wrong = 0
    for point in points:
        rank, step = point.tags.get("rank", ""), point.fields.get("step")
        if (
            isinstance(step, int)
            and rank in seen
            and 0 <= step < plan.steps
            and not seen[rank][step]
            and point.fields == _fields(plan, int(rank), step)
        ):
            seen[rank][step] = 1
        else:
            wrong += 1
    return Compared(plan.points - sum(map(sum, seen.values())), wrong)


def _fields(plan: Plan, rank: int, step: int) -> dict[str, float]:
    metrics = {f"layer{n}/grad_norm": value(rank, step, n) for n in range(plan.metrics)}
    return {**metrics, "step": step}


def _processes_that_fit() -> int:
    for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return max(1, int(line.split()[1]) // 1024 // _RANK_MIB)
    raise machine.UnsupportedMachine("Linux tells no MemAvailable")


@contextmanager
def _embedded(folder: Path, key: str, environment: dict[str, str], _tell: Tell) -> Iterator[Server]:
    with (
        start_service("serve", ["admin", "serve"], folder, environment) as serve,
        closing(SqliteStore(folder / "store.db")) as store,
    ):
        yield Server(serve.url, key, {"server": serve.process.pid}, store)


@contextmanager
def _on_kafka_and_influxdb(
    folder: Path, key: str, environment: dict[str, str], tell: Tell
) -> Iterator[Server]:
    with start_kafka(folder, tell) as broker, start_influxdb(folder, tell) as database:
        environment = environment | {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STEPCLOCK_INFLUX_URL": database.url,
            "STEPCLOCK_INFLUX_TOKEN": database.token,
            "STEPCLOCK_INFLUX_ORG": database.org,
        }
        provision(folder, environment, tell)
        probe = "STEPCLOCK_PROBE_PORT"
        at = InfluxConnection(database.url, database.token, database.org)
        with (
            start_service(
                "consumer", ["consumers"], folder, environment, port_variable=probe
            ) as consumer,
            start_service("gateway", ["ingest"], folder, environment) as gateway,
            closing(InfluxReader(at)) as reader,
        ):
            pids = {"gateway": gateway.process.pid, "consumer": consumer.process.pid}
            yield Server(gateway.url, key, pids, reader)


def section(plan: Plan, wanted: int, job: Job, compared: Mapping[str, Compared]) -> Section:
    """The figures, and the claims that did not hold."""
    receipts = [stepclock.Receipt(**account["receipt"]) for account in job.accounts]
    failures = [f"receipt of rank {n}: {r}" for n, r in enumerate(receipts) if not r.ok]
    logged = sum(receipt.logged for receipt in receipts)
    if logged != plan.points:
        failures.append(f"{plan.points:,} steps were logged, and receipts tell of {logged:,}")
    failures += [
        f"class {name}: {found.missing:,} points missing, {found.wrong:,} wrong"
        for name, found in compared.items()
        if found.missing or found.wrong
    ]
    took_us = [1e6 * took_s for account in job.accounts for took_s in account["took_s"]]
    late_s = max(account["late_s"] for account in job.accounts)
    cpu = [share_percent(account["cpu_s"], account["logging_s"]) for account in job.accounts]
    lines = sum(receipt.lines for receipt in receipts)
    requests = sum(account["requests"] for account in job.accounts)
    services = ", ".join(f"{name} {short(share)} %" for name, share in job.cpu_percent.items())
    lost = sum(map(lines_missing, receipts))
    notes = [
        (
            f"logged={logged} stored={sum(receipt.stored for receipt in receipts)} of {lines} "
            f"lines, missing={lost} by the receipts and "
            f"{sum(found.missing for found in compared.values())} in the store, where every value "
            "was compared in both classes."
        ),
        (
            f"CPU in percent of a core while the job logged: {services}; all of the machine "
            f"{short(job.machine_percent)} %. A client's is of its whole process, which also makes "
            f"its {plan.metrics} numbers."
        ),
        (
            f"{lines / requests:.1f} lines a request; no step was logged more than "
            f"{short(1000 * late_s)} ms after its time."
        ),
    ]
    if plan.processes < wanted:
        notes.append(f"{wanted} processes were wanted; the memory holds {plan.processes}.")
    return Section(
        f"A job of {plan.processes} ranks, {plan.metrics} metrics at {plan.steps_per_s} steps/s "
        f"each, for {plan.seconds} s through one gateway "
        f"({'embedded' if plan.embedded else 'Kafka, InfluxDB'})",
        [
            Table(
                (
                    "values/s",
                    "missing",
                    "429s",
                    "log p50 µs",
                    "p99 µs",
                    "client CPU %",
                    "worst %",
                    "client MiB",
                    "without it MiB",
                ),
                [
                    [
                        whole(plan.processes * plan.metrics * plan.steps_per_s),
                        whole(max(lost, *(found.missing for found in compared.values()))),
                        whole(sum(account["limited"] for account in job.accounts)),
                        short(percentile(took_us, 50)),
                        short(percentile(took_us, 99)),
                        short(statistics.median(cpu)),
                        short(max(cpu)),
                        short(max(account["peak_mib"] for account in job.accounts)),
                        short(max(account["interpreter_mib"] for account in job.accounts)),
                    ]
                ],
            )
        ],
        notes,
        failures,
    )


def lines_missing(receipt: stepclock.Receipt) -> int:
    """Lines and rows that a receipt does not call stored."""
    return receipt.lines - receipt.stored + receipt.rows_dropped
