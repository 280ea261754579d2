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

from bench.consumer.drain import Stalled
from bench.consumer.slow_store import LATENCY_S, SlowStore, slow_store
from bench.lab.figures import column, short
from bench.lab.services import Tell
from bench.report import Section, Table

_SAMPLE_S = 0.05
_EVENT_S = 7.0
_SESSION_S = 10.0
_STALL_S = 60.0

#: Few, so that the backlog lasts.
BATCH_POINTS = 1000

_MIB = 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """Points in the topic; how often; bounds of what a consumer polls ahead, in bytes."""

    points: int = 800_000
    rounds: int = 3
    buffers: Sequence[int] = (64 * _MIB, _MIB)


class Watch:
    """Samples what a group has committed."""

    def __init__(self, store: SlowStore, group: str) -> None:
        self._store = store
        self._group = group

    def pause(self, act: Callable[[], object], seconds: float) -> float:
        """Do something, and watch for so long and until the next commit after it.

        The longest time in seconds without a commit by anyone. Raises Stalled, and what act
        raises.
        """
        seen = self._store.committed(self._group)
        began = moved_at = perf_counter()
        longest = 0.0
        with ThreadPoolExecutor(1) as pool:
            acting = pool.submit(act)
            while True:
                done = acting.done()
                now, found = perf_counter(), self._store.committed(self._group)
                if found != seen:
                    longest, moved_at, seen = max(longest, now - moved_at), now, found
                    if done and now - began > seconds:
                        acting.result()
                        return longest
                if now - moved_at > _STALL_S:
                    raise Stalled(f"group {self._group} commits nothing any more: {found}")
                time.sleep(_SAMPLE_S)


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Two consumers drain a topic; a third joins, leaves, joins, and is killed.

    Raises StartFailed, PreparationFailed, Stalled.
    """
    pauses: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with slow_store(folder, plan.points, tell=tell) as store:
        for number in range(1, plan.rounds + 1):
            for buffer in plan.buffers:
                found = _round(store, group=f"round{number}-{buffer}", buffer=buffer)
                for event, pause in found.items():
                    pauses[buffer][event].append(pause)
                tell(
                    f"round {number} of {plan.rounds}, {buffer // _MIB} MiB polled ahead: "
                    + ", ".join(f"{event} {pause:.1f} s" for event, pause in found.items())
                )
    return _section(plan, pauses)


def _round(store: SlowStore, *, group: str, buffer: int) -> dict[str, float]:
    settings = {
        "STEPCLOCK_MAX_BUFFERED_BYTES": str(buffer),
        "STEPCLOCK_BATCH_POINTS": str(BATCH_POINTS),
        "STEPCLOCK_THREADS": "1",
    }
    watch = Watch(store, group)
    found = {}
    with ExitStack() as stack:
        for name in ("consumer-0", "consumer-1"):
            stack.enter_context(store.consumer(name, group, settings))
        watch.pause(lambda: None, _EVENT_S)
        found["nobody comes or goes"] = watch.pause(lambda: None, _EVENT_S)
        with ExitStack() as third:
            found["a third joins"] = watch.pause(
                lambda: third.enter_context(store.consumer("consumer-2", group, settings)),
                _EVENT_S,
            )
            found["it leaves (SIGTERM)"] = watch.pause(third.close, _EVENT_S)
        victim = stack.enter_context(store.consumer("consumer-2", group, settings))
        watch.pause(lambda: None, _EVENT_S)
        found["it is killed (-9)"] = watch.pause(victim.process.kill, _SESSION_S + _EVENT_S)
    return found


def _section(plan: Plan, pauses: Mapping[int, Mapping[str, Sequence[float]]]) -> Section:
    events = next(iter(pauses.values()))
    return Section(
        f"Rebalance pauses with a database that answers {LATENCY_S * 1000:g} ms late",
        [
            Table(
                (
                    "longest time without a commit, s",
                    *(f"{buffer // _MIB} MiB polled ahead" for buffer in pauses),
                ),
                [
                    [event, *(column(found[event], short) for found in pauses.values())]
                    for event in events
                ],
            )
        ],
        [
            (
                "Two consumers with a backlog, so that each has polled ahead all it may; a third "
                "joins, leaves in order, joins again and is killed. Polled ahead: "
                "STEPCLOCK_MAX_BUFFERED_BYTES, 64 MiB by default."
            ),
            (
                f"Writes of {BATCH_POINTS:,} points, both views, drain deadline of 10 s, session "
                f"timeout of {_SESSION_S:g} s. Commits by any consumer count. Least / median / "
                f"greatest of {plan.rounds} rounds, the bounds taking turns."
            ),
        ],
    )
