"""How runs end: by themselves, by exceptions, signals and Ctrl-C, with a server and without."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest
from runs import CLIENT, DEAD, begin, script, states, steps
from spools import all_lines

from stepclock import process


def test_init_and_log_need_no_server_and_finish_keeps_to_its_timeout():
    began = time.monotonic()
    run = begin(mode="online", endpoint=DEAD)
    run.log({"loss": 1}, 1)
    assert time.monotonic() - began < 2
    began = time.monotonic()
    receipt = run.finish(timeout=1.0)
    assert time.monotonic() - began < 2
    assert receipt.unsent == receipt.lines > 0
    assert steps() == [1]


def test_a_server_that_accepts_and_never_answers_does_not_hold_finish():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        run = begin(mode="online", endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        run.log({"loss": 1}, 1)
        began = time.monotonic()
        receipt = run.finish(timeout=1.0)
        assert time.monotonic() - began < 2
        assert receipt.unsent == receipt.lines


def test_rows_that_a_killed_start_left_do_not_hold_finish_either():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        script(
            f"""
            run = stepclock.init("e", run_id="r", mode="offline", endpoint="{address}")
            run.log({{"loss": 1}}, 1)
            assert run.flush()
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            check=False,
        )
        run = begin(mode="online", run_id="r", endpoint=address)
        began = time.monotonic()
        receipt = run.finish(timeout=1.0)
        assert time.monotonic() - began < 2
        assert receipt.recovered == 0
        assert steps() == [1]


def test_ctrl_c_ends_the_wait_for_a_server_and_what_is_left_is_told():
    done = script(
        f"""
        import threading
        from stepclock import engine
        engine._PATIENCE_S = 0.1
        run = stepclock.init("e", endpoint="{DEAD}", finish_timeout=20)
        run.log({{"loss": 1}}, 1)
        run.flush(0.3)
        import logging
        class Handler(logging.StreamHandler):
            def emit(self, record):
                super().emit(record)
                if "waiting" in record.getMessage():
                    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        logging.getLogger().addHandler(Handler())
        began = time.monotonic()
        try:
            run.finish()
        except KeyboardInterrupt:
            sys.exit(0 if time.monotonic() - began < 10 else 1)
        """
    )
    assert "Ctrl-C ends it, and what is not sent stays in the spool" in done.stderr
    assert "1 logged, 0 of" in done.stderr
    assert "send it with: stepclock sync" in done.stderr
    assert "Traceback" not in done.stderr
    assert steps() == [1]


def test_ctrl_c_at_the_end_of_the_program_ends_it_without_a_traceback():
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"""
import stepclock
from stepclock import engine
engine._PATIENCE_S = 0.1
stepclock.init("e", endpoint="{DEAD}", finish_timeout=20).log({{"loss": 1}}, 1)
""",
        ],
        env={**os.environ, "PYTHONPATH": str(CLIENT), "STEPCLOCK_SYSTEM_INTERVAL": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        told = ""
        while "waiting for the gateway" not in told:
            line = program.stderr.readline()
            assert line, told
            told += line
        program.send_signal(signal.SIGINT)
        told += program.communicate(timeout=10)[1]
    assert "send it with: stepclock sync" in told
    assert "Traceback" not in told
    assert steps() == [1]


def test_good_news_goes_to_the_log_or_to_a_terminal_and_nowhere_else(monkeypatch, caplog):
    class Screen(io.StringIO):
        def __init__(self, *, live):
            super().__init__()
            self.isatty = lambda: live

    screen, file = Screen(live=True), Screen(live=False)
    monkeypatch.setattr(sys, "stderr", screen)
    caplog.set_level("INFO", "stepclock")
    process.say("stored")
    assert caplog.messages == ["stored"]
    assert screen.getvalue() == ""
    monkeypatch.setattr(process, "_log", SimpleNamespace(hasHandlers=lambda: False))
    process.say("stored")
    assert screen.getvalue() == "stored\n"
    for where in (file, None):
        monkeypatch.setattr(sys, "stderr", where)
        process.say("stored")
    assert file.getvalue() == ""


def test_the_end_of_the_program_finishes_the_run():
    script(
        """
        run = stepclock.init("e", mode="offline")
        run.log({"loss": 1}, 1)
        """
    )
    assert steps() == [1]
    assert states() == ["running", "finished"]


def test_an_exception_makes_the_run_failed_with_a_block_and_without():
    with pytest.raises(RuntimeError), begin():
        raise RuntimeError("out of memory")
    assert states() == ["running", "failed"]
    [line] = [line for line in all_lines("events") if 'state="failed"' in line]
    assert 'reason="RuntimeError: out of memory"' in line
    done = script(
        """
        run = stepclock.init("e", mode="offline")
        raise KeyError("x")
        """,
        check=False,
    )
    assert done.returncode == 1
    assert states().count("failed") == 2


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_makes_the_run_preempted_and_then_does_what_it_would_have_done(name):
    done = script(
        f"""
        run = stepclock.init("e", mode="offline")
        run.log({{"loss": 1}}, 1)
        os.kill(os.getpid(), signal.{name})
        time.sleep(20)
        """,
        check=False,
    )
    assert done.returncode == -getattr(signal, name)
    assert steps() == [1]
    assert states() == ["running", "preempted"]


def test_a_handler_of_the_jobs_own_still_runs_and_the_job_may_go_on():
    done = script(
        """
        signal.signal(signal.SIGTERM, lambda *_: print("saved"))
        run = stepclock.init("e", mode="offline")
        os.kill(os.getpid(), signal.SIGTERM)
        run.log({"loss": 1}, 1)
        """
    )
    assert done.stdout == "saved\n"
    assert steps() == [1]
    assert states()[-1] == "preempted"


@pytest.mark.parametrize("max_memory", [1 << 30, 1 << 20])
def test_log_from_a_signal_handler_never_deadlocks(max_memory):
    done = script(
        """
        run = stepclock.init("e", mode="offline")
        import itertools
        numbers, calls = itertools.count(), []
        def handler(*_):  # may interrupt itself
            calls.append(next(numbers))
            run.log({"from_handler": 1.0}, 10**9 + len(calls))
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        end = time.monotonic() + 0.5
        step = 0
        while time.monotonic() < end:
            run.log({"a": 1.0, "b": {"c": step}}, step)
            step += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        receipt = run.finish()
        assert len(calls) > 50
        assert receipt.logged == step + len(calls), (receipt, step, len(calls))
        assert not receipt.rows_dropped
        """,
        STEPCLOCK_MAX_MEMORY=str(max_memory),
    )
    assert done.returncode == 0


def test_what_is_logged_after_the_end_is_told_and_harms_nobody(caplog):
    run = begin()
    run.finish()
    run.log({"loss": 1}, 1)
    run.event("late")
    run.configure({"a": 1})
    assert run.flush()
    assert "the run is finished" in caplog.text
    assert all_lines() == []


def test_a_job_killed_at_a_random_moment_leaves_all_but_the_last_rows(tmp_path):
    popen = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import stepclock, sys, time
                run = stepclock.init("e", mode="offline", system_interval=0)
                step = 0
                while True:
                    run.log({"loss": 1.0}, step)
                    print(step, flush=True)
                    step += 1
                    time.sleep(0.001)
                """
            ),
        ],
        env={**os.environ, "PYTHONPATH": str(CLIENT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with popen:
        for line in popen.stdout:
            if int(line) == 400:
                break
        popen.kill()
        rest = popen.stdout.read().split()
    last = int(rest[-1]) if rest and rest[-1].isdecimal() else 400
    found = steps()
    assert found == list(range(len(found)))
    assert len(found) > last - 300  # generous: a tenth of a second is about a hundred rows
