"""Which partitions are paused: those that rest, and all of them when memory is full."""

from __future__ import annotations

from collections.abc import Collection

from schemas.log.protocols import Source, TopicPartition
from telemetry.metrics import BATCHED_BYTES, PAUSED


class Pauses:
    """Pauses and resumes partitions of a source. max_bytes bounds what is polled, not settled.

    At the bound everything is paused until half of it is settled: partitions that flip at
    every turn would be fetched in vain.
    """

    def __init__(self, source: Source, *, max_bytes: int) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._paused: set[TopicPartition] = set()
        self._full = False
        self._shown = (0, 0)

    def update(
        self,
        assigned: Collection[TopicPartition],
        resting: Collection[TopicPartition],
        size_bytes: int,
        *,
        all_of_them: bool,
    ) -> None:
        """Pause what rests, or everything if memory is full or told so; resume the others."""
        self._full = size_bytes >= self._max_bytes or (
            self._full and size_bytes > self._max_bytes // 2
        )
        wanted = set(assigned)
        if not (self._full or all_of_them):
            wanted &= set(resting)
        if wanted - self._paused:
            self._source.pause(wanted - self._paused)
        if self._paused - wanted:
            self._source.resume(self._paused - wanted)
        self._paused = wanted
        self._show(size_bytes, len(wanted))

    def close(self) -> None:
        """Nothing of this worker is polled or paused any more."""
        self._show(0, 0)

    def _show(self, size_bytes: int, paused: int) -> None:
        # By differences: the workers of one process share the gauges.
        BATCHED_BYTES.inc(size_bytes - self._shown[0])
        PAUSED.inc(paused - self._shown[1])
        self._shown = (size_bytes, paused)

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """These went, and come back unpaused if at all."""
        self._paused -= set(partitions)
