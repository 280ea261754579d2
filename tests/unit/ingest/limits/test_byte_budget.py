from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Unavailable
from ingest.limits.byte_budget import ByteBudget, Held
from telemetry import metrics


def budget(max_bytes=300):
    return ByteBudget("reading", "read buffer", max_bytes)


def reached(whose):
    return metrics.BOUND_REACHED.labels("reading", whose)._value.get()


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
    assert "tenant 'greedy' has used its share" in refused.message
    assert refused.headers["Retry-After"] == "1"
    assert reached("tenant") == before + 1
    room.check("modest", 50)


def test_the_bound_of_all_holds_for_everybody_and_says_so():
    room = budget()
    room.take("greedy", 200)
    with pytest.raises(Unavailable, match="read buffer is full;"):
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


def test_what_a_request_holds_is_free_once_it_is_released_and_a_late_turn_holds_nothing():
    room = budget()
    held = Held(room, "vision")
    held.take(30)
    held.take(40)
    held.give_back(30)
    assert room.held_bytes == 40
    held.release()
    held.take(50)
    held.give_back(10)
    held.release()
    assert room.held_bytes == 0


def test_a_request_that_finds_no_room_holds_what_it_had():
    room = budget()
    held = Held(room, "vision")
    held.take(200)
    with pytest.raises(Unavailable, match="share of the gateway's read buffer"):
        held.take(1)
    assert room.held_bytes == 200


def test_requests_may_grow_on_several_threads_at_once():
    room = budget(10**9)

    def grow(number):
        held = Held(room, f"tenant {number % 2}")
        for _ in range(5_000):
            held.take(3)
            held.give_back(2)
        return held

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(grow, range(8)))
    assert room.held_bytes == 8 * 5_000
    for held in found:
        held.release()
    assert room.held_bytes == 0
