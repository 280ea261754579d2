"""Isolation: finding the lines that the store refuses, with a bounded number of writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consumers.batch import PlacedBlock
from consumers.views import ViewLine, describe
from schemas.dead_letter import Reason
from schemas.line_protocol import Refused, parse
from schemas.store import LinesRefused, WriteTooLarge

#: Probe writes for one batch in one view. One bad line among 5,000 needs at most 25.
MAX_PROBES = 64


@dataclass(frozen=True, slots=True)
class Suspect:
    """A line as a view sends it, and the block it came from."""

    placed: PlacedBlock
    line: ViewLine


@dataclass(frozen=True, slots=True)
class Condemned:
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
    lines: list[Suspect]
    #: The store has refused a write that held these lines, and the exact parser takes them.
    suspect: bool


class Isolation:
    """Stores the good lines of a refused batch and condemns the others.

    First the exact parser reads the lines, which costs no write. Then the rest is halved,
    left before right so that order is kept, until a refused line is alone. An answer that
    says that all lines sent were dropped ends a search early. When the probes are spent,
    what is undecided is condemned as unresolved. A write that is too large is halved
    without using up probes, since each half stores something or gets smaller.
    """

    def __init__(
        self,
        view: str,
        lines: Iterable[Suspect],
        error: LinesRefused | WriteTooLarge,
        *,
        max_probes: int = MAX_PROBES,
    ) -> None:
        self.condemned: list[Condemned] = []
        self._view = view
        self._probes_left = max_probes
        self._last_refusal = str(error)
        self._todo: list[_Range] = []
        sendable = []
        for suspect in lines:
            if suspect.line.refused is None:
                sendable.append(suspect)
            else:
                self._condemn([suspect], Reason.MALFORMED, suspect.line.refused)
        if sendable and self.condemned:
            # What was refused, if anything was sent at all, is not what is left now.
            self._todo.append(_Range(sendable, suspect=False))
        elif sendable:
            self._answered(_Range(sendable, suspect=False), error)

    def run(self, write: Callable[[bytes], None]) -> None:
        """Go on until every line is stored or condemned.

        What write raises, other than LinesRefused and WriteTooLarge, passes through; the
        next call goes on with the same bytes.
        """
        while self._todo:
            current = self._todo[-1]
            if current.suspect and self._probes_left == 0:
                self._todo.pop()
                detail = f"not decided within the probe writes; last: {self._last_refusal}"
                self._condemn(current.lines, Reason.UNRESOLVED, detail)
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

    def _answered(self, refused: _Range, error: LinesRefused | WriteTooLarge) -> None:
        """Put what follows from a refusal on the stack, the left half on top."""
        if isinstance(error, WriteTooLarge):
            if len(refused.lines) == 1:
                self._condemn(refused.lines, Reason.TOO_LARGE, str(error))
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
            self._condemn(lines, Reason.REFUSED, str(error))
        else:
            self._halve(lines, suspect=True)

    def _parseable(self, lines: list[Suspect]) -> list[Suspect]:
        good = []
        for suspect in lines:
            try:
                parse(suspect.line.original)
            except Refused as exc:
                self._condemn([suspect], Reason.MALFORMED, describe(exc))
            else:
                good.append(suspect)
        return good

    def _halve(self, lines: list[Suspect], *, suspect: bool) -> None:
        middle = len(lines) // 2
        self._todo.append(_Range(lines[middle:], suspect=suspect))
        self._todo.append(_Range(lines[:middle], suspect=suspect))

    def _condemn(self, lines: Iterable[Suspect], reason: Reason, detail: str) -> None:
        self.condemned += [Condemned(s.placed, s.line, self._view, reason, detail) for s in lines]
