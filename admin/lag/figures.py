"""Where the figures of a lag report come from: Kafka's admin, or the files of `serve`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from adapters.kafka.admin import KafkaAdmin, TopicDescription
from adapters.kafka.connection import KafkaConnection
from admin.lag.report import Look, PartitionFigures
from embedded.log.file import SqliteLog, unavailable
from embedded.log.record import bounds_of, read_records
from embedded.log.source import SqliteSource
from schemas.log.protocols import LogUnavailable, TopicPartition


class KafkaFigures:
    """Looks at the topics of a group. For one thread."""

    def __init__(self, servers: KafkaConnection | str, group: str, topics: Collection[str]) -> None:
        self._admin = KafkaAdmin(servers)
        self._group = group
        self._topics = topics

    def look(self) -> Look:
        """The figures now. Raises LogUnavailable, also where a topic is missing."""
        described = self._admin.describe_topics()
        missing = sorted(set(self._topics) - described.keys())
        if missing:
            raise LogUnavailable(f"no topic {', '.join(missing)}; run 'stepclock-server provision'")
        partitions = [
            TopicPartition(topic, number)
            for topic in self._topics
            for number in range(described[topic].partitions)
        ]
        # Committed before the ends, so that lag errs on the side of too much, never below 0.
        committed = self._admin.committed(self._group)
        at_s, at_ms = time.monotonic(), time.time_ns() // 10**6
        bounds = self._admin.offset_bounds(partitions)
        found = {
            p: PartitionFigures(start, end, committed.get(p)) for p, (start, end) in bounds.items()
        }
        oldest = self._oldest_ms(found, described, at_ms)
        return Look(
            at_s,
            at_ms,
            {
                p: PartitionFigures(f.start, f.end, f.next_offset, oldest.get(p))
                for p, f in sorted(found.items())
            },
            self._admin.member_count(self._group),
            {topic: described[topic].retention_ms for topic in self._topics},
        )

    def _oldest_ms(
        self,
        found: Mapping[TopicPartition, PartitionFigures],
        described: Mapping[str, TopicDescription],
        at_ms: int,
    ) -> dict[TopicPartition, int]:
        """When the oldest unsettled records of topics that forget were written."""
        oldest: dict[TopicPartition, int] = {}
        for topic in self._topics:
            keep_ms = described[topic].retention_ms
            waiting = {p: f.position for p, f in found.items() if p.topic == topic and f.lag}
            if waiting and keep_ms is not None:
                oldest |= self._admin.written_ms(waiting, since_ms=at_ms - keep_ms, until_ms=at_ms)
        return oldest

    def close(self) -> None:
        """Disconnect."""
        self._admin.close()


class EmbeddedFigures:
    """Looks at the log of `serve`, running or not: records there go only once settled."""

    def __init__(self, log_path: Path, store_path: Path, topics: Collection[str]) -> None:
        self._log = SqliteLog(log_path, topics)
        self._store_path = store_path

    def look(self) -> Look:
        """The figures now. Raises LogUnavailable."""
        committed = self._committed(self._log.row_ids)
        at_s, at_ms = time.monotonic(), time.time_ns() // 10**6
        found = {}
        with unavailable("reading the log"), closing(self._log.connect()) as connection:
            bounds = bounds_of(connection)
            for partition, row_id in sorted(self._log.row_ids.items()):
                start, end = bounds[row_id]
                figures = PartitionFigures(start, end, committed.get(partition))
                span = (figures.position, end, 1)
                first = next(read_records(connection, partition, row_id, span), None)
                oldest_ms = None if first is None else first.timestamp_ms
                found[partition] = PartitionFigures(start, end, figures.next_offset, oldest_ms)
        return Look(at_s, at_ms, found)

    def close(self) -> None:
        """Nothing is held open between looks."""

    def _committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        if not self._store_path.exists():
            return {}  # nothing was ever settled; asking would make the file
        source = SqliteSource(self._log, self._store_path)
        try:
            return source.committed(partitions)
        finally:
            source.close()
