"""What the store's answers mean: the one table from its errors to what the worker does.

stored              on to the next view
StoreUnavailable    outcome unknown: rest, then the same bytes again; but if the lines may be
                    to blame and a canary passes: narrow them down within the batch's BatchWriter;
                    and if it took too long: half of them, then the others
WriteTooLarge       halve                       } within the batch's BatchWriter
LinesRefused        find the culprit            }
StoreMisconfigured  rest; after a minute dead-letter the batch and go on behind it
anything else       the worker ends
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from consumers.batches.batch_size import BatchSize
from consumers.writing.batch_writer import BatchWriter
from consumers.writing.bucket_errors import BucketErrors
from consumers.writing.destinations import Destination
from consumers.writing.quarantine import NotYet
from schemas.canary import worker_line
from schemas.line_protocol.precision import Precision
from schemas.store.protocols import (
    LinesRefused,
    LineWriter,
    StoreMisconfigured,
    StoreUnavailable,
    WriteTooLarge,
)
from telemetry.metrics import BATCH_SIZE, SUSPECTED_WRITES, WRITE_SECONDS, WRITES

_log = logging.getLogger("stepclock.consumer")


class _OutOfTime(Exception):
    """The log must be polled before the next write: a search may take many of them."""


class WriteLoop:
    """Writes batches into their views by one writer.

    batch_size learns from every answer to a whole batch. on_answer is called after each
    write, whatever came of it. error is what the store's last answer said, None while it
    takes writes.
    """

    def __init__(
        self,
        writer: LineWriter,
        batch_size: BatchSize,
        *,
        park_after_s: float,
        now: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._writer = writer
        self._batch_size = batch_size
        self._bucket_errors = BucketErrors(now, park_after_s=park_after_s)
        self._now = now
        self._now_ns = now_ns
        self._on_answer = on_answer
        self._until = float("inf")
        self.error: str | None = None

    def store(self, destination: Destination, flush: BatchWriter, until: float) -> bool:
        """Go on with a batch; True once every view has it or has rejected the rest of it.

        False if the destination rests now, or if `until` passed between two writes: call
        again with the same flush when it is due.
        """
        namespace = destination.namespace
        self._until = float("inf")  # the first write always starts, so every call gets on
        while (target := flush.target()) is not None:
            try:
                if flush.last_failure is not None or flush.alone is not None:
                    self._ask_canary(namespace, target)
                    destination.backoff.reset()
                if flush.last_failure is not None:
                    self._blame(destination, target, flush)
                flush.advance(partial(self._write, destination, flush, until))
            except _OutOfTime:
                return False
            except NotYet as exc:
                destination.backoff.rest_until(exc.due_at)
                return False
            except StoreUnavailable as exc:
                rest_s = destination.backoff.fail(exc.retry_after_s)
                self.error = str(exc)
                if exc.late and flush.may_be_cut:
                    destination.cut_anew(flush)
                _log.warning(
                    "store does not answer for %s/%s, trying again in %.1f s: %s",
                    namespace,
                    destination.retention_class,
                    rest_s,
                    exc,
                )
                return False
            except StoreMisconfigured as exc:
                self.error = str(exc)
                target = flush.target() or target
                if not self._bucket_errors.mark_failed(namespace, target):
                    rest_s = destination.backoff.fail()
                    _log.error(
                        "store refuses us bucket %s/%s, trying again in %.1f s; check token, "
                        "organisation and provision: %s",
                        namespace,
                        target,
                        rest_s,
                        exc,
                    )
                    return False
                _log.error("parking a batch for bucket %s/%s: %s", namespace, target, exc)
                flush.park(str(exc))
        if flush.batch.full and flush.slowest_s is not None:
            self._batch_size.answered(flush.batch.points, flush.slowest_s)
            BATCH_SIZE.set(self._batch_size.size)
        return True

    def _write(
        self,
        destination: Destination,
        flush: BatchWriter,
        until: float,
        view: str,
        target: str,
        lines: bytes,
        precision: Precision,
    ) -> None:
        """One write of a batch. Raises _OutOfTime instead of starting it too late."""
        if self._now() >= self._until:
            raise _OutOfTime
        self._until = until
        whole, started = flush.whole, self._now()
        try:
            self._send(view, destination.namespace, target, lines, precision)
        except WriteTooLarge:
            if whole:
                self._shrink(flush)
            raise
        except StoreUnavailable as exc:
            if whole and flush.batch.full:
                self._shrink(flush)
            if exc.may_be_the_lines:
                flush.last_failure = str(exc)
            raise
        if whole:
            flush.slowest_s = max(flush.slowest_s or 0.0, self._now() - started)
        destination.backoff.reset()

    def _shrink(self, flush: BatchWriter) -> None:
        self._batch_size.failed(flush.batch.points)
        BATCH_SIZE.set(self._batch_size.size)

    def _ask_canary(self, namespace: str, target: str) -> None:
        """Return if the bucket takes a line that is known to be good.

        Raises StoreUnavailable or StoreMisconfigured otherwise: then it is not the lines.
        """
        line = worker_line(self._now_ns())
        try:
            self._send("canary", namespace, target, line, Precision.NS)
        except (LinesRefused, WriteTooLarge) as exc:
            raise StoreUnavailable(f"the store refuses a line that is good: {exc}") from exc

    def _blame(self, destination: Destination, target: str, flush: BatchWriter) -> None:
        SUSPECTED_WRITES.inc()
        _log.warning(
            "bucket %s/%s takes a canary and failed on a batch of %d blocks, so a line of it is "
            "suspected; looking for it: %s",
            destination.namespace,
            target,
            len(flush.batch.blocks),
            flush.last_failure,
        )
        flush.blame()

    def _send(
        self, view: str, namespace: str, target: str, lines: bytes, precision: Precision
    ) -> None:
        """One write, measured and counted."""
        outcome = "failed"
        started = self._now()
        try:
            self._writer.write(namespace, target, lines, precision)
        except StoreUnavailable:
            outcome = "unavailable"
            raise
        except LinesRefused:
            outcome = "refused"
            raise
        except WriteTooLarge:
            outcome = "too_large"
            raise
        except StoreMisconfigured:
            outcome = "misconfigured"
            raise
        else:
            outcome = "stored"
            self.error = None
            self._bucket_errors.clear(namespace, target)
        finally:
            WRITES.labels(view, outcome).inc()
            WRITE_SECONDS.labels(view).observe(self._now() - started)
            self._on_answer()
