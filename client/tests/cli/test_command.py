"""The parts of the command that need no server."""

import io
import math
import threading

import pytest

from stepclock.cli import export, sync
from stepclock.cli.options import Failed
from stepclock.cli.reads import Curve, ListedRun, RunPoint
from stepclock.cli.runs import lines_of
from stepclock.cli.tail import TailView, follow
from stepclock.cli.terminal import Terminal, duration, size, table
from stepclock.identity import Identity
from stepclock.send.sync import SyncResult
from stepclock.spool.stream import Stream
from stepclock.spool.writer import SpoolWriter

SECOND = 10**9


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "8")
    return Screen()


# -- terminal -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0.4 ms"),
        (0.5, "500 ms"),
        (2.34, "2.3 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3725, "1 h 2 min"),
        (86_400 * 3 + 7200, "3 d 2 h"),
    ],
)
def test_spans_of_time_read_well(seconds, text):
    assert duration(seconds) == text


def test_bytes_read_well():
    assert [size(1), size(1536), size(5 * 1024**3)] == ["1 B", "1.5 KiB", "5.0 GiB"]


def test_columns_are_aligned():
    assert table([["A", "B"], ["long", "x"]]) == ["A     B", "long  x"]


def test_a_curve_goes_from_its_lowest_to_its_highest_value():
    terminal = Terminal(Screen())
    assert terminal.curve([0, 1, 2, 7], 40) == "▁▂▃█"
    assert terminal.curve([9, 0, 1, 2, 7], 4) == "▁▂▃█"
    assert terminal.curve([5, 5], 40) == "▄▄"
    assert terminal.curve([-1e308, 1e308], 40) == "▁█"
    assert terminal.curve([], 40) == terminal.curve([1.0], 0) == ""
    assert Terminal(io.StringIO()).curve([0, 7], 40).isascii()


def test_colours_are_for_terminals_that_want_them():
    assert Terminal(Screen(), environ={}).paint("x", "red") == "\x1b[31mx\x1b[0m"
    for out, environ in [
        (Screen(), {"NO_COLOR": "1"}),
        (Screen(), {"TERM": "dumb"}),
        (io.StringIO(), {}),
    ]:
        assert Terminal(out, environ=environ).paint("x", "red") == "x"


def test_what_the_terminal_can_not_show_does_not_end_a_command():
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as out:
        Terminal(out).say("é → x")
        assert raw.getvalue() == b"? ? x\n"


# -- tail ---------------------------------------------------------------------------------------


def summary(last_step, state="running", reason=None):
    return ListedRun("resnet50", "r1", 0, last_step, 5 * SECOND, state, 0, reason)


class Store:
    """A run that goes on by a step with each look, and ends."""

    def __init__(self, *looks):
        self.looks = list(looks)
        self.closed = 0

    def runs(self, experiment):
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return [summary(99, "finished")] if look is None else [look]

    def metrics(self, experiment):
        return ["lr", "never", "train/loss"]

    def curve(self, run, metric, points, from_step=None):
        if metric == "never":
            return None
        if from_step is not None:  # nearer: each step by itself
            return Curve((run.last_step,), (0.5,), (1,))
        return Curve((0, 10), (4.0, 1.0), (10, 10))

    def close(self):
        self.closed += 1


def test_tail_prints_a_line_for_each_change_until_the_run_ends():
    out = io.StringIO()
    waits = []
    store = Store(summary(10), summary(11), Failed("away"), None, None)
    view = TailView(Terminal(out))
    follow(store, summary(10), ["*"], view, 2.0, once=False, sleep=waits.append)
    assert out.getvalue().splitlines() == [
        "r1 running step=10 lr=0.5 train/loss=0.5",
        "r1 running step=11 lr=0.5 train/loss=0.5",
        "r1 finished step=99 lr=0.5 train/loss=0.5",
        "r1 has finished",
    ]
    assert waits == [2.0] * 5


def followed(first, *looks):
    """What tail prints of a run that goes on so; it must need all the looks."""
    out = io.StringIO()
    store = Store(*looks)
    follow(store, first, ["lr"], TailView(Terminal(out)), 2.0, once=False, sleep=lambda _: None)
    assert store.looks == []
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        ("finished", None, "r1 has finished"),
        ("failed", "ValueError: no\nmemory", "r1 has failed: ValueError: no?memory"),
        ("lost", "no heartbeat for 1800 s", "r1 is lost: no heartbeat for 1800 s"),
    ],
)
def test_tail_says_how_a_run_ended_that_was_over_before(state, reason, said):
    assert followed(summary(9, state, reason)) == [f"r1 {state} step=9 lr=0.5", said]


def test_rows_that_are_stored_after_the_end_of_their_run_are_shown():
    assert followed(summary(8), summary(8, "failed"), summary(9, "failed")) == [
        "r1 running step=8 lr=0.5",
        "r1 failed step=8 lr=0.5",
        "r1 failed step=9 lr=0.5",
        "r1 has failed",
    ]


@pytest.mark.parametrize("state", ["preempted", "silent", None])
def test_tail_waits_for_runs_that_may_go_on(state):
    resumed = summary(3)
    assert followed(summary(9, state), summary(9, state), resumed, None, None)[1:] == [
        "r1 running step=3 lr=0.5",
        "r1 finished step=99 lr=0.5",
        "r1 has finished",
    ]


def test_a_run_that_ended_and_was_started_again_is_followed():
    assert followed(summary(8), None, summary(3), None, None)[-1] == "r1 has finished"


def test_tail_draws_over_what_it_drew_and_says_when_it_can_not_read(screen):
    store = Store(Failed("the server is away"), None, None)
    view = TailView(Terminal(screen, environ={"NO_COLOR": "1"}), lambda: 8 * SECOND)
    follow(store, summary(10), ["*"], view, 2.0, once=False, sleep=lambda _: None)
    first, second, third, *_, last = screen.getvalue().replace("\x1b[J", "").split("\x1b[")
    assert first.splitlines() == [
        "resnet50  r1  running  attempt 0  step 10  3.0 s ago",
        "lr                   0.5  █▁",
        "train/loss           0.5  █▁",
    ]
    assert second.startswith("3A")
    assert "the server is away" in second
    assert third.startswith("4A")
    assert "finished" in third
    assert "away" not in third
    assert last.startswith("3Aresnet50  r1  finished")
    assert last.splitlines()[-1] == "r1 has finished"


def test_tail_fits_the_terminal(screen):
    store = Store()
    store.metrics = lambda _: [f"{'long/' * 20}{number}" for number in range(30)]
    view = TailView(Terminal(screen, environ={"NO_COLOR": "1"}), lambda: 8 * SECOND)
    follow(store, summary(10), ["*"], view, 2.0, once=True)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) < 60
    assert lines[-1] == "and 27 more (--metric)"


def test_names_from_elsewhere_do_not_steer_the_terminal():
    run = ListedRun("e\x1b[2J", "r\n1", 0, 1, 0, "running", 2)
    line = lines_of([run], Terminal(io.StringIO()), 60 * SECOND)[1]
    assert line.split() == ["e?[2J", "r?1", "running", "2", "0", "-", "1", "1", "min"]


# -- export -------------------------------------------------------------------------------------


def exported(*points):
    made = export.Table(points)
    out = io.StringIO()
    export.write_csv(made, out)
    made.close()
    return out.getvalue().splitlines()


def test_rows_are_ordered_by_step_and_points_of_one_step_share_a_row():
    assert exported(
        RunPoint(2, 0, 0, {"a": 3.0}),
        RunPoint(1, 0, 0, {"a": 1.5}),
        RunPoint(1, 0, 0, {"b": math.nan}),
    ) == ["step,a,b", "1,1.5,nan", "2,3.0,"]


def test_each_rank_has_its_row_where_there_are_several():
    assert exported(RunPoint(1, 1, 0, {"a": 2.0}), RunPoint(1, 0, 0, {"a": 1.0})) == [
        "step,rank,a",
        "1,0,1.0",
        "1,1,2.0",
    ]


def test_where_an_attempt_began_the_earlier_ones_end_whatever_their_cadence():
    points = [RunPoint(step, 0, 0, {"a": float(step)}) for step in range(0, 50, 10)]
    points += [RunPoint(step, 0, 1, {"a": 100.0 + step}) for step in range(25, 40, 5)]
    points += [RunPoint(step, 1, 2, {"a": 200.0 + step}) for step in (22, 33)]
    assert [line.split(",")[0::2] for line in exported(*points)[1:]] == [
        ["0", "0.0"],
        ["10", "10.0"],
        ["20", "20.0"],
        ["22", "222.0"],
        ["33", "233.0"],
    ]


def test_an_export_that_breaks_off_leaves_no_file(tmp_path):
    target = tmp_path / "r.csv"
    target.write_text("before")

    def write_half():
        with export._whole(str(target)) as path:
            path.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


# -- sync ---------------------------------------------------------------------------------------


def result(stream="s", **counts):
    return SyncResult(stream, "resnet50", "r1", **counts)


@pytest.mark.parametrize(
    ("counts", "code", "said"),
    [
        ({"sent": 5, "stored": 5}, 0, "1 streams, 5 lines sent"),
        ({"busy": True, "live": True}, 0, "sent by their own runs"),
        ({"left": 3, "error": "no answer"}, 1, "3 lines are not sent"),
        ({"unsettled": 3}, 1, "3 lines are in the server's log"),
        ({"refused": 3}, 1, "3 lines were refused, with reasons in"),
        ({"lost": 3}, 1, "3 lines are not in the spool any more"),
    ],
)
def test_sync_s_exit_code_says_whether_something_is_left(tmp_path, counts, code, said):
    out = io.StringIO()
    account = sync.Account(tmp_path, Terminal(out))
    account.take(result(**counts))
    assert account.conclude() == code
    assert said in out.getvalue()


def test_progress_counts_lines_bytes_and_streams_and_is_drawn_over(tmp_path, screen):
    stream = Stream.of("s", 1, Identity("e", "r", 0, 0), "http://127.0.0.1:1")
    writer = SpoolWriter(stream, tmp_path / "s", max_bytes=1 << 30, max_memory=1 << 20)
    writer.publish()
    writer.write("raw", ["m f=1" * 1000], 1)
    account = sync.Account(tmp_path, Terminal(screen, environ={}))
    account.take(result("done", sent=1000))
    account.watch("s", 500)
    account.tell()
    account.watch("s", 1500)
    account.tell()
    writer.close()
    drawn = screen.getvalue().split("\x1b[1A\x1b[J")
    assert "1,500 lines sent, 4.9 KiB in the spool, 1 streams done, 1" in drawn[0]
    assert drawn[1].startswith("2,500 lines sent")


def test_progress_goes_on_by_itself_until_it_is_stopped():
    class Account:
        def __init__(self):
            self.told = threading.Semaphore(0)

        def tell(self):
            self.told.release()

    account = Account()
    progress = sync.ProgressThread(account, 0.001)
    progress.start()
    for _ in range(3):
        assert account.told.acquire(timeout=10)
    progress.stop()
    assert not progress.is_alive()
