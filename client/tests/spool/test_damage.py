"""What a disk does to a spool: every line that is whole is sent, and what is missing is told."""

import json
from dataclasses import dataclass

import pytest
from gateways import ScriptedGateway, refusing
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclock.identity import Identity
from stepclock.journal import journal
from stepclock.send.delivery import StreamDelivery
from stepclock.send.sync import sync, sync_stream
from stepclock.spool import writer as spool
from stepclock.spool.chunk import chunks
from stepclock.spool.segment import segment_path
from stepclock.spool.stream import Stream
from stepclock.spool.writer import SpoolWriter

STREAM = Stream.of("s", 1, Identity("resnet50", "r1", 0, 0), "http://127.0.0.1:9")


@dataclass
class Job:
    """What a job that has ended left: its folder, and its lines in order."""

    folder: object
    lines: list


def ended(folder, chunk_count, lines_each=3, width=1):
    writer = SpoolWriter(STREAM, folder / "s", max_bytes=1 << 30, max_memory=1 << 20)
    writer.publish()
    lines = []
    for number in range(chunk_count):
        part = [f"m,run=r1 f={number}.{n},text={'x' * width}" for n in range(lines_each)]
        writer.write(("raw", "events")[number % 5 == 4], part, lines_each)
        lines += part
    writer.close()
    return Job(writer.folder, [line.encode() for line in lines])


@pytest.fixture
def job(tmp_path):
    return ended(tmp_path, 10)


def damage(path, at, size=1, change=0xAA):
    data = bytearray(path.read_bytes())
    data[at : at + size] = bytes(byte ^ change for byte in data[at : at + size])
    path.write_bytes(data)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def synced(folder, gateway=None):
    gateway, clock = gateway or ScriptedGateway(), Clock()
    return sync_stream(folder, STREAM, gateway, now=clock, sleep=clock.sleep), gateway


def test_of_a_damaged_stretch_the_lines_are_counted_and_all_others_are_sent(job):
    path = segment_path(job.folder, 0)
    ends = [0, *(chunk.end for chunk in chunks(path.read_bytes()))]
    damage(path, ends[4] - 5, 10)  # the end of the fourth, the beginning of the fifth
    result, gateway = synced(job.folder)
    assert sorted(gateway.lines) == sorted(job.lines[:9] + job.lines[15:])
    assert (result.lost, result.sent, result.ok) == (6, 24, False)


@given(st.data())
def test_whichever_byte_is_damaged_what_is_missing_is_known(tmp_path_factory, data):
    job = ended(tmp_path_factory.mktemp("job"), 10)
    path = segment_path(job.folder, 0)
    last = [chunk.end for chunk in chunks(path.read_bytes())][-2]
    # A last chunk that seems to be longer than it is looks as if it never had an end.
    at = data.draw(
        st.integers(0, path.stat().st_size - 1).filter(lambda at: not last <= at < last + 8)
    )
    damage(path, at, change=data.draw(st.integers(1, 255)))
    result, gateway = synced(job.folder)
    missing = set(job.lines) - set(gateway.lines)
    assert len(gateway.lines) == len(set(gateway.lines))
    assert len(missing) == 3
    assert not result.ok
    assert result.lost == 3 or (at > last and result.lost == 1)


def test_a_beginning_of_a_chunk_that_never_had_an_end_is_no_loss(job):
    path = segment_path(job.folder, 0)
    start = [chunk.end for chunk in chunks(path.read_bytes())][-2]
    data = path.read_bytes()
    for size in (start, start + 1, start + 20, len(data) - 1):
        path.write_bytes(data[:size])
        delivery = StreamDelivery(job.folder, STREAM, ScriptedGateway())
        while delivery.send_one() is not None:
            pass
        assert delivery.journal.totals.lost == 0
        delivery.journal.close()
        for name in ("journal.jsonl", "sender.lock"):
            (job.folder / name).unlink()


def test_what_lies_behind_a_long_damaged_stretch_is_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_WINDOW", 600)
    job = ended(tmp_path, 40)
    path = segment_path(job.folder, 0)
    damage(path, 200, 1500)
    path.with_name("00000001.seg").write_bytes(b"")
    result, gateway = synced(job.folder)
    assert result.lost == 120 - len(gateway.lines)
    assert len(gateway.lines) > 60
    assert gateway.lines[-1] == job.lines[-1]


def test_a_segment_that_is_gone_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_SEGMENT_BYTES", 300)
    job = ended(tmp_path, 10)
    gone = sum(chunk.lines for chunk in chunks(segment_path(job.folder, 1).read_bytes()))
    segment_path(job.folder, 1).unlink()
    result, gateway = synced(job.folder)
    assert gone > 0
    assert (result.lost, len(gateway.lines)) == (gone, 30 - gone)


def test_a_segment_that_can_not_be_read_is_told_and_kept(job):
    path = segment_path(job.folder, 0)
    aside = path.rename(path.with_suffix(".aside"))
    path.mkdir()  # whoever reads it gets an error, which may be for a while only
    result, gateway = synced(job.folder)
    assert not result.ok
    assert "can't be read" in result.error
    path.rmdir()
    aside.rename(path)
    result, gateway = synced(job.folder)
    assert sorted(gateway.lines) == sorted(job.lines)
    assert result.ok


def test_a_request_whose_lines_are_damaged_before_it_is_answered_keeps_its_number_for_the_rest(
    job,
):
    gateway = ScriptedGateway(0)
    delivery = StreamDelivery(job.folder, STREAM, gateway, jitter=lambda: 0.0)
    delivery.send_one()
    delivery.journal.close()
    damage(segment_path(job.folder, 0), 50)
    result, gateway = synced(job.folder, gateway)
    first, again, _ = gateway.requests
    assert first.sequence == again.sequence == 0
    assert again.lines == first.lines[3:]
    assert (result.lost, result.sent) == (3, 27)


def test_of_half_a_request_nothing_is_sent_that_may_belong_to_the_other_half(job):
    gateway = ScriptedGateway(413, 0)
    delivery = StreamDelivery(job.folder, STREAM, gateway, jitter=lambda: 0.0)
    delivery.send_one()
    delivery.send_one()
    delivery.journal.close()
    damage(segment_path(job.folder, 0), 50)
    result, gateway = synced(job.folder, gateway)
    assert gateway.lines == [*job.lines[12:15], *job.lines[27:30]]  # the events
    assert (result.lost, result.sent) == (24, 6)


def recorded(gateway):
    """The requests that the ledger would count, by number."""
    found = {}
    for request in gateway.requests:
        if "Stepclock-Start" in request.headers:
            found.setdefault(request.sequence, []).append(request.lines)
    return found


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_however_a_journal_is_damaged_no_line_is_lost_and_no_number_changes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("job")
    writer = SpoolWriter(STREAM, folder / "s", max_bytes=1 << 30, max_memory=1 << 20)
    writer.publish()
    gateway = ScriptedGateway()
    acts = ["write", "send", "settle", 0, 204, 413, "refuse"]
    delivery, written = StreamDelivery(writer.folder, STREAM, gateway, jitter=lambda: 0.0), 0
    for act in data.draw(st.lists(st.sampled_from(acts), min_size=5, max_size=30)):
        if act == "write":
            lines = [f"m,run=r1 f={number}" for number in range(written, written + 4)]
            writer.write("raw", lines, 4)
            written += 4
        elif act == "send":
            delivery.send_one()
        elif act == "settle":
            delivery.settle(0)
        else:
            gateway.script.append(refusing(1) if act == "refuse" else act)
    delivery.journal.close()
    writer.close()
    path = writer.folder / "journal.jsonl"
    size = path.stat().st_size
    harm = data.draw(st.sampled_from(["byte", "stretch", "gone"]))
    if harm == "gone":
        path.unlink()
    elif size:
        at = data.draw(st.integers(0, size - 1))
        if harm == "byte":
            damage(path, at, change=data.draw(st.integers(1, 255)))
        else:
            damage(path, at, data.draw(st.integers(1, size - at)))
    del gateway.script[6:]  # sync gives up, and says so, after a minute without an answer
    result, gateway = synced(writer.folder, gateway)
    refused = writer.folder / "refused.jsonl"
    aside = refused.read_text().splitlines() if refused.exists() else []
    known = {*gateway.lines, *(json.loads(entry)["line"].encode() for entry in aside)}
    # A 400 takes the other lines of its request, which the script does not note.
    known |= {line for request in gateway.requests for line in request.lines[1:]}
    assert {b"m,run=r1 f=%d" % number for number in range(written)} <= known
    assert result.lost == result.left == 0
    for bodies in recorded(gateway).values():
        assert all(lines == bodies[0][: len(lines)] for lines in bodies)
    assert result.ok == (not written or (harm != "gone" and not size))


def test_lines_of_which_nobody_can_tell_whose_they_are_are_told(job):
    (job.folder / "stream.json").write_text("{")
    seen = []
    [result] = sync(job.folder.parent, progress=seen.append)
    assert seen == [result]
    assert not result.ok
    assert "stream.json is damaged" in result.error
    assert segment_path(job.folder, 0).exists()
