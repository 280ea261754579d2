"""A numbered request: which lines of the spool it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Body:
    """Lines of one class between two offsets of a segment: `first` to `last` (not included).

    of: how many of the class lie there; a body that was split has some of them.
    """

    sequence: int
    class_name: str
    segment: int
    start: int
    end: int
    first: int
    last: int
    of: int

    @property
    def lines(self) -> int:
        """How many lines it holds."""
        return self.last - self.first

    def halves(self, at: int, rest: int) -> list[Body]:
        """The first lines under its own number, and those from `at` on under the number `rest`."""
        middle = self.first + at
        return [replace(self, last=middle), replace(self, sequence=rest, first=middle)]

    def choose(self, found: list[bytes]) -> list[bytes]:
        """Its own of the lines that lie there by now; of damaged halves none can be told."""
        if len(found) == self.of:
            return found[self.first : self.last]
        return found if self.lines == self.of else []

    def with_only(self, left: int) -> Body:
        """What it is once some of its lines are damaged, and only these are left."""
        return replace(self, first=0, last=left, of=left)
