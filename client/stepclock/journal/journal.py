"""What the sender of a stream keeps: which lines a number means, and what became of them.

A body gets its number, and the journal says what it holds, before it is sent. So a number's
content never changes, whoever sends it: the run itself, or `sync` years later.

Lines are missing in the spool where a disk damaged it: chunks say how many. Of a journal that
is damaged itself nobody can tell any more what its numbers mean: what may not be answered for
is sent again, which is harmless, and not as a part of the ledger.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any, Callable

from stepclock.journal.body import Body
from stepclock.journal.entries import Entries
from stepclock.journal.portion import portion
from stepclock.journal.tally import Tally, Totals
from stepclock.spool.chunk import CLASSES, MAX_BYTES, MAX_LINES, chunks, damaged_lines
from stepclock.spool.segment import is_locked, lock, read_segment, segment_numbers, segment_path

#: A chunk is at most half of it, so that a whole one is in it, or none is there.
_WINDOW = 2 * MAX_BYTES + 4096
_SEGMENT = 8 * MAX_BYTES  # none is larger

#: Beyond so many bytes the journal is written anew, as what it amounts to.
_LONG = 1024 * 1024

_log = logging.getLogger("stepclock")


class Journal:
    """The journal of one stream. Raises OSError if another process sends the stream.

    memory: the segments that the run keeps in memory, if it is this process that writes them.
    It has told nobody of the stream yet, and a lock that the disk has no room for comes later.
    sending: False only to look at it, beside a process that may be sending.
    """

    def __init__(
        self, folder: Path, memory: dict[int, bytes] | None = None, *, sending: bool = True
    ) -> None:
        self.folder = folder
        #: Why the last entry is not in the file; None while the disk takes them.
        self.fault: OSError | None = None
        #: Whether the last cut left lines behind because they were too many for it.
        self.more = False
        self._memory = {} if memory is None else memory
        self._sending = sending
        self._tally = Tally()
        self._entries = Entries(folder / "journal.jsonl")
        self._lock_fd: int | None = None
        sent_before = (folder / "sender.lock").exists()
        if sending and folder.exists():
            try:
                self.relock()
            except OSError as exc:
                if memory is None or isinstance(exc, BlockingIOError):
                    raise
                self.fault = exc
        self._load(sent_before=sent_before)

    @property
    def totals(self) -> Totals:
        """Lines by what became of them."""
        return self._tally.totals

    @property
    def pending(self) -> list[Body]:
        """What has a number and is not answered for, in order."""
        return self._tally.pending

    @property
    def unsettled(self) -> dict[int, tuple[str, int]]:
        """By number, receipt and lines of what is acknowledged and not known to be stored."""
        return self._tally.unsettled

    @property
    def trusted(self) -> bool:
        """Whether numbers are known to mean what they meant when they were first sent."""
        return self._tally.trusted

    def close(self) -> None:
        """Let others send the stream."""
        self._entries.close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    @property
    def waiting(self) -> bool:
        """Whether there is anything that is not acknowledged."""
        try:
            found = self._peek()
        except OSError:  # it may be there
            return True
        return bool(self.pending) or (found is not None and any(chunks(found[1])))

    @property
    def left(self) -> int:
        """Lines that are not answered for, with or without a number. Raises OSError."""
        tally = self._tally
        count = sum(body.lines for body in self.pending)
        for number in self._numbers():
            if number >= tally.segment:
                start = tally.offset if number == tally.segment else 0
                data = read_segment(self.folder, number, self._memory, start, _SEGMENT) or b""
                count += sum(chunk.lines for chunk in chunks(data))
        return count

    def relock(self) -> None:
        """Hold the lock also where the folder was made later, or anew. Raises OSError."""
        held = self._lock_fd
        if held is None or os.fstat(held).st_nlink == 0:
            self._lock_fd = lock(self.folder / "sender.lock")
            if held is not None:
                os.close(held)

    def renew(self) -> None:
        """Say it all again where the file was removed under us. Raises OSError."""
        if self._entries.removed:
            self.relock()
            self._begin_anew()

    def cut(self, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> bool:
        """Number the lines that are not numbered yet, a request's worth; False if none is there.

        Only once all that are numbered are answered for. Raises OSError for a spool that can't be
        read.
        """
        found = self._peek()
        self.more = False
        if found is None:
            return False
        number, data = found
        cut = portion(data, self._tally.next_line, max_lines, max_bytes)
        lost, end = cut.lost, cut.end
        self.more = cut.more
        if not cut.lines:
            # Behind the last whole chunk there may be one that was whole once.
            if not is_locked(self.folder / "writer.lock"):
                lost, end = damaged_lines(data, self._tally.next_line), len(data)
            if not lost:
                return False
        names = [name for name in CLASSES if name in cut.lines]
        first, start = self._tally.next_sequence, self._tally.offset
        entry = {
            "cut": [number, start, start + end],
            "bodies": {name: [first + i, cut.lines[name]] for i, name in enumerate(names)},
            "lost": lost,
            "next": cut.next_line,
        }
        self._enter(entry)
        return bool(names)

    def read(self, body: Body) -> list[bytes]:
        """What is left of the lines of a body. Raises OSError as `cut`."""
        size = body.end - body.start
        data = read_segment(self.folder, body.segment, self._memory, body.start, size) or b""
        lines: list[bytes] = []
        for chunk in chunks(data):
            if chunk.class_name == body.class_name:
                lines += chunk.payload.split(b"\n")
        return body.choose(lines)

    def is_gone(self, body: Body) -> bool:
        """Whether the segment of a body is not there any more."""
        there = body.segment in self._memory or segment_path(self.folder, body.segment).exists()
        return not there

    def acknowledge(self, body: Body, refused: int, receipt: str | None) -> None:
        """The server has answered for a body: it took all lines but `refused`."""
        self._enter({"ack": body.sequence, "refused": refused, "receipt": receipt})
        self._remove_if_done(body.segment)

    def lose(self, body: Body, left: int) -> None:
        """So many lines of a body are left; none: it is done with.

        The number keeps those. If it was taken before, then with these and more: what it counts
        for in the ledger becomes too little, never too much.
        """
        self._enter({"lost": body.sequence, "left": left})

    def split(self, body: Body) -> None:
        """The server will not take so much at once: the number keeps the first half.

        A number's content is fixed by the server taking it, and this one was refused as a whole.
        """
        rest = self._tally.next_sequence
        self._enter({"split": body.sequence, "at": body.lines // 2, "rest": rest})

    def settle(self, sequences: list[int], dead: int) -> None:
        """The store holds what these numbers were acknowledged for, but for `dead` lines."""
        self._enter({"settled": sequences, "dead": dead})

    def forget(self, sequences: list[int]) -> None:
        """The workers have passed these numbers, and nobody can tell any more what was refused."""
        self._enter({"forgotten": sequences})

    @property
    def doubt(self) -> str:
        """Why the totals may not be true; empty if they are."""
        if self.trusted:
            return ""
        return (
            f"the journal of {self.folder} was damaged: what may not have been sent was sent again,"
            " and what was sent before is not known for sure"
        )

    def finished(self) -> bool:
        """Whether all is sent and nobody writes any more."""
        return not self.waiting and not is_locked(self.folder / "writer.lock")

    def _peek(self) -> tuple[int, bytes] | None:
        """The segment with the next lines that have no number, and what it holds from there on.

        Of the last segment that may be no whole chunk.
        """
        tally = self._tally
        while True:
            later = [number for number in self._numbers() if number > tally.segment]
            where = self.folder, tally.segment, self._memory, tally.offset
            data = read_segment(*where, _WINDOW) or b""
            if len(data) == _WINDOW and not any(chunks(data)):  # damaged at length
                data = read_segment(*where, _SEGMENT) or b""
            if any(chunks(data)) or (data and not later):
                return tally.segment, data
            if not later:
                return None
            # No segment is written to once there is a later one: this one is read to its end.
            done, tally.segment, tally.offset = tally.segment, later[0], 0
            self._remove_if_done(done)

    def _numbers(self) -> list[int]:
        return sorted({*segment_numbers(self.folder), *list(self._memory)})

    def _remove_if_done(self, segment: int) -> None:
        """A segment is deleted once all of it is numbered and every number answered for."""
        if segment >= self._tally.segment or not self._sending:
            return
        if not any(body.segment == segment for body in self.pending):
            self._memory.pop(segment, None)
            with contextlib.suppress(OSError):
                segment_path(self.folder, segment).unlink()

    def _enter(self, entry: dict[str, Any]) -> None:
        """Write down what is about to be so, and take it as so."""
        try:
            self.renew()
            if self._entries.size > _LONG and not self.pending:
                self._begin_anew()
            self._entries.append(entry)
            self.fault = None
        except OSError as exc:
            # The process itself goes on; only its successor would number the lines anew.
            self.fault = exc
        self._tally.follow(entry)

    def _begin_anew(self) -> None:
        """Replace the journal by one entry that says where it has come to. Raises OSError."""
        self._entries.replace(self._tally.as_entry())

    def _load(self, *, sent_before: bool) -> None:
        for entry in self._entries.read():
            try:
                self._tally.follow(entry)
            except (ValueError, KeyError, TypeError, StopIteration):  # it follows from one before
                self._entries.damaged = True
        gone = sent_before and not self._entries.path.exists() and bool(self._numbers())
        if self._lock_fd is None:
            return
        steps: list[Callable[[], None]] = [self._entries.cut_off]
        if self._entries.damaged or gone:
            self._tally.distrust()
            _log.warning("stepclock: %s", self.doubt)
            steps.insert(0, self._begin_anew)
        for step in steps:
            try:
                step()
            except OSError as exc:
                self.fault = exc
        for number in self._numbers():
            self._remove_if_done(number)


def totals_of(folder: Path) -> Totals:
    """What the journal of a stream says that another process sends."""
    journal = Journal(folder, sending=False)
    return journal.totals
