import threading

import pytest
from gateways import ScriptedGateway, limited

from stepclock.identity import Identity
from stepclock.send.sender import Sender
from stepclock.settings import Settings
from stepclock.spool.stream import Stream
from stepclock.spool.writer import SpoolWriter

WHO = Identity("e", "r", 0, 0)


class Rig:
    """A sender whose rounds are taken by hand, on a clock of its own."""

    def __init__(self, folder, **settings):
        self.folder = folder
        self.time = self.due = 100.0
        self.gateway = ScriptedGateway()
        self.writer = self.spool("s")
        self.sender = Sender(
            self.stream("s"),
            self.writer,
            Settings(**settings),
            now=lambda: self.time,
            gateway=self.gateway,
        )

    def stream(self, name):
        return Stream.of(name, 1, WHO, "http://scripted")

    def spool(self, name):
        made = SpoolWriter(
            self.stream(name), self.folder / name, max_bytes=1 << 30, max_memory=1 << 20
        )
        made.publish()
        return made

    def pass_time(self, seconds):
        """Rounds, each when the one before said."""
        end = self.time + seconds
        while self.due < end:
            self.time = max(self.time, self.due)
            self.due = self.time + max(0.001, self.sender.turn())
        self.time = end


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def test_while_little_comes_a_request_goes_each_second(rig):
    for number in range(100):
        rig.writer.write("raw", [f"m f={number}"], 1)
        rig.pass_time(0.1)
    rig.pass_time(2)
    assert 10 <= len(rig.gateway.requests) <= 13
    assert rig.gateway.lines == [b"m f=%d" % number for number in range(100)]


def test_rows_that_come_during_a_request_wait_for_the_next_one(rig):
    def one_more_came(_request):
        rig.writer.write("raw", ["m f=1"], 1)
        return 204

    rig.gateway.script = [one_more_came] * 20
    rig.writer.write("raw", ["m f=0"], 1)
    rig.pass_time(5)
    assert 4 <= len(rig.gateway.requests) <= 6


def test_what_a_worker_left_behind_is_sent_without_pauses(rig):
    rig.sender.expect_children()
    worker = rig.spool("s.w1")
    for number in range(60):
        worker.write("raw", [f"m f={number}"] * 100, 100)
    rig.pass_time(2.5)
    assert len(rig.gateway.lines) == 6000


def test_full_requests_do_not_wait_for_each_other(rig):
    rig.writer.write("raw", ["m f=0"], 1)
    rig.pass_time(0.1)
    rig.writer.write("raw", [f"m f={number}" for number in range(1, 5001)], 1)
    rig.pass_time(1.1)
    assert len(rig.gateway.lines) == 5001


def test_over_the_limit_requests_become_fewer_and_larger(rig):
    rig.gateway.script = [limited(1)] * 3
    for number in range(300):
        rig.writer.write("raw", [f"m f={number}"], 1)
        rig.pass_time(0.1)
    rig.pass_time(20)
    sizes = [len(lines) for _, _, lines in rig.gateway.taken]
    assert max(sizes) >= 40
    assert rig.gateway.lines == [b"m f=%d" % number for number in range(300)]
    assert rig.sender.limited == 3


def test_nothing_is_asked_before_the_gateway_said(rig):
    rig.gateway.script = [limited(30)]
    rig.writer.write("raw", ["m f=0"], 1)
    rig.sender.hurry(100)
    rig.pass_time(29)
    assert len(rig.gateway.requests) == 1
    rig.pass_time(10)
    assert len(rig.gateway.taken) == 1


def test_in_a_hurry_all_is_sent_and_settled_and_then_it_is_idle(rig):
    rig.writer.write("raw", ["m f=0"], 1)
    rig.sender.turn()
    rig.sender.turn()
    rig.writer.write("raw", ["m f=1"], 1)
    rig.writer.write("events", ["e f=1"], 0)
    assert not rig.sender.idle
    rig.sender.hurry(10)
    for _ in range(10):
        rig.sender.turn()
    assert rig.sender.idle
    assert rig.sender.totals.stored == 3
    assert rig.sender.caught_up


def test_streams_of_workers_are_found_sent_and_removed_when_their_process_has_ended(rig):
    rig.sender.expect_children()
    worker = rig.spool("s.w1")
    other = rig.spool("another")
    worker.write("raw", ["m f=1"], 1)
    other.write("raw", ["m f=2"], 1)
    rig.pass_time(12)
    assert rig.gateway.lines == [b"m f=1"]
    assert worker.folder.exists()
    worker.write("raw", ["m f=3"], 1)
    worker.close()
    rig.pass_time(12)
    assert rig.gateway.lines == [b"m f=1", b"m f=3"]
    assert not worker.folder.exists()
    assert other.folder.exists()
    assert rig.sender.totals.stored == 2
    assert rig.sender.own_totals.stored == 0


def test_a_fault_of_ours_does_not_end_the_thread(rig, caplog):
    told = threading.Event()

    def broken(request):
        told.set()
        raise RuntimeError("a fault")

    rig.gateway.script = [broken]
    rig.writer.write("raw", ["m f=0"], 1)
    rig.sender.thread.start()
    assert told.wait(10)
    rig.sender.hurry(0)
    assert rig.sender.wait_until(lambda: "a fault" in caplog.text, 10)
    assert rig.sender.thread.is_alive()
    rig.sender.stop()
    rig.sender.thread.join(10)
    assert not rig.sender.thread.is_alive()
