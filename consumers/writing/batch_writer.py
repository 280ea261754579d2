"""A batch on its way into every view of the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from consumers.batches.batch import Batch, PlacedBlock
from consumers.views import View, ViewLine, describe
from consumers.writing.deliveries import Deliveries, delivery_lines
from consumers.writing.isolate import Candidate, Isolation, Rejected
from consumers.writing.quarantine import Quarantine
from schemas.line_protocol.codec import Refused
from schemas.line_protocol.precision import Precision
from schemas.log.dead_letter import Reason
from schemas.log.protocols import TopicPartition
from schemas.store import delivery
from schemas.store.protocols import LinesRefused, StoreUnavailable, WriteTooLarge

#: A line by the block that holds it and its number there.
_Place = tuple[PlacedBlock, int]

#: (view, class written to, lines, precision) -> stored, or a StoreError
Write = Callable[[str, str, bytes, Precision], None]

#: Lines that were not stored for these reasons are not sent for another view either, once the
#: store has failed on their batch.
_HARMFUL = frozenset({Reason.MALFORMED, Reason.UNRESOLVED, Reason.POISON})


class BatchWriter:
    """Writes one batch view after view and remembers how far it came.

    An error that `advance` lets through leaves it where it stands: calling again sends the
    same bytes. What the store will never take is gathered in `rejected`.

    last_failure: why the last write failed, where the lines may be the cause; `blame` narrows
    them down. Lines that remain suspected are held back from every view; `set_aside` parts them, to
    be tried alone while everything else goes on. alone: lines of the batch, by block and
    number, that stand such a trial; the other ones are stored. apart_s: seconds between tries.
    """

    def __init__(
        self,
        batch: Batch,
        views: Sequence[View],
        *,
        now: Callable[[], float],
        apart_s: float,
        alone: Collection[_Place] | None = None,
    ) -> None:
        self.batch = batch
        self.rejected: list[Rejected] = []
        self.last_failure: str | None = None
        self.alone = alone
        #: Seconds of the slowest write that stored all of the batch in a view.
        self.slowest_s: float | None = None
        self._views = list(views)
        self._all_views = tuple(views)
        self._now = now
        self._apart_s = apart_s
        self._search: Isolation | Quarantine | None = None
        self._held: set[_Place] = set()
        self._verdicts: dict[_Place, tuple[Reason, str]] = {}
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
            if self._search is None:
                self._search = self._begin(view, target, precision, write)
            if self._search is not None:
                self._search.run(partial(_send, write, view.name, target, precision))
                self._take_over(view, self._search)
                self._search = None
            self._views.pop(0)

    @property
    def whole(self) -> bool:
        """What is being written is all of the batch, in one view: no search, no deliveries."""
        return bool(self._views) and self._search is None

    @property
    def may_be_cut(self) -> bool:
        """Points are left, and none is suspected of harm: to begin anew costs writes alone."""
        suspected = self.alone or self._held or self._verdicts
        return bool(self._views) and not (suspected or (self._search and self._search.failures))

    def blame(self) -> None:
        """The store is well, so it is the lines on which the last write failed."""
        detail, self.last_failure = self.last_failure or "", None
        if not self._views:
            assert self._deliveries is not None
            self._deliveries.mark_failed()
            return
        view = self._views[0]
        if self._search is None:
            error = StoreUnavailable(detail)
            self._search = Isolation(view.name, self._suspects(view), error)
        else:
            self._search.mark_failed(detail)

    def set_aside(self) -> BatchWriter | None:
        """Part the blocks with lines that remain suspected; their own way on, if there are any."""
        if not self._held:
            return None
        blocks = {placed for placed, _number in self._held}
        aside = BatchWriter(
            self.batch.part(blocks),
            self._all_views,
            now=self._now,
            apart_s=self._apart_s,
            alone=self._held,
        )
        aside.rejected = [one for one in self.rejected if one.placed in blocks]
        self.rejected = [one for one in self.rejected if one.placed not in blocks]
        self._held = set()
        return aside

    def park(self, detail: str) -> None:
        """Condemn the whole batch in the view that stands next, and go on behind it."""
        if not self._views:
            if self._deliveries is not None:
                self._deliveries.give_up()
            self.last_failure = None
            return
        view = self._views.pop(0)
        self._search = self.last_failure = None
        parked: list[tuple[PlacedBlock, ViewLine | None]]
        if self.alone is None:
            parked = [(placed, None) for placed in self.batch.blocks]
        else:
            parked = [(one.placed, one.line) for one in self._lines(view, self.alone)]
        self.rejected += [
            Rejected(placed, line, view.name, Reason.MISCONFIGURED, detail)
            for placed, line in parked
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
        for one in self.rejected:
            numbers = dead.setdefault(one.placed, set())
            if one.line is None:
                dead[one.placed] = None
            elif numbers is not None:
                numbers.add(one.line.number)
        return dead

    def _delivery_lines(self) -> list[bytes]:
        dead = self._dead_lines()
        undecided = {placed for placed, _number in self._held}
        return [
            line
            for placed in self.batch.blocks
            if placed not in undecided
            for line in delivery_lines(placed, dead.get(placed, set()))
        ]

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the blocks of partitions that are ours no more.

        A search under way begins anew with the blocks that stay.
        """
        if self.batch.drop(partitions):
            self._search = self._deliveries = self.last_failure = None
            self.rejected = [c for c in self.rejected if c.placed.partition not in partitions]
            self._held = {place for place in self._held if place[0].partition not in partitions}

    def _begin(
        self, view: View, target: str, precision: Precision, write: Write
    ) -> Isolation | Quarantine | None:
        """Write everything at once; the way on if that was refused, or is not to be done."""
        if self.alone is not None:
            suspects = self._suspects(view)
            return Quarantine(view.name, suspects, now=self._now, apart_s=self._apart_s)
        if self._held or self._verdicts:
            return Isolation(view.name, self._suspects(view), None)
        return self._store_whole(view, target, precision, write)

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
        return Isolation(view.name, self._suspects(view), error)

    def _suspects(self, view: View) -> list[Candidate]:
        """The lines to store in a view: those on trial, or all but those that are held back.

        Lines that did harm in an earlier view are never sent.
        """
        return [
            one
            for one in self._lines(view, self.alone)
            if (one.placed, one.line.number) not in self._verdicts
            and (one.placed, one.line.number) not in self._held
        ]

    def _lines(self, view: View, places: Collection[_Place] | None) -> Iterator[Candidate]:
        """The lines that a view shows, all or those that lie in these places."""
        precision = view.precision([placed.block for placed in self.batch.blocks])
        for placed in self.batch.blocks:
            for line in view.lines(placed.block, self.batch.retention_class, precision):
                if places is None or (placed, line.number) in places:
                    yield Candidate(placed, line)

    def _take_over(self, view: View, search: Isolation | Quarantine) -> None:
        """What a search came to; what did harm, or may have, falls in later views too."""
        self.rejected += search.rejected
        for harmful in self._lines(view, self._verdicts) if self._verdicts else ():
            verdict = self._verdicts[harmful.placed, harmful.line.number]
            self.rejected.append(Rejected(harmful.placed, harmful.line, view.name, *verdict))
        self._held |= {(held.placed, held.line.number) for held in search.held}
        if search.failures:
            for one in search.rejected:
                if one.line is not None and one.reason in _HARMFUL:
                    self._verdicts[one.placed, one.line.number] = (one.reason, one.detail)


def _send(write: Write, view: str, target: str, precision: Precision, lines: bytes) -> None:
    write(view, target, lines, precision)
