"""How a run stands, of all that its ranks, its attempts and the janitor say of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.store.attempts import AttemptState
from schemas.store.protocols import RunSummary
from schemas.store.run_state import JANITOR, SUMMARY, State, asked_since_ns, standings, with_states

S = 10**9


def line(at_s: int, state: str = "running", **changes: str) -> AttemptState:
    plain = AttemptState("e", "r", at_s * S, state, rank="0", attempt="1")
    return replace(plain, **changes)


def verdict(at_s: int, state: str = "silent", **changes: str) -> AttemptState:
    return line(at_s, state, **{"by": JANITOR, **changes})


def standing(*lines: AttemptState) -> AttemptState:
    """The line that speaks for the run, in whatever order the store gives them."""
    (found,) = {standings(order)["e", "r"] for order in permutations(lines)}
    return found


def test_the_newest_line_of_a_run_of_one_rank_is_its_word():
    assert standing(line(0), line(30)) == line(30)
    assert standing(line(0), line(30, "failed"), line(31)) == line(31)
    assert standing(line(0), line(30, "preempted")) == line(30, "preempted")


def test_the_highest_attempt_counts_whatever_an_earlier_one_says_later():
    resumed = line(100, attempt="10")
    assert standing(line(200, attempt="9"), resumed) == resumed
    assert standing(line(200, "failed", attempt="9"), resumed) == resumed
    assert standing(verdict(300, "lost", attempt="9"), resumed) == resumed
    assert standing(line(200, attempt=""), resumed) == resumed
    assert standing(line(200, attempt="")) == line(200, attempt="")


def test_a_run_without_heartbeats_is_as_the_janitor_says_until_the_next_one():
    assert standing(line(0), verdict(120)) == verdict(120)
    assert standing(line(0), verdict(120), verdict(1800, "lost", rank="1")).state == "lost"
    assert standing(line(121), verdict(120)) == line(121)


def test_a_run_that_said_how_it_ended_did_so_though_it_was_called_lost_meanwhile():
    finished = line(60, "finished")
    assert standing(line(30), verdict(1830, "lost"), finished) == finished


def test_a_run_is_running_as_long_as_one_of_its_ranks_is():
    assert standing(line(30), line(40, "finished", rank="1")) == line(30)
    assert standing(line(30), line(40, "failed", rank="1")) == line(30)
    assert standing(line(30, "finished"), line(40, rank="1")) == line(40, rank="1")


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["finished", "finished"], "finished"),
        (["failed", "finished"], "failed"),
        (["failed", "preempted", "preempted"], "failed"),
        (["preempted", "finished"], "preempted"),
        (["failed", "silenced"], "failed"),
        (["preempted", "silenced"], "preempted"),
        (["finished", "silenced"], "silent"),
        (["silenced", "silenced"], "silent"),
        (["running", "silenced"], "running"),
    ],
)
def test_once_no_rank_is_running_the_gravest_end_counts(states, expected):
    lines = [
        line(0, rank=str(rank)) if state == "silenced" else line(200, state, rank=str(rank))
        for rank, state in enumerate(states)
    ]
    assert standing(*lines, verdict(120)).state == expected


def test_of_several_failures_the_first_is_the_cause():
    cause = line(10, "failed", rank="3", reason="out of memory")
    echo = line(12, "failed", reason="connection reset")
    assert standing(cause, echo, line(12, "preempted", rank="1")) == cause


def test_a_summary_decides_nothing():
    summary = line(40, "finished", by=SUMMARY)
    assert standing(line(30), summary) == line(30)
    assert standing(line(30), verdict(35), summary) == verdict(35)


def test_a_text_that_is_no_state_is_told_as_it_is():
    assert standing(line(0), line(5, "warming up")) == line(5, "warming up")
    assert standing(line(5, "warming up"), line(4, rank="1")) == line(4, rank="1")


@given(
    st.lists(
        st.builds(
            line,
            st.integers(0, 5),
            st.sampled_from([*State, "other"]),
            rank=st.sampled_from("01"),
            attempt=st.sampled_from(["", "0", "1"]),
            by=st.sampled_from(["", JANITOR, SUMMARY]),
        ),
        min_size=1,
        unique_by=lambda one: (one.time_ns, one.rank, one.attempt, one.by),
    )
)
def test_one_of_its_lines_speaks_for_a_run_whatever_they_are(lines):
    found = standings(lines)["e", "r"]
    assert found in lines
    assert standings(reversed(lines))["e", "r"].state == found.state


def test_runs_get_the_states_that_their_experiment_told_of_them():
    told, untold = RunSummary("r", 0, 9, 100 * S), RunSummary("s", None, None, 0)
    lines = [line(90, "failed", reason="no memory"), line(99, experiment="f", run="s")]
    assert with_states([told, untold], "e", lines) == [
        replace(told, state="failed", attempt=1, reason="no memory"),
        untold,
    ]
    (plain,) = with_states([told], "e", [line(90, attempt="")])
    assert (plain.state, plain.attempt, plain.reason) == ("running", None, None)


def test_states_are_asked_for_from_a_week_before_the_oldest_run_s_newest_point_on():
    runs = [RunSummary(str(day), None, None, day * 86_400 * S) for day in (20, 10, 30)]
    assert asked_since_ns(runs) == 3 * 86_400 * S
