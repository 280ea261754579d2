"""One seed from start to verdict."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from adapters.kafka.admin import KafkaAdmin
from adapters.kafka.reader import KafkaReader
from adapters.settings import KafkaSettings
from native.process import StartFailed
from schemas.log.dead_letter import decode
from schemas.log.protocols import DEAD_LETTER_TOPIC, TopicPartition, topic_of
from schemas.store.protocols import StoreUnavailable
from tests.e2e.pipeline.load import Client, Habit, Load, views_of
from tests.fault_suite.injector import Injector
from tests.fault_suite.rig import Rig, running
from tests.fault_suite.schedule import schedule
from tests.ledger import Point, Verdict, judge

#: Alive again after the last fault, at the latest.
RECOVERY_S = 30.0
#: Most memory, in MiB: 300 and 250 MB.
BOUNDS = {"gateway": 286, "consumer": 238}
#: Time to settle what clients were told is taken, once they have stopped.
DRAIN_S = 90.0

HABITS = (
    *[Habit(repeats=True, timeout_s=15.0)] * 3,
    Habit(repeats=True, timeout_s=2.0),  # gives up sooner than the gateway
    Habit(repeats=True, timeout_s=15.0, malformed_every=7),
    Habit(repeats=True, timeout_s=15.0, mistyped_every=25),
    Habit(malformed_every=5, timeout_s=5.0),
    Habit(timed=False, timeout_s=15.0),
)
#: The class of a view's dead letters.
CLASS_OF_VIEW = {"wall": "raw", "steps": "steps"}
NUMBERED = re.compile(rb"run=(\w+) .*step=(\d+)i")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What one seed came to. stalls and recovery in seconds, memory in MiB."""

    seed: int
    sent: int
    acknowledged: int
    faults: Counter[str]
    answers: Counter[int]
    ended: Counter[str]
    stall_s: float
    recovery_s: float
    drain_s: float
    peak_mib: dict[str, float]
    refused: int
    verdict: Verdict

    @property
    def failures(self) -> list[str]:
        """Claims that did not hold."""
        found = []
        if not self.verdict.clean:
            found.append(f"{self.verdict.line} {self.verdict.where}")
        if self.recovery_s > RECOVERY_S:
            found.append(f"alive only {self.recovery_s:.1f} s after the last fault")
        for name, peak in self.peak_mib.items():
            if peak > BOUNDS[name]:
                found.append(f"a {name} held {peak:.0f} MiB; allowed are {BOUNDS[name]}")
        if strange := self.answers.keys() - {0, 204, 400, 503}:
            found.append(f"answers {sorted(strange)}")
        if gateways := [name for name in self.ended if name.startswith("gateway")]:
            found.append(f"{', '.join(gateways)} ended by themselves")
        return found


def run(seed: int, seconds: float, folder: Path, tell: Tell) -> Outcome:
    """Load a pipeline, do to it what the schedule says, and compare every point.

    Raises StartFailed where a process can't be started (again).
    """
    with running(folder, tell) as rig:
        without = [] if rig.disk else ["disk-full"]
        if without:
            tell("no file system can be mounted here: disk-full is left out")
        faults = schedule(seed, seconds, without=without)
        tell(f"seed {seed}: {len(faults)} faults in {seconds:.0f} s")
        for fault in faults:
            tell(f"  {fault}")
        with Injector(rig, _clocked(tell)) as injector:
            with Load(rig.urls, rig.chain.key, lines=50, pause_s=0.05, habits=HABITS) as load:
                load.wait_for(2000)
                injector.run(faults)
                tell("all faults healed; waiting for a new point to be stored")
                recovery_s = _recovery_s(rig, injector)
            stopped_at = time.monotonic()
            tell("clients have stopped; waiting for the consumers")
            _drain(rig, injector)
            drain_s = time.monotonic() - stopped_at
        tell("the database is killed once more, then every point is compared")
        rig.processes["database"].kill()
        rig.start("database")
        dead = _dead_points(rig)
        verdict = judge(load.ledger, views_of(rig.chain.reader, rig.chain.namespace), dead)
        return Outcome(
            seed=seed,
            sent=len(load.ledger.sent),
            acknowledged=len(load.ledger.acknowledged),
            faults=Counter(fault.kind for fault in faults),
            answers=load.answers,
            ended=injector.ended,
            stall_s=longest_stall_s(load.timed),
            recovery_s=recovery_s,
            drain_s=drain_s,
            peak_mib=_by_service(injector.peak_mib),
            refused=len(load.ledger.named) + len(load.ledger.mistyped),
            verdict=verdict,
        )


def longest_stall_s(timed: Iterable[tuple[float, float, int]]) -> float:
    """The longest time between two answers that acknowledged something, to any client."""
    at = sorted(began + took for began, took, status in timed if status in {204, 400})
    return max((later - earlier for earlier, later in pairwise(at)), default=0.0)


def _recovery_s(rig: Rig, injector: Injector) -> float:
    """Seconds from the end of the last fault until both gateways' new points are stored."""
    waiting = {f"alive{number}" for number in range(len(rig.urls))}
    for number, url in enumerate(rig.urls):
        client = Client([url], 0, rig.chain.key, timeout_s=5.0)
        while client.post(f"alive{number} value=1,step=1i")[0] != 204:
            _check_patience(injector, "a gateway takes no point")
        client.close()
    while waiting:
        for name in list(waiting):
            try:
                found = [
                    list(rig.chain.reader.points("stepclock", c, name)) for c in ("raw", "steps")
                ]
            except StoreUnavailable:
                found = [[]]
            if all(found):
                waiting.discard(name)
        _check_patience(injector, f"{', '.join(waiting)} not stored")
    return time.monotonic() - injector.healed_at


def _check_patience(injector: Injector, what: str) -> None:
    if time.monotonic() > injector.healed_at + 4 * RECOVERY_S:
        raise StartFailed(f"{what} {4 * RECOVERY_S:g} s after the last fault")
    injector.watch_until(time.monotonic() + 0.1)


def _drain(rig: Rig, injector: Injector) -> None:
    """Until the group has committed all that the log holds, or the time is up."""
    group = KafkaSettings().consumer_group
    deadline = time.monotonic() + DRAIN_S
    with KafkaAdmin(rig.bootstrap_servers) as admin:
        topic = topic_of("raw")
        partitions = [TopicPartition(topic, n) for n in range(admin.partition_counts()[topic])]
        while time.monotonic() < deadline:
            ends = {p: end for p, (_, end) in admin.offset_bounds(partitions).items() if end}
            committed = admin.committed(group)
            if all(committed.get(partition) == end for partition, end in ends.items()):
                return
            injector.watch_until(time.monotonic() + 0.2)


def _dead_points(rig: Rig) -> dict[str, set[Point]]:
    """Numbered points in dead letters, by the class that refused them."""
    found: defaultdict[str, set[Point]] = defaultdict(set)
    for record in KafkaReader(rig.bootstrap_servers).read(DEAD_LETTER_TOPIC):
        letter = decode(record)
        found[CLASS_OF_VIEW[letter.view]].update(
            (run.decode(), int(step)) for run, step in NUMBERED.findall(letter.lines)
        )
    return found


def _by_service(peak_mib: dict[str, float]) -> dict[str, float]:
    """The most that any gateway and any consumer held."""
    peaks = {}
    for service in BOUNDS:
        names = [
            n for n in peak_mib if n.startswith(service) or (service, n) == ("consumer", "joiner")
        ]
        peaks[service] = max(peak_mib[name] for name in names)
    return peaks


def _clocked(tell: Tell) -> Tell:
    began = time.monotonic()
    return lambda text: tell(f"[{time.monotonic() - began:5.1f} s] {text}")
