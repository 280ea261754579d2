"""What the store refuses of points that are written again, and what of it was known before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TextIO

from admin.dlq.letters import FoundLetter, Unreadable, to_row
from consumers.errors import ConsumerStopped
from consumers.records.selection import Place
from schemas.line_protocol.codec import split
from schemas.log.dead_letter import DeadLetter, Reason

#: Refused lines that are compared with the dead letters; more of them count as new.
_MAX_COMPARED = 100_000

#: Reason, view, namespace, and the store's words for the first of them.
Group = tuple[str, str, str]


class BucketRefused(ConsumerStopped):
    """Our token, organisation or bucket is wrong: so would be every write that follows."""


class Refusals:
    """consumers.dead_letters.LetterKeeper of a backfill: refused lines are counted, not kept.

    What is refused now was mostly refused when it came, and stands in the dead letters: once
    more, each of them would be replayed twice. And a dead letter tells a receipt that a request
    is not stored, which may be long answered otherwise. So the log gets nothing; `file` gets
    the lines, as rows that `dlq replay --from` takes.

    Raises BucketRefused instead of parking the blocks of a namespace: whoever started this can
    mend it, and go on.
    """

    def __init__(
        self, file: TextIO | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._file = file
        self._now = now
        self.lines: Counter[Group] = Counter()
        #: The store's words for the first of each.
        self.details: dict[Group, str] = {}
        self._unknown: set[tuple[Place, str, int]] = set()
        self._uncompared = 0

    def write(self, letters: Iterable[DeadLetter]) -> None:
        """Count them, and write them to the file if there is one. Raises OSError."""
        for letter in letters:
            if letter.reason is Reason.MISCONFIGURED:
                raise BucketRefused(
                    f"InfluxDB refuses us a bucket of namespace {letter.namespace}: "
                    f"{letter.detail}; run provision, look at the token, or choose others with "
                    "--namespace"
                )
            group = (letter.reason.value, letter.view, letter.namespace)
            lines = list(_lines(letter))
            self.lines[group] += len(lines)
            self.details.setdefault(group, letter.detail)
            if len(self._unknown) < _MAX_COMPARED:
                self._unknown.update(_keys(letter, lines))
            else:
                self._uncompared += len(lines)
            if self._file is not None:
                self._file.write(to_row(FoundLetter("", self._now(), letter)) + "\n")
                self._file.flush()

    @property
    def total(self) -> int:
        """Lines that were refused, once for each view that refused them."""
        return self.lines.total()

    def new(self, letters: Iterable[FoundLetter | Unreadable]) -> int:
        """How many of them stand in none of these dead letters, or were too many to compare."""
        for one in letters if self._unknown else ():
            if isinstance(one, FoundLetter):
                self._unknown.difference_update(_keys(one.letter, _lines(one.letter)))
        return len(self._unknown) + self._uncompared


def place_of(letter: DeadLetter) -> Place:
    """Where the lines of a letter lie in the log."""
    return letter.topic, letter.partition, letter.offset


def _keys(letter: DeadLetter, lines: Iterable[bytes]) -> Iterable[tuple[Place, str, int]]:
    return ((place_of(letter), letter.view, hash(line)) for line in lines)


def _lines(letter: DeadLetter) -> Iterable[bytes]:
    return (line for _number, line in split(letter.lines))
