"""Upkeep of the embedded files: retention in the store, and old records out of the log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from embedded.log.file import SqliteLog
from embedded.log.source import SqliteSource
from embedded.store.store import SqliteStore
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, TopicPartition
from schemas.store.protocols import StoreUnavailable

_log = logging.getLogger("stepclock.embedded")

_DAY_MS = 86_400_000
_DEAD_LETTERS_KEEP_MS = 30 * _DAY_MS


class Upkeep:
    """Sweeps once a minute until stopped. A full disk or a locked file is tried again."""

    def __init__(
        self,
        log: SqliteLog,
        store: SqliteStore,
        new_source: Callable[[], SqliteSource],
        topics: Collection[str],
        *,
        log_keep_ms: int,
        interval_s: float = 60.0,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 10**6,
    ) -> None:
        self._sqlite_log = log
        self._store = store
        self._new_source = new_source
        self._topics = topics
        self._log_keep_ms = log_keep_ms
        self._interval_s = interval_s
        self._now_ms = now_ms

    def run(self, stop: threading.Event) -> None:
        """Wait, sweep, and so on until stop is set."""
        while not stop.wait(self._interval_s):
            try:
                self.sweep()
            except (LogUnavailable, StoreUnavailable) as exc:
                _log.warning("upkeep put off: %s", exc)

    def sweep(self) -> None:
        """One round. Raises LogUnavailable, StoreUnavailable."""
        self._store.sweep()
        source = self._new_source()
        try:
            for topic in self._topics:
                partitions = [p for p in self._sqlite_log.row_ids if p.topic == topic]
                below, keep_ms = self._settled(source, topic, partitions)
                self._sqlite_log.trim(topic, self._now_ms() - keep_ms, below)
        finally:
            source.close()

    def _settled(
        self, source: SqliteSource, topic: str, partitions: Collection[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], int]:
        if topic == DEAD_LETTER_TOPIC:
            return source.end_offsets(partitions), _DEAD_LETTERS_KEEP_MS
        committed = source.committed(partitions)
        return {p: offset for p, offset in committed.items() if offset}, self._log_keep_ms
