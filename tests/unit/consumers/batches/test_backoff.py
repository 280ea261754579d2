import random

from hypothesis import given
from hypothesis import strategies as st

from consumers.batches.backoff import Backoff


class Now:
    def __init__(self):
        self.s = 0.0

    def __call__(self):
        return self.s


def backoff(now, seed=1, base_s=0.5, cap_s=30.0):
    return Backoff(now, random.Random(seed), base_s=base_s, cap_s=cap_s)


def test_it_rests_after_a_failure_and_is_ready_when_the_rest_is_over():
    now = Now()
    rests = backoff(now)
    assert not rests.resting
    rest_s = rests.fail()
    assert 0.25 <= rest_s <= 0.5
    assert rests.resting
    now.s += rest_s
    assert not rests.resting


@given(st.integers(1, 200), st.integers(0, 10**6))
def test_each_rest_lies_between_half_and_all_of_a_doubling_ceiling(failures, seed):
    rests = backoff(Now(), seed)
    for n in range(failures):
        ceiling_s = min(30.0, 0.5 * 2.0**n)
        assert ceiling_s / 2 <= rests.fail() <= ceiling_s


def test_the_stores_own_retry_after_is_never_undercut():
    rests = backoff(Now())
    assert rests.fail(retry_after_s=120.0) == 120.0
    assert rests.fail(retry_after_s=0.0) >= 0.5


def test_success_begins_again_with_the_shortest_rest():
    rests = backoff(Now())
    for _ in range(10):
        rests.fail()
    rests.reset()
    assert not rests.resting
    assert rests.fail() <= 0.5


def test_two_workers_do_not_come_back_at_once():
    assert backoff(Now(), seed=1).fail() != backoff(Now(), seed=2).fail()
