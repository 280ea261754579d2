from dataclasses import replace

import pytest

from schemas.store.protocols import StoredPoint
from tests.fault_suite.run import longest_stall_s
from tests.ledger import EXPERIMENT, Ledger, judge

START_NS = 1_790_000_000 * 10**9


@pytest.fixture
def ledger():
    """Two runs of 50 acknowledged points; a third that was never answered."""
    ledger = Ledger(START_NS)
    ledger.sent = {(run, step) for run in ("r0", "u1", "r2") for step in range(50)}
    ledger.acknowledged = {(run, step) for run, step in ledger.sent if run != "r2"}
    return ledger


def stored(ledger, points):
    """What a sound pipeline stores of these points, by view."""
    raw, steps = [], []
    for run, step in sorted(points):
        fields = {"value": step + 0.5, "step": step}
        time_ns = START_NS + step if run.startswith("u") else ledger.time_of((run, step))
        raw.append(StoredPoint(EXPERIMENT, {"run": run}, time_ns, fields))
        steps.append(StoredPoint(EXPERIMENT, {"run": run}, step * 10**6, fields))
    return {"raw": raw, "steps": steps}


def test_a_store_that_holds_all_that_was_acknowledged_is_clean(ledger):
    verdict = judge(ledger, stored(ledger, ledger.acknowledged), {"raw": (), "steps": ()})
    assert verdict.clean
    assert verdict.line == "missing=0 invented=0 doubled=0"


def test_what_got_no_answer_may_be_stored_or_not(ledger):
    assert judge(ledger, stored(ledger, ledger.sent)).clean
    assert judge(ledger, stored(ledger, ledger.acknowledged | {("r2", 3)})).clean


@pytest.mark.parametrize("view", ["raw", "steps"])
def test_a_planted_loss_is_found_in_the_view_that_has_it(ledger, view):
    views = stored(ledger, ledger.acknowledged)
    del views[view][17]
    verdict = judge(ledger, views)
    assert not verdict.clean
    assert verdict.missing[view] == {("r0", 17)}
    assert verdict.line == "missing=1 invented=0 doubled=0"
    assert verdict.where == f"missing in {view}: 1 of r0, steps 17-17"


def test_a_point_that_lacks_a_field_is_missing(ledger):
    views = stored(ledger, ledger.acknowledged)
    views["raw"][0] = replace(views["raw"][0], fields={"value": 0.5})
    assert judge(ledger, views).missing["raw"] == {("r0", 0)}


def test_a_planted_double_is_found(ledger):
    views = stored(ledger, ledger.acknowledged)
    again = views["raw"][-1]
    views["raw"].append(replace(again, time_ns=again.time_ns + 1))  # stamped twice
    verdict = judge(ledger, views)
    assert not verdict.clean
    assert verdict.doubled["raw"] == {("u1", 49)}


def test_a_point_that_was_never_sent_is_invented(ledger):
    verdict = judge(ledger, stored(ledger, ledger.acknowledged | {("r9", 1), ("r0", 50)}))
    assert not verdict.clean
    assert verdict.invented["raw"] == verdict.invented["steps"] == {("r9", 1), ("r0", 50)}


@pytest.mark.parametrize("view", ["raw", "steps"])
def test_a_point_with_another_value_or_time_is_invented(ledger, view):
    views = stored(ledger, ledger.acknowledged)
    views[view][0] = replace(views[view][0], fields={"value": 7.5, "step": 0})
    views[view][1] = replace(views[view][1], time_ns=views[view][1].time_ns + 1)
    verdict = judge(ledger, views)
    assert not verdict.clean
    assert verdict.invented[view] == {("r0", 0), ("r0", 1)}


def test_a_malformed_line_must_be_named_by_an_answer_and_never_be_stored(ledger):
    ledger.malformed = ledger.named = {("r0", 60)}
    assert judge(ledger, stored(ledger, ledger.acknowledged)).clean
    verdict = judge(ledger, stored(ledger, ledger.acknowledged | ledger.malformed))
    assert verdict.invented["raw"] == {("r0", 60)}
    ledger.named = {("r0", 61)}  # a good line was blamed
    verdict = judge(ledger, stored(ledger, ledger.acknowledged))
    assert not verdict.clean
    assert verdict.unaccounted == {("r0", 60), ("r0", 61)}


def test_a_mistyped_line_must_be_a_dead_letter_of_each_view(ledger):
    ledger.mistyped = {("r0", 60)}
    views = stored(ledger, ledger.acknowledged)
    assert judge(ledger, views, {"raw": {("r0", 60)}, "steps": {("r0", 60)}}).clean
    verdict = judge(ledger, views, {"raw": {("r0", 60)}, "steps": set()})
    assert not verdict.clean
    assert verdict.unaccounted == {("r0", 60)}


def test_lines_tell_run_step_value_and_time_unless_the_gateway_gives_it(ledger):
    at = ledger.time_of(("r0", 7))
    assert ledger.line(("r0", 7)) == f"load,run=r0 value=7.5,step=7i {at}"
    assert ledger.line(("u1", 7)) == "load,run=u1 value=7.5,step=7i"
    assert ledger.malformed_line(("r0", 7)) == f"load,run=r0 value=,step=7i {at}"
    assert ledger.mistyped_line(("u1", 7)) == 'load,run=u1 value="text",step=7i'


def test_the_longest_stall_lies_between_two_answers_of_any_client():
    timed = [(0.0, 1.0, 204), (0.5, 3.0, 204), (1.0, 5.0, 503), (5.0, 0.5, 400), (6.0, 1.0, 0)]
    assert longest_stall_s(timed) == 2.5  # ends at 1.0, 3.5 and 5.5
    assert longest_stall_s([]) == 0.0
