"""The loop that writes a batch, and the one table from the store's answers to reactions.

stored              go on
StoreUnavailable    outcome unknown: rest, then the same bytes again; but if the lines may be
                    the cause and a canary passes: narrow them down;
                    and if it took too long: half of them, then the others
WriteTooLarge       halve                  } in the batch's BatchWriter
LinesRefused        find the bad line      }
StoreMisconfigured  rest; after a minute dead-letter the batch in this view and go on
anything else       the worker ends
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from functools import cache

from consumers.batches.batch import Batch
from consumers.batches.batch_size import BatchSize
from consumers.writing.attempt import Attempt, NotBefore, Outcome
from consumers.writing.batch_writer import BatchWriter
from consumers.writing.bucket_errors import BucketErrors
from consumers.writing.destinations import Destination
from schemas.store.protocols import (
    LinesRefused,
    LineWriter,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    WriteTooLarge,
)
from telemetry.metrics import BATCH_SIZE, SUSPECTED_WRITES, WRITE_SECONDS, WRITES

_log = logging.getLogger("stepclock.consumer")

# Looking up a metric by its labels costs more than counting; there are few of them.
_writes, _write_seconds = cache(WRITES.labels), cache(WRITE_SECONDS.labels)

#: What the metrics call each answer.
_OUTCOMES = {
    StoreUnavailable: "unavailable",
    LinesRefused: "refused",
    WriteTooLarge: "too_large",
    StoreMisconfigured: "misconfigured",
}


class WriteLoop:
    """Asks a BatchWriter what to write, writes it, and gives the outcome back.

    It owns time, rests, the parking of buckets that refuse us, and the metrics of writes.
    batch_size learns from every answer to a whole batch.
    """

    def __init__(
        self,
        writer: LineWriter,
        batch_size: BatchSize,
        *,
        park_after_s: float,
        now: Callable[[], float],
        now_ns: Callable[[], int],
    ) -> None:
        self._writer = writer
        self._batch_size = batch_size
        self._bucket_errors = BucketErrors(now, park_after_s=park_after_s)
        self._now = now
        self._now_ns = now_ns
        #: What the store's last answer said; None while it takes writes.
        self.error: str | None = None
        #: When the last write ended, whatever came of it.
        self.answered_at = now()

    def run(self, destination: Destination, batch_writer: BatchWriter, until: float) -> bool:
        """Go on with a batch; True once every view has it or has rejected the rest of it.

        False if the destination rests now, or if `until` passed between two writes: call
        again with the same batch when it is due.
        """
        batch_writer.resume()
        first = True  # the first write always starts, so every call makes progress
        while (attempt := batch_writer.next(self._now(), self._now_ns())) is not None:
            if isinstance(attempt, NotBefore):
                destination.backoff.rest_until(attempt.at)
                return False
            began = self._now()
            if not attempt.canary:
                if began >= until and not first:
                    return False
                first = False
            outcome = self._write(destination.namespace, attempt, began)
            if attempt.whole and outcome is not None:
                self._shrink(batch_writer.batch, outcome)
            if attempt.canary and outcome is None and batch_writer.last_failure is not None:
                self._tell_of_search(destination, batch_writer, attempt.target)
            ended = self.answered_at
            batch_writer.answered(attempt, outcome, now=ended, seconds=ended - began)
            if outcome is None:
                destination.backoff.reset()
            elif isinstance(outcome, StoreUnavailable):
                self._rest(destination, batch_writer, outcome)
                return False
            elif isinstance(outcome, StoreMisconfigured):
                if not self._parks(destination, attempt.target, outcome):
                    return False
                batch_writer.park(str(outcome))
            del attempt  # its lines are not to be held while the next ones are made
        if batch_writer.batch.full and batch_writer.slowest_s is not None:
            self._batch_size.answered(batch_writer.batch.points, batch_writer.slowest_s)
            BATCH_SIZE.set(self._batch_size.size)
        return True

    def _write(self, namespace: str, attempt: Attempt, began: float) -> Outcome:
        """One write, measured and counted. Lets pass what is no answer of a store."""
        outcome: Outcome = None
        name = "failed"
        try:
            self._writer.write(namespace, attempt.target, attempt.lines, attempt.precision)
        except (StoreUnavailable, LinesRefused, WriteTooLarge, StoreMisconfigured) as exc:
            _let_go(exc)
            outcome, name = exc, _OUTCOMES[type(exc)]
        else:
            name = "stored"
            self.error = None
            self._bucket_errors.clear(namespace, attempt.target)
        finally:
            self.answered_at = self._now()
            _writes(attempt.view, name).inc()
            _write_seconds(attempt.view).observe(self.answered_at - began)
        if attempt.canary and isinstance(outcome, LinesRefused | WriteTooLarge):
            return StoreUnavailable(f"the store refuses a line that is good: {outcome}")
        return outcome

    def _shrink(self, batch: Batch, outcome: StoreError) -> None:
        """Make batches smaller if this one was too large, or may have been."""
        if isinstance(outcome, WriteTooLarge) or (
            batch.full and isinstance(outcome, StoreUnavailable)
        ):
            before = self._batch_size.size
            self._batch_size.failed(batch.points)
            BATCH_SIZE.set(self._batch_size.size)
            if self._batch_size.size < before:
                _log.warning(
                    "a batch of %d points was too large, or may have been: batches hold at most "
                    "%d points now: %s",
                    batch.points,
                    self._batch_size.size,
                    outcome,
                )

    def _tell_of_search(
        self, destination: Destination, batch_writer: BatchWriter, target: str
    ) -> None:
        """A canary passed, so a line of the batch made the store fail."""
        SUSPECTED_WRITES.inc()
        _log.warning(
            "bucket %s/%s takes a canary and failed on a batch of %d blocks, so a line of it is "
            "suspected; looking for it: %s",
            destination.namespace,
            target,
            len(batch_writer.batch.blocks),
            batch_writer.last_failure,
        )

    def _rest(
        self, destination: Destination, batch_writer: BatchWriter, error: StoreUnavailable
    ) -> None:
        rest_s = destination.backoff.fail(error.retry_after_s)
        self.error = str(error)
        if error.late and batch_writer.may_be_cut:
            destination.cut_anew()
            _log.warning(
                "the store took too long for %d points of %s/%s: the next write holds half of them",
                batch_writer.batch.points,
                destination.namespace,
                destination.retention_class,
            )
        _log.warning(
            "store does not answer for %s/%s, trying again in %.1f s: %s",
            destination.namespace,
            destination.retention_class,
            rest_s,
            error,
        )

    def _parks(self, destination: Destination, target: str, error: StoreMisconfigured) -> bool:
        """Rest, or say that the bucket has refused us for too long to wait for it."""
        namespace = destination.namespace
        self.error = str(error)
        if self._bucket_errors.mark_failed(namespace, target):
            _log.error("parking a batch for bucket %s/%s: %s", namespace, target, error)
            return True
        rest_s = destination.backoff.fail()
        _log.error(
            "store refuses us bucket %s/%s, trying again in %.1f s; check token, "
            "organisation and provision: %s",
            namespace,
            target,
            rest_s,
            error,
        )
        return False


def _let_go(error: BaseException | None) -> None:
    """Clear the frames of an error and its causes, which keep the lines in memory.

    Frame and error refer to each other. A worker that only repeats a write may wait long until
    that cycle is collected. Store clients may keep errors in the same way.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
