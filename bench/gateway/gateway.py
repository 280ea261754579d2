"""The gateway in front of Kafka: points/s, latency, CPU, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from adapters.kafka.reader import KafkaReader
from bench.gateway.generator import Load, Outcome
from bench.lab.figures import column, per_million, short, whole
from bench.lab.load_process import run_load
from bench.lab.machine import peak_rss_mib
from bench.lab.services import UNLIMITED_POINTS, Tell, gateway_backend, host_and_port, ingest_topics
from bench.report import Section, Table
from demo.pipeline import start_service
from schemas.log.block import decode
from schemas.tenants.keys import new_key

_FIRST_S = 4.0
_WARMUP_S = 0.7
_ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A way to set gateways up: how many share the connections, what they run, how it is set."""

    name: str
    processes: int = 1
    argv: Sequence[str] = ("ingest",)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def durable(self) -> bool:
        """Whether what was acknowledged must lie in Kafka."""
        return tuple(self.argv) == ("ingest",)


ONE = Way("one process")
OTHERS = (
    Way("one process that publishes nothing", argv=("bench.gateway.null_gateway",)),
    Way("two processes", processes=2),
    Way(
        "one process, new-series limit enforcing",
        # From the first request on: while it learns, the limit counts nothing.
        settings={"STEPCLOCK_SERIES_MODE": "enforce", "STEPCLOCK_SERIES_LEARN_S": "0"},
    ),
)


@dataclass(frozen=True)
class Plan:
    """How long and how often; shapes: lines of a body; others: so are the other ways measured."""

    seconds: Annotated[float, "Seconds of each measurement, behind a warm-up."] = 3.0
    rounds: Annotated[int, "Measurements of each case, the cases taking turns."] = 3
    connections: Annotated[int, "Keep-alive connections."] = 64
    shapes: Annotated[Sequence[int], "Lines of a body, for one gateway."] = (1, 10, 100, 1000)
    others: Annotated[Sequence[int], "Lines of a body for the other ways; empty: without them."] = (
        1,
        1000,
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """What lies in the log: points as the blocks' headers say, and the blocks."""

    points: int
    blocks: int


#: A way and the lines of a body.
Case = tuple[Way, int]


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Run the cases in turns, all gateways being there all the time; count what Kafka holds.

    Raises StartFailed, PreparationFailed.
    """
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    ways = [ONE, *(OTHERS if plan.others else ())]
    cases = [(way, n) for way in ways for n in (plan.shapes if way is ONE else plan.others)]
    outcomes: dict[Case, list[Outcome]] = {case: [] for case in cases}
    peaks: dict[Case, float] = {}
    with (
        gateway_backend(folder, [record], kafka_too=True, tell=tell) as backend,
        ExitStack() as stack,
    ):
        assert backend.broker is not None
        broker = backend.broker
        gateways = {
            way.name: [
                stack.enter_context(
                    start_service(
                        f"{way.name} {number}",
                        way.argv,
                        folder,
                        {**backend.environment, **way.settings},
                    )
                )
                for number in range(way.processes)
            ]
            for way in ways
        }

        def load(way: Way, lines: int, warmup_s: float, seconds: float) -> Load:
            services = gateways[way.name]
            return Load(
                host_and_port(services[0].url)[0],
                [host_and_port(service.url)[1] for service in services],
                key,
                plan.connections,
                lines,
                warmup_s,
                seconds,
                {"broker": broker.process.pid}
                | {f"gateway {n}": service.process.pid for n, service in enumerate(services)},
            )

        tell("warming up: a broker's virtual machine is slow at first")
        uncounted = [run_generator(folder, load(ONE, 100, 0.0, _FIRST_S))]
        for number in range(plan.rounds):
            for case in cases:
                way, lines = case
                outcome = run_generator(folder, load(way, lines, _WARMUP_S, plan.seconds))
                outcomes[case].append(outcome)
                peaks[case] = max(peak_rss_mib(s.process.pid) for s in gateways[way.name])
                tell(
                    f"round {number + 1} of {plan.rounds}, {way.name}, {lines} lines a body: "
                    f"{whole(outcome.requests * lines / outcome.window_s)} points/s"
                )
        tell("counting the points in Kafka")
        counted = count(broker.bootstrap_servers)
    return _section(plan, outcomes, uncounted, peaks, counted)


def run_generator(folder: Path, load: Load) -> Outcome:
    """Run the load generator to its end. Raises StartFailed with its log if it fails."""
    within_s = load.warmup_s + load.seconds + _ANSWER_TIMEOUT_S
    return Outcome(**run_load(folder, "bench.gateway.generator", load, within_s=within_s))


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
    outcomes: Mapping[Case, Sequence[Outcome]],
    uncounted: Sequence[Outcome],
    peaks: Mapping[Case, float],
    counted: Counted,
) -> Section:
    durable = [
        *uncounted,
        *(run for (way, _), runs in outcomes.items() if way.durable for run in runs),
    ]
    acknowledged = sum(run.acknowledged_points for run in durable)
    failures = []
    statuses = {s for runs in (uncounted, *outcomes.values()) for run in runs for s in run.statuses}
    if statuses - {"204"}:
        failures.append(f"answers {sorted(statuses)}; expected 204 only")
    if counted.points < acknowledged or (counted.points > acknowledged and statuses == {"204"}):
        failures.append(f"Kafka holds {counted.points:,} points of {acknowledged:,} acknowledged")
    return Section(
        f"Gateway in front of Kafka, acks=all: {plan.connections} connections",
        [
            Table(
                ("gateway, lines a body", "points/s", "requests/s", "p50 ms", "p99 ms"),
                [_speed_row(case, found) for case, found in outcomes.items()],
            ),
            Table(
                (
                    "gateway, lines a body",
                    "gateway CPU s/M",
                    "gateway µs/request",
                    "broker CPU s/M",
                    "generator CPU s/M",
                    "cores taken by others",
                    "gateway peak MiB",
                ),
                [_cost_row(case, found, peaks[case]) for case, found in outcomes.items()],
            ),
        ],
        [
            (
                f"Kafka holds {counted.points:,} points in {counted.blocks:,} blocks; acknowledged "
                f"with 204 were {acknowledged:,}, without those of the gateway that publishes "
                "nothing. That one answers 204 for what nobody keeps: it shows what HTTP, "
                "validation and group commit cost, no more."
            ),
            (
                f"Least / median / greatest of {plan.rounds} runs of {plan.seconds:g} s, the "
                "cases taking turns. A closed loop: each connection waits for its answer. s/M: "
                "CPU seconds for a million points. Two processes share the connections; their "
                "CPU time is added. The new-series limit only observes unless it is said to "
                "enforce. The peak of memory is that of the largest process so far."
            ),
        ],
        failures,
    )


def _name(case: Case) -> str:
    way, lines = case
    return f"{way.name}, {whole(lines)}"


def _gateway_cpu_s(run: Outcome) -> float:
    return sum(spent for name, spent in run.cpu_s.items() if name.startswith("gateway"))


def _speed_row(case: Case, runs: Sequence[Outcome]) -> list[str]:
    _, lines = case
    return [
        _name(case),
        column([run.requests * lines / run.window_s for run in runs], whole),
        column([run.requests / run.window_s for run in runs], whole),
        column([run.p50_ms for run in runs], short),
        column([run.p99_ms for run in runs], short),
    ]


def _cost_row(case: Case, runs: Sequence[Outcome], peak_mib: float) -> list[str]:
    _, lines = case

    def cost(spent: Callable[[Outcome], float]) -> str:
        return column([per_million(spent(run), run.requests * lines) for run in runs], short)

    others = [(run.busy_s - sum(run.cpu_s.values())) / run.window_s for run in runs]
    return [
        _name(case),
        cost(_gateway_cpu_s),
        column([_gateway_cpu_s(run) * 1e6 / max(1, run.requests) for run in runs], whole),
        cost(lambda run: run.cpu_s["broker"]),
        cost(lambda run: run.cpu_s["load"]),
        column([max(0.0, value) for value in others], short),
        whole(peak_mib),
    ]
