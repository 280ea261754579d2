"""Throughput of one, two and four consumers in front of a database that answers late."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.consumer.drain import Stalled
from bench.consumer.slow_store import BATCH_POINTS, LATENCY_S, SlowStore, slow_store, stored_points
from bench.lab.blocks import BLOCK_LINES
from bench.lab.figures import Spread, column, short, whole
from bench.lab.services import PARTITIONS, Tell
from bench.report import Section, Table
from demo.pipeline import HttpService

#: What N consumers must reach of N times the throughput of one.
LEAST_SHARE = 0.9

_SAMPLE_S = 0.02
_STALL_S = 60.0
#: Partitions change hands while consumers start: what was polled before is soon dropped.
_SETTINGS = {"STEPCLOCK_DRAIN_S": "1", "STEPCLOCK_THREADS": "1"}


@dataclass(frozen=True)
class Plan:
    """Points in the topic; seconds of each measurement; how often; numbers of consumers."""

    points: int = 600_000
    seconds: float = 12.0
    rounds: int = 3
    consumers: Sequence[int] = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Drain:
    """points_per_s: of all consumers. lags: points, at even times within the measurement."""

    points_per_s: float
    lags: Sequence[int]


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Drain the topic from its start, the numbers of consumers in turns.

    Raises StartFailed, PreparationFailed, Stalled.
    """
    drains: dict[int, list[Drain]] = defaultdict(list)
    with slow_store(folder, plan.points, tell=tell) as store:
        for number in range(1, plan.rounds + 1):
            for count in plan.consumers:
                drain = _drain(store, plan, count, group=f"round{number}-{count}")
                drains[count].append(drain)
                tell(
                    f"round {number} of {plan.rounds}, {count} consumers: "
                    f"{whole(drain.points_per_s)} points/s"
                )
    return section(plan, drains)


def _drain(store: SlowStore, plan: Plan, count: int, *, group: str) -> Drain:
    with ExitStack() as stack:
        consumers = [
            stack.enter_context(store.consumer(f"consumer-{n}", group, _SETTINGS))
            for n in range(count)
        ]
        for consumer in consumers:  # all of them have their partitions
            _wait_for_more(consumer, 2 * BATCH_POINTS)
        before = [_wait_for_more(consumer, 1) for consumer in consumers]
        lags = [_lag(store, plan, group)]
        for _ in range(2):
            time.sleep(plan.seconds / 2)
            lags.append(_lag(store, plan, group))
        after = [_wait_for_more(consumer, 1) for consumer in consumers]
    rates = [
        (last - first) / (ended - began)
        for (began, first), (ended, last) in zip(before, after, strict=True)
    ]
    return Drain(sum(rates), lags)


def _wait_for_more(consumer: HttpService, points: int) -> tuple[float, int]:
    """When a consumer has just stored a batch, so many points later, and how many it has."""
    started_at = perf_counter()
    first = stored_points(consumer)
    while (stored := stored_points(consumer)) < first + points:
        if perf_counter() - started_at > _STALL_S:
            raise Stalled(f"{consumer.process.name} stored {stored} points and no more")
        time.sleep(_SAMPLE_S)
    return perf_counter(), stored


def _lag(store: SlowStore, plan: Plan, group: str) -> int:
    return plan.points - sum(store.committed(group)) * BLOCK_LINES


def section(plan: Plan, drains: Mapping[int, Sequence[Drain]]) -> Section:
    """What the drains by number of consumers show."""
    medians = {
        count: Spread.of(drain.points_per_s for drain in found).median
        for count, found in drains.items()
    }
    one = min(medians)
    shares = {count: rate / (medians[one] / one * count) for count, rate in medians.items()}
    failures = [
        f"{count} consumers reach {share:.2f} times the throughput of as many alone; "
        f"at least {LEAST_SHARE} was to be shown"
        for count, share in shares.items()
        if share < LEAST_SHARE
    ]
    failures += [
        f"the lag of {count} consumers does not fall: {drain.lags}"
        for count, found in drains.items()
        for drain in found
        if drain.lags[-1] >= drain.lags[0]
    ]
    return Section(
        f"Scaling: consumers in front of a database that answers {LATENCY_S * 1000:g} ms late",
        [
            Table(
                ("consumers", "points/s", "share of N times one", "lag in points, last round"),
                [
                    [
                        str(count),
                        column([drain.points_per_s for drain in found], whole),
                        short(shares[count]),
                        " → ".join(whole(lag) for lag in found[-1].lags),
                    ]
                    for count, found in drains.items()
                ],
            )
        ],
        [
            (
                f"{PARTITIONS} partitions, {plan.points:,} points dealt evenly; writes of "
                f"{BATCH_POINTS:,} points, one at a time for each consumer, both views; each "
                "group drains the topic from its start."
            ),
            (
                f"Least / median / greatest of {plan.rounds} rounds of {plan.seconds:g} s, the "
                "numbers taking turns. The lag stands at their start, middle and end; a consumer "
                "with a backlog commits about every second."
            ),
        ],
        failures,
    )
