"""Where batches wait: one queue a destination, so that one at rest holds up no other."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from consumers.backoff import Backoff
from consumers.batch import Batch, PlacedBlock
from consumers.flush import Flush
from consumers.settings import WorkerSettings
from consumers.views import View
from schemas.log import TopicPartition


class Destination:
    """The batches of one namespace and retention class, oldest first; the last one fills.

    The first one may be under way already: `flush` remembers how far it came. view: the one
    view that is written; None writes every view. aside: for lines on trial, which hold up
    nothing but the commit of what lies behind them.
    """

    def __init__(
        self,
        namespace: str,
        retention_class: str,
        view: str | None,
        backoff: Backoff,
        *,
        now: Callable[[], float],
        apart_s: float,
        aside: bool = False,
    ) -> None:
        self._now = now
        self._apart_s = apart_s
        self.aside = aside
        self.namespace = namespace
        self.retention_class = retention_class
        self.view = view
        self.backoff = backoff
        self.batches: deque[Batch] = deque()
        self.flush: Flush | None = None

    def add(self, placed: PlacedBlock, settings: WorkerSettings, opened_at: float) -> None:
        """Append to the batch that fills, or open the next one."""
        filling = self._filling()
        if filling is None or not filling.takes(
            placed, max_points=settings.batch_points, max_bytes=settings.batch_bytes
        ):
            filling = Batch(self.namespace, self.retention_class, opened_at)
            self.batches.append(filling)
        filling.add(placed)

    def due_at(self, settings: WorkerSettings) -> float:
        """When the first batch should be written, on the worker's clock; it must have one."""
        first = self.batches[0]
        started = self.flush is not None or len(self.batches) > 1
        full = first.full(max_points=settings.batch_points, max_bytes=settings.batch_bytes)
        ripe_at = first.opened_at if started or full else first.opened_at + settings.batch_age_s
        return max(ripe_at, self.backoff.ready_at)

    def begin(self, views: Sequence[View]) -> Flush:
        """The first batch on its way, begun or gone on with."""
        if self.flush is None:
            wanted = [view for view in views if self.view is None or view.name == self.view]
            self.flush = Flush(self.batches[0], wanted, now=self._now, apart_s=self._apart_s)
        return self.flush

    def finish(self) -> None:
        """The first batch is stored or dead-lettered."""
        self.batches.popleft()
        self.flush = None

    def _filling(self) -> Batch | None:
        if not self.batches or (self.flush is not None and len(self.batches) == 1):
            return None
        return self.batches[-1]

    def partitions(self) -> set[TopicPartition]:
        """Where the waiting blocks lie."""
        return {partition for batch in self.batches for partition in batch.partitions()}

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the blocks of these partitions; no write of them starts any more."""
        if self.flush is not None:
            self.flush.drop(partitions)
            if not self.flush.batch.blocks:
                self.flush = None
        for batch in self.batches:
            batch.drop(partitions)
        self.batches = deque(batch for batch in self.batches if batch.blocks)


class Destinations:
    """All destinations that have something waiting, in the order of their last turn.

    What is replayed into one view has a destination of its own, so that lines that are still
    refused hold up no others. So have lines on trial.
    """

    def __init__(
        self, settings: WorkerSettings, now: Callable[[], float], rng: random.Random
    ) -> None:
        self._settings = settings
        self._now = now
        self._rng = rng
        self._destinations: dict[tuple[str, str, str | None, int], Destination] = {}
        self._asides = 0

    def __len__(self) -> int:
        return len(self._destinations)

    def __iter__(self) -> Iterator[Destination]:
        return iter(list(self._destinations.values()))

    @property
    def size_bytes(self) -> int:
        """Bytes polled and not settled."""
        return sum(batch.size_bytes for d in self._destinations.values() for batch in d.batches)

    def add(self, placed: PlacedBlock, retention_class: str, opened_at: float) -> None:
        """Put a block where it belongs."""
        name = (placed.block.namespace, retention_class, placed.block.view)
        destination = self._destinations.get((*name, 0))
        if destination is None:
            destination = self._destinations[*name, 0] = self._opened(*name)
        destination.add(placed, self._settings, opened_at)

    def set_aside(self, destination: Destination, flush: Flush) -> None:
        """Give the lines that a flush leaves suspected a destination of their own."""
        aside = flush.set_aside()
        if aside is None:
            return
        self._asides += 1
        name = (destination.namespace, destination.retention_class, destination.view)
        apart = self._opened(*name, aside=True)
        apart.batches.append(aside.batch)
        apart.flush = aside
        self._destinations[*name, self._asides] = apart

    def _opened(
        self, namespace: str, retention_class: str, view: str | None, *, aside: bool = False
    ) -> Destination:
        base_s, cap_s = self._settings.retry_base_s, self._settings.retry_cap_s
        return Destination(
            namespace,
            retention_class,
            view,
            Backoff(self._now, self._rng, base_s=base_s, cap_s=cap_s),
            now=self._now,
            apart_s=self._settings.poison_apart_s,
            aside=aside,
        )

    def next_due_at(self) -> float:
        """When the earliest batch should be written; infinity if none waits."""
        return min((d.due_at(self._settings) for d in self), default=float("inf"))

    def due(self, now: float) -> Destination | None:
        """A destination whose first batch should be written; they take turns."""
        for key, destination in self._destinations.items():
            if destination.due_at(self._settings) <= now:
                self._destinations[key] = self._destinations.pop(key)
                return destination
        return None

    def ripen(self) -> None:
        """Let no batch wait to fill any more."""
        for destination in self:
            for batch in destination.batches:
                batch.opened_at = float("-inf")

    def resting(self) -> set[TopicPartition]:
        """Partitions with blocks for a destination that rests, trials left out."""
        return {p for d in self if d.backoff.resting and not d.aside for p in d.partitions()}

    def forget_empty(self) -> None:
        """Remove destinations without batches: their number stays that of the busy ones."""
        self._destinations = {k: d for k, d in self._destinations.items() if d.batches}

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget everything that came from these partitions."""
        for destination in self:
            destination.drop(partitions)
        self.forget_empty()
