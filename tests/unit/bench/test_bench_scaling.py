import threading

import pytest

from bench.consumer.rebalance import Watch
from bench.consumer.scaling import Drain, Plan, section
from tests.deadline import eventually

PLAN = Plan()


def drains(*rates, lags=(3000, 2000, 1000)):
    return {count: [Drain(rate, lags)] * 3 for count, rate in zip((1, 2, 4), rates, strict=True)}


def test_consumers_that_scale_pass():
    found = section(PLAN, drains(1000.0, 1900.0, 3700.0))
    assert not found.failures
    assert [row[2] for row in found.tables[0].rows] == ["1.00", "0.950", "0.925"]


def test_a_share_below_nine_tenths_fails():
    [failure] = section(PLAN, drains(1000.0, 1900.0, 3500.0)).failures
    assert failure.startswith("4 consumers reach 0.88")


def test_a_lag_that_does_not_fall_fails():
    found = section(PLAN, drains(1000.0, 2000.0, 4000.0, lags=(3000, 2000, 3000)))
    assert len(found.failures) == 9


class Group:
    """Commits each time it is asked, once it has begun to."""

    def __init__(self):
        self.asked = 0
        self.commits = threading.Event()

    def committed(self, group):
        self.asked += self.commits.is_set()
        return [self.asked]


def test_a_pause_lasts_from_one_commit_to_the_next():
    group = Group()

    def act():
        assert eventually(lambda: False, within_s=0.3) is False  # nobody commits meanwhile
        group.commits.set()

    assert Watch(group, "g").pause(act, 0.0) >= 0.3


def test_what_goes_wrong_in_an_event_is_raised():
    group = Group()
    group.commits.set()
    with pytest.raises(ZeroDivisionError):
        Watch(group, "g").pause(lambda: 1 / 0, 0.0)
