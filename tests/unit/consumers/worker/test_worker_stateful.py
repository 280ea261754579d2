"""The worker, and its offsets, move by move: hypothesis looks for the shortest way to a loss."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumers.batches.offsets import OffsetTracker
from schemas.log.protocols import TopicPartition
from tests.unit.consumers.worker.test_worker_simulation import Simulation

PARTITIONS = [TopicPartition("t", 0), TopicPartition("t", 1)]


class OffsetsMachine(RuleBasedStateMachine):
    """The tracker against what it should know: sets of offsets."""

    def __init__(self):
        super().__init__()
        self.tracker = OffsetTracker()
        self.polled = {p: [] for p in PARTITIONS}
        self.settled = {p: set() for p in PARTITIONS}
        self.committed = {}

    @rule(partition=st.sampled_from(PARTITIONS), gap=st.integers(0, 3))
    def poll(self, partition, gap):
        offset = (self.polled[partition] or [-1])[-1] + 1 + gap
        self.tracker.track(partition, offset)
        self.polled[partition].append(offset)

    @precondition(lambda self: self.unsettled())
    @rule(data=st.data())
    def settle(self, data):
        partition, offset = data.draw(st.sampled_from(self.unsettled()))
        self.tracker.settle(partition, offset)
        self.settled[partition].add(offset)

    @rule(taken=st.booleans())
    def commit(self, taken):
        offered = self.tracker.committable()
        assert all(self.committed.get(p) != offset for p, offset in offered.items())
        if taken:
            self.tracker.committed(offered)
            self.committed |= offered

    @rule(partition=st.sampled_from(PARTITIONS))
    def lose(self, partition):
        self.tracker.drop([partition])
        self.polled[partition], self.settled[partition] = [], set()
        self.committed.pop(partition, None)

    def unsettled(self):
        return [
            (p, offset)
            for p in PARTITIONS
            for offset in self.polled[p]
            if offset not in self.settled[p]
        ]

    def mark(self, partition):
        """Behind the last of those before which all are settled."""
        mark = None
        for offset in self.polled[partition]:
            if offset not in self.settled[partition]:
                break
            mark = offset + 1
        return mark

    @invariant()
    def the_marks_are_as_high_as_may_be_and_no_higher(self):
        expected = {p: self.mark(p) for p in PARTITIONS if self.mark(p) is not None}
        assert self.tracker.marks() == expected
        assert self.tracker.unsettled() == len(self.unsettled())
        due = {p: mark for p, mark in expected.items() if self.committed.get(p) != mark}
        assert self.tracker.committable() == due


class WorkerMachine(RuleBasedStateMachine):
    """Two workers; whatever happens in whatever order, the end finds every point."""

    @initialize(rng=st.randoms(use_true_random=False))
    def begin(self, rng):
        self.simulation = Simulation(rng)

    @rule()
    def send(self):
        self.simulation.send()

    @rule()
    def fault(self):
        self.simulation.fault()

    @rule(index=st.integers(0, 1), times=st.integers(1, 4))
    def turn(self, index, times):
        for _ in range(times):
            self.simulation.turn(index)

    @rule(index=st.integers(0, 1))
    def crash(self, index):
        self.simulation.crash(index)

    @invariant()
    def nothing_is_committed_that_was_not_sent(self):
        log = self.simulation.rig.log
        for partition, offset in log.committed().items():
            assert offset <= len(
                [r for r in log.records(partition.topic) if r.topic_partition == partition]
            )

    def teardown(self):
        if hasattr(self, "simulation"):
            self.simulation.finish()


TestOffsetsMachine = OffsetsMachine.TestCase
TestOffsetsMachine.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
TestWorkerMachine = WorkerMachine.TestCase
TestWorkerMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
