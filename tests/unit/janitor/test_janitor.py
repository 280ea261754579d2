"""Rounds of the janitor over the store in memory, with a clock of its own."""

from __future__ import annotations

import random
import threading
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from janitor.decide import Patience
from janitor.janitor import Janitor
from janitor.loop import Loop
from janitor.namespaces import Namespaces
from schemas.canary import gateway_line
from schemas.line_protocol.precision import Precision
from schemas.store.attempts import AttemptState
from schemas.store.protocols import FieldConflict, LinesRefused, StoreUnavailable
from schemas.store.run_state import line_of
from schemas.tenants.keys import InvalidKeys, new_key
from schemas.tenants.keys_file import dump
from telemetry import metrics
from tests.fakes.memory_store import Fault, MemoryStore

S = 10**9
NOW = 1_795_000_000 * S


class Rig:
    def __init__(self, namespaces=("n",), **options):
        self.store = MemoryStore()
        self.now_ns = NOW
        self.said = []
        self._times = count()
        self.janitor = Janitor(
            self.store,
            self.store,
            lambda: namespaces,
            Patience(120, 1800),
            "system",
            now_ns=lambda: self.now_ns,
            now=lambda: 0.0,
            say=self.said.append,
            rng=random.Random(0),
            **options,
        )

    def log(self, attempt, *steps, run="r", rank=0, namespace="n"):
        """Points of one attempt, in both clocks."""
        tags = f"e,run={run},rank={rank}" + ("" if attempt is None else f",attempt={attempt}")
        raw = "\n".join(f"{tags} a=1,step={step}i {NOW + next(self._times)}" for step in steps)
        by_step = "\n".join(f"{tags} a=1,step={step}i {step}" for step in steps)
        self.store.write(namespace, "raw", raw.encode(), Precision.NS)
        self.store.write(namespace, "steps", by_step.encode(), Precision.MS)

    def say(self, state="running", *, ago_s=0, run="r", attempt="0", namespace="n", **fields):
        one = AttemptState("e", run, self.now_ns - ago_s * S, state, attempt=attempt, **fields)
        self.store.write(namespace, "events", line_of(one), Precision.NS)

    def curve(self, retention_class="steps", namespace="n"):
        """Run, attempt, rank and step of every point."""
        return sorted(
            (
                point.tags["run"],
                point.tags.get("attempt", ""),
                point.tags["rank"],
                point.fields["step"],
            )
            for point in self.store.points(namespace, retention_class, "e")
        )

    def state(self, run="r"):
        states = self.store.points("n", "events", "run_state", run)
        return max(states, key=lambda point: point.time_ns).fields["state"]


def test_late_rows_of_an_old_attempt_go_again_and_raw_keeps_both():
    rig = Rig()
    rig.log(0, *range(10))
    rig.log(1, *range(6, 12, 2))
    assert rig.janitor.round()
    rig.log(0, 8, 9, 10)
    assert rig.janitor.round()
    expected = [("r", "0", "0", step) for step in range(6)]
    expected += [("r", "1", "0", step) for step in (6, 8, 10)]
    assert rig.curve() == expected
    assert len(rig.curve("raw")) == 16


def test_nothing_is_deleted_where_nothing_is_stale():
    rig = Rig()
    rig.log(0, *range(10))
    rig.log(1, *range(6, 12))
    for _ in range(3):
        rig.janitor.round()
    assert len(rig.store.deletions) == 1


def test_a_dry_run_says_what_would_go_and_changes_nothing():
    rig = Rig(dry_run=True)
    rig.log(0, *range(10))
    rig.log(1, 5)
    rig.say(ago_s=130)
    before = rig.curve()
    writes = len(rig.store.writes)
    rig.janitor.round()
    assert (rig.curve(), rig.store.deletions, len(rig.store.writes)) == (before, [], writes)
    assert rig.said == [
        "n: e r: points of e leave class steps: attempt 0 from step 5",
        "n: e r: silent, no heartbeat for 120 s",
    ]


def test_a_round_is_bounded_and_the_next_goes_on():
    rig = Rig(max_deletions=2)
    for number in range(5):
        rig.log(0, 1, 2, run=f"r{number}")
        rig.log(1, 2, run=f"r{number}")
    assert [rig.janitor.round() for _ in range(3)] == [False, False, True]
    assert len(rig.store.deletions) == 5


def test_zombies_keep_no_other_run_waiting_for_ever():
    rig = Rig(max_deletions=1)
    for run in ("a", "b", "c"):
        rig.log(1, 2, run=run)
    rig.log(0, 3, run="c")
    for _ in range(50):
        rig.log(0, 5, run="a")
        rig.log(0, 5, run="b")
        rig.janitor.round()
    assert ("c", "0", "0", 3) not in rig.curve()


def test_zombies_of_one_namespace_keep_no_other_waiting_for_ever():
    rig = Rig(namespaces=("a", "b"), max_deletions=2)
    rig.log(0, 1, 2, namespace="b")
    rig.log(1, 2, namespace="b")
    for _ in range(20):
        for number in range(3):
            rig.log(1, 2, run=f"zombie{number}", namespace="a")
            rig.log(0, 1, 2, run=f"zombie{number}", namespace="a")
        rig.janitor.round()
    assert rig.curve(namespace="b") == [("r", "0", "0", 1), ("r", "1", "0", 2)]


def test_every_namespace_is_kept_and_one_without_buckets_hinders_none():
    rig = Rig(namespaces=("gone", "n", "m"))
    rig.say(ago_s=500, namespace="gone")
    rig.store.missing.add(("gone", "events"))
    for namespace in ("n", "m"):
        rig.log(0, 1, 2, namespace=namespace)
        rig.log(1, 2, namespace=namespace)
    rig.janitor.round()
    for namespace in ("n", "m"):
        assert rig.curve(namespace=namespace) == [("r", "0", "0", 1), ("r", "1", "0", 2)]


def test_a_namespace_that_the_store_always_fails_on_keeps_no_other_waiting_for_ever():
    rig = Rig(namespaces=("a", "b"))
    rig.log(0, 1, 2, namespace="b")
    rig.log(1, 2, namespace="b")
    asked = rig.store.attempt_steps

    def attempt_steps(namespace):
        if namespace == "a":
            raise StoreUnavailable("too many series")
        return asked(namespace)

    rig.store.attempt_steps = attempt_steps
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            rig.janitor.round()
    assert rig.curve(namespace="b") == [("r", "0", "0", 1), ("r", "1", "0", 2)]


def test_a_run_goes_silent_is_lost_and_comes_back():
    rig = Rig()
    rig.say(step=7)
    seen = []
    for after_s in (60, 61, 1700, 1):
        rig.now_ns += after_s * S
        rig.janitor.round()
        seen.append(rig.state())
    rig.say()
    rig.janitor.round()
    seen.append(rig.state())
    assert seen == ["running", "silent", "lost", "lost", "running"]


def test_a_run_that_ended_in_an_outage_is_finished_in_its_newest_line_once_that_is_stored():
    rig = Rig()
    rig.say()
    rig.now_ns += 2000 * S
    rig.janitor.round()
    assert rig.state() == "lost"
    rig.say("finished", ago_s=1940)
    verdicts = metrics.JANITOR_VERDICTS.labels("lost")._value.get()
    for _ in range(3):
        rig.janitor.round()
        assert rig.state() == "finished"
    assert rig.said == ["n: e r: lost, no heartbeat for 1800 s", "n: e r: finished"]
    assert metrics.JANITOR_RUNS.labels("finished")._value.get() == 1
    assert metrics.JANITOR_VERDICTS.labels("lost")._value.get() == verdicts


def test_a_run_of_a_week_ago_stays_what_it_was_while_its_lines_go_out_of_sight():
    rig = Rig()
    rig.say("failed", rank="0")
    rig.now_ns += 5 * S
    rig.say("preempted", rank="1")
    rig.janitor.round()
    assert rig.state() == "failed"
    for _ in range(7 * 24 * 2):
        rig.now_ns += 1800 * S
        rig.janitor.round()
    rig.now_ns -= 2 * S
    rig.janitor.round()
    assert rig.state() == "failed"
    assert rig.said == ["n: e r: failed"]


def test_two_janitors_say_the_same_at_different_times():
    rig = Rig()
    rig.say(ago_s=200)
    states = rig.store.attempt_states("n", 0)
    rig.janitor.round()
    once = rig.store.content("n", "events")
    rig.now_ns += 30 * S
    # The other one has looked before the first one wrote, and comes to write later.
    rig.store.attempt_states = lambda _namespace, _since_ns: states
    rig.janitor.round()
    assert rig.store.writes[-1].lines == rig.store.writes[-2].lines
    assert rig.store.content("n", "events") == once


def test_while_the_pipeline_lags_no_run_falls_silent():
    rig = Rig()
    rig.say()
    rig.store.write("stepclock", "system", gateway_line("g", 0, NOW + 60 * S), Precision.NS)
    rig.now_ns += 3600 * S
    rig.janitor.round()
    assert rig.state() == "running"
    rig.store.write("stepclock", "system", gateway_line("g", 0, NOW + 3599 * S), Precision.NS)
    rig.janitor.round()
    assert rig.state() == "lost"


def test_runs_are_counted_by_state_and_deletions_and_verdicts_too():
    deleted = metrics.JANITOR_DELETIONS._value.get()
    lost = metrics.JANITOR_VERDICTS.labels("lost")._value.get()
    rig = Rig()
    rig.log(0, 1, 2)
    rig.log(1, 2)
    rig.say(run="a")
    rig.say(run="b", ago_s=1900)
    rig.say("finished", run="c", ago_s=5000)
    rig.janitor.round()
    gauge = metrics.JANITOR_RUNS
    found = {s: gauge.labels(s)._value.get() for s in ("running", "lost", "finished", "silent")}
    assert found == {"running": 1, "lost": 1, "finished": 1, "silent": 0}
    assert metrics.JANITOR_DELETIONS._value.get() == deleted + 1
    assert metrics.JANITOR_VERDICTS.labels("lost")._value.get() == lost + 1
    assert metrics.JANITOR_ROUND_AT._value.get() == NOW / S


def test_a_state_that_the_store_refuses_does_not_end_the_round():
    rig = Rig()
    rig.say(ago_s=200)
    conflict = FieldConflict("run_state", "state", "string")
    rig.store.faults.append(Fault(LinesRefused("conflict", stored_others=True, conflict=conflict)))
    assert rig.janitor.round()
    assert rig.state() == "running"


# -- any interleaving -------------------------------------------------------------------------

rows = st.tuples(
    st.just("row"),
    st.sampled_from(["r1", "r2"]),
    st.sampled_from([None, 0, 1, 2, 10]),  # attempt; None: a plain client
    st.integers(0, 1),  # rank
    st.integers(0, 12),  # step
)
rounds = st.tuples(st.just("round"))


@settings(deadline=None)
@given(
    events=st.lists(st.one_of(rows, rows, rows, rounds), max_size=40),
    max_deletions=st.integers(1, 3),
)
def test_of_each_run_a_step_shows_the_highest_attempt_that_has_begun_at_or_below_it_and_no_other(
    events, max_deletions
):
    rig = Rig(max_deletions=max_deletions)
    written = set()
    for kind, *row in events:
        if kind == "round":
            rig.janitor.round()
            continue
        run, attempt, rank, step = row
        rig.log(attempt, step, run=run, rank=rank)
        written.add((run, attempt, rank, step))
    while not rig.janitor.round():
        pass
    begins = {}
    for run, attempt, _rank, step in written:
        if attempt is not None:
            begins[run, attempt] = min(step, begins.get((run, attempt), step))

    def shown(run, attempt, step):
        begun = [n for (of, n), first in begins.items() if of == run and first <= step]
        return attempt is None or attempt == max(begun)

    expected = {
        (run, "" if attempt is None else str(attempt), str(rank), step)
        for run, attempt, rank, step in written
        if shown(run, attempt, step)
    }
    assert set(rig.curve()) == expected
    assert {
        (run, "" if attempt is None else str(attempt), str(rank), step)
        for run, attempt, rank, step in written
    } == set(rig.curve("raw"))
    deletions = len(rig.store.deletions)
    rig.janitor.round()
    assert len(rig.store.deletions) == deletions


# -- the loop ---------------------------------------------------------------------------------


class Rounds:
    """A janitor whose rounds take the seconds that are given, on a clock of their own."""

    def __init__(self, *rounds):
        self.rounds = list(rounds)
        self.now = 0.0

    def round(self):
        took_s, outcome = self.rounds.pop(0)
        self.now += took_s
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_rounds_take_a_fifth_of_the_time_at_most():
    rounds = Rounds((1, True), (20, True), (2, False))
    loop = Loop(rounds, interval_s=30, now=lambda: rounds.now)
    assert [loop.turn() for _ in range(3)] == [30, 80, 8]
    assert loop.due_at == 31


def test_a_store_that_is_away_is_waited_for():
    rounds = Rounds((1, StoreUnavailable("away")), (1, True))
    loop = Loop(rounds, interval_s=30, now=lambda: rounds.now)
    loop.turn()
    assert loop.store_error == "away"
    loop.turn()
    assert loop.store_error is None


def test_an_unknown_error_ends_the_loop():
    rounds = Rounds((1, ZeroDivisionError("ours")))
    loop = Loop(rounds, interval_s=30, now=lambda: rounds.now)
    with pytest.raises(ZeroDivisionError):
        loop.run(threading.Event())


# -- namespaces -------------------------------------------------------------------------------


def test_namespaces_are_those_of_the_keys_file_as_it_stands(tmp_path):
    path = tmp_path / "keys.toml"
    names = Namespaces(path)
    assert names() == ["stepclock"]
    path.write_text(dump([new_key("t", namespace="vision")[1]]))
    assert names() == ["stepclock", "vision"]
    path.write_text("no toml [")
    assert names() == ["stepclock", "vision"]
    with pytest.raises(InvalidKeys):
        Namespaces(path)
