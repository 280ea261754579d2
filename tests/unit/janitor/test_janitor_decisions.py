"""What the janitor decides: pure functions of what the store says and of the time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from janitor.decide import Patience, judged_at, stale_steps, summaries, verdicts
from schemas.store.attempts import AttemptState, AttemptSteps, StaleSteps
from schemas.store.run_state import standings

S = 10**9
PATIENCE = Patience(silent_after_s=120, lost_after_s=1800)


def steps(attempt: str, first: int, last: int, run: str = "r", measurement: str = "e"):
    return AttemptSteps(measurement, "e", run, attempt, first, last)


def running(at_s: int = 0, **changes):
    return replace(AttemptState("e", "r", at_s * S, "running", attempt="1"), **changes)


def stale(*found, states=()):
    return [
        (one.run, one.attempt, one.measurement, one.from_step) for one in stale_steps(found, states)
    ]


def test_a_resumed_run_loses_what_its_first_attempt_has_from_the_new_one_on():
    assert stale(steps("0", 0, 1000), steps("1", 800, 900)) == [("r", "0", "e", 800)]


def test_a_resumed_run_that_goes_on_where_it_ended_loses_nothing():
    assert stale(steps("0", 0, 1000), steps("1", 1001, 1200)) == []


def test_an_attempt_that_begins_where_the_first_one_ended_takes_that_step():
    assert stale(steps("0", 0, 1000), steps("1", 1000, 1200)) == [("r", "0", "e", 1000)]


def test_a_third_attempt_cuts_both_and_the_second_keeps_cutting_the_first():
    found = [steps("0", 0, 1000), steps("1", 800, 1100), steps("2", 900, 950)]
    assert stale(*found) == [("r", "0", "e", 800), ("r", "1", "e", 900)]


def test_a_third_attempt_that_begins_before_the_second_did_applies_to_both():
    found = [steps("0", 0, 1000), steps("1", 800, 1100), steps("2", 500, 550)]
    assert stale(*found) == [("r", "0", "e", 500), ("r", "1", "e", 500)]


def test_attempts_are_counted_as_numbers_not_as_texts():
    assert stale(steps("9", 0, 100), steps("10", 50, 60)) == [("r", "9", "e", 50)]


def test_unix_times_number_attempts_as_well():
    one, other = "1795277400", "1795277500000000000"
    assert stale(steps(one, 0, 100), steps(other, 50, 60)) == [("r", one, "e", 50)]


def test_attempts_without_a_number_are_left_alone_and_cut_nothing():
    assert stale(steps("a", 0, 100), steps("1", 50, 60), steps("-2", 0, 9)) == []


def test_two_spellings_of_one_number_do_not_cut_each_other():
    assert stale(steps("1", 0, 100), steps("01", 50, 60)) == []


def test_runs_do_not_cut_each_other():
    assert stale(steps("0", 0, 100), steps("1", 50, 60, run="s")) == []


def test_nonfinite_values_are_cut_where_the_experiment_of_the_new_attempt_begins():
    found = [
        steps("0", 0, 900),
        steps("0", 100, 850, measurement="nonfinite"),
        steps("1", 800, 990),
        steps("1", 870, 880, measurement="nonfinite"),
    ]
    assert stale(*found) == [("r", "0", "e", 800), ("r", "0", "nonfinite", 800)]


def test_an_attempt_cuts_from_where_it_says_it_began_before_its_points_come():
    said = running(attempt="1", first_step=800)
    assert stale(steps("0", 0, 1000), states=[said]) == [("r", "0", "e", 800)]


def test_an_attempt_whose_first_step_is_not_known_yet_cuts_nothing():
    assert stale(steps("0", 0, 1000), states=[running(attempt="1")]) == []


def test_of_several_ranks_the_one_that_began_lowest_counts():
    said = [running(attempt="1", rank=str(rank), first_step=800 + rank) for rank in (3, 0, 1)]
    assert stale(steps("0", 0, 1000), states=said) == [("r", "0", "e", 800)]


def test_a_decision_names_somebody():
    (one,) = stale_steps([steps("0", 0, 9), steps("1", 0, 9)], [])
    assert one == StaleSteps("e", "e", "r", "0", 0)


# -- silent and lost ----------------------------------------------------------------------------


def said(states, now_s):
    return [(one.run, one.state, one.time_ns // S) for one in verdicts(states, now_s * S, PATIENCE)]


@pytest.mark.parametrize(
    ("now_s", "expected"),
    [
        (119, []),
        (120, [("r", "silent", 120)]),
        (1799, [("r", "silent", 120)]),
        (1800, [("r", "lost", 1800)]),
        (10**6, [("r", "lost", 1800)]),
    ],
)
def test_a_run_without_a_heartbeat_is_silent_then_lost_from_the_moment_patience_ended(
    now_s, expected
):
    assert said([running(0)], now_s) == expected


@pytest.mark.parametrize(
    ("canary_s", "at_s"),
    [(None, 1000), (999, 1000), (971, 1000), (900, 930), (1000, 1000), (1001, 1000)],
)
def test_heartbeats_are_missed_only_as_far_as_canaries_came_through(canary_s, at_s):
    day = 86_400
    canary_ns = None if canary_s is None else (day + canary_s) * S
    assert judged_at((day + 1000) * S, canary_ns) == (day + at_s) * S


def test_canaries_that_stopped_long_ago_tell_nothing():
    assert judged_at(10**6 * S, 0) == 10**6 * S


@pytest.mark.parametrize("state", ["finished", "failed", "preempted"])
def test_a_run_that_ended_is_neither_silent_nor_lost(state):
    assert said([running(0, state=state)], 10**6) == []


def test_what_was_said_once_is_not_said_again():
    states = [running(0)]
    for now_s, expected in [(130, ["silent"]), (140, []), (1801, ["lost"]), (9999, [])]:
        new = list(verdicts(states, now_s * S, PATIENCE))
        assert [one.state for one in new] == expected
        states += new


def test_a_verdict_keeps_what_is_known_of_the_run_and_says_why():
    last = running(0, rank="3", first_step=5, step=70)
    (verdict,) = verdicts([last], 200 * S, PATIENCE)
    assert verdict == replace(
        last, time_ns=120 * S, state="silent", by="janitor", reason="no heartbeat for 120 s"
    )


def test_a_run_that_comes_back_is_running_by_its_own_line_and_may_be_lost_again():
    lost = running(1800, state="lost", by="janitor")
    back = running(2000)
    assert said([lost, back], 2100) == []
    assert said([lost, back], 2120) == [("r", "silent", 2120)]


def test_one_rank_with_a_heartbeat_is_enough():
    assert said([running(0, rank="0"), running(100, rank="1")], 150) == []


def test_an_earlier_attempt_tells_nothing_of_the_run():
    old = running(900, attempt="1", state="preempted")
    new = running(800, attempt="2")
    assert said([new, old], 920) == [("r", "silent", 920)]
    zombie = running(1000, attempt="1")
    assert said([new, zombie], 1001) == [("r", "silent", 920)]


def test_a_state_without_an_attempt_counts_where_there_is_no_other():
    assert said([running(0, attempt="")], 121) == [("r", "silent", 120)]
    assert said([running(0, attempt=""), running(0, attempt="0", state="finished")], 121) == []


def test_a_rank_that_ended_without_a_word_is_missed_though_another_one_finished():
    assert said([running(0, rank="0"), running(9, rank="1", state="finished")], 121) == [
        ("r", "silent", 120)
    ]


# -- summaries ----------------------------------------------------------------------------------


def summed_up(*states, since_s=0):
    return [
        (one.attempt, one.state, one.time_ns - S * (one.time_ns // S), one.time_ns // S)
        for one in summaries(states, since_s * S)
    ]


def test_a_run_whose_newest_line_says_how_it_stands_needs_no_summary():
    assert summed_up(running(0), running(9, state="finished")) == []
    assert summed_up(running(0), running(120, state="silent", by="janitor")) == []


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        # Ended while the server was away, and synced after it was given up.
        ([running(60, state="finished"), running(1800, state="lost", by="janitor")], "finished"),
        # Another rank was ended because this one failed.
        ([running(60, state="failed"), running(61, rank="1", state="preempted")], "failed"),
        ([running(60), running(61, rank="1", state="finished")], "running"),
        # An old job that goes on beside the resumed one.
        ([running(60, attempt="2", state="finished"), running(61)], "finished"),
    ],
)
def test_the_newest_line_of_a_run_says_how_it_stands_once_it_is_summed_up(states, expected):
    (summary,) = summaries(states, 0)
    assert summary.state == expected
    assert summary.by == "summary"
    assert summary.time_ns == max(one.time_ns for one in states) + 1
    assert summed_up(*states, summary) == []
    assert standings([*states, summary]) == standings(states)


def test_what_was_summed_up_is_so_again_after_news():
    zombie = running(61)
    ended = running(60, attempt="2", state="finished")
    (summary,) = summaries([ended, zombie], 0)
    assert summed_up(ended, replace(zombie, time_ns=91 * S), summary) == [("2", "finished", 1, 91)]


def test_a_run_of_which_lines_may_be_out_of_sight_is_not_summed_up():
    states = [running(60, state="failed"), running(61, rank="1", state="preempted")]
    assert summed_up(*states, since_s=62) == []
    assert len(summed_up(*states, since_s=61)) == 1
