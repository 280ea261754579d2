"""Batch sizes against stores whose answers take a + b * n seconds, without any clock."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.batches.batch_size import BatchSize

START, MOST = 5000, 50_000


def answers_after(fixed_s, each_s, *, knee=None, dearer=10):
    def seconds(points):
        beyond = max(0, points - knee) if knee else 0
        return fixed_s + each_s * (points + beyond * dearer)

    return seconds


#: What InfluxDB takes on loopback, and the same 200 ms and a second away.
FAST = answers_after(0.0015, 5.75e-6)
LATE = answers_after(0.2, 5.75e-6)
VERY_LATE = answers_after(1.0, 5.75e-6)
#: A millisecond for each two points: 0.5 s are 1,000 points.
LABORIOUS = answers_after(0.01, 5e-4)
#: Far away, and ten times dearer beyond 15,000 points.
KNEE = answers_after(0.2, 5e-6, knee=15_000)


def size(start=START, most=MOST):
    return BatchSize(start, most, target_s=0.5)


def work(batch_size, store, batches, *, noise=0.0, rng=None):
    """Write so many full batches; the sizes that were allowed, probes aside."""
    rng = rng or random.Random(1)
    sizes = []
    for _ in range(batches):
        points = batch_size.points
        batch_size.answered(points, store(points) * (1 + rng.uniform(-noise, noise)))
        sizes.append(batch_size.size)
    return sizes


@pytest.mark.parametrize(
    ("store", "least", "greatest", "within"),
    [
        (FAST, START, START, 1),
        (LATE, MOST, MOST, 60),
        (VERY_LATE, MOST, MOST, 170),
        (LABORIOUS, 1000, 2000, 5),
        (KNEE, 15_000, 20_000, 100),
    ],
)
def test_the_size_settles_near_the_best_for_the_store_and_stays(store, least, greatest, within):
    batch_size = size()
    work(batch_size, store, within)
    sizes = work(batch_size, store, 1000)
    assert least <= min(sizes) <= max(sizes) <= greatest
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_answers_that_vary_by_a_third_move_the_size_but_little(seed):
    for store, least, greatest in ((FAST, START, 20_000), (LATE, 40_000, MOST)):
        batch_size, rng = size(), random.Random(seed)
        work(batch_size, store, 200, noise=0.3, rng=rng)
        sizes = work(batch_size, store, 1000, noise=0.3, rng=rng)
        assert least <= min(sizes) <= max(sizes) <= greatest


def test_a_store_that_gets_slow_and_fast_again_finds_the_size_again():
    batch_size = size()
    assert work(batch_size, FAST, 50)[-1] == START
    assert work(batch_size, LABORIOUS, 5)[-1] <= 2000
    assert work(batch_size, FAST, 200)[-1] == START
    assert work(batch_size, LATE, 200)[-1] == MOST
    assert work(batch_size, FAST, 300)[-1] == START


def test_a_single_slow_answer_costs_half_of_the_size_for_a_while():
    batch_size = size()
    work(batch_size, LATE, 100)
    batch_size.answered(MOST, 5.0)
    assert batch_size.size == MOST // 2
    assert work(batch_size, LATE, 200)[-1] == MOST


def test_a_size_on_which_the_store_failed_is_not_tried_again_at_once():
    batch_size, failures, sizes = size(), 0, []
    for _ in range(500):
        points = batch_size.points
        if points > 20_000:
            batch_size.failed(points)
            failures += 1
        else:
            batch_size.answered(points, LATE(points))
        sizes.append(batch_size.size)
    assert failures <= 5
    assert sum(one >= 16_000 for one in sizes) > 400


def test_repeating_a_batch_that_fails_shrinks_once():
    batch_size = size()
    for _ in range(10):
        batch_size.failed(5000)
    assert batch_size.size == 2500


def test_the_bounds_may_be_one():
    batch_size = size(start=1, most=1)
    batch_size.failed(1)
    assert work(batch_size, LATE, 50) == [1] * 50


@given(
    st.integers(1, 10_000),
    st.integers(1, 100_000),
    st.lists(st.tuples(st.integers(1, 200_000), st.none() | st.floats(0, 1e6)), max_size=60),
)
def test_the_size_never_leaves_its_bounds(start, most, events):
    batch_size = size(start, most)
    for points, seconds in events:
        if seconds is None:
            batch_size.failed(points)
        else:
            batch_size.answered(points, seconds)
        assert max(1, start // 5) <= batch_size.points <= max(start, most)
        assert max(1, start // 5) <= batch_size.size <= max(start, most)
