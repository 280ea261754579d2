"""What the sender of a stream keeps: which lines a number means, and what became of them.

A body gets its number, and the journal says what it holds, before it is sent. So a number's
content never changes, whoever sends it: the run itself, or `sync` years later.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepclock.chunk import CLASSES, MAX_BYTES, MAX_LINES, chunks
from stepclock.segment import is_locked, lock, read_segment, segment_numbers, segment_path

#: A chunk is at most half of it, so that a whole one is in it, or none is there.
_WINDOW = 2 * MAX_BYTES + 4096

#: Beyond so many bytes the journal is written anew, as what it amounts to.
_LONG = 1024 * 1024

_log = logging.getLogger("stepclock")


@dataclass(frozen=True)
class Body:
    """The lines `first` to `last` (not included) of one class between two offsets of a segment."""

    sequence: int
    class_name: str
    segment: int
    start: int
    end: int
    first: int
    last: int

    @property
    def lines(self) -> int:
        """How many lines it holds."""
        return self.last - self.first


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
    """

    folder: Path
    memory: dict[int, bytes] = field(default_factory=dict)
    sending: bool = True
    totals: Totals = field(default_factory=Totals)
    pending: list[Body] = field(default_factory=list)
    #: sequence -> receipt and lines of what is acknowledged and not yet known to be stored
    unsettled: dict[int, tuple[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._segment = 0
        self._offset = 0
        self._next_sequence = 0
        self._fd: int | None = None
        self._lock_fd: int | None = None
        self.fault: OSError | None = None
        #: Whether the last cut left lines behind because they were too many for it.
        self.more = False
        if self.sending and self.folder.exists():
            self._lock_fd = lock(self.folder / "sender.lock")
        self._load()

    def close(self) -> None:
        """Let others send the stream."""
        for fd in (self._fd, self._lock_fd):
            if fd is not None:
                os.close(fd)
        self._fd = self._lock_fd = None

    @property
    def waiting(self) -> bool:
        """Whether there is anything that is not acknowledged."""
        return bool(self.pending) or self._peek() is not None

    def cut(self, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> bool:
        """Number the lines that are not numbered yet, a request's worth; False if none is there."""
        found = self._peek()
        self.more = False
        if found is None:
            return False
        number, data = found
        counts: dict[str, tuple[int, int]] = {}
        end = 0
        for chunk in chunks(data):
            lines, size = counts.get(chunk.class_name, (0, 0))
            lines, size = lines + chunk.lines, size + len(chunk.payload) + 1
            if counts and (lines > max_lines or size > max_bytes):
                self.more = True
                break
            counts[chunk.class_name] = lines, size
            end = chunk.end
        end += self._offset
        sequences: dict[str, list[int]] = {}
        for name in CLASSES:
            if name in counts:
                sequences[name] = [self._next_sequence + len(sequences), counts[name][0]]
        self._enter({"cut": [number, self._offset, end], "bodies": sequences})
        return True

    def read(self, body: Body) -> list[bytes] | None:
        """The lines of a body; None if its segment is gone."""
        size = body.end - body.start
        data = read_segment(self.folder, body.segment, self.memory, body.start, size)
        if data is None:
            return None
        lines: list[bytes] = []
        for chunk in chunks(data):
            if chunk.class_name == body.class_name:
                lines += chunk.payload.split(b"\n")
        if len(lines) < body.last:
            return None
        return lines[body.first : body.last]

    def acknowledge(self, body: Body, refused: int, receipt: str | None) -> None:
        """The server has answered for a body: it took all lines but `refused`."""
        self._enter({"ack": body.sequence, "refused": refused, "receipt": receipt})

    def lose(self, body: Body) -> None:
        """The lines of a body are not there any more."""
        self._enter({"lost": body.sequence})

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

    def finished(self) -> bool:
        """Whether all is sent and nobody writes any more."""
        return not self.waiting and not is_locked(self.folder / "writer.lock")

    def _peek(self) -> tuple[int, bytes] | None:
        """The segment with the next lines that have no number, and what it holds of them."""
        while True:
            later = [number for number in self._numbers() if number > self._segment]
            data = read_segment(self.folder, self._segment, self.memory, self._offset, _WINDOW)
            if data and next(chunks(data), None) is not None:
                return self._segment, data
            if not later:
                return None
            # No segment is written to once there is a later one: this one is read to its end.
            if data:
                self.fault = OSError(f"{len(data)} bytes of the spool are damaged")
            done, self._segment, self._offset = self._segment, later[0], 0
            self._remove_if_done(done)

    def _numbers(self) -> list[int]:
        return sorted({*segment_numbers(self.folder), *list(self.memory)})

    def _remove_if_done(self, segment: int) -> None:
        """A segment is deleted once all of it is numbered and every number answered for."""
        if (
            self.sending
            and segment < self._segment
            and not any(body.segment == segment for body in self.pending)
        ):
            self.memory.pop(segment, None)
            try:
                segment_path(self.folder, segment).unlink()
            except OSError:
                return

    def _enter(self, entry: dict[str, Any]) -> None:
        """Write down what is about to be so, and take it as so."""
        try:
            if self._fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(self.folder / "journal.jsonl", flags, 0o600)
            data = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
            size = os.fstat(self._fd).st_size
            if size > _LONG and not self.pending:
                self._begin_anew()
                size = os.fstat(self._fd).st_size
            if os.write(self._fd, data) != len(data):
                os.ftruncate(self._fd, size)
                raise OSError("the disk is full")
            self.fault = None
        except OSError as exc:
            # The process itself goes on; only its successor would number the lines anew.
            self.fault = exc
        self._apply(entry)

    def _begin_anew(self) -> None:
        """Replace the journal by one entry that says where it has come to. Raises OSError."""
        assert self._fd is not None
        entry = {
            "state": [self._segment, self._offset, self._next_sequence],
            "totals": asdict(self.totals),
            "unsettled": [[number, *told] for number, told in self.unsettled.items()],
        }
        draft = self.folder / ".journal.jsonl"
        draft.write_text(json.dumps(entry) + "\n", "utf-8")
        draft.replace(self.folder / "journal.jsonl")
        os.close(self._fd)
        self._fd = os.open(self.folder / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _apply(self, entry: dict[str, Any]) -> None:
        if "cut" in entry:
            segment, start, end = entry["cut"]
            self._segment, self._offset = segment, end
            for name, (sequence, lines) in entry["bodies"].items():
                self.pending.append(Body(sequence, name, segment, start, end, 0, lines))
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
            body = self._answered(entry["lost"])
            self.totals.lost += body.lines
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
            self.totals = Totals(**entry["totals"])
            self.unsettled = {number: (told, lines) for number, told, lines in entry["unsettled"]}

    def _halve(self, sequence: int, at: int, rest: int) -> None:
        index = next(i for i, body in enumerate(self.pending) if body.sequence == sequence)
        body = self.pending[index]
        where = (body.class_name, body.segment, body.start, body.end)
        middle = body.first + at
        self.pending[index : index + 1] = [
            Body(sequence, *where, body.first, middle),
            Body(rest, *where, middle, body.last),
        ]
        self._next_sequence = max(self._next_sequence, rest + 1)

    def _answered(self, sequence: int) -> Body:
        index = next(i for i, body in enumerate(self.pending) if body.sequence == sequence)
        return self.pending.pop(index)

    def _load(self) -> None:
        path = self.folder / "journal.jsonl"
        try:
            data = path.read_bytes()
        except OSError:
            return
        whole = data.rfind(b"\n") + 1
        # A last entry that was never whole: nothing followed from it.
        if whole < len(data) and self.sending:
            os.truncate(path, whole)
        for line in data[:whole].splitlines():
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError, StopIteration):
                _log.warning("an entry of %s can't be read and is passed over", path)


def totals_of(folder: Path) -> Totals:
    """What the journal of a stream says that another process sends."""
    journal = Journal(folder, sending=False)
    return journal.totals
