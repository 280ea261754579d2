"""Where batches wait: one queue a destination, so that one at rest holds up no other."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence

from consumers.batches.backoff import Backoff
from consumers.batches.batch import Batch, PlacedBlock
from consumers.batches.batch_size import BatchSize
from consumers.batches.waiting import Waiting
from consumers.settings import WorkerSettings
from consumers.views import View
from consumers.writing.batch_writer import BatchWriter
from schemas.log.protocols import TopicPartition
from telemetry.metrics import BATCH_POINTS


class Destination:
    """The blocks of one namespace and retention class that wait, and the batch under way.

    under_way: remembers how far that batch came; None if there is none. view: the one view that
    is written; None writes every view. quarantined: a batch whose lines are tried alone; then
    this is `aside`, and holds up nothing but the commit of what lies behind.

    A batch for which the store takes too long is cut anew, with half as many points each time
    until one is stored; each one behind that may hold twice as many again.
    """

    def __init__(
        self,
        namespace: str,
        retention_class: str,
        view: str | None,
        backoff: Backoff,
        *,
        apart_s: float,
        quarantined: BatchWriter | None = None,
    ) -> None:
        self._apart_s = apart_s
        self.aside = quarantined is not None
        self.namespace = namespace
        self.retention_class = retention_class
        self.view = view
        self.backoff = backoff
        self.waiting = Waiting()
        self.under_way = quarantined
        self._most_points = float("inf")

    def __bool__(self) -> bool:
        return self.under_way is not None or bool(self.waiting)

    @property
    def size_bytes(self) -> int:
        """Bytes that are not settled."""
        return self.waiting.size_bytes + (self.under_way.batch.size_bytes if self.under_way else 0)

    def due_at(self, settings: WorkerSettings, max_points: int) -> float:
        """When to write, on the worker's clock; there must be something to write."""
        if self.under_way is not None:
            return self.backoff.ready_at
        full = self.waiting.enough(max_points=max_points, max_bytes=settings.batch_bytes)
        wait_until = self.waiting.since + (0.0 if full else settings.batch_age_s)
        return max(wait_until, self.backoff.ready_at)

    def begin(self, views: Sequence[View], *, max_points: int, max_bytes: int) -> BatchWriter:
        """The batch on its way, cut from what waits or gone on with."""
        if self.under_way is None:
            wanted = [view for view in views if self.view is None or view.name == self.view]
            batch = Batch(self.namespace, self.retention_class)
            max_points = int(min(max_points, self._most_points))
            self.waiting.cut(batch, max_points=max_points, max_bytes=max_bytes)
            BATCH_POINTS.observe(batch.points)
            self.under_way = BatchWriter(batch, wanted, apart_s=self._apart_s)
        return self.under_way

    def cut_anew(self) -> None:
        """Let the batch wait again, the next one be half of it. One block is not parted."""
        if self.under_way is not None:
            self._most_points = max(1, self.under_way.batch.points // 2)
            self.waiting.put_back(self.under_way.batch)
            self.under_way = None

    def finish(self) -> None:
        """The batch is stored or dead-lettered."""
        self.under_way = None
        self._most_points *= 2

    def partitions(self) -> set[TopicPartition]:
        """Where the blocks lie."""
        return self.waiting.partitions() | (
            self.under_way.batch.partitions() if self.under_way else set()
        )

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the blocks of these partitions; no write of them starts any more."""
        if self.under_way is not None:
            self.under_way.drop(partitions)
            if not self.under_way.batch.blocks:
                self.under_way = None
        self.waiting.drop(partitions)


class Destinations:
    """All destinations that have something waiting, in the order of their last turn.

    What is replayed into one view has a destination of its own, so that lines that are still
    refused hold up no others. So have lines in quarantine.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        batch_size: BatchSize,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._settings = settings
        self._batch_size = batch_size
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
        return sum(destination.size_bytes for destination in self._destinations.values())

    def add(self, placed: PlacedBlock, retention_class: str, came_at: float) -> None:
        """Put a block where it belongs."""
        name = (placed.block.namespace, retention_class, placed.block.view)
        destination = self._destinations.get((*name, 0))
        if destination is None:
            destination = self._destinations[*name, 0] = self._opened(*name)
        destination.waiting.add(placed, came_at)

    def begin(self, destination: Destination, views: Sequence[View]) -> BatchWriter:
        """The batch of a destination on its way, as large as batches may be by now."""
        return destination.begin(
            views, max_points=self._batch_size.points, max_bytes=self._settings.batch_bytes
        )

    def set_aside(self, destination: Destination, batch_writer: BatchWriter) -> None:
        """Give the lines that a batch holds back a destination of their own."""
        aside = batch_writer.set_aside()
        if aside is not None:
            self._asides += 1
            name = (destination.namespace, destination.retention_class, destination.view)
            self._destinations[*name, self._asides] = self._opened(*name, aside)

    def _opened(
        self,
        namespace: str,
        retention_class: str,
        view: str | None,
        quarantined: BatchWriter | None = None,
    ) -> Destination:
        base_s, cap_s = self._settings.retry_base_s, self._settings.retry_cap_s
        return Destination(
            namespace,
            retention_class,
            view,
            Backoff(self._now, self._rng, base_s=base_s, cap_s=cap_s),
            apart_s=self._settings.poison_apart_s,
            quarantined=quarantined,
        )

    def next_due_at(self) -> float:
        """When the earliest batch should be written; infinity if none waits."""
        return min((self._due_at(d) for d in self), default=float("inf"))

    def due(self, now: float) -> Destination | None:
        """A destination whose first batch should be written; they take turns."""
        for key, destination in self._destinations.items():
            if self._due_at(destination) <= now:
                self._destinations[key] = self._destinations.pop(key)
                return destination
        return None

    def _due_at(self, destination: Destination) -> float:
        return destination.due_at(self._settings, self._batch_size.points)

    def make_due(self) -> None:
        """Let nothing wait for a batch to fill any more."""
        for destination in self:
            destination.waiting.make_due()

    def resting(self) -> set[TopicPartition]:
        """Partitions with blocks for a destination that rests, quarantine left out."""
        return {p for d in self if d.backoff.resting and not d.aside for p in d.partitions()}

    def forget_empty(self) -> None:
        """Remove destinations without blocks: their number stays that of the busy ones."""
        self._destinations = {k: d for k, d in self._destinations.items() if d}

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget everything that came from these partitions."""
        for destination in self:
            destination.drop(partitions)
        self.forget_empty()
