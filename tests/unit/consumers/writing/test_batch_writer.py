"""A batch as a state machine: what is next follows from the outcomes alone, without any I/O."""

import gc
import sys
import threading

import pytest

from consumers.batches.batch import Batch, PlacedBlock
from consumers.views import StepsView, WallView
from consumers.worker import Worker
from consumers.writing.attempt import NotBefore
from consumers.writing.batch_writer import BatchWriter
from consumers.writing.isolate import TRIES
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
from tests.fakes.memory_store import Fault, MemoryStore
from tests.fakes.worker_rig import RAW, Rig, line, lines

P0, P1 = TopicPartition(RAW, 0), TopicPartition(RAW, 1)
APART_S = 60.0
REFUSED = LinesRefused("no", stored_others=False)
FAILED = StoreUnavailable("reset", may_be_the_lines=True)


def batch_of(*texts):
    """A batch with a block for each text, the first in partition 0, the next in 1."""
    batch = Batch("stepclock", "raw")
    for number, text in enumerate(texts):
        points = text.count(b"\n") + 1
        block = Block("vision", "stepclock", Precision.NS, points, 0, text)
        batch.add(PlacedBlock(block, (P0, P1)[number], 0, len(text)))
    return batch


def writer_of(*texts, views=None):
    return BatchWriter(batch_of(*texts), views or [WallView()], apart_s=APART_S)


class Driver:
    """What the loop does with a BatchWriter, with outcomes that the test gives."""

    def __init__(self, batch_writer):
        self.batch_writer = batch_writer
        self.now = 0.0

    def next(self):
        return self.batch_writer.next(self.now, 10**18)

    def answer(self, outcome=None):
        attempt = self.next()
        self.batch_writer.answered(attempt, outcome, now=self.now, seconds=0.0)
        return attempt

    def fail(self):
        """The store fails on what is next, and takes a canary after a pause."""
        failed = self.answer(FAILED)
        self.batch_writer.resume()
        assert self.answer().canary
        return failed


def test_a_batch_goes_into_each_view_as_a_whole_and_is_done():
    driver = Driver(writer_of(lines(1, 2), views=[WallView(), StepsView(())]))
    wall, steps = driver.answer(), driver.answer()
    assert (wall.view, wall.target, wall.lines, wall.whole) == ("wall", "raw", lines(1, 2), True)
    assert (steps.view, steps.target, steps.precision) == ("steps", "steps", Precision.MS)
    assert driver.next() is None


@pytest.mark.parametrize("first", [None, REFUSED], ids=["plain", "in a search"])
def test_without_an_answer_in_between_the_same_is_next_again(first):
    driver = Driver(writer_of(lines(1, 2, 3), views=[WallView(), StepsView(())]))
    driver.answer(first)
    assert driver.next() == driver.next()


@pytest.mark.parametrize("outcome", [StoreUnavailable("503"), StoreMisconfigured("404")])
@pytest.mark.parametrize("first", [None, REFUSED], ids=["plain", "in a search"])
def test_an_outcome_that_decides_nothing_leaves_the_same_bytes_to_be_tried(first, outcome):
    driver = Driver(writer_of(lines(1, 2, 3), views=[WallView(), StepsView(())]))
    driver.answer(first)
    assert driver.answer(outcome) == driver.next()


def test_a_refused_batch_is_searched_until_the_bad_line_is_alone():
    driver = Driver(writer_of(lines(1, 2)))
    assert driver.answer(REFUSED).whole
    assert (driver.answer().lines, driver.answer(REFUSED).lines) == (line(1), line(2))
    assert driver.next() is None
    [rejected] = driver.batch_writer.rejected
    assert (rejected.original, rejected.reason) == (line(2), Reason.REFUSED)


def test_a_batch_on_which_the_store_failed_waits_for_a_canary_that_passes():
    driver = Driver(writer_of(lines(1, 2)))
    driver.answer(FAILED)
    assert driver.answer(StoreUnavailable("503")).canary
    assert driver.answer().canary
    assert (driver.next().lines, driver.next().canary) == (lines(1, 2), False)


def test_a_line_in_quarantine_is_tried_alone_and_not_before_its_time():
    driver = Driver(writer_of(line(1)))
    driver.fail()
    driver.fail()
    assert driver.next() is None
    driver = Driver(driver.batch_writer.set_aside())
    assert driver.answer().canary
    for number in range(TRIES):
        if number:
            assert driver.next() == NotBefore(driver.now + APART_S)
            driver.now += APART_S
        assert driver.fail().lines == line(1)
    assert driver.next() is None
    assert [one.reason for one in driver.batch_writer.rejected] == [Reason.POISON]


def test_lines_in_quarantine_need_a_canary_after_each_pause():
    driver = Driver(writer_of(line(1)))
    driver.fail()
    driver.fail()
    assert driver.next() is None
    driver = Driver(driver.batch_writer.set_aside())
    assert driver.answer().canary
    assert not driver.next().canary
    driver.batch_writer.resume()
    assert driver.next().canary


def test_a_search_begins_anew_without_the_blocks_of_a_partition_that_was_dropped():
    driver = Driver(writer_of(lines(1, 2), lines(3, 4)))
    driver.answer(REFUSED)
    driver.batch_writer.drop({P0})
    assert (driver.next().lines, driver.next().whole) == (lines(3, 4), True)


def test_a_batch_that_is_parked_goes_on_with_the_next_view():
    driver = Driver(writer_of(lines(1, 2), views=[WallView(), StepsView(())]))
    driver.batch_writer.park("404")
    assert driver.answer().view == "steps"
    assert driver.next() is None
    assert set(driver.batch_writer.dead_points().values()) == {2}


def test_a_batch_that_is_parked_within_a_search_begins_the_next_view_as_a_whole():
    driver = Driver(writer_of(lines(1, 2), views=[WallView(), StepsView(())]))
    driver.answer(REFUSED)
    driver.answer()
    driver.batch_writer.park("404")
    assert (driver.next().view, driver.next().whole) == ("steps", True)


def test_deliveries_of_a_partition_that_was_dropped_are_not_written():
    batch_writer = writer_of(lines(1), lines(2))
    for placed in batch_writer.batch.blocks:
        stream = f"s{placed.partition.partition}"
        only = (Delivery(stream, 0, 10**18, "m", "r", 0, 1, 0, 1),)
        object.__setattr__(placed.block, "deliveries", only)
    driver = Driver(batch_writer)
    driver.answer()
    assert b"stream=s0" in driver.next().lines
    driver.batch_writer.drop({P0})
    assert b"stream=s0" not in driver.next().lines
    assert b"stream=s1" in driver.next().lines


# -- the way to the store -----------------------------------------------------------------


class Inspecting(MemoryStore):
    """Notes how deep each write is on the stack: calls from `Worker.run` on, both included."""

    def __init__(self):
        super().__init__()
        self.depths = []

    def write(self, *args):
        frame, depth = sys._getframe(), 1
        while frame.f_code is not Worker.run.__code__:
            frame, depth = frame.f_back, depth + 1
        self.depths.append(depth)
        super().write(*args)


@pytest.mark.parametrize(
    ("rows", "writes"),
    [(lines(1, 2, 3, 4), 2), (lines(1, 2, 3) + b"\n" + line(4, run="bad"), 10)],
    ids=["a plain batch", "an isolation"],
)
def test_at_most_six_calls_lead_from_the_worker_to_the_store(rows, writes):
    rig = Rig(batch_points=4)
    rig.source.close()
    store, stop = Inspecting(), threading.Event()
    store.refuse = lambda text: "no" if b"run=bad" in text else None
    store.faults.append(Fault(before=stop.set))
    rig.worker, rig.source = rig.start(writer=store)
    rig.send(rows)
    rig.worker.run(stop)
    assert rig.committed() == 1
    assert len(store.depths) == writes
    assert max(store.depths) <= 6


class Holding:
    """Answers as clients of a store do: with an error that another one caused.

    `held` tells of each write how many references to the lines of the one before were left.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.last = None
        self.held = []

    def write(self, _namespace, _retention_class, lines, _precision):
        if self.last is not None:
            self.held.append(sys.getrefcount(self.last) - 2)  # ours, and that of the call
        # What is only one line is the candidate's own.
        self.last = lines if b"\n" in lines else None
        try:
            raise OSError("the connection")
        except OSError as exc:
            if self.answers:
                raise self.answers.pop(0) from exc


@pytest.mark.parametrize(
    "answer", [StoreUnavailable("503"), FAILED, REFUSED, WriteTooLarge("413")], ids=str
)
def test_the_lines_of_a_write_are_let_go_once_it_was_answered(answer):
    rig = Rig(batch_age_s=0.0)
    rig.source.close()
    store = Holding(answer, answer)
    rig.worker, rig.source = rig.start(writer=store)
    rig.send(lines(1, 2, 3, 4))
    rig.send(lines(5, 6, 7, 8), partition=1)
    gc.disable()
    try:
        rig.settle()
    finally:
        gc.enable()
    assert len(store.held) >= 2
    assert set(store.held) == {0}
