"""What the entries of a journal amount to: the numbers given, and what became of their lines."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass
from typing import Any

from stepclock.journal.body import Body


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


class Tally:
    """Follows entries one by one; touches no file.

    pending: bodies that are not answered for, all of one cut. unsettled: by number, receipt and
    lines of what is acknowledged and not yet known to be stored. segment, offset: where the lines
    begin that have no number. next_line: which of the stream's that is; None if that is not known.
    trusted: whether numbers are known to mean what they meant when they were first sent.
    """

    def __init__(self) -> None:
        self.totals = Totals()
        self.pending: list[Body] = []
        self.unsettled: dict[int, tuple[str, int]] = {}
        self.segment = 0
        self.offset = 0
        self.next_sequence = 0
        self.next_line: int | None = 0
        self.trusted = True
        self._last_cut = 0, 0

    def follow(self, entry: dict[str, Any]) -> None:
        """Take an entry as so.

        Raises ValueError, KeyError, TypeError, StopIteration for one that does not follow from
        those before.
        """
        if "cut" in entry:
            self._cut(entry)
        elif "ack" in entry:
            body = self.pending.pop(self._index(entry["ack"]))
            taken = body.lines - entry["refused"]
            self.totals.acknowledged += taken
            self.totals.refused += entry["refused"]
            if taken and entry["receipt"]:
                self.unsettled[body.sequence] = entry["receipt"], taken
        elif "lost" in entry:
            self._lose(entry["lost"], entry["left"])
        elif "split" in entry:
            index = self._index(entry["split"])
            rest = entry["rest"]
            self.pending[index : index + 1] = self.pending[index].halves(entry["at"], rest)
            self.next_sequence = max(self.next_sequence, rest + 1)
        elif "settled" in entry:
            for sequence in entry["settled"]:
                self.totals.stored += self.unsettled.pop(sequence, ("", 0))[1]
            self.totals.stored -= entry["dead"]
            self.totals.dead += entry["dead"]
        elif "forgotten" in entry:
            for sequence in entry["forgotten"]:
                self.unsettled.pop(sequence, None)
        elif "state" in entry:
            self._begin_with(entry)

    def as_entry(self) -> dict[str, Any]:
        """One entry that says all of it."""
        return {
            "state": [self.segment, self.offset, self.next_sequence],
            "next": self.next_line,
            "trusted": self.trusted,
            "totals": asdict(self.totals),
            "unsettled": [[number, *told] for number, told in self.unsettled.items()],
            "pending": [astuple(body) for body in self.pending],
        }

    def distrust(self) -> None:
        """Go back to the last lines that were numbered: all before were answered for."""
        totals = self.totals
        totals.cut = totals.acknowledged + totals.refused + totals.lost
        self.pending = []
        self.segment, self.offset = self._last_cut
        self.next_line = None
        self.trusted = False

    def _cut(self, entry: dict[str, Any]) -> None:
        segment, start, end = entry["cut"]
        self.segment, self.offset = segment, end
        self._last_cut = segment, start
        self.next_line = entry["next"]
        self.totals.lost += entry["lost"]
        self.totals.cut += entry["lost"]
        for name, (sequence, lines) in entry["bodies"].items():
            self.pending.append(Body(sequence, name, segment, start, end, 0, lines, lines))
            self.totals.cut += lines
            self.next_sequence = max(self.next_sequence, sequence + 1)

    def _lose(self, sequence: int, left: int) -> None:
        index = self._index(sequence)
        body = self.pending[index]
        self.totals.lost += body.lines - left
        self.pending[index : index + 1] = [body.with_only(left)] if left else []

    def _begin_with(self, entry: dict[str, Any]) -> None:
        self.segment, self.offset, self.next_sequence = entry["state"]
        self.next_line, self.trusted = entry["next"], entry["trusted"]
        self.totals = Totals(**entry["totals"])
        self.unsettled = {number: (told, lines) for number, told, lines in entry["unsettled"]}
        self.pending = [Body(*each) for each in entry["pending"]]
        self._last_cut = self.segment, self.offset
        for body in self.pending:
            self._last_cut = body.segment, body.start

    def _index(self, sequence: int) -> int:
        return next(i for i, body in enumerate(self.pending) if body.sequence == sequence)
