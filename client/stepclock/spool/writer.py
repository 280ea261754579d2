"""The spool: chunks of lines on disk, in segments, until they are acknowledged.

A stream is one start of one process. Its folder holds `stream.json` (whose it is), segments
`00000000.seg`, … of chunks, and what the sender keeps there (`stepclock.journal.journal`). What was
written by `write()` outlives the process, however it ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from stepclock.spool.chunk import MAX_BYTES, MAX_LINES, encode_chunk
from stepclock.spool.segment import lock, segment_numbers, segment_path
from stepclock.spool.stream import Stream

_log = logging.getLogger("stepclock")

_SEGMENT_BYTES = 4 * 1024 * 1024


class SpoolWriter:
    """Appends chunks. Where the disk takes no more, segments are kept in memory, bounded.

    `memory` holds those, by number. dropped_lines, dropped_rows: what was given up because
    both were full. acked: lines by segment that need not be kept any more, told by the sender.
    """

    def __init__(self, stream: Stream, folder: Path, *, max_bytes: int, max_memory: int) -> None:
        self.folder = folder
        self.memory: dict[int, bytes] = {}
        self.acked: dict[int, int] = {}
        self.lines = 0
        self.rows = 0
        self.dropped_lines = 0
        self.dropped_rows = 0
        #: Why the last write went to memory; None while the disk takes them.
        self.fault: OSError | None = None
        self._max_bytes = max_bytes
        self._max_memory = max_memory
        self._number = -1
        self._size = 0
        self._fd: int | None = None
        self._held: dict[int, tuple[int, int]] = {}  # segment -> its lines and rows
        self._lock_fd: int | None = None
        self._stream = stream
        self._published = False
        #: Called before others may find the folder, where it could be made only later, or anew.
        self.before_publish: Callable[[], None] | None = None
        try:
            self._move_in()
        except OSError as exc:
            self.fault = exc

    def publish(self) -> None:
        """Say whose the folder is: from now on others may find it."""
        try:
            self._settle_in()
        except OSError as exc:
            self.fault = exc

    def check(self) -> None:
        """Notice that files were removed under the job, and go on in a new folder.

        What the open segment holds goes with it. Earlier segments are gone, and counted.
        """
        if not self._published:
            return
        needed = [self.folder / "stream.json", self.folder / "writer.lock"]
        if self._fd is not None:
            needed.append(segment_path(self.folder, self._number))
        if all(path.exists() for path in needed):
            return
        _log.warning("stepclock: files in %s were removed, the run makes it anew", self.folder)
        data = b"" if self._fd is None else os.pread(self._fd, self._size, 0)
        self._end_segment()
        self._move_out()
        for number in [n for n in self._held if n < self._number and n not in self.memory]:
            if not segment_path(self.folder, number).exists():
                self._count_dropped(number)
        if data:
            segment_path(self.folder, self._number).unlink(missing_ok=True)
            self._number -= 1
            self._append(data)
        else:
            self.publish()

    def write(self, class_name: str, lines: list[str], rows: int) -> None:
        """Append lines; when this returns, they outlive the process, or `fault` says why not."""
        for part in _parts([line.encode() for line in lines]):
            data = encode_chunk(class_name, len(part), rows, self.lines, b"\n".join(part))
            self._append(data)
            held_lines, held_rows = self._held.get(self._number, (0, 0))
            self._held[self._number] = held_lines + len(part), held_rows + rows
            self.lines += len(part)
            self.rows += rows
            rows = 0

    def _move_in(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = lock(self.folder / "writer.lock")

    def _settle_in(self) -> None:
        """Make the folder if it is not there, and say whose it is. Raises OSError."""
        if self._lock_fd is None:
            self._move_in()
        if not self._published:
            if self.before_publish is not None:
                self.before_publish()
            self._stream.write(self.folder)
            self._published = True

    def _move_out(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
        self._published = False

    def close(self) -> None:
        """End the segment; what is in memory gets a last chance to reach the disk."""
        self._end_segment()
        if self.memory:
            self.publish()
        for number, data in sorted(self.memory.items()):
            try:
                segment_path(self.folder, number).write_bytes(data)
            except OSError:
                break
            self.memory.pop(number, None)
        self._move_out()

    @property
    def memory_lines(self) -> int:
        """Lines that are in memory only."""
        return sum(self._held.get(number, (0, 0))[0] for number in list(self.memory))

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent, its lock included."""
        for fd in (self._fd, self._lock_fd):
            if fd is not None:
                os.close(fd)
        self._fd = self._lock_fd = None

    def _append(self, data: bytes) -> None:
        if self._fd is None or self._size + len(data) > _SEGMENT_BYTES:
            self._next_segment()
        if self._fd is not None:
            try:
                _write_all(self._fd, data)
            except OSError as exc:
                self.fault = exc
                self._undo()
            else:
                self._size += len(data)
                self.fault = None
                return
        self._to_memory(data)

    def _next_segment(self) -> None:
        self._end_segment()
        self._number += 1
        try:
            self._settle_in()
            self._fd = os.open(
                segment_path(self.folder, self._number),
                os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
                0o600,
            )
        except OSError as exc:
            self.fault = exc
            return
        self._bound_disk()

    def _end_segment(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._size = 0

    def _undo(self) -> None:
        """Cut off what of a chunk was written before the disk was full, and end the segment."""
        assert self._fd is not None
        with contextlib.suppress(OSError):  # a torn end is passed over by whoever reads
            os.ftruncate(self._fd, self._size)
        if self._size:
            self._number += 1
        else:  # a disk that stays full for long must not fill up with empty files
            segment_path(self.folder, self._number).unlink(missing_ok=True)
        self._end_segment()

    def _to_memory(self, data: bytes) -> None:
        # Each chunk is a segment of its own: the next one tries the disk again.
        self.memory[self._number] = data
        while sum(map(len, self.memory.values())) > self._max_memory and len(self.memory) > 1:
            self._give_up(min(self.memory))

    def _bound_disk(self) -> None:
        numbers = segment_numbers(self.folder)
        sizes = {}
        for number in numbers:
            try:
                sizes[number] = segment_path(self.folder, number).stat().st_size
            except OSError:  # acknowledged meanwhile
                continue
        total = sum(sizes.values())
        for number, size in sizes.items():
            if total + _SEGMENT_BYTES <= self._max_bytes or number == self._number:
                break
            self._give_up(number)
            total -= size

    def _give_up(self, number: int) -> None:
        if self.memory.pop(number, None) is None:
            try:
                segment_path(self.folder, number).unlink()
            except OSError:  # acknowledged meanwhile
                return
        self._count_dropped(number)

    def _count_dropped(self, number: int) -> None:
        lines, rows = self._held.pop(number, (0, 0))
        acked = self.acked.pop(number, 0)
        self.dropped_lines += max(0, lines - acked)
        self.dropped_rows += rows if not acked else round(rows * (lines - acked) / max(1, lines))


def _parts(lines: list[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and (len(part) == MAX_LINES or size + len(line) + 1 > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    if part:
        yield part


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
