"""A batch on its way into every view of the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from consumers.batch import Batch, PlacedBlock
from consumers.deliveries import Deliveries, delivery_lines
from consumers.isolate import Condemned, Isolation, Suspect
from consumers.views import View, describe
from schemas import delivery
from schemas.dead_letter import Reason
from schemas.line_protocol import Refused
from schemas.log import TopicPartition
from schemas.precision import Precision
from schemas.store import LinesRefused, WriteTooLarge

#: (view, class written to, lines, precision) -> stored, or a StoreError
Write = Callable[[str, str, bytes, Precision], None]


class Flush:
    """Writes one batch view after view and remembers how far it came.

    An error that `advance` lets through leaves it where it stands: calling again sends the
    same bytes. What the store will never take is gathered in `condemned`.
    """

    def __init__(self, batch: Batch, views: Sequence[View]) -> None:
        self.batch = batch
        self.condemned: list[Condemned] = []
        self._views = list(views)
        self._isolation: Isolation | None = None
        #: Known once every view is written.
        self._deliveries: Deliveries | None = None

    def target(self) -> str | None:
        """The class that the next write goes to; None once all is stored."""
        while self._views:
            target = self._views[0].target(self.batch.retention_class)
            if target is not None:
                return target
            self._views.pop(0)
        if self._deliveries is None:
            self._deliveries = Deliveries(self._delivery_lines())
        return None if self._deliveries.done else delivery.CLASS

    def advance(self, write: Write) -> None:
        """Store the batch in the views that are left, then its deliveries.

        Raises what write raises.

        Only LinesRefused and WriteTooLarge are dealt with here.
        """
        while (target := self.target()) is not None:
            if not self._views:
                assert self._deliveries is not None
                self._deliveries.write(
                    partial(_send, write, delivery.MEASUREMENT, target, Precision.NS)
                )
                continue
            view = self._views[0]
            precision = view.precision([placed.block for placed in self.batch.blocks])
            if self._isolation is None:
                self._isolation = self._store_whole(view, target, precision, write)
            if self._isolation is not None:
                self._isolation.run(partial(_send, write, view.name, target, precision))
                self.condemned += self._isolation.condemned
                self._isolation = None
            self._views.pop(0)

    def park(self, detail: str) -> None:
        """Condemn the whole batch in the view that stands next, and go on behind it."""
        if not self._views:
            if self._deliveries is not None:
                self._deliveries.give_up()
            return
        view = self._views.pop(0)
        self._isolation = None
        self.condemned += [
            Condemned(placed, None, view.name, Reason.MISCONFIGURED, detail)
            for placed in self.batch.blocks
        ]

    def dead_points(self) -> dict[PlacedBlock, int]:
        """How many points of each block are missing from some view."""
        return {
            placed: placed.block.points if numbers is None else len(numbers)
            for placed, numbers in self._dead_lines().items()
        }

    def _dead_lines(self) -> dict[PlacedBlock, set[int] | None]:
        """Numbers of the lines of each block that are missing from some view; None is all."""
        dead: dict[PlacedBlock, set[int] | None] = {}
        for one in self.condemned:
            numbers = dead.setdefault(one.placed, set())
            if one.line is None:
                dead[one.placed] = None
            elif numbers is not None:
                numbers.add(one.line.number)
        return dead

    def _delivery_lines(self) -> list[bytes]:
        dead = self._dead_lines()
        return [
            line
            for placed in self.batch.blocks
            for line in delivery_lines(placed, dead.get(placed, set()))
        ]

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the blocks of partitions that are ours no more.

        A search under way begins anew with the blocks that stay.
        """
        if self.batch.drop(partitions):
            self._isolation = self._deliveries = None
            self.condemned = [c for c in self.condemned if c.placed.partition not in partitions]

    def _store_whole(
        self, view: View, target: str, precision: Precision, write: Write
    ) -> Isolation | None:
        """Write everything at once; the search for the culprit if that was refused."""
        retention_class = self.batch.retention_class
        error: LinesRefused | WriteTooLarge
        try:
            parts = [
                view.render(placed.block, retention_class, precision)
                for placed in self.batch.blocks
            ]
            lines = b"\n".join(part for part in parts if part)
            if lines:
                write(view.name, target, lines, precision)
        except Refused as exc:
            error = LinesRefused(describe(exc), stored_others=False)
        except (LinesRefused, WriteTooLarge) as exc:
            error = exc
        else:
            return None
        suspects = [
            Suspect(placed, line)
            for placed in self.batch.blocks
            for line in view.lines(placed.block, retention_class, precision)
        ]
        return Isolation(view.name, suspects, error)


def _send(write: Write, view: str, target: str, precision: Precision, lines: bytes) -> None:
    write(view, target, lines, precision)
