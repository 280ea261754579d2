from stepclock.drain import Drain
from stepclock.identity import Identity
from stepclock.settings import Settings


def drain(**settings):
    return Drain(Identity("e", "r", 0, 0), {}, None, None, Settings(**settings), announce=False)


def test_a_row_that_just_missed_a_turn_is_in_the_spool_within_the_interval():
    for took_s in (0.0, 0.001, 0.01, 0.02):
        wait_s = drain(flush_interval=0.1).pause_s(took_s)
        assert took_s + wait_s + took_s < 0.1


def test_turns_that_take_long_leave_the_job_half_of_the_time():
    assert drain(flush_interval=0.1).pause_s(3.0) == 0.05
