"""Batches on their way into a store that may answer anything: each line ends exactly once."""

from __future__ import annotations

import random
import re
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumers.batches.batch import PlacedBlock
from consumers.batches.batch_size import BatchSize
from consumers.settings import WorkerSettings
from consumers.views import StepsView, WallView
from consumers.writing.destinations import Destinations
from consumers.writing.isolate import TRIES
from consumers.writing.write_loop import WriteLoop
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, Delivery
from schemas.log.dead_letter import Reason
from schemas.log.protocols import TopicPartition
from schemas.store.protocols import (
    LinesRefused,
    StoreMisconfigured,
    StoreUnavailable,
    WriteTooLarge,
)
from tests.fakes.worker_rig import RAW, Clock

PARTITIONS = [TopicPartition(RAW, 0), TopicPartition(RAW, 1)]
VIEWS = [WallView(), StepsView(())]
APART_S, PARK_AFTER_S = 30.0, 10.0
START_NS = 1_700_000_000 * 10**9

#: What a line is, by its run: refused or lethal everywhere, or in one class only.
KINDS = ["good"] * 6 + ["bad", "bad_raw", "bad_steps", "deadly", "deadly_steps", "no_step", "odd"]

#: What the next write comes to, whatever it holds. Those in FLAKY may cost a good line.
FLAKY = {
    "fails": lambda: StoreUnavailable("500", may_be_the_lines=True),
    "fails late": lambda: StoreUnavailable("late", may_be_the_lines=True, late=True),
    "400": lambda: LinesRefused("400", stored_others=False),
    "422": lambda: LinesRefused("422", stored_others=False, dropped=1),
    "413": lambda: WriteTooLarge("413"),
}
FAULTS = FLAKY | {
    "503": lambda: StoreUnavailable("503"),
    "429": lambda: StoreUnavailable("429", retry_after_s=3.0),
    "late": lambda: StoreUnavailable("late", late=True),
    "404": lambda: StoreMisconfigured("404"),
    "lost answer": lambda: StoreUnavailable("reset"),
    "crash": lambda: Crash("not an answer"),
}


class Crash(Exception):
    """No answer of a store."""


class ScriptedStore:
    """Does what its script says, then what the lines deserve."""

    def __init__(self, clock):
        self.clock = clock
        self.script = []
        self.missing = set()
        self.partial = True
        self.tells_dropped = True
        self.max_lines = 1000
        self.write_s = 0.0
        #: (class, name of a line) -> the line, as it was written last.
        self.stored = {}
        #: (when, canary, names) of each write.
        self.writes = []
        #: (class, name) -> when a write of this line alone failed.
        self.failed_alone = {}
        self.spoke_ill_of_deliveries = False

    def write(self, _namespace, retention_class, lines, _precision):
        texts = lines.split(b"\n")
        canary = texts[0].startswith(b"_canary")
        names = [name_of(text) for text in texts]
        self.writes.append((self.clock.s, canary, names))
        self.clock.advance(self.write_s)
        try:
            self._answer(retention_class, texts, names)
        except (LinesRefused, WriteTooLarge, StoreMisconfigured, StoreUnavailable) as exc:
            unavailable = isinstance(exc, StoreUnavailable)
            if unavailable and exc.may_be_the_lines and len(names) == 1 and not canary:
                began = self.writes[-1][0]
                self.failed_alone.setdefault((retention_class, names[0]), []).append(began)
            if retention_class == "events" and not (unavailable and not exc.may_be_the_lines):
                self.spoke_ill_of_deliveries = True
            raise

    def _answer(self, retention_class, texts, names):
        fault = self.script.pop(0) if self.script else None
        if fault == "lost answer":
            self._store(retention_class, texts, names)
        if fault is not None:
            error = FAULTS[fault]()
            raise error
        if retention_class in self.missing:
            raise StoreMisconfigured(retention_class)
        if any(is_deadly(text, retention_class) for text in texts):
            raise StoreUnavailable("reset", may_be_the_lines=True)
        if len(texts) > self.max_lines:
            raise WriteTooLarge("413")
        bad = [n for n, text in enumerate(texts) if is_bad(text, retention_class)]
        if not bad or self.partial:
            kept = [n for n in range(len(texts)) if n not in bad]
            self._store(retention_class, [texts[n] for n in kept], [names[n] for n in kept])
        if bad:
            told = self.partial and self.tells_dropped
            dropped = len(bad) if told else None
            raise LinesRefused("no", stored_others=self.partial, dropped=dropped)

    def _store(self, retention_class, texts, names):
        for text, name in zip(texts, names, strict=True):
            self.stored[retention_class, name] = text


def name_of(text):
    return re.search(rb"\b(?:id|stream)=\w+|^_canary", text)[0]


def is_bad(text, retention_class):
    return b"run=bad," in text or b"run=bad_%b," % retention_class.encode() in text


def is_deadly(text, retention_class):
    return b"run=deadly," in text or b"run=deadly_%b," % retention_class.encode() in text


class WritingMachine(RuleBasedStateMachine):
    """What a worker does with its destinations, from a block that came to its settlement."""

    @initialize(
        batch_points=st.sampled_from([1, 6, 100]),
        partial=st.booleans(),
        tells_dropped=st.booleans(),
        seed=st.integers(0, 100),
    )
    def begin(self, batch_points, partial, tells_dropped, seed):
        self.clock = Clock()
        self.rng = random.Random(seed)
        self.settings = WorkerSettings(
            batch_points=batch_points,
            batch_age_s=0.0,
            retry_base_s=0.5,
            retry_cap_s=2.0,
            poison_apart_s=APART_S,
        )
        self.store = ScriptedStore(self.clock)
        self.store.partial, self.store.tells_dropped = partial, tells_dropped
        self.ids = 0
        self.offsets = Counter()
        self.waiting = []
        self.last_settled = {}
        self.flaky = False
        self.start()

    def start(self):
        batch_size = BatchSize(self.settings.batch_points, 1000, target_s=0.5)
        now = self.clock.now
        self.destinations = Destinations(self.settings, batch_size, now, self.rng)
        self.loop = WriteLoop(
            self.store,
            batch_size,
            park_after_s=PARK_AFTER_S,
            now=now,
            now_ns=self.clock.now_ns,
        )

    @rule(
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=8),
        partition=st.sampled_from(PARTITIONS),
        precision=st.sampled_from([Precision.NS, Precision.S]),
        view=st.sampled_from([None, None, None, "steps"]),
        streams=st.booleans(),
    )
    def add(self, kinds, partition, precision, view, streams):
        texts, deliveries = [], []
        for number, kind in enumerate(kinds):
            self.ids += 1
            step = b"" if kind == "no_step" else b",step=%di" % self.ids
            step = b",step=-1i" if kind == "odd" else step
            time = START_NS // precision.ns + self.ids
            name = b"x%d" % self.ids
            text = b"m,run=%b,id=%b loss=1%b %d" % (kind.encode(), name, step, time)
            texts.append(text)
            start = START_NS if streams else 0
            deliveries.append(Delivery(f"s{self.ids}", 0, start, "m", "r", 0, 1, number, 1))
        lines = b"\n".join(texts)
        block = Block(
            *("vision", "stepclock", precision, len(texts), 0, lines),
            deliveries=tuple(deliveries),
            view=view,
        )
        self.offsets[partition] += 1
        placed = PlacedBlock(block, partition, self.offsets[partition], len(lines))
        self.come(placed)

    def come(self, placed):
        self.waiting.append(placed)
        self.destinations.add(placed, "raw", self.clock.now())

    @rule(faults=st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=4))
    def disturb(self, faults):
        self.store.script += faults
        self.flaky = self.flaky or any(fault in FLAKY for fault in faults)

    @rule(retention_class=st.sampled_from(["raw", "steps", "events"]))
    def toggle_bucket(self, retention_class):
        self.store.missing ^= {retention_class}

    @rule(seconds=st.sampled_from([0.0, 0.4, 3.0]))
    def set_speed(self, seconds):
        self.store.write_s = seconds

    @rule(lines=st.sampled_from([1, 3, 1000]))
    def set_largest(self, lines):
        self.store.max_lines = lines

    @rule(times=st.integers(1, 6), seconds=st.sampled_from([-1.0, 0.0, 1.0, 100.0]))
    def work(self, times, seconds):
        for _ in range(times):
            self.turn(seconds)

    @precondition(lambda self: self.waiting)
    @rule(partition=st.sampled_from(PARTITIONS), comes_back=st.booleans())
    def lose(self, partition, comes_back):
        self.destinations.drop({partition})
        self.forget([p for p in self.waiting if p.partition == partition], comes_back=comes_back)

    def forget(self, blocks, *, comes_back):
        self.waiting = [p for p in self.waiting if p not in blocks]
        self.last_settled.clear()
        for p in blocks:
            if comes_back:
                self.come(PlacedBlock(p.block, p.partition, p.offset, p.size_bytes))

    def turn(self, seconds):
        destination = self.destinations.due(self.clock.now())
        if destination is None:
            at = self.destinations.next_due_at()
            if at < float("inf"):
                self.clock.s = max(self.clock.s, at)
            return
        batch_writer = self.destinations.begin(destination, VIEWS)
        until, before = self.clock.now() + seconds, len(self.store.writes)
        try:
            done = self.loop.run(destination, batch_writer, until)
        except Crash:
            self.start()
            self.forget(self.waiting, comes_back=True)
            return
        writes = self.store.writes[before:]
        assert all(at < until or canary for at, canary, _ in writes[1:] if not writes[0][1])
        if destination.aside and writes:
            assert writes[0][1], "a canary comes before the lines in quarantine"
        if not done:
            assert writes or destination.backoff.resting, "each call makes progress"
            return
        self.destinations.set_aside(destination, batch_writer)
        for placed in batch_writer.batch.blocks:
            self.settle(destination, batch_writer, placed)
        destination.finish()
        self.destinations.forget_empty()

    def settle(self, destination, batch_writer, placed):
        self.waiting.remove(placed)  # raises if it was settled before
        if not destination.aside:
            queue = (destination.view, placed.partition)
            assert placed.offset > self.last_settled.get(queue, 0), "in the order of the log"
            self.last_settled[queue] = placed.offset
        rejected = [one for one in batch_writer.rejected if one.placed is placed]
        block, dead = placed.block, set()
        for view in VIEWS:
            if block.view not in (None, view.name):
                continue
            target = view.target("raw")
            for line in view.lines(block, "raw", view.precision([block])):
                found = [
                    one
                    for one in rejected
                    if one.view == view.name
                    and (one.line is None or one.line == line or one.line.number == line.number)
                ]
                name = name_of(line.original)
                stored = (target, name) in self.store.stored
                assert stored or found, (view.name, line)
                # Lines in quarantine are tried anew in views that rejected them before.
                assert len(found) <= 1 or destination.aside, (view.name, line, found)
                if found:
                    dead.add(line.number)
                    self.check_reason(found[0], line, target, name)
        assert batch_writer.dead_points().get(placed, 0) in (len(dead), block.points)
        if not any(one.line is None for one in rejected):  # else all lines count as dead
            self.check_deliveries(block, dead)

    def check_reason(self, found, line, target, name):
        deserved = is_bad(line.original, target) or line.refused
        if found.reason is Reason.REFUSED:
            assert deserved or self.flaky, found
        elif found.reason is Reason.MALFORMED:
            assert line.refused, found
        elif found.reason is Reason.TOO_LARGE:
            assert self.flaky
        elif found.reason is Reason.POISON:
            tries = sorted(
                at
                for (_, one), times in self.store.failed_alone.items()
                if one == name
                for at in times
            )
            assert len(tries) >= TRIES

    def check_deliveries(self, block, dead):
        for number, one in enumerate(block.deliveries, 1):
            key = ("events", b"stream=%b" % one.stream.encode())
            if not one.start:
                assert key not in self.store.stored
            elif key in self.store.stored:
                text = self.store.stored[key]
                assert b" dead=%d," % (number in dead) in text or self.store.spoke_ill_of_deliveries
            else:
                assert self.store.spoke_ill_of_deliveries

    @invariant()
    def what_waits_is_somewhere(self):
        if not hasattr(self, "destinations"):
            return
        held = [
            placed
            for destination in self.destinations
            for placed in (
                *(placed for _, placed in destination.waiting._blocks),
                *(destination.under_way.batch.blocks if destination.under_way else ()),
            )
        ]
        assert Counter(held) == Counter(self.waiting)
        assert self.destinations.size_bytes == sum(placed.size_bytes for placed in held)

    def teardown(self):
        if not hasattr(self, "destinations"):
            return
        self.store.script, self.store.missing = [], set()
        self.store.write_s, self.store.max_lines = 0.0, 1000
        for _ in range(3000):
            if not self.waiting:
                break
            self.turn(1.0)
        assert self.waiting == []
        assert len(self.destinations) == 0


TestWritingMachine = WritingMachine.TestCase
TestWritingMachine.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True
)
