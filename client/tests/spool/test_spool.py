import errno
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepclock.identity import Identity
from stepclock.journal.journal import Journal
from stepclock.spool import writer as spool
from stepclock.spool.chunk import CLASSES, chunks, encode_chunk
from stepclock.spool.segment import is_locked, segment_numbers, segment_path
from stepclock.spool.stream import Stream
from stepclock.spool.writer import SpoolWriter

WHO = Identity("e", "r", 0, 0)


def stream(name="s"):
    return Stream.of(name, 1, WHO, "http://127.0.0.1:1")


@pytest.fixture
def writer(tmp_path):
    made = make(tmp_path)
    yield made
    made.close()


def make(tmp_path, *, max_bytes=1 << 30, max_memory=1 << 20):
    made = SpoolWriter(stream(), tmp_path / "s", max_bytes=max_bytes, max_memory=max_memory)
    made.publish()
    return made


def numbered_lines(folder, memory=None):
    """Every line that a sender would send, in order."""
    journal = Journal(folder, memory if memory is not None else {})
    lines = []
    while journal.cut():
        while journal.pending:
            body = journal.pending[0]
            lines += [line.decode() for line in journal.read(body)]
            journal.acknowledge(body, 0, None)
    journal.close()
    return lines


payloads = st.lists(st.binary(max_size=60), max_size=6)


@given(payloads, st.sampled_from(CLASSES))
def test_chunks_are_read_back_as_they_were_written(contents, class_name):
    data = b"".join(
        encode_chunk(class_name, 1, 2, number, payload) for number, payload in enumerate(contents)
    )
    read = list(chunks(data))
    assert [chunk.payload for chunk in read] == contents
    assert all((c.class_name, c.lines, c.rows) == (class_name, 1, 2) for c in read)
    assert not read or read[-1].end == len(data)


def test_a_segment_torn_at_any_byte_gives_all_chunks_before_and_nothing_else():
    contents = [b"first", b"SCK1 in a payload", b"", b"last"]
    parts = [encode_chunk("raw", 1, 1, n, payload) for n, payload in enumerate(contents)]
    data = b"".join(parts)
    ends = [sum(map(len, parts[: n + 1])) for n in range(len(parts))]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends)
        assert [chunk.payload for chunk in chunks(data[:cut])] == contents[:whole]


@given(st.integers(0, 120), st.integers(1, 255))
def test_a_damaged_byte_costs_its_own_chunk_only(at, change):
    contents = [b"first" * 3, b"second" * 3, b"third" * 3]
    data = bytearray(b"".join(encode_chunk("raw", 1, 1, 0, payload) for payload in contents))
    at %= len(data)
    second = len(encode_chunk("raw", 1, 1, 0, contents[0]))
    third = second + len(encode_chunk("raw", 1, 1, 0, contents[1]))
    harmed = 0 if at < second else 1 if at < third else 2
    data[at] ^= change
    expected = [payload for index, payload in enumerate(contents) if index != harmed]
    assert [chunk.payload for chunk in chunks(bytes(data))] == expected


def test_what_is_written_is_numbered_in_order(writer):
    for number in range(10):
        writer.write("raw", [f"line{number}"], 1)
    assert numbered_lines(writer.folder, writer.memory) == [f"line{n}" for n in range(10)]


def test_a_write_of_many_lines_is_parted_so_that_a_request_can_hold_each_part(writer):
    lines = [f"m f={number}" for number in range(2500)]
    writer.write("raw", lines, 2500)
    journal = Journal(writer.folder)
    sizes = []
    while journal.cut():
        sizes.append(journal.pending.pop().lines)
    journal.close()
    assert sizes == [1000, 1000, 500]
    assert (writer.lines, writer.rows) == (2500, 2500)


def test_classes_are_numbered_apart(writer):
    writer.write("raw", ["a", "b"], 2)
    writer.write("events", ["e"], 0)
    writer.write("raw", ["c"], 1)
    journal = Journal(writer.folder)
    assert journal.cut()
    assert [(b.sequence, b.class_name, journal.read(b)) for b in journal.pending] == [
        (0, "raw", [b"a", b"b", b"c"]),
        (1, "events", [b"e"]),
    ]
    assert not journal.cut()
    journal.close()


def test_segments_that_are_acknowledged_are_deleted_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_SEGMENT_BYTES", 200)
    writer = make(tmp_path)
    for number in range(30):
        writer.write("raw", [f"line{number:03d}"], 1)
    assert len(segment_numbers(writer.folder)) > 3
    journal = Journal(writer.folder)
    before = segment_numbers(writer.folder)
    assert journal.cut()
    assert segment_numbers(writer.folder) == before
    while journal.cut():
        pass
    assert segment_numbers(writer.folder) == before
    while journal.pending:
        journal.acknowledge(journal.pending[0], 0, None)
    assert segment_numbers(writer.folder) == before[-1:]
    journal.close()
    writer.close()


def test_a_full_spool_gives_up_the_oldest_segments_and_counts_them(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_SEGMENT_BYTES", 1000)
    writer = make(tmp_path, max_bytes=5000)
    for number in range(1000):
        writer.write("raw", [f"line{number:06d}"], 1)
    size = sum(path.stat().st_size for path in writer.folder.glob("*.seg"))
    assert size <= 6000
    kept = numbered_lines(writer.folder)
    assert writer.dropped_lines == writer.dropped_rows == 1000 - len(kept)
    assert kept == [f"line{number:06d}" for number in range(1000 - len(kept), 1000)]
    writer.close()


class FullDisk:
    """os.write that fails, or writes half, while `full`."""

    def __init__(self, monkeypatch):
        self.full = False
        self._write = os.write
        monkeypatch.setattr(spool.os, "write", self.write)

    def write(self, fd, data):
        if not self.full:
            return self._write(fd, data)
        if len(data) > 20:
            return self._write(fd, bytes(data)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_rows_wait_in_memory_in_order_and_are_all_there(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    writer = make(tmp_path)
    for number in range(30):
        disk.full = 10 <= number < 20
        writer.write("raw", [f"line{number}"], 1)
        assert (writer.fault is not None) == disk.full
    assert writer.memory
    disk.full = False
    assert numbered_lines(writer.folder, writer.memory) == [f"line{n}" for n in range(30)]
    assert not writer.memory
    assert writer.dropped_lines == 0
    writer.close()


def test_when_memory_is_full_as_well_the_oldest_go_and_are_counted(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    writer = make(tmp_path, max_memory=1000)
    disk.full = True
    for number in range(100):
        writer.write("raw", [f"line{number:03d}"], 1)
    disk.full = False
    kept = numbered_lines(writer.folder, writer.memory)
    assert kept == [f"line{number:03d}" for number in range(100 - len(kept), 100)]
    assert 0 < len(kept) < 100
    assert writer.dropped_lines == writer.dropped_rows == 100 - len(kept)
    writer.close()


def test_what_is_in_memory_reaches_the_disk_at_the_end_if_there_is_room(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    writer = make(tmp_path)
    disk.full = True
    writer.write("raw", ["a"], 1)
    disk.full = False
    writer.close()
    assert writer.memory == {}
    assert numbered_lines(writer.folder) == ["a"]


def test_a_folder_that_can_not_be_made_is_no_reason_to_raise(tmp_path):
    (tmp_path / "file").write_text("")
    writer = SpoolWriter(stream(), tmp_path / "file" / "s", max_bytes=1 << 20, max_memory=1 << 20)
    writer.publish()
    writer.write("raw", ["a", "b"], 2)
    assert isinstance(writer.fault, OSError)
    assert numbered_lines(writer.folder, writer.memory) == ["a", "b"]
    writer.close()


def test_a_disk_that_stays_full_does_not_fill_with_empty_files(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    writer = make(tmp_path)
    writer.write("raw", ["a"], 1)
    disk.full = True
    for number in range(50):
        writer.write("raw", [f"line{number}"], 1)
    assert segment_numbers(writer.folder) == [0]
    disk.full = False
    assert len(numbered_lines(writer.folder, writer.memory)) == 51
    writer.close()


def test_a_folder_that_could_be_made_only_later_is_told_to_others_only_then(tmp_path):
    (tmp_path / "file").write_text("")
    writer = SpoolWriter(stream(), tmp_path / "file" / "s", max_bytes=1 << 20, max_memory=1 << 20)
    writer.publish()
    journal = Journal(writer.folder, writer.memory)
    writer.before_publish = journal.relock
    writer.write("raw", ["a"], 1)
    (tmp_path / "file").unlink()
    writer.write("raw", ["b"], 1)
    assert writer.fault is None
    assert Stream.read(writer.folder) == stream()
    assert is_locked(writer.folder / "writer.lock")
    assert is_locked(writer.folder / "sender.lock")
    journal.close()
    assert numbered_lines(writer.folder, writer.memory) == ["a", "b"]
    writer.close()


def test_rows_never_lie_in_a_folder_that_does_not_say_whose_they_are(tmp_path, monkeypatch):
    writer = SpoolWriter(stream(), tmp_path / "s", max_bytes=1 << 20, max_memory=1 << 20)
    with monkeypatch.context() as patched:
        patched.setattr(Stream, "write", lambda *_: os.open("/proc/none", os.O_WRONLY))
        writer.publish()
        writer.write("raw", ["a"], 1)
        assert segment_numbers(writer.folder) == []
    writer.write("raw", ["b"], 1)
    writer.close()
    assert Stream.read(writer.folder) == stream()
    assert numbered_lines(writer.folder) == ["a", "b"]


def test_a_folder_that_is_removed_under_the_job_is_made_anew_with_what_was_open(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(spool, "_SEGMENT_BYTES", 200)
    writer = make(tmp_path)
    journal = Journal(writer.folder)
    writer.before_publish = journal.relock
    for number in range(10):
        writer.write("raw", [f"line{number:03d}"], 1)
    still_open = len(list(chunks(segment_path(writer.folder, writer._number).read_bytes())))
    writer.check()
    assert writer.dropped_lines == 0
    shutil.rmtree(tmp_path / "s")
    writer.check()
    assert "were removed" in caplog.text
    assert writer.dropped_lines == writer.dropped_rows == 10 - still_open > 0
    writer.write("raw", ["line010"], 1)
    assert is_locked(writer.folder / "writer.lock")
    assert is_locked(writer.folder / "sender.lock")
    assert Stream.read(writer.folder) == stream()
    journal.close()
    assert numbered_lines(writer.folder) == [f"line{n:03d}" for n in range(10 - still_open, 11)]
    writer.close()


@pytest.mark.parametrize("name", ["stream.json", "writer.lock"])
def test_a_file_that_was_tidied_away_for_its_age_is_made_anew(tmp_path, name):
    writer = make(tmp_path)
    writer.write("raw", ["a"], 1)
    (writer.folder / name).unlink()
    writer.check()
    writer.write("raw", ["b"], 1)
    assert Stream.read(writer.folder) == stream()
    assert is_locked(writer.folder / "writer.lock")
    assert numbered_lines(writer.folder, writer.memory) == ["a", "b"]
    assert writer.dropped_lines == 0
    writer.close()


def test_others_can_tell_whether_the_writer_lives(tmp_path):
    writer = make(tmp_path)
    assert is_locked(writer.folder / "writer.lock")
    writer.close()
    assert not is_locked(writer.folder / "writer.lock")
    assert not is_locked(tmp_path / "nothing")


def test_a_stream_is_read_back(tmp_path, writer):
    assert Stream.read(writer.folder) == stream()
    (writer.folder / "stream.json").write_text('{"name": "x"}')
    with pytest.raises(ValueError, match="holds no stream"):
        Stream.read(writer.folder)


def test_the_spool_is_readable_by_its_owner_alone(writer):
    writer.write("raw", ["a"], 1)
    assert writer.folder.stat().st_mode & 0o077 == 0
    assert segment_path(writer.folder, 0).stat().st_mode & 0o077 == 0
