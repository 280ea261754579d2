"""What a worker shows of itself: the lag of its partitions, and the newest canary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from schemas.log.protocols import LogUnavailable, Source, TopicPartition
from telemetry.metrics import CANARY_SECONDS, CANARY_SENT, LAG, OLDEST_UNSETTLED


class LagGauge:
    """The records of each partition that are not settled, and the age of the oldest.

    Updates both at most every `every_s` seconds, from the thread that owns the source.
    now_ns: the clock that says how old a record is. A partition in which the group has
    committed nothing yet counts from offset 0.
    """

    def __init__(
        self,
        source: Source,
        now: Callable[[], float],
        now_ns: Callable[[], int],
        *,
        every_s: float = 1.0,
    ) -> None:
        self._source = source
        self._now = now
        self._now_ns = now_ns
        self._every_s = every_s
        self._next_at = float("-inf")
        self._shown: set[TopicPartition] = set()
        self._committed: dict[TopicPartition, int] = {}
        #: Why the last update failed; None if the log answered.
        self.error: str | None = None

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """These were taken: should they come back, others may have committed meanwhile.

        Whoever has them now shows them, perhaps in this very process.
        """
        for partition in partitions:
            self._committed.pop(partition, None)
            if partition in self._shown:
                for gauge in (LAG, OLDEST_UNSETTLED):
                    gauge.remove(partition.topic, str(partition.partition))
                self._shown.discard(partition)

    def update(
        self,
        assigned: Collection[TopicPartition],
        marks: Mapping[TopicPartition, int],
        written_ms: Mapping[TopicPartition, int],
    ) -> None:
        """Show the partitions that are ours, and no more of others.

        written_ms: when the oldest unsettled record was written; 0 before any was polled.
        """
        if self._now() < self._next_at:
            return
        self._next_at = self._now() + self._every_s
        self.forget(self._shown - set(assigned))
        try:
            ends = self._source.end_offsets(assigned)
            unknown = [p for p in assigned if p not in marks and p not in self._committed]
            for partition, offset in self._source.committed(unknown).items():
                self._committed[partition] = offset or 0
        except LogUnavailable as exc:
            # Asking a log that is away may block: leave more time for the loop.
            self.error = str(exc)
            self._next_at = self._now() + 10 * self._every_s
            return
        self.error = None
        for partition, end in ends.items():
            position = marks.get(partition, self._committed.get(partition, 0))
            names = partition.topic, str(partition.partition)
            LAG.labels(*names).set(max(0, end - position))
            oldest_ms = written_ms.get(partition, 0) if end > position else 0
            age_s = max(0.0, self._now_ns() / 1e9 - oldest_ms / 1e3) if oldest_ms else 0.0
            OLDEST_UNSETTLED.labels(*names).set(age_s)
            self._shown.add(partition)


class CanaryWatch:
    """The newest canary that one worker has stored. Written by its thread, read by any."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None

    def stored(self, sent_ns: int, now_ns: int) -> None:
        """Note one that every view has."""
        latency_s = max(0.0, (now_ns - sent_ns) / 1e9)
        CANARY_SECONDS.observe(latency_s)
        if self._last is None or sent_ns > self._last[0]:
            self._last = (sent_ns, latency_s)
            CANARY_SENT.set(sent_ns / 1e9)

    def described(self, now_ns: int) -> str:
        """Age and latency of the newest one, for people."""
        if self._last is None:
            return "none stored by this worker yet"
        sent_ns, latency_s = self._last
        return f"sent {max(0, now_ns - sent_ns) / 1e9:.1f} s ago, stored within {latency_s:.2f} s"
