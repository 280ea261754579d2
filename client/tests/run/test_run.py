"""What a job does with a run, and what becomes of its rows."""

import os
import sys
import threading
import time

import pytest
from runs import DEAD, begin, script, states, steps
from spools import all_lines

import stepclock
from stepclock.record import buffer
from stepclock.spool import writer as spool


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


def test_the_state_carries_the_first_and_the_last_step():
    run = begin()
    for step in (7, 3, 9):
        run.log({"loss": 1}, step)
    run.finish()
    [line] = [line for line in all_lines("events") if 'state="finished"' in line]
    assert ",first_step=3i,step=9i " in line
    assert line.startswith(f"run_state,attempt=0,experiment=e,rank=0,run={run.id} ")


def test_the_first_step_is_told_as_soon_as_it_is_known():
    run = begin()
    assert run.flush(timeout=5)
    assert "first_step" not in "".join(all_lines("events"))
    run.log({"loss": 1}, 40)
    assert run.flush(timeout=5)
    assert 'state="running",first_step=40i,' in "".join(all_lines("events"))


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
