"""Isolation: finding the lines that the store refuses, with a bounded number of writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consumers.batches.batch import PlacedBlock
from consumers.views import ViewLine, describe
from schemas.line_protocol.codec import Line, Refused, parse
from schemas.line_protocol.tokens import kind_of
from schemas.log.dead_letter import Reason
from schemas.store.protocols import LinesRefused, StoreUnavailable, WriteTooLarge

#: Probe writes for one batch in one view. One bad line among 5,000 needs at most 25.
MAX_PROBES = 64

#: Failures of a line alone, between canaries that passed, that condemn it as poison.
TRIES = 3

#: Writes of one batch in one view on which a store that is well may fail, or die, all told: the
#: tries of each suspected line alone are set apart beforehand. One poisonous line among 5,000
#: needs at most 18: 2 of the whole batch, 13 of ever smaller parts, TRIES alone. Two need 34.
MAX_FAILURES = 40


@dataclass(frozen=True, slots=True)
class Candidate:
    """A line as a view sends it, and the block it came from."""

    placed: PlacedBlock
    line: ViewLine


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a line, or with `line` None a whole block, can't be stored in a view."""

    placed: PlacedBlock
    line: ViewLine | None
    view: str
    reason: Reason
    detail: str

    @property
    def original(self) -> bytes:
        """The bytes as they stand in the log."""
        return self.placed.block.lines if self.line is None else self.line.original


@dataclass(frozen=True, slots=True)
class _Range:
    lines: list[Candidate]
    #: The store has refused a write that held these lines, and the exact parser takes them.
    suspect: bool
    #: The store has failed on a write that held these lines, while it took others.
    doubted: bool = False
    #: Half of a doubted range: if it passes, the range below it on the stack holds the culprit.
    left: bool = False


class Isolation:
    """Stores the good lines of a refused batch and condemns the others.

    First the exact parser reads the lines, which costs no write. Then those of which the
    answer speaks are parted from the others, so that a thousand lines with one mistake cost
    two writes; where it speaks of none, the rest is halved, left before right so that order
    is kept, until a refused line is alone. Only the status of an answer condemns, or that it
    says that all lines sent were dropped. When the probes are spent, what is undecided is
    rejected as unresolved. A write that is too large is halved
    without using up probes, since each half stores something or gets smaller.

    A store may also fail on a line instead of refusing it (`mark_failed`). Once may be chance,
    so the same is sent again, less what the exact parser refuses; then it is halved as well. A
    right half is not sent whole if the left one passed: it holds the culprit. A suspected line that
    is alone is `held`, neither stored nor rejected. When MAX_FAILURES are reached, what is
    undecided is rejected as unresolved.
    """

    def __init__(
        self,
        view: str,
        lines: Iterable[Candidate],
        error: LinesRefused | WriteTooLarge | StoreUnavailable | None,
        *,
        max_probes: int = MAX_PROBES,
    ) -> None:
        """error: what became of all lines in one write; None if none was tried."""
        self.rejected: list[Rejected] = []
        self.held: list[Candidate] = []
        #: Writes on which the store failed while it was well.
        self.failures = 0
        self._view = view
        self._probes_left = max_probes
        self._last_refusal = str(error)
        self._todo: list[_Range] = []
        sendable = []
        for suspect in lines:
            if suspect.line.refused is None:
                sendable.append(suspect)
            else:
                self._reject([suspect], Reason.MALFORMED, suspect.line.refused)
        if not sendable:
            return
        whole = _Range(sendable, suspect=False)
        if self.rejected or error is None:
            # What was refused, if anything was sent at all, is not what is left now.
            self._todo.append(whole)
        elif isinstance(error, StoreUnavailable):
            self._todo.append(whole)
            self.mark_failed(str(error))
        else:
            self._answered(whole, error)

    def run(self, write: Callable[[bytes], None]) -> None:
        """Go on until every line is stored, rejected or held.

        What write raises, other than LinesRefused and WriteTooLarge, passes through; the
        next call goes on with the same bytes, unless `mark_failed` came between.
        """
        while self._todo:
            current = self._todo[-1]
            if current.suspect and self._probes_left == 0:
                self._todo.pop()
                detail = f"not decided within the probe writes; last: {self._last_refusal}"
                self._reject(current.lines, Reason.UNRESOLVED, detail)
                continue
            if self.failures + 1 + TRIES * (len(self.held) + 1) > MAX_FAILURES:
                self._todo.pop()
                detail = f"not decided when the store had failed {self.failures} times"
                self._reject(current.lines, Reason.UNRESOLVED, detail)
                continue
            try:
                write(b"\n".join(s.line.sent for s in current.lines))
            except (LinesRefused, WriteTooLarge) as exc:
                self._todo.pop()
                if current.suspect and isinstance(exc, LinesRefused):
                    self._probes_left -= 1
                self._answered(current, exc)
            else:
                self._todo.pop()
                if current.suspect:
                    self._probes_left -= 1
                if current.left:
                    self._narrow(self._todo.pop())

    def mark_failed(self, detail: str) -> None:
        """The last write of `run` failed, and the store is well: it is the lines."""
        current = self._todo.pop()
        self.failures += 1
        self._last_refusal = detail
        if current.doubted or current.suspect:
            self._narrow(current)
            return
        lines = self._parseable(current.lines)
        if lines:
            self._todo.append(
                _Range(lines, suspect=False, doubted=len(lines) == len(current.lines))
            )

    def _narrow(self, doubted: _Range) -> None:
        """Halve what holds a culprit, or hold it if it is alone."""
        lines, middle = doubted.lines, len(doubted.lines) // 2
        if middle == 0:
            self.held += lines
            return
        for half, left in ((lines[middle:], False), (lines[:middle], True)):
            self._todo.append(_Range(half, suspect=doubted.suspect, doubted=True, left=left))

    def _answered(self, refused: _Range, error: LinesRefused | WriteTooLarge) -> None:
        """Put what follows from a refusal on the stack, the left half on top."""
        if isinstance(error, WriteTooLarge):
            if len(refused.lines) == 1:
                self._reject(refused.lines, Reason.TOO_LARGE, str(error))
            else:
                self._halve(refused.lines, suspect=refused.suspect)
            return
        self._last_refusal = str(error)
        lines = refused.lines
        if not refused.suspect:
            lines = self._parseable(lines)
            if lines and len(lines) < len(refused.lines):
                self._todo.append(_Range(lines, suspect=True))
                return
        if not lines:
            return
        if len(lines) == 1 or error.dropped == len(lines):
            self._reject(lines, Reason.REFUSED, str(error))
            return
        accused = _accused(lines, error)
        if 0 < len(accused) < len(lines):
            others = [one for number, one in enumerate(lines) if number not in accused]
            self._todo.append(_Range([lines[number] for number in sorted(accused)], suspect=True))
            self._todo.append(_Range(others, suspect=True))
        else:
            self._halve(lines, suspect=True)

    def _parseable(self, lines: list[Candidate]) -> list[Candidate]:
        good = []
        for suspect in lines:
            try:
                parse(suspect.line.original)
            except Refused as exc:
                self._reject([suspect], Reason.MALFORMED, describe(exc))
            else:
                good.append(suspect)
        return good

    def _halve(self, lines: list[Candidate], *, suspect: bool) -> None:
        middle = len(lines) // 2
        self._todo.append(_Range(lines[middle:], suspect=suspect))
        self._todo.append(_Range(lines[:middle], suspect=suspect))

    def _reject(self, lines: Iterable[Candidate], reason: Reason, detail: str) -> None:
        self.rejected += [Rejected(s.placed, s.line, self._view, reason, detail) for s in lines]


def _accused(lines: list[Candidate], error: LinesRefused) -> set[int]:
    """Which of the lines the store may mean; empty where it does not say."""
    conflict = error.conflict
    if conflict is not None:
        name = (conflict.measurement.encode(), conflict.field.encode())
        return {
            number
            for number, suspect in enumerate(lines)
            if conflict.kind in _kinds(parse(suspect.line.sent), *name)
        }
    if error.outdated and error.dropped is not None:
        times = [parse(suspect.line.sent).time or 0 for suspect in lines]
        oldest = sorted(range(len(lines)), key=times.__getitem__)
        return set(oldest[: error.dropped])
    return set()


def _kinds(line: Line, measurement: bytes, field: bytes) -> set[str]:
    """The kinds that a field has in a line of a measurement, as stores name them."""
    if line.measurement != measurement:
        return set()
    return {kind_of(token) for name, token in line.fields if name == field}
