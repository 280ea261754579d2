"""What the runs of whole chains show: a section, and a drawing of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.chain.drawing import Bar, Panel, draw
from bench.chain.flow import Flowed
from bench.lab.figures import Spread, column, per_million, percentile, short, whole
from bench.report import Drawing, Section, Table

#: End to end at half load, in ms.
P99_TARGET_MS = 2_000
HALF_LOAD = 50

_OWN = ("gateway", "consumer")
_PROCESSES = (*_OWN, "broker", "influxd")


@dataclass(frozen=True, slots=True)
class Way:
    """A chain and the classes that its points end in. target: points/s; 0 for none."""

    title: str
    classes: tuple[str, ...]
    target: int = 0
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement. load: percent of the ceiling, 0 for the ceiling itself.

    rate: points/s offered. stored: what each class held in the end. peak_mib: by process.
    """

    load: int
    rate: float
    flowed: Flowed
    stored: Mapping[str, int]
    peak_mib: Mapping[str, float]

    @property
    def stored_per_s(self) -> float:
        """Points that the store took in the window, each counted once."""
        return self.flowed.stored / self.flowed.window_s

    @property
    def missing(self) -> int:
        """Points that were acknowledged and are not in the class that holds fewest."""
        return self.flowed.acknowledged - min(self.stored.values())

    def cost(self, process: str) -> float:
        """CPU seconds of a process for a million points stored."""
        return per_million(self.flowed.cpu_s[process], self.flowed.stored)


def section(
    seconds: float,
    rounds: int,
    lines: int,
    backlog: int,
    ceilings: Mapping[Way, Sequence[Run]],
    below: Mapping[Way, Sequence[Run]],
) -> Section:
    """The ceilings, what they cost, the latencies below them, and the account of all points."""
    everything = {way: [*runs, *below[way]] for way, runs in ceilings.items()}
    return Section(
        f"The whole chain on this machine: load → gateway → Kafka → consumer → InfluxDB, "
        f"{lines:,} lines a body",
        [
            Table(
                ("ceiling", "points/s stored", "target", "gateway MiB", "consumer MiB"),
                [_speed_row(way, runs) for way, runs in ceilings.items()],
            ),
            Table(
                (
                    "CPU s/M",
                    *_PROCESSES,
                    "gateway and consumer",
                    "all five",
                    "load",
                    "cores taken by others",
                ),
                [_cost_row(way, runs) for way, runs in ceilings.items()],
            ),
            Table(
                (
                    "below the ceiling",
                    "load",
                    "points/s offered",
                    "readable p50 ms",
                    "p99 ms",
                    "max ms",
                    "markers",
                    "2xx p50 ms",
                    "2xx p99 ms",
                ),
                [_latency_row(way, run) for way, runs in below.items() for run in runs],
            ),
            Table(
                ("account", "acknowledged", "stored, in the worse view", "missing", "answers"),
                [_account_row(way, runs) for way, runs in everything.items()],
            ),
        ],
        [*_target_notes(ceilings, below), *_notes(seconds, rounds, backlog, ceilings)],
        [text for way, runs in everything.items() if way.ours for text in _failures(way, runs)],
        [_drawing(ceilings)],
    )


def _speed_row(way: Way, runs: Sequence[Run]) -> list[str]:
    return [
        way.title,
        column([run.stored_per_s for run in runs], whole),
        whole(way.target) if way.target else "-",
        *(whole(max(run.peak_mib[name] for run in runs)) for name in _OWN),
    ]


def _cost_row(way: Way, runs: Sequence[Run]) -> list[str]:
    others = [(r.flowed.busy_s - sum(r.flowed.cpu_s.values())) / r.flowed.window_s for r in runs]
    return [
        way.title,
        *(column([run.cost(name) for run in runs], short) for name in _PROCESSES),
        column([sum(map(run.cost, _OWN)) for run in runs], short),
        column([sum(map(run.cost, (*_PROCESSES, "load"))) for run in runs], short),
        column([run.cost("load") for run in runs], short),
        column([max(0.0, value) for value in others], short),
    ]


def _latency_row(way: Way, run: Run) -> list[str]:
    readable, answered = run.flowed.readable_ms, run.flowed.answered_ms
    unseen = f" ({run.flowed.unseen} never)" if run.flowed.unseen else ""
    return [
        way.title,
        f"{run.load} %",
        whole(run.rate),
        *(short(percentile(readable, percent)) for percent in (50, 99, 100)),
        whole(len(readable)) + unseen,
        *(short(percentile(answered, percent)) for percent in (50, 99)),
    ]


def _account_row(way: Way, runs: Sequence[Run]) -> list[str]:
    answers: dict[str, int] = {}
    for run in runs:
        for status, count in run.flowed.statuses.items():
            answers[status] = answers.get(status, 0) + count
    return [
        way.title,
        whole(sum(run.flowed.acknowledged for run in runs)),
        whole(sum(min(run.stored.values()) for run in runs)),
        whole(sum(run.missing for run in runs)),
        ", ".join(f"{status}: {count:,}" for status, count in sorted(answers.items())),
    ]


def _failures(way: Way, runs: Sequence[Run]) -> list[str]:
    failures = [
        f"{way.title}: class {name} holds {count:,} of {run.flowed.acknowledged:,} acknowledged"
        for run in runs
        for name, count in run.stored.items()
        if count != run.flowed.acknowledged
    ]
    if strange := {status for run in runs for status in run.flowed.statuses} - {"204", "503"}:
        failures.append(f"{way.title}: answers {sorted(strange)}")
    return failures


def _target_notes(
    ceilings: Mapping[Way, Sequence[Run]], below: Mapping[Way, Sequence[Run]]
) -> list[str]:
    found = []
    for way, runs in ceilings.items():
        if way.target:
            share = Spread.of(run.stored_per_s for run in runs).median / way.target
            found.append(f"{way.title}: {share:.2f} of {way.target:,} points/s")
        for run in below[way]:
            if way.ours and run.load == HALF_LOAD:
                p99 = percentile(run.flowed.readable_ms, 99)
                found.append(f"p99 at half load {short(p99)} ms of {P99_TARGET_MS:,}")
    return [f"Against the targets (medians): {'; '.join(found)}."]


def _notes(
    seconds: float, rounds: int, backlog: int, ceilings: Mapping[Way, Sequence[Run]]
) -> list[str]:
    notes = [
        (
            "A line is one step of a run with two fields: "
            "`metric,project=p,run=r0000012 train/loss=0.31,step=1200i 1795277400000`. No two are "
            "alike. A point counts once, whatever the number of views it is written to."
        ),
        (
            f"The ceiling: {rounds} run(s) of {seconds:g} s behind a warm-up, the ways taking "
            "turns (least / median / greatest); counted is what the store took in that time, by "
            f"its own counter. The load waits while {backlog:,} points are sent and not stored, so "
            "that nobody looks fast by answering what is stored later."
        ),
        (
            "Latency: an open loop at a fixed rate. Every body has its moment, and its time counts "
            "from then on, so that a stall is not hidden by the requests it holds up. Readable: "
            "every 50 ms a body is a run of its own, and the store is asked every 50 ms until all "
            "of its lines can be queried in the view that is written last. That is what an analyst "
            "sees, and the same yardstick for every chain (receipts wait for commits, and a peer "
            "has none)."
        ),
    ]
    if any(not way.ours for way in ceilings):
        notes.append(
            "Telegraf runs twice, as gateway and as consumer, tuned (`bench/chain/peer.py`); what "
            "it lost after a 2xx is counted and reported, and no failure of ours. Answers 429: it "
            "holds as much as it may, and the load tries again."
        )
    return notes


def _drawing(ceilings: Mapping[Way, Sequence[Run]]) -> Drawing:
    def median(way: Way, name: str) -> float:
        return Spread.of(run.cost(name) for run in ceilings[way]).median

    speeds = [
        Bar(way.title, [Spread.of(run.stored_per_s for run in runs).median])
        for way, runs in ceilings.items()
    ]
    costs = [Bar(way.title, [median(way, name) for name in _PROCESSES]) for way in ceilings]
    says = "; ".join(
        f"{way.title}: {whole(speed.values[0])} points/s at {short(sum(cost.values))} CPU s/M"
        for way, speed, cost in zip(ceilings, speeds, costs, strict=True)
    )
    svg = draw(
        "The whole chain at its ceiling",
        [
            Panel("points/s stored (more is better)", speeds, whole),
            Panel("CPU seconds per million points (less is better)", costs, short, _PROCESSES),
        ],
    )
    return Drawing("chain.svg", says, svg)
