"""What the sender of a stream keeps: which lines a number means, and what became of them.

A body gets its number, and the journal says what it holds, before it is sent. So a number's
content never changes, whoever sends it: the run itself, or `sync` years later.

Lines are missing in the spool where a disk damaged it: chunks say how many. Of a journal that
is damaged itself nobody can tell any more what its numbers mean: what may not be answered for
is sent again, which is harmless, and not as a part of the ledger.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from stepclock.body import Body
from stepclock.chunk import CLASSES, MAX_BYTES, MAX_LINES, chunks, damaged_lines
from stepclock.entries import Entries
from stepclock.portion import portion
from stepclock.segment import is_locked, lock, read_segment, segment_numbers, segment_path

#: A chunk is at most half of it, so that a whole one is in it, or none is there.
_WINDOW = 2 * MAX_BYTES + 4096
_SEGMENT = 8 * MAX_BYTES  # none is larger

#: Beyond so many bytes the journal is written anew, as what it amounts to.
_LONG = 1024 * 1024

_log = logging.getLogger("stepclock")


@dataclass
class Totals:
    """Lines by what became of them; each line of a body ends in one of them."""

    cut: int = 0
    acknowledged: int = 0
    refused: int = 0
    lost: int = 0
    stored: int = 0
    dead: int = 0
    requests: int = 0


@dataclass
class Journal:
    """The journal of one stream. Raises OSError if another process sends the stream.

    sending: False only to look at it, beside a process that may be sending.

    memory: the segments that the run keeps in memory, if it is this process that writes them.
    It has told nobody of the stream yet, and a lock that the disk has no room for comes later.
    """

    folder: Path
    memory: dict[int, bytes] | None = None
    sending: bool = True
    totals: Totals = field(default_factory=Totals)
    pending: list[Body] = field(default_factory=list)
    #: sequence -> receipt and lines of what is acknowledged and not yet known to be stored
    unsettled: dict[int, tuple[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._segment = 0
        self._offset = 0
        self._next_sequence = 0
        self._next_line: int | None = 0  # None: not known
        self._last_cut = 0, 0
        self._lock_fd: int | None = None
        self._entries = Entries(self.folder / "journal.jsonl")
        self.fault: OSError | None = None
        #: Whether numbers are known to mean what they meant when they were first sent.
        self.trusted = True
        #: Whether the last cut left lines behind because they were too many for it.
        self.more = False
        self._memory = {} if self.memory is None else self.memory
        sent_before = (self.folder / "sender.lock").exists()
        if self.sending and self.folder.exists():
            try:
                self.relock()
            except OSError as exc:
                if self.memory is None or isinstance(exc, BlockingIOError):
                    raise
                self.fault = exc
        self._load(sent_before=sent_before)

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
        cut = portion(data, self._next_line, max_lines, max_bytes)
        lost, end = cut.lost, cut.end
        self.more = cut.more
        if not cut.lines:
            # Behind the last whole chunk there may be one that was whole once.
            if not is_locked(self.folder / "writer.lock"):
                lost, end = damaged_lines(data, self._next_line), len(data)
            if not lost:
                return False
        names = [name for name in CLASSES if name in cut.lines]
        entry = {
            "cut": [number, self._offset, self._offset + end],
            "bodies": {n: [self._next_sequence + i, cut.lines[n]] for i, n in enumerate(names)},
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
        self._enter(
            {"split": body.sequence, "at": body.lines // 2, "rest": self._next_sequence},
        )

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
        while True:
            later = [number for number in self._numbers() if number > self._segment]
            where = self.folder, self._segment, self._memory, self._offset
            data = read_segment(*where, _WINDOW) or b""
            if len(data) == _WINDOW and not any(chunks(data)):  # damaged at length
                data = read_segment(*where, _SEGMENT) or b""
            if any(chunks(data)) or (data and not later):
                return self._segment, data
            if not later:
                return None
            # No segment is written to once there is a later one: this one is read to its end.
            done, self._segment, self._offset = self._segment, later[0], 0
            self._remove_if_done(done)

    def _numbers(self) -> list[int]:
        return sorted({*segment_numbers(self.folder), *list(self._memory)})

    def _remove_if_done(self, segment: int) -> None:
        """A segment is deleted once all of it is numbered and every number answered for."""
        if (
            self.sending
            and segment < self._segment
            and not any(body.segment == segment for body in self.pending)
        ):
            self._memory.pop(segment, None)
            try:
                segment_path(self.folder, segment).unlink()
            except OSError:
                return

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
        self._apply(entry)

    def _begin_anew(self) -> None:
        """Replace the journal by one entry that says where it has come to. Raises OSError."""
        self._entries.replace(
            {
                "state": [self._segment, self._offset, self._next_sequence],
                "next": self._next_line,
                "trusted": self.trusted,
                "totals": asdict(self.totals),
                "unsettled": [[number, *told] for number, told in self.unsettled.items()],
                "pending": [astuple(body) for body in self.pending],
            }
        )

    def _apply(self, entry: dict[str, Any]) -> None:
        if "cut" in entry:
            segment, start, end = entry["cut"]
            self._segment, self._offset = segment, end
            self._last_cut = segment, start
            self._next_line = entry["next"]
            self.totals.lost += entry["lost"]
            self.totals.cut += entry["lost"]
            for name, (sequence, lines) in entry["bodies"].items():
                self.pending.append(Body(sequence, name, segment, start, end, 0, lines, lines))
                self.totals.cut += lines
                self._next_sequence = max(self._next_sequence, sequence + 1)
        elif "ack" in entry:
            body = self._answered(entry["ack"])
            taken = body.lines - entry["refused"]
            self.totals.acknowledged += taken
            self.totals.refused += entry["refused"]
            if taken and entry["receipt"]:
                self.unsettled[body.sequence] = entry["receipt"], taken
            self._remove_if_done(body.segment)
        elif "lost" in entry:
            self._lose(entry["lost"], entry["left"])
        elif "split" in entry:
            self._halve(entry["split"], entry["at"], entry["rest"])
        elif "settled" in entry:
            for sequence in entry["settled"]:
                self.totals.stored += self.unsettled.pop(sequence, ("", 0))[1]
            self.totals.stored -= entry["dead"]
            self.totals.dead += entry["dead"]
        elif "forgotten" in entry:
            for sequence in entry["forgotten"]:
                self.unsettled.pop(sequence, None)
        elif "state" in entry:
            self._segment, self._offset, self._next_sequence = entry["state"]
            self._next_line, self.trusted = entry["next"], entry["trusted"]
            self.totals = Totals(**entry["totals"])
            self.unsettled = {number: (told, lines) for number, told, lines in entry["unsettled"]}
            self.pending = [Body(*each) for each in entry["pending"]]
            self._last_cut = self._segment, self._offset
            for body in self.pending:  # all of one cut
                self._last_cut = body.segment, body.start

    def _halve(self, sequence: int, at: int, rest: int) -> None:
        index = self._index(sequence)
        self.pending[index : index + 1] = self.pending[index].halves(at, rest)
        self._next_sequence = max(self._next_sequence, rest + 1)

    def _lose(self, sequence: int, left: int) -> None:
        body = self.pending[self._index(sequence)]
        self.totals.lost += body.lines - left
        if left:
            self.pending[self._index(sequence)] = body.with_only(left)
        else:
            self._answered(sequence)

    def _answered(self, sequence: int) -> Body:
        return self.pending.pop(self._index(sequence))

    def _index(self, sequence: int) -> int:
        return next(i for i, body in enumerate(self.pending) if body.sequence == sequence)

    def _load(self, *, sent_before: bool) -> None:
        for entry in self._entries.read():
            try:
                self._apply(entry)
            except (ValueError, KeyError, TypeError, StopIteration):  # it follows from one before
                self._entries.damaged = True
        gone = sent_before and not self._entries.path.exists() and bool(self._numbers())
        if self._lock_fd is not None:
            if self._entries.damaged or gone:
                self._distrust()
            try:
                self._entries.cut_off()
            except OSError as exc:
                self.fault = exc

    def _distrust(self) -> None:
        """Begin anew with the last lines that were numbered: before, all were answered for."""
        totals = self.totals
        self.pending = []
        totals.cut = totals.acknowledged + totals.refused + totals.lost
        self._segment, self._offset = self._last_cut
        self._next_line = None
        self.trusted = False
        _log.warning("stepclock: %s", self.doubt)
        try:
            self._begin_anew()
        except OSError as exc:
            self.fault = exc


def totals_of(folder: Path) -> Totals:
    """What the journal of a stream says that another process sends."""
    journal = Journal(folder, sending=False)
    return journal.totals
