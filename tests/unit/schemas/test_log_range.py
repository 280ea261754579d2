"""Fixed ranges of a log: when they are finished, and from when to go on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.log.protocols import Record, TopicPartition
from schemas.log.ranges import LogRange, RangeProgress

ONE, TWO = TopicPartition("t", 0), TopicPartition("t", 1)


def record(offset: int, time_ms: int = 0, partition: TopicPartition = ONE) -> Record:
    return Record(partition.topic, partition.partition, offset, b"", (), time_ms)


def test_what_is_read_is_not_finished_before_it_is_settled():
    progress = RangeProgress({ONE: LogRange(5, 7)})
    progress.gave([record(5), record(6)])
    assert (progress.unread, progress.finished, progress.settled) == (set(), False, 0)
    progress.settle({ONE: 6})
    assert (progress.finished, progress.settled, progress.mark(ONE)) == (False, 1, 6)
    progress.settle({ONE: 7})
    assert (progress.finished, progress.settled) == (True, 2)


def test_holes_before_the_end_are_passed_without_a_record():
    progress = RangeProgress({ONE: LogRange(0, 9)})
    progress.gave([record(0), record(3)])
    progress.reached(ONE, 12)
    assert not progress.unread
    progress.settle({ONE: 4})
    assert progress.finished
    assert progress.settled == 9


def test_empty_ranges_are_finished_at_once():
    assert RangeProgress({ONE: LogRange(4, 4)}).finished


def test_what_was_deleted_unread_counts_as_deleted_up_to_the_end():
    progress = RangeProgress({ONE: LogRange(0, 5), TWO: LogRange(0, 5)})
    progress.gave([record(0)])
    progress.lost(ONE, 3)
    progress.lost(TWO, 70)
    assert progress.deleted == 2 + 5
    assert progress.position(ONE) == 3
    assert progress.unread == {ONE}


def test_it_goes_on_from_the_oldest_of_the_partitions_that_are_not_finished():
    progress = RangeProgress({ONE: LogRange(0, 2, 100), TWO: LogRange(0, 2, 50)})
    assert progress.resume_ms() == 50
    progress.gave([record(0, 60, TWO), record(1, 70, TWO), record(0, 100)])
    assert progress.resume_ms() == 50
    progress.settle({TWO: 1})
    assert progress.resume_ms() == 60
    progress.settle({TWO: 2})
    assert progress.resume_ms() == 100


@given(times=st.lists(st.integers(1, 9), min_size=1, max_size=12), data=st.data())
def test_going_on_from_that_time_misses_nothing_however_clocks_differ(times, data):
    """As a log finds it: the first record whose time is that or later."""
    records = [record(n, time_ms) for n, time_ms in enumerate(times)]
    progress = RangeProgress({ONE: LogRange(0, len(times), times[0])})
    given_now = data.draw(st.integers(0, len(times)))
    settled = data.draw(st.integers(0, given_now))
    progress.gave(records[:given_now])
    progress.settle({ONE: settled})
    if progress.finished:
        return
    resume_ms = progress.resume_ms()
    found = next(r.offset for r in records if r.timestamp_ms >= resume_ms)
    assert found <= settled
