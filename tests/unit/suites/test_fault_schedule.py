from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fault_suite.schedule import EVERYTHING, KINDS, schedule

SEEDS = st.integers(0, 2**32)


def test_a_seed_always_gives_the_same_schedule_and_another_seed_another():
    assert schedule(7, 180) == schedule(7, 180)
    assert schedule(7, 180) != schedule(8, 180)


@given(SEEDS, st.floats(30, 300))
def test_faults_overlap_a_little_and_all_are_healed_in_time(seed, seconds):
    faults = schedule(seed, seconds)
    for fault in faults:
        assert fault.end_s <= seconds + 0.1
        others = [f for f in faults if f.at_s <= fault.at_s < f.end_s and f is not fault]
        assert len(others) <= 1
    assert [f.at_s for f in faults] == sorted(f.at_s for f in faults)


@given(SEEDS)
def test_no_target_is_hit_while_it_is_down(seed):
    for one, other in combinations(schedule(seed, 200), 2):
        assert one.target != other.target or other.at_s >= one.end_s


@given(SEEDS)
def test_two_minutes_hold_every_kind(seed):
    assert {fault.kind for fault in schedule(seed, 120)} == KINDS.keys()


def test_five_seeds_hit_every_group_of_targets_with_every_kind_that_can_hit_it():
    faults = [fault for seed in range(1, 6) for fault in schedule(seed, 180)]
    for kind, lasting in KINDS.items():
        hit = {fault.target for fault in faults if fault.kind == kind}
        for group in lasting.groups:
            assert kind == "join" or hit.intersection(EVERYTHING[group]), (kind, group)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_can_be_left_out(kind):
    assert kind not in {fault.kind for fault in schedule(1, 180, without=[kind])}
