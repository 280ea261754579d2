from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.limits.token_bucket import Limit, RateLimiter, TokenBucket

SECOND = 10**9

steps = st.lists(
    st.tuples(
        st.sampled_from(["charge", "refund", "debt", "remaining"]),
        st.integers(0, 3 * SECOND),
        st.integers(0, 50_000),
    ),
    max_size=60,
)


class ExactBucket:
    """The textbook bucket in fractions: slow, and never wrong."""

    def __init__(self, limit):
        self.rate, self.burst = Fraction(limit.rate), Fraction(limit.burst)
        self.level, self.at = self.burst, 0

    def at_time(self, now_ns):
        self.level = min(
            self.burst, self.level + self.rate * Fraction(max(0, now_ns - self.at), SECOND)
        )
        self.at = max(self.at, now_ns)

    def charge(self, points):
        if self.level >= min(points, self.burst):
            self.level -= points
            return True
        return False


@given(st.integers(1, 10**7), st.integers(1, 10**7), steps)
def test_bucket_agrees_with_an_exact_model(rate, burst, history):
    limit = Limit(rate, burst)
    bucket, model, now_ns = TokenBucket(limit, 0), ExactBucket(limit), 0
    for action, elapsed_ns, points in history:
        now_ns += elapsed_ns
        model.at_time(now_ns)
        if action == "charge":
            assert (bucket.charge(points, now_ns) == 0.0) == model.charge(points)
        elif action == "refund":
            bucket.refund(points)
            model.level = min(model.burst, model.level + points)
        elif action == "debt":
            assert (bucket.debt_s(now_ns) == 0.0) == (model.level >= 1)
        else:
            assert bucket.remaining(now_ns) == max(0, model.level // 1)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.lists(st.integers(1, 10**5), max_size=30))
def test_a_refused_charge_succeeds_after_exactly_the_time_it_was_told(rate, burst, charges):
    bucket = TokenBucket(Limit(rate, burst), 0)
    now_ns = 0
    for points in charges:
        wait_s = bucket.charge(points, now_ns)
        if wait_s:
            wait_ns = round(wait_s * SECOND) + 1  # seconds as a float: at most 1 ns off
            assert bucket.charge(points, now_ns + wait_ns - 3) > 0.0 or wait_ns < 100
            now_ns += wait_ns
            if bucket.charge(points, now_ns) > 0.0:
                pytest.fail("told to come back too early")


def test_an_oversized_request_is_taken_from_a_full_bucket_and_leaves_debt():
    bucket = TokenBucket(Limit(rate=10, burst=100), 0)
    assert bucket.charge(1000, 0) == 0.0
    assert bucket.debt_s(0) == pytest.approx((900 + 1) / 10)
    assert bucket.remaining(0) == 0
    assert bucket.charge(1, 90 * SECOND) == pytest.approx(0.1)
    assert bucket.charge(1, 91 * SECOND) == 0.0


def test_a_clock_that_steps_back_neither_gives_nor_takes():
    bucket = TokenBucket(Limit(rate=10, burst=10), 5 * SECOND)
    bucket.charge(10, 5 * SECOND)
    assert bucket.remaining(0) == 0
    assert bucket.remaining(6 * SECOND) == 10


def test_a_changed_limit_keeps_what_was_used():
    bucket = TokenBucket(Limit(rate=10, burst=100), 0)
    bucket.charge(60, 0)
    bucket.change_limit(Limit(rate=10, burst=200), 0)
    assert bucket.remaining(0) == 140


def test_tenants_do_not_touch_each_other():
    limiter = RateLimiter(Limit(1, 10), now_ns=lambda: 0)
    assert limiter.charge("a", None, 10) is None
    assert limiter.charge("a", None, 1) is not None
    assert limiter.charge("b", None, 10) is None


def test_a_refusal_names_the_limit_and_what_is_left():
    limiter = RateLimiter(Limit(2, 10), now_ns=lambda: 0)
    limiter.charge("a", None, 7)
    refusal = limiter.charge("a", None, 5)
    assert refusal is not None
    assert (refusal.retry_after_s, refusal.limit, refusal.remaining) == (1.0, Limit(2, 10), 3)


def test_full_buckets_are_forgotten_and_their_number_is_bounded():
    now = [0]
    limiter = RateLimiter(Limit(10, 100), max_buckets=50, now_ns=lambda: now[0])
    for tenant in range(200):
        limiter.charge(str(tenant), None, 10)
    assert len(limiter) == 50
    assert limiter.evict_full() == 0
    now[0] = SECOND
    assert limiter.evict_full() == 50
    assert len(limiter) == 0


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Limit(0, 5)
