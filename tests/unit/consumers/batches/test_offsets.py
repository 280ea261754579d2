import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.batches.offsets import OffsetTracker
from schemas.log.protocols import TopicPartition

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


def tracker(*offsets, partition=P0):
    tracker = OffsetTracker()
    for offset in offsets:
        tracker.track(partition, offset)
    return tracker


def test_nothing_is_committable_before_something_settles():
    assert tracker(0, 1, 2).committable() == {}


def test_the_mark_stays_below_the_first_unsettled_offset():
    offsets = tracker(5, 6, 7)
    offsets.settle(P0, 6)
    offsets.settle(P0, 7)
    assert offsets.committable() == {}
    offsets.settle(P0, 5)
    assert offsets.committable() == {P0: 8}


def test_gaps_in_the_log_do_not_hold_the_mark_back():
    offsets = tracker(1, 4, 9)
    offsets.settle(P0, 1)
    offsets.settle(P0, 4)
    assert offsets.committable() == {P0: 5}


def test_a_commit_that_was_taken_is_not_offered_again():
    offsets = tracker(0, 1)
    offsets.settle(P0, 0)
    offsets.committed(offsets.committable())
    assert offsets.committable() == {}
    assert offsets.marks() == {P0: 1}


def test_a_commit_that_was_not_taken_is_offered_again():
    offsets = tracker(0)
    offsets.settle(P0, 0)
    assert offsets.committable() == offsets.committable() == {P0: 1}


def test_what_waits_longest_is_the_oldest_record_that_is_not_settled():
    offsets = OffsetTracker()
    for offset in range(3):
        offsets.track(P0, offset, written_ms=1000 + offset)
    offsets.settle(P0, 1)
    assert offsets.written_ms() == {P0: 1000}
    offsets.settle(P0, 0)
    assert offsets.written_ms() == {P0: 1002}


def test_of_what_is_not_polled_yet_the_last_settled_record_tells():
    offsets = OffsetTracker()
    offsets.track(P0, 0, written_ms=1000)
    offsets.settle(P0, 0)
    assert offsets.written_ms() == {P0: 1000}


def test_a_dropped_partition_is_forgotten_and_the_others_stay():
    offsets = tracker(0)
    offsets.track(P1, 3)
    offsets.settle(P0, 0)
    offsets.settle(P1, 3)
    offsets.drop([P0])
    assert offsets.committable() == {P1: 4}
    assert offsets.unsettled() == 0


def test_offsets_that_go_back_are_a_bug():
    with pytest.raises(ValueError, match="BUG"):
        tracker(3, 3)


@given(st.sets(st.integers(0, 1000), min_size=1), st.data())
def test_everything_below_the_mark_is_settled_and_the_mark_is_as_high_as_that_allows(found, data):
    offsets = tracker(*sorted(found))
    settled = data.draw(st.permutations(sorted(found)))[: data.draw(st.integers(0, len(found)))]
    for offset in settled:
        offsets.settle(P0, offset)
    unsettled = found - set(settled)
    below = {o for o in found if not unsettled or o < min(unsettled)}
    assert offsets.committable() == ({P0: max(below) + 1} if below else {})
