"""What of a request body is admitted: certain lines as they are, the rest line by line.

A run of lines that match a pattern is taken as bytes, without an object for any line. Where
a run ends stands a line that the exact parser takes, rewritten in canonical form, or
refuses with a reason; the next run begins behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from schemas.admission.admission import MAX_LISTED, Admission, Part, Refusal
from schemas.admission.run_pattern import RunPattern, timed, untimed
from schemas.admission.shape import shaped
from schemas.admission.skeleton import doubtful_lines
from schemas.line_protocol.bounds import Rules, check
from schemas.line_protocol.codec import is_blank
from schemas.line_protocol.precision import BLOCK_PRECISIONS, Precision
from schemas.line_protocol.scanner import ENGINE_SEPARATOR, Refused, Scanned, scan
from schemas.log.block import MAX_BLOCK_BYTES

# A text with a newline in each window of this size holds no line of twice the size, far below
# the database's bound of 64 KiB for a series; what may be longer is for the exact parser.
_WINDOW_BYTES = 16 * 1024

# From this size on the shape of the first line is asked for, which costs as much as 20 lines.
_SHAPED_BYTES = 2 * 1024

# What a step judges: lines up to so many bytes by their pattern, and so many one by one. The
# worst of them takes some 10 ms.
_STEP_BYTES = 64 * 1024
_STEP_LINES = 250

# Blank lines and comments. One by one each would cost twenty times what a good line does.
_BLANK_LINES = re.compile(rb"(?:[ \r]*+(?:#[^\n]*+)?+\n)*+")


def admit(body: bytes, precision: Precision, rules: Rules, stamp: Callable[[], int]) -> Admission:
    """Judge every line of a body.

    stamp: gives each line without a time one in ns, strictly increasing. Lines in minutes and
    hours come out in ns. Blank lines and comments are left out.
    """
    return _BodyAdmission(body, precision, rules, stamp).admit()


def admit_in_steps(
    body: bytes, precision: Precision, rules: Rules, stamp: Callable[[], int]
) -> Generator[int, None, Admission]:
    """The same as `admit`, in steps of milliseconds; yields how many lines were refused so far."""
    judged = _BodyAdmission(body, precision, rules, stamp)
    yield from judged.steps()
    return judged.admission()


@dataclass(slots=True)
class _Lines:
    """A part in the making: pieces of one line or of many."""

    pieces: list[bytes] = field(default_factory=list)
    points: int = 0

    def add(self, piece: bytes, points: int) -> None:
        self.pieces.append(piece)
        self.points += points


class _BodyAdmission:
    """The lines of one body, checked once from its start to its end."""

    def __init__(
        self, body: bytes, precision: Precision, rules: Rules, stamp: Callable[[], int]
    ) -> None:
        self._body = _without_carriage_returns(body)
        self._is_ascii = self._body.isascii()
        self._precision = precision
        self._rules = rules
        self._stamp = stamp
        in_block = precision in BLOCK_PRECISIONS
        self._timed_pattern: RunPattern | None = timed(precision, rules) if in_block else None
        self._shape: RunPattern | None = None
        if in_block and len(body) >= _SHAPED_BYTES:
            first = self._body[: self._body.find(b"\n", 0, _SHAPED_BYTES)]
            self._shape = shaped(first, precision, rules)
        self._part_precision = precision if in_block else Precision.NS
        self._timed = _Lines()
        self._ns = self._timed if self._part_precision is Precision.NS else _Lines()
        self._multiline = _Lines()
        self._stamped = 0
        self._refusals: list[Refusal] = []
        self._refused_total = 0
        # Line number of the byte at index _numbered_to.
        self._number = 1
        self._numbered_to = 0

    def admit(self) -> Admission:
        for _ in self.steps():
            pass
        return self.admission()

    def steps(self) -> Iterator[int]:
        """Judge the body; yields, once at least, how many lines were refused so far."""
        pos = lines = step_end = 0
        stop = self._valid_up_to(0)
        while pos < len(self._body):
            if pos >= step_end or lines >= _STEP_LINES:
                if pos:
                    yield self._refused_total
                lines, step_end = 0, self._step_end(pos)
            if pos > stop:
                stop = self._valid_up_to(pos)
            end = self._take_run(pos, min(stop, step_end))
            if not end:
                end = self._take_line(pos)
                lines += 1
            pos = end
        yield self._refused_total

    def _step_end(self, start: int) -> int:
        """Start of a line some way behind `start`, or the end."""
        if len(self._body) - start <= _STEP_BYTES:
            return len(self._body)
        newline = self._body.rfind(b"\n", start, start + _STEP_BYTES)
        if newline < 0:
            newline = self._body.find(b"\n", start + _STEP_BYTES)
        return newline + 1 or len(self._body)

    def admission(self) -> Admission:
        """What became of the body, once every step was taken."""
        parts = [(self._timed, self._part_precision), (self._multiline, Precision.NS)]
        if self._ns is not self._timed:
            parts.insert(1, (self._ns, Precision.NS))
        return Admission(
            parts=tuple(
                [
                    Part(b"\n".join(part.pieces), part.points, unit, part is self._multiline)
                    for part, unit in parts
                    if part.points
                ]
            ),
            points=sum([part.points for part, _ in parts]),
            stamped=self._stamped,
            refusals=tuple(self._refusals),
            refused_total=self._refused_total,
        )

    def _take_run(self, start: int, stop: int) -> int:
        """Take the certain lines from `start` on; the index behind them, 0 for none."""
        if self._shape is not None:
            end = self._shape.end(self._body, start, stop)
            if end > start and self._take_shaped(start, end):
                return end
        if self._timed_pattern is not None:
            end = self._timed_pattern.end(self._body, start, stop)
            if end > start:
                self._take_certain(start, end, self._add_timed)
                return end
        end = untimed(self._rules.reserved).end(self._body, start, stop)
        if end > start:
            self._take_certain(start, end, self._add_untimed)
            return end
        return 0

    def _take_shaped(self, start: int, end: int) -> bool:
        """Take lines of the body's shape, unless there may be one among them that is not good."""
        lines = self._body[start:end].removesuffix(b"\n")
        # A single byte is found fifty times as fast as three.
        has_separator = b"#" in lines and ENGINE_SEPARATOR in lines
        if has_separator or _may_hold_long_line(lines):
            return False
        self._add_timed(lines)
        return True

    def _take_certain(self, start: int, end: int, add: Callable[[bytes], None]) -> None:
        lines = self._body[start:end].removesuffix(b"\n")
        doubtful = doubtful_lines(lines)
        if not doubtful and not _may_hold_long_line(lines):
            add(lines)
            return
        pos = start
        for line in lines.split(b"\n"):
            if line in doubtful or len(line) > _WINDOW_BYTES:
                self._take_line(pos)
            else:
                add(line)
            pos += len(line) + 1

    def _add_timed(self, lines: bytes) -> None:
        self._timed.add(lines, lines.count(b"\n") + 1)

    def _add_untimed(self, lines: bytes) -> None:
        stamp = self._stamp
        stamped = [b"%b %d" % (line, stamp()) for line in lines.split(b"\n")]
        self._stamped += len(stamped)
        self._ns.add(b"\n".join(stamped), len(stamped))

    def _take_line(self, start: int) -> int:
        """Take or refuse the line at `start` by the exact parser; the index behind it.

        Behind a blank line, also what others follow it.
        """
        newline = self._body.find(b"\n", start)
        end = len(self._body) if newline < 0 else newline
        text = self._body[start:end]
        if is_blank(text):
            blanks = _BLANK_LINES.match(self._body, start, start + _WINDOW_BYTES)
            assert blanks is not None
            return max(blanks.end(), end + 1)
        try:
            scanned, end = self._scan(start, text, end)
            check(scanned, self._precision, self._rules)
            self._add_exact(scanned)
        except Refused as refused:
            self._refuse(start, refused)
        return end + 1

    def _scan(self, start: int, text: bytes, newline: int) -> tuple[Scanned, int]:
        """The line at `start` and the index of its newline.

        text: up to the first newline, which may turn out to stand in a string. Where the
        lines behind it make no good line of it, they are judged on their own.
        """
        try:
            return scan(text, 0), newline
        except Refused as refused:
            if b'"' not in text or newline == len(self._body):
                raise
            alone = refused
        try:
            scanned = scan(self._body, start)
        except Refused as refused:
            if refused.column <= len(text) + 1:
                raise alone from None
            reason = f"{alone.reason}; read on behind the newline, {refused.reason}"
            raise Refused(alone.column, reason) from None
        has_cr = self._body[scanned.end : scanned.end + 1] == b"\r"
        return scanned, scanned.end + has_cr

    def _add_exact(self, scanned: Scanned) -> None:
        time, target = scanned.line.time, self._timed
        multiline = b"\n" in scanned.fields
        if time is None:
            time, target = self._stamp(), self._ns
        elif multiline or self._precision is not self._part_precision:
            time *= self._precision.ns
        text = b"%b %b %d" % (scanned.series, scanned.fields, time)
        if len(text) >= MAX_BLOCK_BYTES:
            raise Refused(1, f"line too long: expected less than {MAX_BLOCK_BYTES} bytes")
        (self._multiline if multiline else target).add(text, 1)
        self._stamped += scanned.line.time is None

    def _refuse(self, start: int, refused: Refused) -> None:
        self._refused_total += 1
        if len(self._refusals) >= MAX_LISTED:
            return
        self._number += self._body.count(b"\n", self._numbered_to, start)
        self._numbered_to = start
        self._refusals.append(Refusal(self._number, refused.column, refused.reason))

    def _valid_up_to(self, start: int) -> int:
        """Start of the first line, from `start` on, with bytes that are not UTF-8; or the end."""
        if self._is_ascii:
            return len(self._body)
        body = self._body
        while start < len(body):
            # Whole lines, a window at a time: an error costs a copy of all that was to be decoded.
            end = body.rfind(b"\n", start, start + _WINDOW_BYTES) + 1
            if end <= start:
                end = body.find(b"\n", start) + 1 or len(body)
            try:
                str(memoryview(body)[start:end], "utf-8")
            except UnicodeDecodeError as exc:
                return max(body.rfind(b"\n", start, start + exc.start) + 1, start)
            start = end
        return len(body)


def _without_carriage_returns(body: bytes) -> bytes:
    """The body with LF for CR LF, if its first line ends so and no string can hold one.

    Any other line that ends with CR LF goes to the exact parser, which drops the CR.
    """
    newline = body.find(b"\n")
    if newline > 0 and body[newline - 1 : newline] == b"\r" and b'"' not in body:
        return body.replace(b"\r\n", b"\n")
    return body


def _may_hold_long_line(lines: bytes) -> bool:
    """Whether some window holds no newline."""
    return any(
        lines.find(b"\n", start, start + _WINDOW_BYTES) < 0
        for start in range(0, len(lines) - _WINDOW_BYTES, _WINDOW_BYTES)
    )
