"""One batch on its way into every view of the store: what to write next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from consumers.batches.batch import Batch, PlacedBlock
from consumers.views import View, ViewLine, describe
from consumers.writing.attempt import Attempt, NotBefore, Outcome, Search
from consumers.writing.deliveries import Deliveries, delivery_lines
from consumers.writing.isolate import Candidate, Isolation, Rejected
from consumers.writing.quarantine import Quarantine
from schemas.canary import worker_line
from schemas.line_protocol.codec import Refused
from schemas.line_protocol.precision import Precision
from schemas.log.dead_letter import Reason
from schemas.log.protocols import TopicPartition
from schemas.store import delivery
from schemas.store.protocols import LinesRefused, StoreMisconfigured, StoreUnavailable

#: A line by the block that holds it and its number there.
_Place = tuple[PlacedBlock, int]

#: Lines that were not stored for these reasons are not sent for another view either, once the
#: store has failed on their batch.
_HARMFUL = frozenset({Reason.MALFORMED, Reason.UNRESOLVED, Reason.POISON})


class BatchWriter:
    """Tracks one batch through its views, then its delivery lines. It does no I/O.

    `next` returns the write to try, and `answered` takes its outcome. While the store is
    unavailable or misconfigured, `next` returns the same bytes again. `rejected` collects what
    the store will never take.

    last_failure: why the last write failed, if the lines may be the cause. Then a canary is
    tried first; if it passes, a search narrows the lines down. Lines that may still be the
    cause are held back from every view, and `set_aside` moves their blocks into a BatchWriter
    of their own, which tries each of them alone while everything else goes on. quarantined:
    these lines, by block and number; the other lines of the batch are stored. apart_s: seconds
    between two tries of such a line.
    """

    def __init__(
        self,
        batch: Batch,
        views: Sequence[View],
        *,
        apart_s: float,
        quarantined: Collection[_Place] | None = None,
        rejected: Sequence[Rejected] = (),
    ) -> None:
        self.batch = batch
        self.rejected = list(rejected)
        self.last_failure: str | None = None
        #: Seconds of the slowest write that stored all of the batch in a view.
        self.slowest_s: float | None = None
        self._views = list(views)
        self._all_views = tuple(views)
        self._apart_s = apart_s
        self._quarantined = quarantined
        self._canary_due = quarantined is not None
        #: Of the current view; None while its lines are tried all at once.
        self._search: Isolation | Quarantine | None = None
        self._held: set[_Place] = set()
        self._harmful: dict[_Place, tuple[Reason, str]] = {}
        #: Known once every view is written.
        self._deliveries: Deliveries | None = None

    def resume(self) -> None:
        """Go on after a pause: a canary that passed before it counts no more."""
        self._canary_due = self._quarantined is not None or self.last_failure is not None

    def next(self, now: float, now_ns: int) -> Attempt | NotBefore | None:
        """What to write; None once every view has the batch, or has rejected the rest of it.

        now: seconds on the clock of the loop; now_ns: Unix time, for canaries. Without an
        answer in between it returns the same again.
        """
        while self._views:
            view = self._views[0]
            target = view.target(self.batch.retention_class)
            if target is not None:
                if self._canary_due:
                    return _canary(target, now_ns)
                step = self._next_of(view, target, now)
                if step is not None:
                    return step
            self._end_view()
        if self._deliveries is None:
            self._deliveries = Deliveries(self._delivery_lines())
        lines = self._deliveries.next(now)
        if lines is None:
            return None
        if self._canary_due:
            return _canary(delivery.CLASS, now_ns)
        return Attempt(delivery.MEASUREMENT, delivery.CLASS, lines, Precision.NS)

    def answered(self, attempt: Attempt, outcome: Outcome, *, now: float, seconds: float) -> None:
        """Take the outcome of an attempt that `next` returned, and the time it took."""
        search: Search | None = self._search if self._views else self._deliveries
        if isinstance(outcome, StoreMisconfigured):
            return
        if isinstance(outcome, StoreUnavailable):
            if outcome.may_be_the_lines and not attempt.canary:
                self.last_failure, self._canary_due = str(outcome), True
        elif attempt.canary:
            self._canary_due = False
            if self.last_failure is not None:
                self._mark_failed(search, self.last_failure, now)
        elif search is not None:
            search.answered(outcome)
        elif outcome is not None:
            self._search = Isolation(attempt.view, self._candidates(self._views[0]), outcome)
        else:
            self.slowest_s = max(self.slowest_s or 0.0, seconds)
            self._end_view()

    @property
    def may_be_cut(self) -> bool:
        """Points are left, and none seems harmful: to begin anew costs nothing but writes."""
        failed = self._search is not None and self._search.failures
        return bool(self._views) and not (
            self._quarantined or self._held or self._harmful or failed
        )

    def set_aside(self) -> BatchWriter | None:
        """Take out the blocks with lines that are held back, if there are any."""
        if not self._held:
            return None
        blocks = {placed for placed, _number in self._held}
        aside = BatchWriter(
            self.batch.part(blocks),
            self._all_views,
            apart_s=self._apart_s,
            quarantined=self._held,
            rejected=[one for one in self.rejected if one.placed in blocks],
        )
        self.rejected = [one for one in self.rejected if one.placed not in blocks]
        self._held = set()
        return aside

    def park(self, detail: str) -> None:
        """Reject the whole batch in the current view, and go on with the next one."""
        self.last_failure = None
        self.resume()
        if not self._views:
            if self._deliveries is not None:
                self._deliveries.give_up()
            return
        view, self._search = self._views.pop(0), None
        parked: Iterable[tuple[PlacedBlock, ViewLine | None]] = (
            ((placed, None) for placed in self.batch.blocks)
            if self._quarantined is None
            else ((one.placed, one.line) for one in self._lines(view, self._quarantined))
        )
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

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the blocks of partitions that are ours no more.

        A search under way begins anew with the blocks that stay.
        """
        if self.batch.drop(partitions):
            self._search = self._deliveries = self.last_failure = None
            self.rejected = [r for r in self.rejected if r.placed.partition not in partitions]
            self._held = {place for place in self._held if place[0].partition not in partitions}

    def _next_of(self, view: View, target: str, now: float) -> Attempt | NotBefore | None:
        """What to write of a view; None once each of its lines is decided."""
        precision = self._precision(view)
        if self._search is None:
            begun = self._begin(view, precision)
            if isinstance(begun, bytes):
                return Attempt(view.name, target, begun, precision, whole=True) if begun else None
            self._search = begun
        lines = self._search.next(now)
        if lines is None or isinstance(lines, NotBefore):
            return lines
        return Attempt(view.name, target, lines, precision)

    def _begin(self, view: View, precision: Precision) -> bytes | Isolation | Quarantine:
        """All lines at once, or a search where they must not be sent together."""
        if self._quarantined is not None:
            return Quarantine(view.name, self._candidates(view), apart_s=self._apart_s)
        if self._held or self._harmful:
            return Isolation(view.name, self._candidates(view), None)
        retention_class = self.batch.retention_class
        try:
            parts = [
                view.render(placed.block, retention_class, precision)
                for placed in self.batch.blocks
            ]
        except Refused as exc:
            error = LinesRefused(describe(exc), stored_others=False)
            return Isolation(view.name, self._candidates(view), error)
        return b"\n".join(part for part in parts if part)

    def _end_view(self) -> None:
        """Go on with the next view. Later views reject what did harm, or may have, in this one."""
        view, search = self._views.pop(0), self._search
        if search is None:
            return
        self._search = None
        self.rejected += search.rejected
        if self._harmful:
            self.rejected += [
                Rejected(one.placed, one.line, view.name, *self._harmful[_place(one)])
                for one in self._lines(view, self._harmful)
            ]
        self._held |= {_place(one) for one in search.held}
        if search.failures:
            self._harmful |= {
                (one.placed, one.line.number): (one.reason, one.detail)
                for one in search.rejected
                if one.line is not None and one.reason in _HARMFUL
            }

    def _mark_failed(self, search: Search | None, detail: str, now: float) -> None:
        """The store is well: the lines made the last write fail."""
        self.last_failure = None
        if search is not None:
            search.mark_failed(detail, now)
        else:
            view, error = self._views[0], StoreUnavailable(detail)
            self._search = Isolation(view.name, self._candidates(view), error)

    def _candidates(self, view: View) -> list[Candidate]:
        """The lines to store in a view: those in quarantine, or all but those that are held.

        Lines that did harm in an earlier view are never sent.
        """
        return [
            one
            for one in self._lines(view, self._quarantined)
            if _place(one) not in self._harmful and _place(one) not in self._held
        ]

    def _lines(self, view: View, places: Collection[_Place] | None) -> Iterator[Candidate]:
        """The lines that a view shows, all or those that lie in these places."""
        precision = self._precision(view)
        for placed in self.batch.blocks:
            for line in view.lines(placed.block, self.batch.retention_class, precision):
                if places is None or (placed, line.number) in places:
                    yield Candidate(placed, line)

    def _precision(self, view: View) -> Precision:
        return view.precision([placed.block for placed in self.batch.blocks])

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


def _place(candidate: Candidate) -> _Place:
    return candidate.placed, candidate.line.number


def _canary(target: str, now_ns: int) -> Attempt:
    return Attempt("canary", target, worker_line(now_ns), Precision.NS, canary=True)
