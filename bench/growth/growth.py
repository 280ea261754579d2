"""Whether costs are flat or grow: by tenants, series, partitions, bodies, and the log's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from bench.growth import gateway as growth_gateway
from bench.growth import memory as growth_memory
from bench.growth import series as growth_series
from bench.growth.curve import RULE, Curve, Growth, failures, table
from bench.growth.series import Job
from bench.lab.figures import short, whole
from bench.lab.services import Tell, make_topics, start_influxdb, start_kafka
from bench.report import Section, Table
from native.influxd import InfluxDB
from schemas.log.protocols import DEAD_LETTER_TOPIC, topic_of
from schemas.retention import DEFAULT_CLASS

_DRAINED = 200_000
_BODY_S = 1.5
_MEMORIES = (
    ("StepsView", growth_memory.steps_view),
    ("series limit", growth_memory.series_limit),
    ("embedded store", growth_memory.embedded_store),
)


@dataclass(frozen=True)
class Plan:
    """How far to go."""

    full: Annotated[bool, "Go to 100,000 tenants and to a million series and records."] = False

    @property
    def tenants(self) -> Sequence[int]:
        """Tenants of one gateway."""
        return (1, 100, 10_000, *((100_000,) if self.full else ()))

    @property
    def series(self) -> Sequence[int]:
        """Series that one process of ours, or the database, knows."""
        return (100, 1_000, 10_000, 100_000, *((1_000_000,) if self.full else ()))

    @property
    def records(self) -> Sequence[int]:
        """Records in the log of the embedded server."""
        return (1_000, 10_000, 100_000, *((1_000_000,) if self.full else ()))

    @property
    def bodies(self) -> Sequence[int]:
        """Lines of a body."""
        return (1, 10, 100, 1_000, 10_000)

    @property
    def partitions(self) -> Sequence[int]:
        """Partitions of a topic."""
        return (1, 4, 12, 48)

    @property
    def consumers(self) -> Sequence[int]:
        """Consumers of a group, as many as there are partitions at most."""
        return (1, 2)


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """One cause after the other. Raises PreparationFailed, StartFailed, Stalled."""
    groups = [
        ("series", _memories(plan, tell)),
        ("records in the embedded log", _logs(folder, plan, tell)),
        *_gateways(folder, plan, tell),
    ]
    with start_influxdb(folder, tell) as database:
        groups.append(("series in InfluxDB", _stores(folder, plan, database, tell)))
        groups.append(("partitions", _partitions(folder, plan, database, tell)))
    return section([(cause, curves) for cause, curves in groups])


def section(groups: Sequence[tuple[str, Sequence[Curve]]]) -> Section:
    """The curves by their cause, and those that grow faster than they should."""
    tables: list[Table] = [table(cause, curves) for cause, curves in groups]
    return Section(
        "Growth: is it flat, linear, or worse?",
        tables,
        [
            RULE + " The claim fails where a cost grows faster than expected.",
            (
                "µs and s/M are CPU time, so neighbours disturb them little. Memory of the "
                "objects: what the process gained; of processes: all that it holds. Each line is "
                "of the next series, the worst order for every memory of ours; StepsView, the "
                "names and ids of the embedded store remember 100,000 series at most."
            ),
            (
                "Tenants: requests of one line, each of the next tenant; a block holds lines of "
                "one tenant only, so one tenant shares blocks where many can't. Series in "
                "InfluxDB, partitions: a worker drains blocks of a thousand lines; with both "
                "views, and by wall time only."
            ),
        ],
        [failure for _cause, curves in groups for failure in failures(curves)],
    )


def _memories(plan: Plan, tell: Tell) -> list[Curve]:
    curves = []
    for name, function in _MEMORIES:
        found = {}
        for series in plan.series:
            found[series] = growth_memory.in_a_process(function, series)
            tell(
                f"{name}, {series:,} series: {found[series].line_us:.2f} µs a line, "
                f"{found[series].held_mib:.0f} MiB"
            )
        times = [(n, cost.line_us) for n, cost in found.items()]
        held = [(n, cost.held_mib) for n, cost in found.items()]
        curves += [
            Curve("series", f"{name}, µs a line", Growth.FLAT, times, short),
            Curve("series", f"{name}, MiB", Growth.LINEAR, held, whole),
        ]
    return curves


def _logs(folder: Path, plan: Plan, tell: Tell) -> list[Curve]:
    settled, dead = (
        {
            records: growth_gateway.log_length(folder / f"{topic}-{records}", records, topic, tell)
            for records in plan.records
        }
        for topic in (topic_of(DEFAULT_CLASS), DEAD_LETTER_TOPIC)
    )
    cause = "records"
    return [
        Curve(cause, title, expected, points, short)
        for title, expected, points in (
            ("start, s", Growth.FLAT, [(n, it.ready_s) for n, it in settled.items()]),
            (
                "a write until stored, ms",
                Growth.FLAT,
                [(n, it.stored_ms) for n, it in settled.items()],
            ),
            ("a write, CPU ms", Growth.FLAT, [(n, it.cpu_ms) for n, it in settled.items()]),
            ("dead letters: start, s", Growth.FLAT, [(n, it.ready_s) for n, it in dead.items()]),
            (
                "dead letters: first receipt, s",
                Growth.LINEAR,
                [(n, it.first_s) for n, it in dead.items()],
            ),
            (
                "dead letters: later ones, ms",
                Growth.FLAT,
                [(n, it.stored_ms) for n, it in dead.items()],
            ),
        )
    ]


def _gateways(folder: Path, plan: Plan, tell: Tell) -> list[tuple[str, list[Curve]]]:
    with start_kafka(folder / "gateways", tell) as broker:
        make_topics(broker)
        sizes = growth_gateway.body_sizes(folder / "bodies", broker, plan.bodies, _BODY_S, tell)
        found = {
            count: growth_gateway.tenants(folder / f"tenants-{count}", broker, count, tell)
            for count in plan.tenants
        }
    cause = "tenants"
    by_tenants = [
        Curve(
            cause, "µs a request", Growth.FLAT, [(n, c.request_us) for n, c in found.items()], whole
        ),
        Curve(cause, "start, s", Growth.LINEAR, [(n, c.ready_s) for n, c in found.items()], short),
        Curve(
            cause, "memory, MiB", Growth.LINEAR, [(n, c.held_mib) for n, c in found.items()], whole
        ),
    ]
    by_lines = [
        Curve("lines", "µs a request", Growth.LINEAR, list(sizes.items()), whole),
        Curve("lines", "µs a line", Growth.FLAT, [(n, us / n) for n, us in sizes.items()], short),
    ]
    return [("tenants", by_tenants), ("lines a body", by_lines)]


def _stores(folder: Path, plan: Plan, database: InfluxDB, tell: Tell) -> list[Curve]:
    jobs = [
        Job(series, max(_DRAINED, series) * 2, max(_DRAINED, series), DEFAULT_CLASS)
        for series in plan.series
    ]
    found = growth_series.drain_all(folder / "series", database, 12, jobs, tell)
    by_series = dict(zip(plan.series, found, strict=True))
    cause = "series"
    return [
        Curve(cause, title, expected, points, short)
        for title, expected, points in (
            ("worker, s/M", Growth.FLAT, [(n, it.worker_s) for n, it in by_series.items()]),
            ("worker, MiB", Growth.LINEAR, [(n, it.worker_mib) for n, it in by_series.items()]),
            ("InfluxDB, s/M", Growth.FLAT, [(n, it.influxd_s) for n, it in by_series.items()]),
            ("InfluxDB, MiB", Growth.LINEAR, [(n, it.influxd_mib) for n, it in by_series.items()]),
        )
    ]


def _partitions(folder: Path, plan: Plan, database: InfluxDB, tell: Tell) -> list[Curve]:
    curves = {count: dict[int, float]() for count in plan.consumers}
    for partitions in plan.partitions:
        jobs = [
            Job(100, 2 * _DRAINED, _DRAINED // 4, "system", consumers=count)
            for count in plan.consumers
            if count <= partitions
        ]
        place = folder / f"partitions-{partitions}"
        for job, found in zip(
            jobs, growth_series.drain_all(place, database, partitions, jobs, tell), strict=True
        ):
            curves[job.consumers][partitions] = found.worker_s
    return [
        Curve(
            "partitions",
            f"{count} consumers, worker s/M",
            Growth.FLAT,
            list(found.items()),
            short,
        )
        for count, found in curves.items()
    ]
