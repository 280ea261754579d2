from stepclock.identity import Identity
from stepclock.record.buffer import Buffer
from stepclock.record.drain import Drain
from stepclock.settings import Settings


def drain(**settings):
    return Drain(Identity("e", "r", 0, 0), {}, None, None, Settings(**settings), announce=False)


def test_a_row_that_just_missed_a_turn_is_in_the_spool_within_the_interval():
    for took_s in (0.0, 0.001, 0.01, 0.02):
        wait_s = drain(flush_interval=0.1).pause_s(took_s)
        assert took_s + wait_s + took_s < 0.1


def test_turns_that_take_long_leave_the_job_half_of_the_time():
    assert drain(flush_interval=0.1).pause_s(3.0) == 0.05


class Spool:
    """Keeps the states that are told."""

    fault = None

    def __init__(self):
        self.states = []

    def check(self):
        pass

    def write(self, class_name, lines, rows):
        if class_name == "events":
            self.states += [line.split('state="')[1].split('"')[0] for line in lines]


def test_a_signal_before_the_first_turn_is_the_last_word_and_not_the_first():
    now, spool, buffer = [100.0], Spool(), Buffer(1 << 20)
    who = Identity("e", "r", 0, 0)
    settings = Settings(heartbeat_interval=30)
    drain = Drain(who, {}, buffer, spool, settings, announce=True, now=lambda: now[0])
    buffer.put((1, 1, {"loss": 1.0}, False), 1, row=True)
    drain.preempted = "SIGTERM"
    for _ in range(2):
        drain.turn()
    assert spool.states == ["running", "preempted"]


def test_a_heartbeat_that_is_due_does_not_follow_a_signal_at_once():
    now, spool = [100.0], Spool()
    who = Identity("e", "r", 0, 0)
    settings = Settings(heartbeat_interval=30)
    drain = Drain(who, {}, Buffer(1 << 20), spool, settings, announce=True, now=lambda: now[0])
    drain.turn()
    now[0] += 29.95
    drain.preempted = "SIGTERM"
    drain.turn()
    now[0] += 0.1  # the process is about to end
    drain.turn()
    assert spool.states == ["running", "preempted"]
    now[0] += 30.0  # it did not: its own handler goes on
    drain.turn()
    assert spool.states == ["running", "preempted", "running"]


def test_a_first_step_that_comes_after_a_signal_is_told_with_the_last_word():
    spool, buffer = Spool(), Buffer(1 << 20)
    who = Identity("e", "r", 0, 0)
    settings = Settings(heartbeat_interval=30)
    drain = Drain(who, {}, buffer, spool, settings, announce=True, now=lambda: 100.0)
    drain.preempted = "SIGTERM"
    drain.turn()
    buffer.put((1, 1, {"loss": 1.0}, False), 1, row=True)
    drain.turn()
    assert spool.states == ["running", "preempted", "preempted"]
