"""Quarantine: lines on which the store seems to fail are tried alone, three times each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from consumers.writing.attempt import NotBefore, Refusal
from consumers.writing.isolate import TRIES, Candidate, Rejected
from schemas.log.dead_letter import Reason
from schemas.store.protocols import WriteTooLarge


@dataclass(slots=True, eq=False)
class _Quarantined:
    candidate: Candidate
    due_at: float = float("-inf")
    failures: int = 0


class Quarantine:
    """A Search that tries each line alone: one that comes through is stored.

    One that fails TRIES times, apart_s seconds or more between two of them, is rejected as
    poison; others are tried meanwhile. A canary must pass before `next`, and another one
    before `mark_failed`, so that no line is rejected for a store that was away.
    """

    def __init__(self, view: str, candidates: Iterable[Candidate], *, apart_s: float) -> None:
        self.rejected: list[Rejected] = []
        self.held: list[Candidate] = []  # what is in quarantine is not held for another one
        self.failures = 0
        self._view = view
        self._apart_s = apart_s
        # The one that is due first stands first.
        self._queue: deque[_Quarantined] = deque()
        for candidate in candidates:
            if candidate.line.refused is None:
                self._queue.append(_Quarantined(candidate))
            else:
                self._reject(candidate, Reason.MALFORMED, candidate.line.refused)

    def next(self, now: float) -> bytes | NotBefore | None:
        """The line to try next, or when it may be tried; None once each line is decided."""
        if not self._queue:
            return None
        first = self._queue[0]
        return first.candidate.line.sent if first.due_at <= now else NotBefore(first.due_at)

    def answered(self, error: Refusal | None) -> None:
        """The line is stored, or refused."""
        candidate = self._queue.popleft().candidate
        if error is not None:
            reason = Reason.TOO_LARGE if isinstance(error, WriteTooLarge) else Reason.REFUSED
            self._reject(candidate, reason, str(error))

    def mark_failed(self, detail: str, now: float) -> None:
        """The store failed on the line and is well."""
        failed = self._queue.popleft()
        self.failures += 1
        failed.failures += 1
        if failed.failures == TRIES:
            said = f"alone and {TRIES} times it made a write fail between canaries that passed"
            self._reject(failed.candidate, Reason.POISON, f"{said}; last: {detail}")
        else:
            failed.due_at = now + self._apart_s
            self._queue.append(failed)

    def _reject(self, candidate: Candidate, reason: Reason, detail: str) -> None:
        self.rejected.append(Rejected(candidate.placed, candidate.line, self._view, reason, detail))
