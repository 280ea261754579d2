"""Lines on which the store dies: found and set apart, with a bounded number of deaths."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.writing.isolate import MAX_FAILURES, TRIES
from schemas.admission.body import admit
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import Precision
from schemas.log.dead_letter import Reason
from schemas.log.protocols import TopicPartition
from schemas.store.protocols import LinesRefused, StoreUnavailable
from telemetry.metrics import SUSPECTED_WRITES
from tests.fakes.memory_store import Fault
from tests.fakes.worker_rig import RAW, SYSTEM, Rig, line, lines

#: 2 of the whole batch, 13 of ever smaller parts, TRIES of the line alone.
ONE_OF_5000 = 18

#: InfluxDB 2.7 dies of this line, and answers the other one with 500 for ever.
KILLER = rb'0 \\="=" 5'
TAKES_500 = rb'm a\\="b,c=d",e=t 5'


def deadly(text):
    return b"run=deadly" in text


class PoisonRig(Rig):
    """The store dies of lines of run "deadly" and needs a moment to be back."""

    def __init__(self, **changes):
        super().__init__(**{"batch_age_s": 0.0, "retry_cap_s": 2.0} | changes)
        self.store.dies_of = deadly
        self.store.restart_writes = 3

    def clients(self, retention_class="raw", namespace="stepclock"):
        """Points of clients: canaries that the worker wrote beside them left out."""
        content = self.store.content(namespace, retention_class)
        return {key: fields for key, fields in content.items() if key[0][0] != "_canary"}

    def lethal_writes(self):
        return [w for w in self.store.writes if deadly(w.lines)]

    def on_trial(self):
        return any(destination.aside for destination in self.worker._destinations)


@pytest.mark.parametrize("position", [0, 1, 2499, 2500, 4998, 4999])
def test_one_deadly_line_among_5000_is_condemned_and_all_others_are_stored(position):
    rig = PoisonRig()
    rows = [line(n) for n in range(5000)]
    rows[position] = line(position, run="deadly")
    rig.send(b"\n".join(rows))
    rig.settle()
    assert len(rig.clients()) == len(rig.clients("steps")) == 4999
    assert {(one.view, one.reason, one.lines) for one in rig.letters()} == {
        ("wall", Reason.POISON, rows[position]),
        ("steps", Reason.POISON, rows[position]),
    }
    assert len(rig.letters()) == 2
    assert rig.store.deaths <= ONE_OF_5000


def test_a_line_is_condemned_only_after_three_failures_of_it_alone_a_minute_apart():
    rig = PoisonRig()
    rig.send(line(1, run="deadly"))
    tries = []
    write = rig.store.write

    def spy(namespace, retention_class, text, precision):
        tries.append((rig.clock.s, text))
        write(namespace, retention_class, text, precision)

    rig.store.write = spy
    rig.turn_until(lambda: rig.store.deaths == 2)  # twice before it is suspected
    first = len(tries)
    rig.settle()
    alone = [(at, n) for n, (at, text) in enumerate(tries) if n >= first and deadly(text)]
    assert len(alone) == TRIES
    assert all(later[0] - earlier[0] >= 60 for earlier, later in pairwise(alone))
    for _, n in alone:
        assert b"_canary" in tries[n - 1][1], "a canary passed just before"
        assert any(b"_canary" in text for _, text in tries[n + 1 :]), "and one after"
    [wall, steps] = rig.letters()
    assert (wall.view, steps.view) == ("wall", "steps")
    assert "3 times" in wall.detail
    assert wall.detail == steps.detail


def test_a_store_that_takes_no_canary_either_is_ill_and_no_line_is_blamed():
    rig = PoisonRig()
    blamed = SUSPECTED_WRITES._value.get()
    rig.send(lines(*range(8)))
    rig.store.faults.extend(
        Fault(StoreUnavailable("500", may_be_the_lines=True)) for _ in range(200)
    )
    rig.turn_until(lambda: not rig.store.faults, turns=5000)
    assert SUSPECTED_WRITES._value.get() == blamed
    assert sum(w.lines.count(b"resnet") > 0 for w in rig.store.writes) == 1
    rig.settle()
    assert len(rig.clients()) == 8
    assert rig.letters() == []


def test_a_connection_that_is_lost_by_chance_costs_one_repetition_of_the_same_bytes():
    rig = PoisonRig()
    rig.send(lines(*range(8)))
    rig.store.faults.append(Fault(StoreUnavailable("reset", may_be_the_lines=True)))
    rig.settle()
    assert [(w.retention_class, w.lines.count(b"resnet")) for w in rig.store.writes] == [
        ("raw", 8),
        ("raw", 0),
        ("raw", 8),
        ("steps", 8),
    ]
    assert rig.letters() == []


def test_a_timeout_or_a_refused_connection_blames_nobody():
    rig = PoisonRig()
    rig.send(lines(*range(8)))
    rig.store.faults.extend(Fault(StoreUnavailable("timeout")) for _ in range(5))
    rig.settle()
    assert not any(b"_canary" in w.lines for w in rig.store.writes)


def test_what_the_exact_parser_refuses_is_never_sent_again():
    rig = PoisonRig()
    rig.store.dies_of = lambda text: text == KILLER
    rig.send(b"\n".join([line(1), KILLER, line(2)]))
    rig.settle()
    assert rig.store.deaths == 1
    assert sorted(fields["step"] for fields in rig.clients().values()) == [1, 2]
    assert {(one.view, one.reason, one.lines) for one in rig.letters()} == {
        ("wall", Reason.MALFORMED, KILLER),
        ("steps", Reason.MALFORMED, KILLER),
    }


@pytest.mark.parametrize("text", [KILLER, TAKES_500])
def test_the_gateway_refuses_the_lines_that_are_known_to_do_harm_by_name(text):
    rules = Rules(None, 10**18, "90d", reserved=frozenset())
    admission = admit(b"m v=1 1\n" + text, Precision.NS, rules, lambda: 1)
    assert [(r.line, r.reason.partition(":")[0]) for r in admission.refusals] == [
        (2, "backslash is ambiguous")
    ]
    assert admission.points == 1


def test_a_500_for_ever_is_found_as_a_death_is():
    rig = PoisonRig()
    rig.store.restart_writes = 0
    rig.send(b"\n".join([line(1), line(2, run="deadly"), line(3)]))
    rig.settle()
    assert len(rig.clients()) == len(rig.clients("steps")) == 2
    assert {one.reason for one in rig.letters()} == {Reason.POISON}


def test_while_a_line_stands_trial_what_lies_around_and_behind_it_is_stored():
    rig = PoisonRig()
    rig.send(b"\n".join([line(1), line(2, run="deadly"), line(3)]))
    rig.turn_until(lambda: len(rig.clients("steps")) == 2)
    began = rig.clock.s
    for n in range(10, 20):
        rig.send(lines(n), partition=n % 2)
        rig.send(b"gpu util=1 %d" % n, topic=SYSTEM)
        rig.turn(3)
    rig.turn_until(lambda: len(rig.clients("steps")) == 12)
    assert len(rig.clients("system")) == 10
    assert rig.clock.s - began < 30, "long before the verdict"
    assert RAW not in {p.topic for p in rig.source.paused}
    assert rig.letters() == []
    assert rig.committed(partition=0) is None, "the suspected record is not settled"
    assert rig.committed(partition=1) is not None
    rig.settle()
    assert {one.reason for one in rig.letters()} == {Reason.POISON}


def test_a_suspected_line_that_comes_through_alone_is_stored():
    rig = PoisonRig()
    innocent = line(2, run="deadly")
    rig.send(b"\n".join([line(1), innocent, line(3)]))
    rig.turn_until(rig.on_trial)
    rig.store.dies_of = lambda _line: False
    rig.settle()
    assert len(rig.clients()) == len(rig.clients("steps")) == 3
    assert rig.letters() == []


def test_the_line_between_two_poisonous_ones_is_stored_and_both_are_found_among_5000():
    rig = PoisonRig()
    rows = [line(n) for n in range(5000)]
    for n in (1233, 1235):
        rows[n] = line(n, run="deadly")
    rig.send(b"\n".join(rows))
    rig.settle()
    assert len(rig.clients()) == 4998
    assert {one.reason for one in rig.letters()} == {Reason.POISON}
    assert rig.store.deaths <= 34


def test_a_batch_full_of_poison_brings_the_store_down_a_bounded_number_of_times():
    rig = PoisonRig()
    rig.send(lines(*range(5000), run="deadly"))
    rig.settle()
    assert rig.clients() == rig.clients("steps") == {}
    assert rig.store.deaths <= MAX_FAILURES
    found = {(one.view, text) for one in rig.letters() for text in one.lines.split(b"\n")}
    assert len(found) == 10_000
    assert {one.reason for one in rig.letters()} == {Reason.POISON, Reason.UNRESOLVED}


def test_poison_and_a_type_conflict_in_one_batch_are_told_apart():
    rig = PoisonRig()
    rig.store.refuse = lambda text: "type conflict" if b"run=bad" in text else None
    rows = [line(n) for n in range(100)]
    rows[17], rows[60] = line(17, run="bad"), line(60, run="deadly")
    rig.send(b"\n".join(rows))
    rig.settle()
    assert len(rig.clients()) == len(rig.clients("steps")) == 98
    assert {(one.view, one.reason, one.lines) for one in rig.letters()} == {
        (view, reason, text)
        for view in ("wall", "steps")
        for reason, text in ((Reason.REFUSED, rows[17]), (Reason.POISON, rows[60]))
    }


def test_a_line_that_is_deadly_by_step_only_stays_in_the_wall_view():
    rig = PoisonRig()
    rig.store.dies_of = lambda text: deadly(text) and b"host=" not in text
    rig.send(b"\n".join([line(1), line(2, run="deadly"), line(3)]))
    rig.settle()
    assert (len(rig.clients()), len(rig.clients("steps"))) == (3, 2)
    assert [(one.view, one.reason) for one in rig.letters()] == [("steps", Reason.POISON)]


def test_a_worker_that_dies_in_mid_search_begins_anew_and_loses_nothing():
    rig = PoisonRig()
    rig.send(b"\n".join([line(1), line(2, run="deadly"), line(3)]))
    rig.turn_until(rig.on_trial)
    before = rig.store.deaths
    rig.source.close()
    rig.worker, rig.source = rig.start()
    rig.settle()
    assert len(rig.clients()) == 2
    assert {one.reason for one in rig.letters()} == {Reason.POISON}
    assert rig.store.deaths <= before + 2 + 2 + TRIES


def test_when_its_partition_is_lost_the_trial_ends_without_a_verdict():
    rig = PoisonRig()
    rig.send(line(1) + b"\n" + line(2, run="deadly"))
    rig.turn_until(rig.on_trial)
    writes = len(rig.lethal_writes())
    rig.worker.on_lost([TopicPartition(RAW, 0)])
    rig.clock.advance(600)
    rig.turn(20)
    assert len(rig.lethal_writes()) == writes
    assert rig.letters() == []


def test_a_suspected_line_whose_bucket_is_gone_meanwhile_is_parked_alone():
    rig = PoisonRig(park_after_s=5.0)
    rig.send(b"\n".join([line(1), line(2, run="deadly"), line(3)]))
    rig.turn_until(rig.on_trial)
    rig.store.missing = {("stepclock", "raw"), ("stepclock", "steps")}
    rig.store.dies_of = lambda _line: False
    rig.settle()
    assert {(one.view, one.reason, one.lines) for one in rig.letters()} == {
        (view, Reason.MISCONFIGURED, line(2, run="deadly")) for view in ("wall", "steps")
    }


def test_a_refused_canary_blames_nobody():
    rig = PoisonRig()
    rig.send(lines(1, 2))
    refused = Fault(LinesRefused("no", stored_others=True, dropped=1))
    rig.store.faults.extend(
        [Fault(StoreUnavailable("reset", may_be_the_lines=True)), refused, refused]
    )
    blamed = SUSPECTED_WRITES._value.get()
    rig.turn_until(lambda: not rig.store.faults)
    assert SUSPECTED_WRITES._value.get() == blamed
    rig.settle()
    assert len(rig.clients()) == 2


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 80).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.sets(st.integers(0, n - 1), max_size=2),
            st.sets(st.integers(0, n - 1), max_size=2),
        )
    ),
    st.integers(0, 10**6),
)
def test_wherever_the_culprits_lie_they_alone_are_missing(case, seed):
    count, poison, bad = case
    rig = PoisonRig(batch_points=random.Random(seed).choice([7, 1000]))
    rig.store.refuse = lambda text: "no" if b"run=bad" in text else None
    runs = {n: "deadly" if n in poison else "bad" if n in bad else "a" for n in range(count)}
    for n in range(0, count, 5):
        chunk = range(n, min(n + 5, count))
        rig.send(b"\n".join(line(m, run=runs[m]) for m in chunk), partition=n // 5 % 2)
    rig.settle()
    good = {n for n in range(count) if runs[n] == "a"}
    assert {fields["step"] for fields in rig.clients().values()} == good
    assert {fields["step"] for fields in rig.clients("steps").values()} == good
    dead = {(one.view, text) for one in rig.letters() for text in one.lines.split(b"\n")}
    assert dead == {
        (view, line(n, run=runs[n]))
        for n in range(count)
        if n not in good
        for view in ("wall", "steps")
    }
    assert {one.reason for one in rig.letters()} <= {Reason.POISON, Reason.REFUSED}
