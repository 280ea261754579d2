"""A backfill at work: a worker over fixed ranges of the log, which ends where they end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from admin.dlq.refusals import Refusals
from consumers.records.selection import Selection
from consumers.settings import WorkerSettings
from consumers.views import View
from consumers.worker import Worker
from schemas.line_protocol.codec import split
from schemas.line_protocol.precision import Precision
from schemas.log.ranges import RangeSource
from schemas.store.protocols import LineWriter


class CountingWriter:
    """A schemas.store.protocols.LineWriter that takes every line, counts it, and stores nothing."""

    def __init__(self) -> None:
        #: Lines by namespace and class.
        self.lines: Counter[tuple[str, str]] = Counter()

    def write(
        self, namespace: str, retention_class: str, lines: bytes, precision: Precision
    ) -> None:
        """Count them; a string field may hold a newline."""
        del precision
        plain = b'"' not in lines
        count = lines.count(b"\n") + 1 if plain else sum(1 for _ in split(lines))
        self.lines[namespace, retention_class] += count

    def ping(self) -> None:
        """It is always there."""

    def close(self) -> None:
        """It holds nothing."""


class Backfill:
    """Writes what is selected into views, with all that workers do about a store's answers.

    make_source is given what to call at its end. stop: set from outside to end early, and here
    at the end. points and progress may be read by any thread.
    """

    def __init__(
        self,
        make_source: Callable[[Callable[[], None]], RangeSource],
        writer: LineWriter,
        refusals: Refusals,
        *,
        selection: Selection,
        views: Sequence[View],
        settings: WorkerSettings,
        stop: threading.Event,
    ) -> None:
        self.selection = selection
        self.refusals = refusals
        self._stop = stop
        source = make_source(stop.set)
        self.progress = source.progress
        #: Points that are stored in every view.
        self.points = 0
        self._worker = Worker(
            source,
            writer,
            refusals,
            topics=(),  # the ranges say which
            views=views,
            settings=settings,
            read=selection,
            on_stored=self._count,
        )

    def run(self) -> None:
        """Return at the end, or once stop is set and what was polled is written.

        Raises ConsumerStopped, which says what to do. While log or store are away it waits.
        """
        self._worker.run(self._stop)

    def _count(self, _received_ns: int, points: int) -> None:
        self.points += points
