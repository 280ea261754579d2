"""How long commits stand still while a consumer joins, leaves, or is killed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.drain import Stalled
from bench.figures import column, short
from bench.report import Section, Table
from bench.services import Tell
from bench.slow_store import BATCH_POINTS, LATENCY_S, SlowStore, slow_store

_SAMPLE_S = 0.05
_STEADY_S = 4.0
_STALL_S = 60.0

_MIB = 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """Points in the topic; how often; bounds of what a consumer polls ahead, in bytes."""

    points: int = 800_000
    rounds: int = 3
    buffers: Sequence[int] = (64 * _MIB, _MIB)


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds. longest: without a commit by anyone. all_again: until every partition had one."""

    longest: float
    all_again: float


class Watch:
    """Samples what a group has committed."""

    def __init__(self, store: SlowStore, group: str) -> None:
        self._store = store
        self._group = group

    def during(self, act: Callable[[], object]) -> Pause:
        """Do something, and watch until that is done and every partition has moved on since.

        Raises Stalled, and what act raises.
        """
        first = seen = self._store.committed(self._group)
        began = moved_at = perf_counter()
        longest = 0.0
        with ThreadPoolExecutor(1) as pool:
            acting = pool.submit(act)
            while True:
                now, found = perf_counter(), self._store.committed(self._group)
                if found != seen:
                    longest, moved_at, seen = max(longest, now - moved_at), now, found
                    moved_on = all(new > old for new, old in zip(found, first, strict=True))
                    if moved_on and acting.done():
                        acting.result()
                        return Pause(longest, now - began)
                if now - moved_at > _STALL_S:
                    raise Stalled(f"group {self._group} commits nothing any more: {found}")
                time.sleep(_SAMPLE_S)


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Two consumers drain a topic; a third joins, leaves, joins, and is killed.

    Raises StartFailed, PreparationFailed, Stalled.
    """
    pauses: dict[int, dict[str, list[Pause]]] = defaultdict(lambda: defaultdict(list))
    with slow_store(folder, plan.points, tell=tell) as store:
        for number in range(1, plan.rounds + 1):
            for buffer in plan.buffers:
                found = _round(store, group=f"round{number}-{buffer}", buffer=buffer)
                for event, pause in found.items():
                    pauses[buffer][event].append(pause)
                tell(
                    f"round {number} of {plan.rounds}, {buffer // _MIB} MiB polled ahead: "
                    + ", ".join(f"{event} {pause.longest:.1f} s" for event, pause in found.items())
                )
    return _section(plan, pauses)


def _round(store: SlowStore, *, group: str, buffer: int) -> dict[str, Pause]:
    settings = {"STEPCLOCK_MAX_BUFFERED_BYTES": str(buffer)}
    watch = Watch(store, group)
    found = {}
    with ExitStack() as stack:
        for name in ("consumer-0", "consumer-1"):
            stack.enter_context(store.consumer(name, group, settings))
        watch.during(lambda: None)
        found["nobody comes or goes"] = watch.during(lambda: time.sleep(_STEADY_S))
        with ExitStack() as third:
            found["a third joins"] = watch.during(
                lambda: third.enter_context(store.consumer("consumer-2", group, settings))
            )
            found["it leaves (SIGTERM)"] = watch.during(third.close)
        victim = stack.enter_context(store.consumer("consumer-2", group, settings))
        watch.during(lambda: None)
        found["it is killed (-9)"] = watch.during(victim.process.kill)
    return found


def _section(plan: Plan, pauses: Mapping[int, Mapping[str, Sequence[Pause]]]) -> Section:
    return Section(
        f"Rebalance pauses with a database that answers {LATENCY_S * 1000:g} ms late",
        [
            Table(
                (
                    f"{buffer // _MIB} MiB polled ahead",
                    "longest time without a commit, s",
                    "until every partition moved on, s",
                ),
                [
                    [
                        event,
                        column([pause.longest for pause in found], short),
                        column([pause.all_again for pause in found], short),
                    ]
                    for event, found in events.items()
                ],
            )
            for buffer, events in pauses.items()
        ],
        [
            (
                "Two consumers with a backlog, so that each has polled ahead all it may; a third "
                "joins, leaves in order, joins again and is killed. Polled ahead: "
                "STEPCLOCK_MAX_BUFFERED_BYTES, 64 MiB by default. The second column begins with "
                "the start of the process, or the signal to it."
            ),
            (
                f"Writes of {BATCH_POINTS:,} points, both views, drain deadline of 10 s, session "
                f"timeout of 10 s. Least / median / greatest of {plan.rounds} rounds."
            ),
        ],
    )
