"""What passes between a batch, which knows what to write next, and the loop that writes it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from schemas.line_protocol.precision import Precision
from schemas.store.protocols import (
    LinesRefused,
    StoreMisconfigured,
    StoreUnavailable,
    WriteTooLarge,
)

#: The store answered, and did not take all of the lines.
Refusal = LinesRefused | WriteTooLarge

#: What came of an attempt; None if the lines are stored.
Outcome = Refusal | StoreUnavailable | StoreMisconfigured | None


class Attempt(NamedTuple):
    """One write to try.

    view: what the metrics call these lines. target: the class they go to. whole: these are all
    lines of the batch in this view. canary: this is a line known to be good instead, which
    tells whether the store is well.
    """

    view: str
    target: str
    lines: bytes
    precision: Precision
    whole: bool = False
    canary: bool = False


class NotBefore(NamedTuple):
    """Nothing may be tried before `at`, in seconds on the clock of the loop."""

    at: float


class Search(Protocol):
    """Stores lines of which some can't be stored, and finds those. It does no I/O.

    Times are seconds on the clock of the loop.
    """

    def next(self, now: float, /) -> bytes | NotBefore | None:
        """The lines to try next, joined by newline; None once each line is decided.

        Without an answer in between it returns the same again.
        """
        ...

    def answered(self, error: Refusal | None) -> None:
        """The lines of `next` are stored, or refused."""
        ...

    def mark_failed(self, detail: str, now: float, /) -> None:
        """The store failed on the lines of `next` and is well: the lines made it fail."""
        ...
