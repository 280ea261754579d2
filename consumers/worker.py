"""The worker: records from the log into the views of the store, settled, then committed."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from consumers.batches.batch_size import BatchSize
from consumers.batches.offsets import OffsetTracker
from consumers.batches.pauses import Pauses
from consumers.dead_letters import LetterKeeper, letters_of
from consumers.errors import end_of_loss
from consumers.observe import CanaryWatch, LagGauge
from consumers.records.intake import Intake, take_in
from consumers.settings import WorkerSettings
from consumers.views import View
from consumers.writing.destinations import Destination, Destinations
from consumers.writing.outcomes import count_refused, count_settled
from consumers.writing.write_loop import WriteLoop
from schemas.log.protocols import (
    LogUnavailable,
    OffsetsLost,
    Record,
    Source,
    TopicPartition,
    class_of,
)
from schemas.store.protocols import LineWriter
from telemetry.metrics import REBALANCES

_log = logging.getLogger("stepclock.consumer")

#: Longest wait for records; bounds how late a stop or a due batch is noticed.
_POLL_S = 0.25

#: Writing goes on at most this long before what is settled is committed.
_WRITE_S = 1.0


class Worker:
    """One loop over one source, one writer and one publisher of dead letters; one thread.

    Any error that is not part of the contract of those passes through `run`: the process
    ends, and the next one goes on from what was committed.

    It listens to its source's rebalances: on_assigned, on_revoked and on_lost are called from
    within the poll of step 1.

    views: in the order in which they are written. read: what a record holds; by default all that
    `take_in` finds for these views. on_stored(received_ns, points) is called
    for each block once every view has it.
    """

    def __init__(
        self,
        source: Source,
        writer: LineWriter,
        dead_letters: LetterKeeper,
        *,
        topics: Collection[str],
        views: Sequence[View],
        settings: WorkerSettings,
        read: Callable[[Record], Intake] | None = None,
        now: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
        rng: random.Random | None = None,
        on_stored: Callable[[int, int], None] | None = None,
    ) -> None:
        self._source = source
        self._dead_letters = dead_letters
        self._topics = list(topics)
        self._views = list(views)
        self._read = read or partial(take_in, view_names={view.name for view in self._views})
        self._settings = settings
        self._now = now
        self._now_ns = now_ns
        self._on_stored = on_stored
        rng = rng or random.Random()  # noqa: S311  # spreads retries, guards no secret
        batch_size = BatchSize(
            settings.batch_points, settings.batch_points_max, target_s=settings.write_target_s
        )
        self._destinations = Destinations(settings, batch_size, now, rng)
        self._write_loop = WriteLoop(
            writer, batch_size, park_after_s=settings.park_after_s, now=now, now_ns=now_ns
        )
        self._tracker = OffsetTracker()
        self._canary = CanaryWatch()
        self._lag = LagGauge(source, now, now_ns)
        self._pauses = Pauses(source, max_bytes=settings.max_buffered_bytes)
        self._assigned: set[TopicPartition] = set()
        self._drain_until: float | None = None
        self._failure: BaseException | None = None
        self._turned_at = now()
        #: The log has been polled at least once.
        self.started = False

    @property
    def progress_at(self) -> float:
        """When a turn or a write last ended, on the worker's clock. Any thread."""
        return max(self._turned_at, self._write_loop.answered_at)

    @property
    def store_error(self) -> str | None:
        """What the store's last answer said; None while it takes writes. Any thread."""
        return self._write_loop.error

    @property
    def log_error(self) -> str | None:
        """Why the log could not be asked for its end; None while it answers. Any thread."""
        return self._lag.error

    @property
    def canary(self) -> str:
        """Age and latency of the newest canary that was stored. Any thread."""
        return self._canary.described(self._now_ns())

    @property
    def draining(self) -> bool:
        """No more records are fetched. Any thread."""
        return self._drain_until is not None

    def run(self, stop: threading.Event) -> None:
        """Work until stop is set, then drain. Leaves the group in any case.

        Raises RecordsLost, or LossAccepted once an accepted loss is committed away.
        """
        try:
            self._source.subscribe(self._topics, self)
            while not stop.is_set():
                self.turn()
            self.drain()
        except OffsetsLost as exc:
            self._failure = exc
            raise end_of_loss(exc, self._source, accept=self._settings.accept_loss) from exc
        except BaseException as exc:
            self._failure = exc
            raise
        finally:
            self._pauses.close()
            self._source.close()

    def turn(self) -> None:
        """One turn of the loop. This order is the promise that nothing acknowledged is lost.

        1. Poll the log; partitions that are revoked meanwhile go through 3 to 6 first.
        2. Add each record to what waits for its destination; batches are cut from that.
        3. Write each due batch into its views: wall, then steps; then its delivery lines.
        4. Dead-letter what a view refused, and wait until the log has that.
        5. Settle the batch's records.
        6. Commit each partition's low-water mark.
        7. Pause what rests or is too much, resume the rest.
        """
        for record in self._poll():
            self._add(record)
        write_until = min(self._now() + _WRITE_S, self._drain_until or float("inf"))
        while (destination := self._destinations.due(self._now())) is not None:
            self._write(destination, write_until)
            if self._now() >= write_until:
                break
        self._commit()
        self._pause()
        self._lag.update(self._assigned, self._tracker.marks(), self._tracker.written_ms())
        self._turned_at = self._now()

    def drain(self) -> None:
        """Fetch nothing more; write and commit what is there until the drain deadline."""
        self._drain_until = self._now() + self._settings.drain_s
        self._pause()
        while len(self._destinations) and self._now() < self._drain_until:
            self._destinations.make_due()
            if self._destinations.next_due_at() >= self._drain_until:
                break  # all of it rests for longer than we may stay
            self.turn()
        left = self._tracker.unsettled()
        if left:
            _log.warning("stopped with %d records unsettled; they will be read again", left)

    def _poll(self) -> list[Record]:
        wait_s = min(_POLL_S, self._destinations.next_due_at() - self._now())
        records = self._source.poll(max(0.0, wait_s))
        if self._failure is not None:
            # A log's client may swallow what a listener raises.
            raise self._failure
        self.started = True
        return records

    def _add(self, record: Record) -> None:
        partition = record.topic_partition
        if partition not in self._assigned:
            return
        self._tracker.track(partition, record.offset, record.timestamp_ms)
        intake = self._read(record)
        if intake.refused:
            self._dead_letters.write(intake.refused)
            count_refused(intake.refused)
        if intake.placed is None:
            self._tracker.settle(partition, record.offset)
        else:
            self._destinations.add(intake.placed, class_of(record.topic), self._now())

    def _write(self, destination: Destination, until: float) -> None:
        """Store, dead-letter, settle: in this order, for one batch."""
        batch_writer = self._destinations.begin(destination, self._views)
        if not self._write_loop.run(destination, batch_writer, until):
            return
        self._destinations.set_aside(destination, batch_writer)
        self._dead_letters.write(letters_of(batch_writer.rejected))
        for placed in batch_writer.batch.blocks:
            self._tracker.settle(placed.partition, placed.offset)
        count_settled(batch_writer, self._now_ns(), self._on_stored, self._canary)
        destination.finish()
        self._destinations.forget_empty()

    def _commit(self) -> None:
        offsets = self._tracker.committable()
        if not offsets:
            return
        try:
            self._source.commit(offsets)
        except LogUnavailable as exc:
            _log.warning("commit not taken, repeating it with the next one: %s", exc)
        else:
            self._tracker.committed(offsets)

    def _pause(self) -> None:
        self._pauses.update(
            self._assigned,
            self._destinations.resting(),
            self._destinations.size_bytes,
            all_of_them=self.draining,
        )

    def on_assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Begin with nothing: these come from their committed offsets."""
        REBALANCES.labels("assigned").inc()
        self._forget(partitions)
        self._assigned |= set(partitions)

    def on_revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Write and commit what is polled of these until the drain deadline; forget the rest."""
        REBALANCES.labels("revoked").inc()
        try:
            if self._failure is None:
                self._write_partitions(set(partitions))
                self._commit()
        except BaseException as exc:
            self._failure = exc
            raise
        finally:
            self._forget(partitions)

    def on_lost(self, partitions: Collection[TopicPartition]) -> None:
        """Forget these at once: someone else may be writing them already."""
        REBALANCES.labels("lost").inc()
        self._forget(partitions)

    def _write_partitions(self, partitions: set[TopicPartition]) -> None:
        deadline = min(self._now() + self._settings.drain_s, self._drain_until or float("inf"))
        commit_at = self._now() + _WRITE_S
        for destination in self._destinations:
            while (
                self._now() < deadline
                and not destination.backoff.resting
                and partitions & destination.partitions()
            ):
                if self._now() >= commit_at:
                    self._commit()
                    commit_at = self._now() + _WRITE_S
                self._write(destination, deadline)

    def _forget(self, partitions: Collection[TopicPartition]) -> None:
        gone = set(partitions)
        self._tracker.drop(gone)
        self._destinations.drop(gone)
        self._assigned -= gone
        self._pauses.forget(gone)
        self._lag.forget(gone)
