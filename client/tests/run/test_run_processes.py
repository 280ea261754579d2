"""Runs in threads, forked children and worker processes."""

import multiprocessing
import threading

import pytest
from runs import CLIENT, DEAD, begin, script, states, steps, work
from spools import all_lines, spooled


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


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_rows_of_worker_processes_arrive_and_no_worker_hangs(method, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(CLIENT))
    context = multiprocessing.get_context(method)
    run = begin()
    run.log({"loss": 1}, 1000)
    count = 8 if method == "fork" else 2
    workers = [context.Process(target=work, args=(run, number)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    run.finish()
    assert steps() == [*range(count * 10), 1000]
    assert states() == ["running", "finished"]
