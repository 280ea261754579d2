"""Workers side by side in one process."""

import threading

import pytest

from consumers.errors import DeadLettersUnwritable, LossAccepted
from consumers.settings import ConsumerSettings
from consumers.team import Team
from telemetry.metrics import BATCHED_BYTES, PAUSED
from tests.fakes.worker_rig import Rig, lines


class Fake:
    """A worker that does as told, or works until it is stopped."""

    def __init__(self, outcome=None):
        self.outcome = outcome
        self.drained = False
        self.closed = False
        self.thread = None

    def run(self, stop):
        self.thread = threading.current_thread()
        if self.outcome is not None:
            raise self.outcome
        assert stop.wait(10)
        self.drained = True

    def close(self):
        self.closed = True


def made_from(plan, made, *, when_all=None):
    """A maker that gives worker `number` its next outcome in plan[number]."""

    def make(number):
        worker = Fake(plan[number].pop(0))
        made.append(worker)
        if when_all is not None and not any(plan.values()):
            when_all.set()
        return worker, worker.close

    return make


def test_each_worker_has_a_thread_of_its_own_and_all_drain_when_told():
    made, there, stop = [], threading.Event(), threading.Event()
    team = Team(made_from({n: [None] for n in range(3)}, made, when_all=there), 3)
    running = threading.Thread(target=team.run, args=(stop,))
    running.start()
    assert there.wait(10)
    stop.set()
    running.join(10)
    assert not running.is_alive()
    assert len({worker.thread for worker in made}) == 3
    assert all(worker.drained and worker.closed for worker in made)


@pytest.mark.parametrize("failure", [RuntimeError("boom"), DeadLettersUnwritable("no")])
def test_a_worker_that_fails_ends_all_of_them_and_its_error_is_the_processs(failure):
    made, stop = [], threading.Event()
    team = Team(made_from({0: [None], 1: [failure], 2: [None]}, made), 3)
    with pytest.raises(type(failure)) as raised:
        team.run(stop)
    assert raised.value is failure
    assert stop.is_set()
    assert all(worker.closed for worker in made)
    assert all(worker.drained for worker in made if worker.outcome is None and worker.thread)


def test_behind_an_accepted_loss_a_worker_begins_anew():
    made = []
    team = Team(made_from({0: [LossAccepted("gone"), RuntimeError("end of test")]}, made), 1)
    with pytest.raises(RuntimeError):
        team.run(threading.Event())
    assert len(made) == 2
    assert all(worker.closed for worker in made)


def test_threads_share_what_a_process_may_buffer_and_number_their_static_names():
    settings = ConsumerSettings(threads=4, max_buffered_bytes=1000, consumer_instance_id="pod-1")
    assert settings.share_of_a_thread().max_buffered_bytes == 250
    assert [settings.instance_id_of(n) for n in range(4)] == [f"pod-1-{n}" for n in range(4)]
    assert ConsumerSettings(threads=1, consumer_instance_id="pod-1").instance_id_of(0) == "pod-1"
    assert ConsumerSettings(threads=4).instance_id_of(3) is None


def test_gauges_of_workers_in_one_process_add_up_and_a_worker_that_ends_takes_its_share_away():
    before = BATCHED_BYTES._value.get(), PAUSED._value.get()
    first, second = Rig(), Rig()
    for rig in (first, second):
        rig.store.away = True
        rig.send(lines(1))
        rig.turn_until(lambda rig=rig: bool(rig.source.paused))
    assert BATCHED_BYTES._value.get() - before[0] == 2 * len(lines(1))
    assert PAUSED._value.get() - before[1] == 2
    stopped = threading.Event()
    stopped.set()
    for rig in (first, second):
        rig.worker.run(stopped)
    assert (BATCHED_BYTES._value.get(), PAUSED._value.get()) == before
