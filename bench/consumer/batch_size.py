"""One worker with batches of a fixed size and of an adapted one, by how late the store answers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from prometheus_client.parser import text_string_to_metric_families

from bench.consumer.drain import Stalled
from bench.consumer.slow_store import LATENCY_S, SlowStore, slow_store, stored_points
from bench.lab.figures import column, short, whole
from bench.lab.machine import cpu_s
from bench.lab.services import Tell
from bench.report import Section, Table
from consumers.settings import ConsumerSettings
from demo.gateway import get
from demo.pipeline import HttpService

#: What batches begin with, and keep if they are fixed.
START: int = ConsumerSettings.model_fields["batch_points"].default

#: What adapted ones may grow to.
MOST: int = ConsumerSettings.model_fields["batch_points_max"].default

_SAMPLE_S = 0.05
_STALL_S = 60.0
_MOST = {
    "fixed": {"STEPCLOCK_BATCH_POINTS_MAX": str(START)},
    "adapted": {"STEPCLOCK_BATCH_POINTS_MAX": str(MOST)},
}


@dataclass(frozen=True)
class Plan:
    """Points in the topic, all of which are drained each time; how often."""

    points: int = 600_000
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Drain:
    """size: what a batch might hold at the end. own_s_per_million: CPU of the worker."""

    points_per_s: float
    own_s_per_million: float
    size: int


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Drain the topic from its start, fixed and adapted in turns, at once and late.

    Raises StartFailed, PreparationFailed, Stalled.
    """
    drains: dict[tuple[float, str], list[Drain]] = defaultdict(list)
    with slow_store(folder, plan.points, tell=tell) as store:
        for late_s in (0.0, LATENCY_S):
            store.proxy.slow(late_s, answers_only=True)
            for number in range(1, plan.rounds + 1):
                for kind in _MOST:
                    drain = _drain(store, plan, kind, group=f"{kind}-{late_s:g}-{number}")
                    drains[late_s, kind].append(drain)
                    tell(
                        f"round {number} of {plan.rounds}, {kind}, {late_s * 1000:g} ms late: "
                        f"{whole(drain.points_per_s)} points/s, in the end {drain.size:,}"
                    )
    return _section(plan, drains)


def _drain(store: SlowStore, plan: Plan, kind: str, *, group: str) -> Drain:
    settings = {
        "STEPCLOCK_THREADS": "1",
        "STEPCLOCK_BATCH_POINTS": str(START),
        **_MOST[kind],
    }
    with store.consumer("consumer", group, settings) as consumer:
        first = _wait_for(consumer, 1)
        began, cpu = perf_counter(), cpu_s(consumer.process.pid)
        last = _wait_for(consumer, plan.points)
        seconds, cpu = perf_counter() - began, cpu_s(consumer.process.pid) - cpu
        points = last - first
        return Drain(points / seconds, cpu / points * 1e6, _size(consumer))


def _wait_for(consumer: HttpService, points: int) -> int:
    seen, moved_at = -1, perf_counter()
    while (stored := stored_points(consumer)) < points:
        now = perf_counter()
        if stored > seen:
            seen, moved_at = stored, now
        elif now - moved_at > _STALL_S:
            raise Stalled(f"the worker stored {stored} of {points} points and no more")
        time.sleep(_SAMPLE_S)
    return stored


def _size(consumer: HttpService) -> int:
    for family in text_string_to_metric_families(get(f"{consumer.url}/metrics")):
        if family.name == "stepclock_consumer_batch_size_points":
            return int(family.samples[0].value)
    return 0


def _section(plan: Plan, drains: Mapping[tuple[float, str], Sequence[Drain]]) -> Section:
    return Section(
        "Batch sizes: fixed, and adapted to the store's answers",
        [
            Table(
                ("answers late by", "batches", "points/s", "own CPU s/M", "size in the end"),
                [
                    [
                        f"{late_s * 1000:g} ms",
                        kind,
                        column([drain.points_per_s for drain in found], whole),
                        column([drain.own_s_per_million for drain in found], short),
                        column([drain.size for drain in found], whole),
                    ]
                    for (late_s, kind), found in drains.items()
                ],
            )
        ],
        [
            (
                f"One worker drains {plan.points:,} points, both views, from the first that is "
                f"stored to the last. Batches begin with {START:,} points; what they take to grow "
                "is part of the figure, so that a longer backlog gains more."
            ),
            (
                f"Least / median / greatest of {plan.rounds} rounds, fixed and adapted taking "
                "turns. The same points each time: the store overwrites them after the first."
            ),
        ],
    )
