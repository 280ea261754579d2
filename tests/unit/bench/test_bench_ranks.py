from __future__ import annotations

from dataclasses import replace

import pytest

from bench.ranks.fleet import Job
from bench.ranks.rank import EXPERIMENT, RUN, value
from bench.ranks.ranks import Compared, Plan, compare, section
from schemas.store.protocols import StoredPoint

PLAN = Plan(processes=2, metrics=3, steps_per_s=2, seconds=2)
WHOLE = {"raw": Compared(0, 0), "steps": Compared(0, 0)}


def point(rank: int, step: int) -> StoredPoint:
    metrics = {f"layer{n}/grad_norm": value(rank, step, n) for n in range(PLAN.metrics)}
    tags = {"run": RUN, "rank": str(rank), "attempt": "0"}
    return StoredPoint(EXPERIMENT, tags, 1000 + step, {**metrics, "step": step})


@pytest.fixture
def points() -> list[StoredPoint]:
    return [point(rank, step) for rank in range(PLAN.processes) for step in range(PLAN.steps)]


def test_a_store_that_holds_what_was_logged_lacks_nothing(points) -> None:
    assert compare(points, PLAN) == Compared(missing=0, wrong=0)


def test_a_point_that_is_not_there_is_missing(points) -> None:
    assert compare(points[:-1], PLAN) == Compared(missing=1, wrong=0)


def test_a_value_that_was_changed_makes_its_point_missing_and_wrong(points) -> None:
    points[3] = replace(points[3], fields={**points[3].fields, "layer1/grad_norm": 7.0})
    assert compare(points, PLAN) == Compared(missing=1, wrong=1)


def test_a_value_that_is_not_there_makes_its_point_missing_and_wrong(points) -> None:
    fields = dict(points[3].fields)
    del fields["layer2/grad_norm"]
    points[3] = replace(points[3], fields=fields)
    assert compare(points, PLAN) == Compared(missing=1, wrong=1)


@pytest.mark.parametrize("other", [point(0, 1), point(0, 4), point(2, 0)])
def test_a_point_twice_and_points_that_nobody_logged_are_wrong(points, other) -> None:
    assert compare([*points, other], PLAN) == Compared(missing=0, wrong=1)


def account(rank: int, **receipt: int) -> dict[str, object]:
    counts = {"logged": PLAN.steps, "lines": 6, "stored": 6, **receipt}
    return {
        "rank": rank,
        "logging_s": 2.0,
        "cpu_s": 0.02,
        "took_s": [20e-6] * PLAN.steps,
        "late_s": 0.001,
        "limited": 0,
        "requests": 3,
        "peak_mib": 20.0,
        "interpreter_mib": 12.0,
        "receipt": {"run": RUN, **counts},
    }


def failures(*accounts: dict[str, object], compared=WHOLE) -> list[str]:
    job = Job(list(accounts), {"gateway": 10.0}, 50.0)
    return list(section(PLAN, PLAN.processes, job, compared).failures)


def test_good_receipts_and_a_whole_store_fail_no_claim() -> None:
    assert failures(account(0), account(1)) == []


def test_a_rank_whose_receipt_misses_a_line_fails_the_claim() -> None:
    (failure,) = failures(account(0), account(1, stored=5, unsettled=1))
    assert "rank 1" in failure
    assert "5 of 6 lines stored, 1 unsettled" in failure


def test_a_rank_that_logged_less_than_it_should_fails_the_claim() -> None:
    (failure,) = failures(account(0), account(1, logged=3))
    assert "8 steps were logged, and receipts tell of 7" in failure


def test_a_store_that_lacks_a_point_fails_the_claim_whatever_the_receipts_say() -> None:
    compared = {**WHOLE, "steps": Compared(missing=1, wrong=2)}
    (failure,) = failures(account(0), account(1), compared=compared)
    assert failure == "class steps: 1 points missing, 2 wrong"
