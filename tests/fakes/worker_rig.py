"""A worker between a log and a store in memory, on a clock that only the test moves."""

from __future__ import annotations

import random
from collections.abc import Callable

from consumers.dead_letters import DeadLetters
from consumers.settings import WorkerSettings
from consumers.views import StepsView, View, WallView
from consumers.worker import Worker
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, encode_headers
from schemas.log.dead_letter import DeadLetter, decode
from schemas.log.protocols import DEAD_LETTER_TOPIC, Record, TopicPartition
from schemas.store.protocols import LineWriter
from tests.fakes.memory_log import MemoryLog, MemorySource
from tests.fakes.memory_store import MemoryStore

RAW, EVENTS, SYSTEM = "stepclock.raw", "stepclock.events", "stepclock.system"
TOPICS = (RAW, EVENTS, SYSTEM)
START_S = 1_700_000_000.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.s = START_S

    def now(self) -> float:
        return self.s

    def now_ns(self) -> int:
        return int(self.s * 1e9)

    def advance(self, seconds: float) -> None:
        self.s += seconds


class ClockedSource(MemorySource):
    """A source whose waiting moves the clock instead of taking time."""

    clock: Clock

    def poll(self, timeout_s: float) -> list[Record]:
        records = super().poll(0)
        if not records:
            self.clock.advance(max(timeout_s, 0.001))
        return records


class Rig:
    def __init__(
        self,
        *,
        partitions: int = 2,
        views: list[View] | None = None,
        clock: Clock | None = None,
        log: MemoryLog | None = None,
        **settings: object,
    ) -> None:
        self.clock = clock or Clock()
        topics = dict.fromkeys(TOPICS, partitions) | {DEAD_LETTER_TOPIC: 1}
        self.log = log or MemoryLog(topics, clock=self.clock.now)
        self.store = MemoryStore()
        self.settings = WorkerSettings(**settings)  # type: ignore[arg-type]  # keywords of a test
        self.views = views or [WallView(), StepsView(self.settings.volatile_tags)]
        self.publisher = self.log.publisher()
        self.stored: list[tuple[int, int]] = []
        self.worker, self.source = self.start()

    def start(
        self, *, writer: LineWriter | None = None, max_poll_records: int = 500
    ) -> tuple[Worker, ClockedSource]:
        """One more worker, subscribed; the first one stands in `worker` and `source`."""
        source = ClockedSource(self.log, "workers", max_poll_records=max_poll_records, waits=False)
        source.clock = self.clock
        worker = Worker(
            source,
            writer or self.store,
            DeadLetters(self.log.publisher(), timeout_s=0.1, now=self.clock.now),
            topics=TOPICS,
            views=self.views,
            settings=self.settings,
            now=self.clock.now,
            now_ns=self.clock.now_ns,
            rng=random.Random(7),
            on_stored=lambda received_ns, points: self.stored.append((received_ns, points)),
        )
        source.subscribe(TOPICS, worker)
        return worker, source

    def send(
        self,
        lines: bytes,
        *,
        topic: str = RAW,
        partition: int = 0,
        namespace: str = "stepclock",
        tenant: str = "vision",
        precision: Precision = Precision.NS,
        multiline: bool = False,
        points: int | None = None,
    ) -> int:
        """Append a block as the gateway would; its offset."""
        block = Block(
            tenant=tenant,
            namespace=namespace,
            precision=precision,
            points=lines.count(b"\n") + 1 if points is None else points,
            received_ns=self.clock.now_ns(),
            lines=lines,
            multiline=multiline,
        )
        return self.publisher.send(topic, partition, lines, encode_headers(block)).result(0)

    def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.worker.turn()

    def turn_until(self, condition: Callable[[], bool], *, turns: int = 2000) -> None:
        for _ in range(turns):
            if condition():
                return
            self.worker.turn()
        raise AssertionError("the condition did not come true")

    def settle(self) -> None:
        """Turn until everything in the log is committed."""
        self.turn_until(lambda: not self.uncommitted())

    def uncommitted(self) -> dict[TopicPartition, int]:
        """Partitions with records that are not committed -> how many."""
        committed = self.log.committed()
        ends: dict[TopicPartition, int] = {}
        for topic in TOPICS:
            for record in self.log.records(topic):
                ends[record.topic_partition] = record.next_offset
        return {
            p: end - committed.get(p, 0) for p, end in ends.items() if end > committed.get(p, 0)
        }

    def committed(self, topic: str = RAW, partition: int = 0) -> int | None:
        return self.log.committed().get(TopicPartition(topic, partition))

    def letters(self) -> list[DeadLetter]:
        return [decode(record) for record in self.log.records(DEAD_LETTER_TOPIC)]


def line(step: int, *, run: str = "a", loss: float = 0.5, time_ns: int | None = None) -> bytes:
    time_ns = 1_700_000_000_000_000_000 + step if time_ns is None else time_ns
    return f"resnet,run={run},host=n1 loss={loss},step={step}i {time_ns}".encode()


def lines(*steps: int, run: str = "a") -> bytes:
    return b"\n".join(line(step, run=run) for step in steps)
