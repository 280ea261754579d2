"""Reads whole topics, outside any consumer group (dead letters, receipts, repairs)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from adapters.kafka.admin import KafkaAdmin
from adapters.kafka.client import connect_consumer, to_library, to_record, unavailable_if_any
from adapters.kafka.connection import KafkaConnection
from schemas.log.protocols import LogUnavailable, Record, RecordRefused, TopicPartition


class KafkaReader:
    """log.protocols.Reader on Kafka. Each read has its own connection. Safe from any thread.

    timeout_s: how long the brokers may give nothing before a read raises LogUnavailable.
    """

    def __init__(
        self,
        servers: KafkaConnection | str,
        *,
        timeout_s: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._timeout_s = timeout_s
        self._now = now

    def read(self, topic: str) -> Iterator[Record]:
        """Every record that the topic holds now; see schemas.log.protocols.Reader."""
        with KafkaAdmin(self._servers, timeout_s=self._timeout_s) as admin:
            count = admin.partition_counts([topic]).get(topic)
        if count is None:
            raise RecordRefused(f"no topic {topic!r}")
        return self._records([to_library(TopicPartition(topic, p)) for p in range(count)])

    def _records(self, partitions: list[Any]) -> Iterator[Record]:
        with unavailable_if_any("reading a topic"):
            consumer = connect_consumer(
                self._servers,
                timeout_s=self._timeout_s,
                request_timeout_ms=int(self._timeout_s * 1000),
                group_id=None,
                auto_offset_reset="earliest",
                max_poll_records=64,
            )
        try:
            with unavailable_if_any("reading a topic"):
                timeout_ms = int(self._timeout_s * 1000)
                starts = consumer.beginning_offsets(partitions, timeout_ms=timeout_ms)
                ends = consumer.end_offsets(partitions, timeout_ms=timeout_ms)
                unread = {p for p in partitions if starts[p] < ends[p]}
                if unread:
                    consumer.assign(sorted(unread))
                    consumer.seek_to_beginning(*unread)
            deadline_s = self._now() + self._timeout_s
            while unread:
                with unavailable_if_any("reading a topic"):
                    fetched = consumer.poll(timeout_ms=500)
                for partition, rows in fetched.items():
                    yield from (to_record(r) for r in rows if r.offset < ends[partition])
                with unavailable_if_any("reading a topic"):
                    # By position, not by record: offsets may have holes before the end.
                    done = {p for p in unread if (consumer.position(p, 500) or 0) >= ends[p]}
                unread -= done
                consumer.pause(*done)
                if fetched or done:
                    deadline_s = self._now() + self._timeout_s
                elif self._now() > deadline_s:
                    raise LogUnavailable(f"{len(unread)} partitions gave nothing more")
        finally:
            consumer.close(autocommit=False, timeout_ms=1000)
