"""Random histories of faults on a virtual clock: whatever happens, nothing is lost."""

import random

import pytest

from consumers.errors import DeadLettersUnwritable
from schemas.line_protocol.precision import Precision
from schemas.log.dead_letter import Reason
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable
from schemas.store.protocols import LinesRefused, StoreUnavailable, WriteTooLarge
from tests.fakes.memory_store import Fault
from tests.fakes.simulated import SIMULATED
from tests.fakes.worker_rig import Rig, line, lines

NAMESPACES = ("stepclock", "lab", "ghost")


class Crash(Exception):
    """The process dies here."""


class Simulation:
    """Two workers, of which any may die at any write, send or commit and comes back anew."""

    def __init__(self, rng):
        self.rng = rng
        self.rig = Rig(
            batch_points=self.rng.choice([1, 5, 50]),
            batch_age_s=self.rng.choice([0.0, 0.25, 2.0]),
            max_buffered_bytes=self.rng.choice([500, 10**6]),
            retry_cap_s=2.0,
            park_after_s=self.rng.choice([5.0, 60.0]),
            drain_s=self.rng.choice([0.0, 1.0, 10.0]),
            poison_apart_s=self.rng.choice([0.0, 5.0, 60.0]),
        )
        self.rig.store.dies_of = lambda text: b"run=deadly" in text
        self.rig.store.restart_writes = self.rng.choice([0, 1, 4])
        self.poison = self.rng.choice([0.0, 0.01, 0.1])
        self.rig.store.refuse = lambda text: "no" if b"run=bad" in text else None
        self.workers = [(self.rig.worker, self.rig.source), self.rig.start(max_poll_records=3)]
        self.sent = {namespace: [] for namespace in NAMESPACES}
        self.step = 0

    def send(self):
        if self.rig.log.send_error is not None:
            return
        namespace = self.rng.choice(NAMESPACES)
        rows = []
        for _ in range(self.rng.randint(1, 8)):
            self.step += 1
            roll = self.rng.random()
            run = "bad" if roll < 0.05 else self.rng.choice("ab")
            run = "deadly" if roll > 1 - self.poison else run
            # Whole seconds, so that each precision can say them.
            rows.append((run, self.step, 1_700_000_000 + self.step))
        self.sent[namespace] += rows
        precision = self.rng.choice([Precision.NS, Precision.MS, Precision.S])
        unit = 10**9 // precision.ns
        self.rig.send(
            b"\n".join(line(step, run=run, time_ns=s * unit) for run, step, s in rows),
            partition=self.rng.randint(0, 1),
            namespace=namespace,
            precision=precision,
        )

    def fault(self):
        store, log, rng = self.rig.store, self.rig.log, self.rng
        rng.choice(
            [
                lambda: store.faults.append(Fault(StoreUnavailable("500"), stored=True)),
                lambda: store.faults.append(Fault(StoreUnavailable("500"))),
                lambda: store.faults.append(Fault(StoreUnavailable("late", late=True))),
                lambda: store.faults.append(Fault(StoreUnavailable("500", may_be_the_lines=True))),
                lambda: store.faults.append(Fault(WriteTooLarge("413"))),
                lambda: store.faults.append(Fault(before=lambda: self.rig.clock.advance(3))),
                lambda: store.faults.append(Fault(Crash(), stored=rng.random() < 0.5)),
                lambda: setattr(store, "away", not store.away),
                lambda: setattr(log, "commit_error", rng.choice([None, LogUnavailable("no")])),
                lambda: setattr(log, "commit_error", rng.choice([None, Crash()])),
                lambda: setattr(log, "send_error", rng.choice([None, None, LogUnavailable("no")])),
                log.rebalance,
                log.lose,
                self.crash,
                lambda: store.missing.symmetric_difference_update({("ghost", "raw")}),
                lambda: store.missing.symmetric_difference_update({("ghost", "steps")}),
            ]
        )()

    def crash(self, index=None):
        index = self.rng.randrange(2) if index is None else index
        _worker, source = self.workers[index]
        source.close()
        self.workers[index] = self.rig.start(max_poll_records=self.rng.choice([1, 3, 500]))

    def turn(self, index):
        try:
            self.workers[index][0].turn()
        except (Crash, DeadLettersUnwritable):
            self.crash(index)

    def heal(self):
        self.rig.store.faults.clear()
        self.rig.store.away = False
        self.rig.log.commit_error = self.rig.log.send_error = None

    def finish(self):
        """With everything well again, all is committed, and nothing is missing."""
        self.heal()
        for _ in range(10_000):
            if not self.rig.uncommitted():
                break
            self.turn(0)
            self.turn(1)
        assert self.rig.uncommitted() == {}
        self.check()

    def check(self):
        """Every point is in both views, or in the dead letters of the view that lacks it."""
        dead = {
            (one.view, one.namespace, text)
            for one in self.rig.letters()
            for text in self.lines_in_ns(one)
        }
        for namespace, rows in self.sent.items():
            for view, retention_class in (("wall", "raw"), ("steps", "steps")):
                stored = self.rig.store.content(namespace, retention_class)
                for run, step, s in rows:
                    text = line(step, run=run, time_ns=s * 10**9)
                    if view == "wall":
                        key = (("resnet", (("host", "n1"), ("run", run))), s * 10**9)
                    else:
                        key = (("resnet", (("run", run),)), step * 10**6)
                    if run in ("bad", "deadly"):
                        assert key not in stored
                        assert (view, namespace, text) in dead
                    elif key in stored:
                        assert stored[key] == {"loss": 0.5, "step": step}
                    else:
                        assert (view, namespace, text) in dead, f"lost in {view}: {text}"
                assert sum(series[0] != "_canary" for series, _time_ns in stored) <= len(rows)

    @staticmethod
    def lines_in_ns(letter):
        zeros = b"0" * Precision(letter.precision).digits
        return [text + zeros for text in letter.lines.split(b"\n")]


@pytest.mark.parametrize("seed", range(30))
def test_no_point_is_lost_whatever_happens(seed):
    simulation = Simulation(random.Random(seed))
    for _ in range(250):
        roll = simulation.rng.random()
        if roll < 0.25:
            simulation.send()
        elif roll < 0.35:
            simulation.fault()
        else:
            simulation.turn(simulation.rng.randrange(2))
    simulation.finish()
    SIMULATED["worker histories"] += 1
    reasons = {letter.reason for letter in simulation.rig.letters()}
    assert reasons <= {
        Reason.REFUSED,
        Reason.MISCONFIGURED,
        Reason.TOO_LARGE,
        Reason.UNRESOLVED,
        Reason.POISON,
    }
    deadly = sum(run == "deadly" for rows in simulation.sent.values() for run, _, _ in rows)
    assert bool(deadly) >= bool(simulation.rig.store.deaths)


class Mortal:
    """Calls through to a function and dies at its n-th call, before or after the effect."""

    def __init__(self, call, dies_at, *, effect):
        self.call = call
        self.left = dies_at
        self.effect = effect

    def __call__(self, *args):
        self.left -= 1
        if self.left == 0 and not self.effect:
            raise Crash
        try:
            self.call(*args)
        finally:
            if self.left == 0:
                raise Crash


@pytest.mark.parametrize("effect", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("where", ["write", "dead letters", "commit"])
@pytest.mark.parametrize("dies_at", range(1, 9))
def test_a_crash_at_any_call_to_the_outside_loses_nothing(where, dies_at, effect):
    rig = Rig(batch_points=4)
    rig.store.refuse = lambda text: "no" if b"run=bad" in text else None
    if where == "write":
        rig.store.write = Mortal(rig.store.write, dies_at, effect=effect)
    elif where == "commit":
        rig.source.commit = Mortal(rig.source.commit, dies_at, effect=effect)
    else:
        letters = rig.worker._dead_letters
        letters.write = Mortal(letters.write, dies_at, effect=effect)
    for n in range(8):
        rig.send(lines(2 * n) + b"\n" + lines(2 * n + 1, run="bad"), partition=n % 2)
    crashes = 0
    for n in range(100, 150):
        rig.send(lines(n), partition=n % 2)
        try:
            rig.worker.turn()
        except Crash:
            crashes += 1
            rig.source.close()
            rig.worker, rig.source = rig.start()
    rig.settle()
    assert crashes == 1
    for retention_class in ("raw", "steps"):
        assert len(rig.store.content("stepclock", retention_class)) == 58
    found = {(one.view, text) for one in rig.letters() for text in one.lines.split(b"\n")}
    assert len(found) == 16


def test_a_worker_that_dies_between_dead_letters_and_commit_repeats_them_and_loses_none():
    rig = Rig()
    rig.send(lines(1) + b"\nbroken")
    rig.log.commit_error = Crash()
    with pytest.raises(Crash):
        rig.settle()
    assert len(rig.log.records(DEAD_LETTER_TOPIC)) == 1
    rig.log.commit_error = None
    rig.source.close()
    rig.worker, rig.source = rig.start()
    rig.settle()
    assert [letter.lines for letter in rig.letters()] == [b"broken"] * 2


def test_a_refusal_that_does_not_repeat_itself_condemns_nothing_in_silence():
    rig = Rig()
    rig.store.faults.append(Fault(LinesRefused("flaky", stored_others=False)))
    rig.send(lines(*range(10)))
    rig.settle()
    assert len(rig.store.content("stepclock", "raw")) == 10
    assert rig.letters() == []
