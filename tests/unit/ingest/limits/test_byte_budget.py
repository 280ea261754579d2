import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Unavailable
from ingest.limits.byte_budget import ByteBudget
from telemetry import metrics


def budget(max_bytes=300):
    return ByteBudget("judging", "judging as much", max_bytes)


def reached(whose):
    return metrics.BOUND_REACHED.labels("judging", whose)._value.get()


def fill(budget, tenant, size=1):
    """Take until the bound says no; what it says."""
    while True:
        try:
            budget.check(tenant, size)
        except Unavailable as exc:
            return exc
        budget.take(tenant, size)


def test_a_tenant_alone_fills_two_thirds_and_another_still_gets_through():
    room = budget()
    before = reached("tenant")
    refused = fill(room, "greedy")
    assert room.held_bytes == 200
    assert "of tenant 'greedy'" in refused.message
    assert refused.headers["Retry-After"] == "1"
    assert reached("tenant") == before + 1
    room.check("modest", 50)


def test_the_bound_of_all_holds_for_everybody_and_says_so():
    room = budget()
    room.take("greedy", 200)
    with pytest.raises(Unavailable, match="judging as much as it may;"):
        room.check("modest", 101)


def test_a_tenant_that_holds_nothing_may_bring_a_body_larger_than_its_share():
    budget().check("modest", 300)


def test_what_was_given_back_is_free_again():
    room = budget()
    fill(room, "greedy")
    room.give_back("greedy", 200)
    room.check("greedy", 200)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 4))
def test_tenants_that_take_all_they_can_one_after_the_other_leave_room_for_one_more(sizes, tenants):
    room = budget(10_000)
    for size in sizes:
        for tenant in range(tenants):
            fill(room, str(tenant), size)
    assert room.held_bytes <= 10_000
    room.check("new", 10_000 // 3**tenants - 2 * 40)
