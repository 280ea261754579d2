import os
import time

import pytest
from gateways import ScriptedGateway, limited, refusing

from stepclock.identity import Identity, stream_name
from stepclock.send.delivery import StreamDelivery
from stepclock.send.leftovers import Leftovers
from stepclock.send.sender import Sender
from stepclock.settings import Settings
from stepclock.spool.segment import is_locked, lock
from stepclock.spool.stream import Stream
from stepclock.spool.writer import SpoolWriter

HERE = "http://scripted"


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Spool:
    """A spool in which starts of runs come and go."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, run="r", rank=0, attempt=0, *, endpoint=HERE, start_ns=None, parent=None):
        """A start of a process that lives."""
        who = Identity("e", run, rank, attempt)
        start_ns = start_ns or time.time_ns()
        name = f"{parent}.w7-0000beef" if parent else stream_name(who, start_ns)
        stream = Stream.of(name, start_ns, who, endpoint)
        writer = SpoolWriter(stream, self.folder / name, max_bytes=1 << 30, max_memory=1 << 20)
        writer.publish()
        return writer

    def killed(self, *lines, **named):
        """One that wrote these lines and does not live any more."""
        writer = self.start(**named)
        if lines:
            writer.write("raw", list(lines), len(lines))
        writer.close()
        return writer.folder

    @property
    def names(self):
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gateway():
    return ScriptedGateway()


@pytest.fixture
def leftovers(spool, gateway, clock):
    """What the start of a run of this rank and attempt makes of the spool."""

    def of(writer):
        return Leftovers(Stream.read(writer.folder), spool.folder, gateway, now=clock)

    return of


def pass_time(leftovers, clock, seconds):
    end = clock.now + seconds
    while clock.now < end:
        clock.now += max(0.001, leftovers.turn(urgent=False))
    clock.now = end


def test_what_an_earlier_attempt_left_is_sent_settled_and_removed(spool, leftovers, gateway, clock):
    killed = spool.killed("m f=1 1", "m f=2 2")
    restarted = leftovers(spool.start(attempt=1))
    pass_time(restarted, clock, 10)
    assert gateway.lines == [b"m f=1 1", b"m f=2 2"]
    assert gateway.requests[0].headers["Stepclock-Stream"] == killed.name.encode()
    assert restarted.sent == 2
    assert restarted.done
    assert not killed.exists()


def test_the_oldest_goes_first_whatever_the_clock_of_this_start_says(
    spool, leftovers, gateway, clock
):
    later = 2 * 10**18  # the clock was set back since
    spool.killed("m f=2 2", attempt=1, start_ns=later + 1)
    spool.killed("m f=1 1", attempt=0, start_ns=later)
    pass_time(leftovers(spool.start(attempt=2)), clock, 10)
    assert gateway.lines == [b"m f=1 1", b"m f=2 2"]


def test_a_restart_that_could_not_count_sends_what_the_same_attempt_left(
    spool, leftovers, gateway, clock
):
    spool.killed("m f=1 1", attempt=0)
    pass_time(leftovers(spool.start(attempt=0)), clock, 10)
    assert gateway.lines == [b"m f=1 1"]


def test_what_somebody_still_writes_or_sends_is_left_alone_and_looked_at_again(
    spool, leftovers, gateway, clock
):
    lives = spool.start()
    lives.write("raw", ["m f=1 1"], 1)
    sent = spool.killed("m f=2 2")
    held = lock(sent / "sender.lock")
    restarted = leftovers(spool.start(attempt=1))
    pass_time(restarted, clock, 100)
    assert gateway.lines == []
    assert restarted.done
    lives.close()
    pass_time(restarted, clock, 100)
    assert gateway.lines == [b"m f=1 1"]
    os.close(held)
    pass_time(restarted, clock, 100)
    assert gateway.lines == [b"m f=1 1", b"m f=2 2"]


@pytest.mark.parametrize(
    "other",
    [{"run": "r2"}, {"run": "r.w"}, {"endpoint": "http://elsewhere"}],
    ids=["another run", "a run of a like name", "another server"],
)
def test_what_is_not_of_this_run_and_server_is_never_sent_but_told_once(
    spool, leftovers, gateway, clock, caplog, other
):
    folder = spool.killed("m f=1 1", **other)
    restarted = leftovers(spool.start(attempt=1))
    pass_time(restarted, clock, 100)
    assert gateway.requests == []
    assert folder.exists()
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith("stepclock: 1 other run has left rows in the spool")
    assert told.endswith(f"send them with: stepclock sync {spool.folder}")


def test_other_runs_are_counted_once_each_and_those_that_live_are_not(
    spool, leftovers, clock, caplog
):
    for run in ("a", "b"):
        for rank in range(3):
            spool.killed("m f=1 1", run=run, rank=rank)
    alive = spool.start("c")
    alive.write("raw", ["m f=1 1"], 1)
    spool.killed(run="d")  # it had logged nothing
    settling = spool.killed("m f=1 1", run="s")
    held = lock(settling / "sender.lock")
    pass_time(leftovers(spool.start()), clock, 10)
    assert "2 other runs have left rows" in caplog.text
    pass_time(leftovers(spool.start(rank=1)), clock, 10)
    assert len(caplog.records) == 1, "one rank tells it"
    assert is_locked(settling / "sender.lock")
    assert held


def test_each_rank_takes_its_own_and_what_no_rank_took_is_sent_later(
    spool, leftovers, gateway, clock
):
    for rank in range(3):
        spool.killed(f"m f={rank} 1", rank=rank)
    ranks = [leftovers(spool.start(rank=rank, attempt=1)) for rank in range(2)]
    for rank in ranks:
        pass_time(rank, clock, 5)
    assert gateway.lines == [b"m f=0 1", b"m f=1 1"]
    for rank in ranks:
        pass_time(rank, clock, 60)
    assert gateway.lines == [b"m f=0 1", b"m f=1 1", b"m f=2 1"]
    assert [rank.sent for rank in ranks] == [2, 1]


def test_another_rank_of_the_same_attempt_is_never_taken_for_dead(spool, leftovers, gateway, clock):
    """Locks may not reach from machine to machine."""
    spool.killed("m f=1 1", rank=1, attempt=1)
    pass_time(leftovers(spool.start(rank=0, attempt=1)), clock, 100)
    assert gateway.requests == []


def test_workers_of_a_dead_process_are_sent_and_those_of_a_living_one_are_its_own(
    spool, leftovers, gateway, clock
):
    dead, alive = spool.killed("m f=1 1"), spool.start()
    spool.killed("m f=2 2", parent=dead.name)
    spool.killed("m f=3 3", parent=alive.folder.name)
    own = spool.start(attempt=1)
    spool.killed("m f=4 4", parent=own.folder.name, attempt=1)
    pass_time(leftovers(own), clock, 100)
    assert sorted(gateway.lines) == [b"m f=1 1", b"m f=2 2"]


def test_what_was_acknowledged_before_is_not_sent_again_nor_counted(
    spool, leftovers, gateway, clock
):
    folder = spool.killed("m f=1 1", "m f=2 2")
    first = StreamDelivery(folder, Stream.read(folder), gateway)
    first.send_one()
    first.journal.close()
    restarted = leftovers(spool.start(attempt=1))
    pass_time(restarted, clock, 10)
    assert len(gateway.requests) == 1
    assert restarted.sent == 0
    assert not folder.exists()


def test_refused_lines_stay_with_their_reasons_and_are_not_taken_up_again(
    spool, leftovers, gateway, clock
):
    gateway.script = [refusing(1)]
    folder = spool.killed("bad", "m f=2 2")
    restarted = leftovers(spool.start(attempt=1))
    pass_time(restarted, clock, 200)
    assert len(gateway.requests) == 1
    assert restarted.sent == 1
    assert {path.name for path in folder.iterdir()} == {"refused.jsonl", "stream.json"}


def test_the_folder_of_a_start_that_logged_nothing_is_removed(spool, leftovers, clock):
    folder = spool.killed()
    pass_time(leftovers(spool.start(attempt=1)), clock, 10)
    assert not folder.exists()


def test_a_worker_that_outlives_its_killed_parent_is_sent_once_it_has_ended(
    spool, leftovers, gateway, clock
):
    parent = spool.killed("m f=1 1")
    orphan = spool.start(parent=parent.name)
    orphan.write("raw", ["m f=2 2"], 1)
    restarted = leftovers(spool.start(attempt=1))
    pass_time(restarted, clock, 10)
    assert gateway.lines == [b"m f=1 1"]
    orphan.close()
    restarted.look_again()  # as at the end of the run
    pass_time(restarted, clock, 10)
    assert gateway.lines == [b"m f=1 1", b"m f=2 2"]
    assert not orphan.folder.exists()


def test_over_the_limit_they_go_more_and_more_slowly(spool, leftovers, gateway, clock):
    gateway.script = [limited(1)] * 4
    spool.killed(*[f"m f={n} {n}" for n in range(5)])
    restarted = leftovers(spool.start(attempt=1))
    pass_time(restarted, clock, 10)
    assert 2 <= len(gateway.requests) <= 4
    pass_time(restarted, clock, 60)
    assert len(gateway.lines) == 5


def test_they_are_taken_a_few_at_a_time(spool, leftovers, gateway, clock):
    for number in range(40):
        spool.killed(f"m f={number} 1")
    gateway.verdict = {"settled": False, "stored": None, "rejected": []}
    restarted = leftovers(spool.start(attempt=1))
    pass_time(restarted, clock, 10)
    locked = sum(is_locked(folder / "sender.lock") for folder in spool.folder.iterdir())
    assert 1 <= locked <= 8
    gateway.verdict = {"settled": True, "stored": True, "rejected": []}
    pass_time(restarted, clock, 60)
    assert len(gateway.lines) == 40
    assert len(spool.names) == 1


class Restarted:
    """A sender of attempt 1, its rounds taken by hand, beside what attempt 0 left."""

    def __init__(self, spool, gateway, clock, **settings):
        self.clock = clock
        self.writer = spool.start(attempt=1)
        self.sender = Sender(
            Stream.read(self.writer.folder),
            self.writer,
            Settings(**settings),
            now=clock,
            gateway=gateway,
        )

    def pass_time(self, seconds):
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += max(0.001, self.sender.turn())
        self.clock.now = end


@pytest.fixture
def restarted(spool, gateway, clock):
    return lambda **settings: Restarted(spool, gateway, clock, **settings)


def test_the_rows_of_the_new_start_come_first(spool, restarted, gateway):
    spool.killed(*[f"old f={n} {n}" for n in range(20_000)])
    run = restarted()

    def one_more_came(_request):
        run.writer.write("raw", ["new f=1 1"], 1)
        return 204

    gateway.script = [one_more_came] * 3
    run.writer.write("raw", ["new f=1 1"], 1)
    run.pass_time(5)
    assert gateway.lines[0] == b"new f=1 1"
    assert len(gateway.lines) == 20_000 + 4


def test_where_the_earlier_rows_meet_the_limit_the_new_ones_still_go(spool, restarted, gateway):
    spool.killed("old f=1 1")

    def answer(request):
        return limited(5) if request.lines == [b"old f=1 1"] else 204

    gateway.script = [answer] * 1000
    run = restarted()
    for number in range(10):
        run.writer.write("raw", [f"new f={number} 1"], 1)
        run.pass_time(1)
    assert len(gateway.lines) >= 9
    assert sum(request.lines == [b"old f=1 1"] for request in gateway.requests) <= 3


def test_earlier_rows_are_counted_apart(spool, restarted):
    spool.killed("old f=1 1", "old f=2 2")
    run = restarted()
    run.writer.write("raw", ["new f=1 1"], 1)
    run.pass_time(10)
    run.sender.hurry(10)
    run.pass_time(2)
    assert run.sender.idle
    assert run.sender.totals.stored == run.sender.totals.cut == 1
    assert run.sender.recovered == 2


def test_idle_in_a_hurry_means_that_the_earlier_rows_are_stored_too(spool, restarted, gateway):
    spool.killed("old f=1 1")
    run = restarted()
    run.writer.write("raw", ["new f=1 1"], 1)
    seen = []

    def watched(_request):
        seen.append(run.sender.idle)
        return 204

    gateway.script = [watched, watched]
    run.sender.hurry(10)
    run.pass_time(3)
    assert seen == [False, False]
    assert run.sender.idle


def test_with_fsync_what_numbers_of_leftovers_mean_is_on_the_disk_before_they_are_sent(
    spool, gateway, clock, monkeypatch
):
    forced = []
    monkeypatch.setattr("stepclock.spool.durable.force", lambda path: forced.append(path.name))
    killed = spool.killed("m f=1 1")
    own = Stream.read(spool.start(attempt=1).folder)
    durable = Leftovers(own, spool.folder, gateway, now=clock, durable=True)
    pass_time(durable, clock, 10)
    assert gateway.lines == [b"m f=1 1"]
    assert forced == ["journal.jsonl", killed.name]
