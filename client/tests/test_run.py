import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from spools import all_lines, spooled

import stepclock
from stepclock import buffer, process, spool

CLIENT = Path(stepclock.__file__).parents[1]

#: Nobody listens there.
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_run_is_left():
    yield
    for run in process.active_runs():
        run.finish(timeout=0)


def begin(experiment="e", **arguments):
    arguments = {"mode": "offline", "handle_signals": False, "system_interval": 0, **arguments}
    return stepclock.init(experiment, **arguments)


def steps():
    return sorted(int(line.split("step=")[1].split("i")[0]) for line in all_lines())


def states():
    lines = [line for line in all_lines("events") if line.startswith("run_state,")]
    found = [line.split('state="')[1].split('"')[0] for line in lines]
    return [state for state, _ in itertools.groupby(found)]  # `running` is told again and again


def script(body, *, check=True, timeout=30, **environment):
    """A Python program of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "import stepclock, os, sys, time, signal\n" + textwrap.dedent(body)],
        env={**os.environ, "PYTHONPATH": str(CLIENT), "STEPCLOCK_SYSTEM_INTERVAL": "0"}
        | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_offline_everything_is_in_the_spool_and_the_receipt_says_where():
    run = begin(config={"lr": 0.1})
    for step in range(100):
        run.log({"loss": step}, step)
    receipt = run.finish()
    assert steps() == list(range(100))
    assert receipt.logged == 100
    assert not receipt.ok
    assert receipt.missing == {"unsent": receipt.lines}
    assert receipt.folder == str(run.folder)
    assert states() == ["running", "finished"]


def test_a_disabled_run_does_nothing(tmp_path):
    run = begin(mode="disabled")
    run.log({"loss": 1}, 1)
    run.event("checkpoint", step=1)
    assert run.flush()
    assert run.finish().ok
    assert not (tmp_path / "spool").exists()


def test_a_run_that_could_not_begin_raises_nothing_and_does_not_claim_to_be_whole(monkeypatch):
    def no_thread(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        run = begin()
    run.log({"loss": 1}, 1)
    receipt = run.finish()
    assert not receipt.ok
    assert receipt.missing == {"rows_dropped": 1}


def test_only_rank_zero_logs_unless_all_are_asked_for(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    run = begin()
    run.log({"loss": 1}, 1)
    assert run.engine is None
    run = begin(ranks="all")
    run.log({"loss": 1}, 1)
    run.finish()
    assert [line.split(" ")[0].split(",")[2] for line in all_lines()] == ["rank=3"]


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


def test_a_run_shows_itself_and_a_notebook_is_told_of_one_that_was_left_behind(monkeypatch, caplog):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    left = begin(run_id="left")
    assert repr(left) == "<stepclock run left of e, attempt 0, spool only>"
    assert not caplog.messages
    other = begin(run_id="other")
    assert caplog.messages == ["stepclock: the run left goes on beside it until its finish()"]
    left.finish()
    other.finish()
    assert repr(left) == "<stepclock run left of e, attempt 0, finished>"
    assert "not recorded" in repr(begin(mode="disabled"))
    online = begin(mode="online", endpoint=DEAD)
    assert DEAD in repr(online)


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


def test_the_state_carries_the_first_and_the_last_step():
    run = begin()
    for step in (7, 3, 9):
        run.log({"loss": 1}, step)
    run.finish()
    [line] = [line for line in all_lines("events") if 'state="finished"' in line]
    assert ",first_step=3i,step=9i " in line
    assert line.startswith(f"run_state,attempt=0,experiment=e,rank=0,run={run.id} ")


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


def test_threads_may_log_into_one_run():
    run = begin()

    def work(number):
        for step in range(500):
            run.log({"loss": step}, step * 8 + number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.finish().logged == 4000
    assert steps() == list(range(4000))


def test_the_first_step_is_told_as_soon_as_it_is_known():
    run = begin()
    assert run.flush(timeout=5)
    assert "first_step" not in "".join(all_lines("events"))
    run.log({"loss": 1}, 40)
    assert run.flush(timeout=5)
    assert 'state="running",first_step=40i,' in "".join(all_lines("events"))


def test_two_runs_in_one_process_do_not_mix():
    first, second = begin("one", run_id="a"), begin("two", run_id="b")
    first.log({"x": 1}, 1)
    second.log({"y": 2}, 2)
    first.finish()
    second.finish()
    assert {line.split(",")[0] for line in all_lines()} == {"one", "two"}
    assert len(spooled()) == 2


def test_a_forked_child_logs_through_the_run_and_ends(tmp_path):
    done = script(
        """
        run = stepclock.init("e", mode="offline")
        run.log({"loss": 0}, 0)
        children = []
        for number in range(1, 4):
            pid = os.fork()
            if pid == 0:
                run.log({"loss": number}, number)
                sys.exit(0)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert done.stderr.count("Traceback") == 0
    assert steps() == [0, 1, 2, 3]
    assert states() == ["running", "finished"]
    assert len(spooled()) == 4


def test_a_child_forked_from_a_job_that_logs_without_a_pause_logs_likewise_and_ends():
    script(
        """
        import threading
        run = stepclock.init("e", mode="offline", max_memory=1 << 20)
        def flood():
            for step in range(1000, 9000):
                run.log({"loss": 1.0}, step)
        thread = threading.Thread(target=flood)
        thread.start()
        while len(run.engine.buffer) < 100:
            time.sleep(0.001)
        pid = os.fork()
        if pid == 0:
            for step in range(10_000, 15_000):
                run.log({"loss": 1.0}, step)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        thread.join()
        """
    )
    assert steps() == [*range(1000, 9000), *range(10_000, 15_000)]


def test_a_worker_that_outlives_its_run_says_where_its_rows_are():
    done = script(
        f"""
        run = stepclock.init("e", endpoint="{DEAD}")
        ended, end = os.pipe()
        if os.fork() == 0:
            os.close(end)
            os.read(ended, 1)  # until the other process has ended
            run.log({{"loss": 1}}, 1)
            sys.exit(0)
        run.engine.drain.wait_for_turn(10)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        check=False,  # its pipes end with the last of both
    )
    assert "send it with: stepclock sync" in done.stderr
    assert steps() == [1]


def test_a_worker_whose_run_lives_says_nothing():
    done = script(
        f"""
        run = stepclock.init("e", endpoint="{DEAD}")
        child = os.fork()
        if child == 0:
            grandchild = os.fork()
            if grandchild == 0:
                run.log({{"loss": 1}}, 1)
                sys.exit(0)
            os.waitpid(grandchild, 0)
            sys.exit(0)
        os.waitpid(child, 0)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        check=False,
    )
    assert "stepclock sync" not in done.stderr
    assert steps() == [1]


def _work(run, number):
    for step in range(10):
        run.log({"worker": number}, number * 10 + step)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_rows_of_worker_processes_arrive_and_no_worker_hangs(method, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(CLIENT))
    context = multiprocessing.get_context(method)
    run = begin()
    run.log({"loss": 1}, 1000)
    count = 8 if method == "fork" else 2
    workers = [context.Process(target=_work, args=(run, number)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    run.finish()
    assert steps() == [*range(count * 10), 1000]
    assert states() == ["running", "finished"]


def test_strict_raises_what_would_be_told():
    run = begin(strict=True)
    with pytest.raises(stepclock.StepclockError, match="a metric is a number, not str"):
        run.log({"name": "text"}, 1)
    with pytest.raises(stepclock.StepclockError, match="a step is between 0"):
        run.log({"a": 1}, -1)
    with pytest.raises(stepclock.StepclockError, match="can't be called"):
        run.log({"step": 1}, 1)
    run.log({"fine": 1}, 1)
    run.finish()
    with pytest.raises(stepclock.StepclockError, match="finished"):
        run.log({"late": 1}, 2)


@pytest.mark.parametrize("metrics", [None, 5, "text", [("a",)]])
def test_nonsense_is_told_and_never_raises(metrics, caplog):
    run = begin()
    run.log(metrics, 1)
    run.log({"fine": 1}, "nonsense")
    run.log({"fine": 1}, 1, time_ns="nonsense")
    run.log_many([(2, {"fine": 2}), (3, {"fine": 3})])
    run.finish()
    assert steps() == [2, 3]
    assert "log:" in caplog.text
    assert f"it takes names with their numbers, not {type(metrics).__name__}" in caplog.text


def test_flush_offline_means_in_the_spool():
    run = begin(flush_interval=0.5)
    run.log({"loss": 1}, 1)
    assert run.flush(timeout=5)
    assert steps() == [1]


def test_rows_are_in_the_spool_soon_without_a_word():
    run = begin()
    run.log({"loss": 1}, 1)
    deadline = time.monotonic() + 10
    while not all_lines():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_spool_that_can_not_be_written_is_told_and_counted(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    run = begin(spool_dir=str(tmp_path / "file" / "spool"))
    run.log({"loss": 1}, 1)
    assert not run.flush(timeout=5)
    receipt = run.finish()
    assert "the spool can't be written" in caplog.text
    assert "Not a directory" in caplog.text
    assert "STEPCLOCK_SPOOL_DIR" in caplog.text
    assert receipt.dropped == receipt.lines > 0
    assert receipt.unsent == 0


@pytest.mark.parametrize("width", [4, 300])
def test_a_job_that_logs_without_a_pause_loses_no_row(width):
    run = begin(max_memory=1 << 20)
    names = [f"m{number}" for number in range(width)]
    count = 40_000 // width
    for step in range(count):
        run.log(dict.fromkeys(names, float(step)), step)
    run.log_many((step, dict.fromkeys(names, 1)) for step in range(count, 2 * count))
    receipt = run.finish()
    assert (receipt.logged, receipt.rows_dropped) == (2 * count, 0)
    assert steps() == list(range(2 * count))


def test_a_disk_that_hangs_holds_a_job_up_for_so_long_and_no_longer(monkeypatch, caplog):
    disk, write = threading.Event(), os.write
    monkeypatch.setattr(buffer, "PATIENCE_S", 0.3)
    run = begin(max_memory=1 << 20, flush_interval=0.01)
    assert run.flush()
    monkeypatch.setattr(spool.os, "write", lambda fd, data: disk.wait() and write(fd, data))
    try:
        began = time.monotonic()
        for step in range(5000):
            run.log({"loss": 1.0}, step)
        assert 0.3 <= time.monotonic() - began < 5
    finally:
        disk.set()
    receipt = run.finish()
    assert receipt.logged == 5000
    assert 0 < receipt.rows_dropped < 5000
    assert len(all_lines()) == 5000 - receipt.rows_dropped
    assert "rows_dropped" in caplog.text


def test_a_run_knows_what_cpu_its_threads_took():
    before = time.process_time()
    run = begin()
    assert run.flush()
    first = run.stats().cpu_s
    for step in range(10_000):
        run.log({"loss": 1.0}, step)
    assert run.flush()
    later = run.stats().cpu_s
    assert 0 < first < later < time.process_time() - before
    run.finish()
    assert run.stats().cpu_s >= later
    assert begin(mode="disabled").stats().cpu_s == 0


def test_events_and_configuration_are_lines_of_their_own():
    run = begin(run_id="r", config={"model": {"layers": 4}})
    run.event("checkpoint", "saved to /data", step=5, kind="best")
    run.event("note", 'with "quotes" and\nnewlines')
    run.configure({"late": True})
    run.finish()
    lines = all_lines("events")
    texts = [line.rsplit(" ", 1)[0] for line in lines]
    about = "attempt=0,experiment=e,"
    assert f'checkpoint,{about}kind=best,rank=0,run=r text="saved to /data",step=5i' in texts
    assert f'event,{about}name=note,rank=0,run=r text="with \\"quotes\\" and newlines"' in texts
    assert 'run_config,experiment=e,key=model/layers,run=r value="4",number=4.0' in texts
    assert 'run_config,experiment=e,key=late,run=r value="True",number=1.0' in texts
    assert any(text.startswith("run_config,experiment=e,key=host,run=r ") for text in texts)


def test_a_name_that_no_line_can_carry_is_refused_at_once():
    for experiment in ("", " x", "_x", "nonfinite", "a\nb", "x" * 251, "a\\b"):
        with pytest.raises(ValueError, match=r"experiment|reserved"):
            begin(experiment)
    with pytest.raises(TypeError, match=r"no argument nonsense$"):
        begin(nonsense=1)
    with pytest.raises(TypeError, match="no argument endpiont; did you mean endpoint"):
        begin(endpiont="http://h")
    with pytest.raises(ValueError, match="mode must be one of"):
        begin(mode="onlin")


def test_the_import_loads_nothing_of_the_network():
    done = script(
        """
        heavy = {"ssl", "http.client", "gzip", "asyncio", "email", "urllib.request", "subprocess",
                 "multiprocessing", "numpy", "platform", "traceback2"}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert done.stdout.strip() == "[]"


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


def test_a_row_whose_step_can_not_be_is_missing_in_the_receipt(caplog):
    run = begin()
    run.log({"loss": 1.0}, 1)
    run.log({"loss": 2.0, "lr": 0.1}, -1)
    run.log({"loss": 3.0}, 2.5)
    receipt = run.finish()
    assert (receipt.logged, receipt.rows_dropped, receipt.ignored) == (3, 2, 0)
    assert not receipt.ok
    told = [message for message in caplog.messages if "step" in message]
    assert any("between 0 and" in message for message in told)
    assert any("whole number" in message for message in told)
