from dataclasses import replace

import pytest

from bench.gateway.kill import LINES, Compared, Plan, compare
from schemas.store.protocols import StoredPoint

PLAN = Plan(points=2 * LINES, connections=2)
EPOCH_MS = 1_790_000_000_000


@pytest.fixture
def sent():
    return [
        StoredPoint(
            "metric",
            {"run": f"r{run}"},
            (EPOCH_MS + 10 * step) * 10**6,
            {"train/loss": 0.5, "step": step},
        )
        for run in range(2)
        for step in range(LINES)
    ]


def by_step(points):
    return [replace(point, time_ns=point.fields["step"] * 10**6) for point in points]


def test_a_store_that_holds_everything_lacks_nothing(sent):
    assert compare(sent, PLAN, "raw", EPOCH_MS) == Compared(2 * LINES, 0, 0)
    assert compare(by_step(sent), PLAN, "steps", EPOCH_MS) == Compared(2 * LINES, 0, 0)


def test_planted_losses_are_counted_though_as_many_points_are_there(sent):
    strange = replace(sent[7], tags={"run": "r9"})
    late = replace(sent[8], time_ns=sent[8].time_ns + 1)
    bare = replace(sent[9], fields={"train/loss": 0.5})
    found = compare([*sent[:7], strange, late, bare, *sent[10:]], PLAN, "raw", EPOCH_MS)
    assert found == Compared(2 * LINES - 3, 3, 3)


def test_a_point_read_twice_counts_once(sent):
    assert compare([*sent[1:], sent[1]], PLAN, "raw", EPOCH_MS).missing == 1
