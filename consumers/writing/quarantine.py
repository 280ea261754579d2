"""The trial of single lines that seem to bring the store down: three tries before a verdict."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consumers.writing.isolate import TRIES, Candidate, Rejected
from schemas.log.dead_letter import Reason
from schemas.store.protocols import LinesRefused, WriteTooLarge


class NotYet(Exception):
    """The next try may not start before due_at, on the worker's clock."""

    def __init__(self, due_at: float) -> None:
        super().__init__(f"not before {due_at}")
        self.due_at = due_at


@dataclass(slots=True, eq=False)
class _Accused:
    suspect: Candidate
    due_at: float = float("-inf")
    failures: int = 0


class Quarantine:
    """Writes each line alone: one that comes through is stored.

    One that fails TRIES times, apart_s seconds or more between two of them, is rejected as
    poison; others are tried meanwhile. The caller has a canary pass before `run`, and another
    one before `mark_failed`, so that no line is rejected for a store that was away.
    """

    def __init__(
        self, view: str, suspects: Iterable[Candidate], *, now: Callable[[], float], apart_s: float
    ) -> None:
        self.rejected: list[Rejected] = []
        self.held: list[Candidate] = []  # whoever stands trial is not held for another one
        self.failures = 0
        self._view = view
        self._now = now
        self._apart_s = apart_s
        # Who is due first stands first.
        self._accused: deque[_Accused] = deque()
        for suspect in suspects:
            if suspect.line.refused is None:
                self._accused.append(_Accused(suspect))
            else:
                self._reject(suspect, Reason.MALFORMED, suspect.line.refused)

    def run(self, write: Callable[[bytes], None]) -> None:
        """Go on until every line is stored or rejected. Raises NotYet, and what write raises."""
        while self._accused:
            accused = self._accused[0]
            if accused.due_at > self._now():
                raise NotYet(accused.due_at)
            try:
                write(accused.suspect.line.sent)
            except LinesRefused as exc:
                self._reject(accused.suspect, Reason.REFUSED, str(exc))
            except WriteTooLarge as exc:
                self._reject(accused.suspect, Reason.TOO_LARGE, str(exc))
            self._accused.popleft()

    def mark_failed(self, detail: str) -> None:
        """The last write failed, and the store is well."""
        accused = self._accused.popleft()
        self.failures += 1
        accused.failures += 1
        if accused.failures == TRIES:
            said = f"alone and {TRIES} times it made a write fail between canaries that passed"
            self._reject(accused.suspect, Reason.POISON, f"{said}; last: {detail}")
        else:
            accused.due_at = self._now() + self._apart_s
            self._accused.append(accused)

    def _reject(self, suspect: Candidate, reason: Reason, detail: str) -> None:
        self.rejected.append(Rejected(suspect.placed, suspect.line, self._view, reason, detail))
