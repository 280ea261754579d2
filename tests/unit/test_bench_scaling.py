import itertools
import threading

from bench.rebalance import Watch
from bench.scaling import Drain, Plan, section

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
    """Two partitions: the first commits each time it is asked, the second once all is done."""

    def __init__(self):
        self.asked = itertools.count()
        self.acted = threading.Event()

    def committed(self, group):
        return [next(self.asked), int(self.acted.is_set())]


def test_a_pause_lasts_until_every_partition_has_moved_on():
    group = Group()
    pause = Watch(group, "g").during(group.acted.set)
    assert 0 < pause.longest <= pause.all_again


def test_a_commit_before_the_event_is_done_does_not_end_the_watch():
    group = Group()
    done = []

    def act():
        while next(group.asked) < 5:
            pass
        group.acted.set()
        done.append(True)

    Watch(group, "g").during(act)
    assert done
