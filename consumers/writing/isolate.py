"""Isolation: finding the lines that the store refuses, with a bounded number of writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from consumers.batches.batch import PlacedBlock
from consumers.views import ViewLine, describe
from consumers.writing.attempt import Refusal
from schemas.line_protocol.codec import Line, Refused, parse
from schemas.line_protocol.tokens import kind_of
from schemas.log.dead_letter import Reason
from schemas.store.protocols import LinesRefused, StoreUnavailable, WriteTooLarge

#: Probe writes for one batch in one view. One bad line among 5,000 needs at most 25.
MAX_PROBES = 64

#: Failures of a line alone, between canaries that passed, after which it is rejected as poison.
TRIES = 3

#: Writes of one batch in one view on which a store that is well may fail, or die, all told: the
#: tries of each line that is held are set apart beforehand. One poisonous line among 5,000
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
    refused: bool
    #: The store has failed on a write that held these lines, while it took others.
    failed: bool = False
    #: Half of a failed range: if it passes, the range below it on the stack holds the bad line.
    left: bool = False


class Isolation:
    """A Search that stores the good lines of a refused batch and rejects the others.

    First the exact parser reads the lines, which costs no write. Then those of which the
    answer speaks are parted from the others, so that a thousand lines with one mistake cost
    two writes; where it speaks of none, the rest is halved, left before right so that order
    is kept, until a refused line is alone. A line is rejected only for the status of an answer,
    or because it says that all lines sent were dropped. When the probes are spent, what is
    undecided is rejected as unresolved. A write that is too large is halved without using up
    probes, since each half stores something or gets smaller.

    A store may also fail on a line instead of refusing it (`mark_failed`). Once may be chance,
    so the same is sent again, less what the exact parser refuses; then it is halved as well. A
    right half is not sent whole if the left one passed: it holds the bad line. A line that is
    alone when the store fails is `held`, neither stored nor rejected. When MAX_FAILURES are
    reached, what is undecided is rejected as unresolved.
    """

    def __init__(
        self,
        view: str,
        lines: Iterable[Candidate],
        error: Refusal | StoreUnavailable | None,
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
        for candidate in lines:
            if candidate.line.refused is None:
                sendable.append(candidate)
            else:
                self._reject([candidate], Reason.MALFORMED, candidate.line.refused)
        if not sendable:
            return
        whole = _Range(sendable, refused=False)
        if self.rejected or error is None:
            # What was refused, if anything was sent at all, is not what is left now.
            self._todo.append(whole)
        elif isinstance(error, StoreUnavailable):
            self._failed(whole, str(error))
        else:
            self._refused(whole, error)

    def next(self, _now: float) -> bytes | None:
        """The lines to try next; None once each line is stored, rejected or held."""
        while self._todo:
            current = self._todo[-1]
            if current.refused and self._probes_left == 0:
                detail = f"not decided within the probe writes; last: {self._last_refusal}"
            elif self.failures + 1 + TRIES * (len(self.held) + 1) > MAX_FAILURES:
                detail = f"not decided when the store had failed {self.failures} times"
            else:
                return b"\n".join(candidate.line.sent for candidate in current.lines)
            self._todo.pop()
            self._reject(current.lines, Reason.UNRESOLVED, detail)
        return None

    def answered(self, error: Refusal | None) -> None:
        """The lines of `next` are stored, or refused."""
        current = self._todo.pop()
        if current.refused and not isinstance(error, WriteTooLarge):
            self._probes_left -= 1
        if error is not None:
            self._refused(current, error)
        elif current.left:
            self._narrow(self._todo.pop())

    def mark_failed(self, detail: str, _now: float) -> None:
        """The store failed on the lines of `next` and is well: the lines made it fail."""
        self._failed(self._todo.pop(), detail)

    def _failed(self, current: _Range, detail: str) -> None:
        """Put what follows from a failure on the stack."""
        self.failures += 1
        self._last_refusal = detail
        if current.failed or current.refused:
            self._narrow(current)
            return
        lines = self._parseable(current.lines)
        if lines:
            self._todo.append(_Range(lines, refused=False, failed=len(lines) == len(current.lines)))

    def _narrow(self, failed: _Range) -> None:
        """Halve lines of which one is bad, or hold it if it is alone."""
        lines, middle = failed.lines, len(failed.lines) // 2
        if middle == 0:
            self.held += lines
            return
        for half, left in ((lines[middle:], False), (lines[:middle], True)):
            self._todo.append(_Range(half, refused=failed.refused, failed=True, left=left))

    def _refused(self, current: _Range, error: Refusal) -> None:
        """Put what follows from a refusal on the stack, the left half on top."""
        if isinstance(error, WriteTooLarge):
            if len(current.lines) == 1:
                self._reject(current.lines, Reason.TOO_LARGE, str(error))
            else:
                self._halve(current.lines, refused=current.refused)
            return
        self._last_refusal = str(error)
        lines = current.lines
        if not current.refused:
            lines = self._parseable(lines)
            if lines and len(lines) < len(current.lines):
                self._todo.append(_Range(lines, refused=True))
                return
        if not lines:
            return
        if len(lines) == 1 or error.dropped == len(lines):
            self._reject(lines, Reason.REFUSED, str(error))
            return
        named = _named_by(error, lines)
        if 0 < len(named) < len(lines):
            others = [one for number, one in enumerate(lines) if number not in named]
            self._todo.append(_Range([lines[number] for number in sorted(named)], refused=True))
            self._todo.append(_Range(others, refused=True))
        else:
            self._halve(lines, refused=True)

    def _parseable(self, lines: list[Candidate]) -> list[Candidate]:
        good = []
        for candidate in lines:
            try:
                parse(candidate.line.original)
            except Refused as exc:
                self._reject([candidate], Reason.MALFORMED, describe(exc))
            else:
                good.append(candidate)
        return good

    def _halve(self, lines: list[Candidate], *, refused: bool) -> None:
        middle = len(lines) // 2
        self._todo.append(_Range(lines[middle:], refused=refused))
        self._todo.append(_Range(lines[:middle], refused=refused))

    def _reject(self, lines: Iterable[Candidate], reason: Reason, detail: str) -> None:
        self.rejected += [Rejected(c.placed, c.line, self._view, reason, detail) for c in lines]


def _named_by(error: LinesRefused, lines: list[Candidate]) -> set[int]:
    """Which of the lines the store may mean; empty where it does not say."""
    conflict = error.conflict
    if conflict is not None:
        name = (conflict.measurement.encode(), conflict.field.encode())
        return {
            number
            for number, candidate in enumerate(lines)
            if conflict.kind in _kinds(parse(candidate.line.sent), *name)
        }
    if error.outdated and error.dropped is not None:
        times = [parse(candidate.line.sent).time or 0 for candidate in lines]
        oldest = sorted(range(len(lines)), key=times.__getitem__)
        return set(oldest[: error.dropped])
    return set()


def _kinds(line: Line, measurement: bytes, field: bytes) -> set[str]:
    """The kinds that a field has in a line of a measurement, as stores name them."""
    if line.measurement != measurement:
        return set()
    return {kind_of(token) for name, token in line.fields if name == field}
