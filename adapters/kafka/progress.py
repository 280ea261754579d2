"""How far the workers have come, for receipts: committed offsets and the dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adapters.kafka.admin import KafkaAdmin
from adapters.kafka.client import (
    connect_consumer,
    from_library,
    to_library,
    to_record,
    unavailable_if_any,
)
from adapters.kafka.connection import KafkaConnection
from schemas.log.protocols import LogUnavailable, Record, TopicPartition


class KafkaProgress:
    """log.protocols.Progress on Kafka. Keeps its connections; makes them anew after a fault."""

    def __init__(
        self, servers: KafkaConnection | str, group_id: str, topic: str, *, timeout_s: float = 5.0
    ) -> None:
        self._servers = servers
        self._group_id = group_id
        self._topic = topic
        self._timeout_s = timeout_s
        self._admin = KafkaAdmin(servers, timeout_s=timeout_s)
        self._consumer: Any = None
        self._next: dict[TopicPartition, int] = {}

    def committed(self) -> Mapping[TopicPartition, int]:
        """What the group has committed; see schemas.log.protocols.Progress."""
        try:
            return self._admin.committed(self._group_id)
        except LogUnavailable:
            self._admin.close()
            raise

    def appended(self) -> Iterator[Record]:
        """What the topic gained; see schemas.log.protocols.Progress."""
        try:
            yield from self._read()
        except LogUnavailable:
            self._disconnect()
            raise

    def close(self) -> None:
        """Disconnect. Idempotent; a later call connects again."""
        self._admin.close()
        self._disconnect()

    def _read(self) -> Iterator[Record]:
        timeout_ms = int(self._timeout_s * 1000)
        with unavailable_if_any("following a topic"):
            consumer = self._connected()
            assigned = consumer.assignment()
            ends = consumer.end_offsets(assigned, timeout_ms=timeout_ms)
            unread = {p for p in assigned if self._position(consumer, p) < ends[p]}
        while unread:
            with unavailable_if_any("following a topic"):
                fetched = consumer.poll(timeout_ms=timeout_ms)
            for rows in fetched.values():
                for row in rows:
                    record = to_record(row)
                    self._next[record.topic_partition] = record.next_offset
                    yield record
            with unavailable_if_any("following a topic"):
                # By position, not by record: offsets may have holes before the end.
                done = {p for p in unread if self._position(consumer, p) >= ends[p]}
            if not fetched and not done:
                raise LogUnavailable(f"topic {self._topic} gave nothing in {self._timeout_s:g} s")
            unread -= done

    def _position(self, consumer: Any, partition: Any) -> int:
        return int(consumer.position(partition, int(self._timeout_s * 1000)) or 0)

    def _connected(self) -> Any:
        if self._consumer is not None:
            return self._consumer
        count = self._admin.partition_counts([self._topic]).get(self._topic)
        if count is None:
            raise LogUnavailable(f"topic {self._topic} does not exist: run provision")
        consumer = connect_consumer(
            self._servers,
            timeout_s=self._timeout_s,
            request_timeout_ms=int(self._timeout_s * 1000),
            group_id=None,
            auto_offset_reset="earliest",  # also where retention has overtaken us
            max_poll_records=256,
        )
        self._consumer = consumer
        partitions = [to_library(TopicPartition(self._topic, p)) for p in range(count)]
        consumer.assign(partitions)
        for partition in partitions:
            start = self._next.get(from_library(partition))
            if start is None:
                consumer.seek_to_beginning(partition)
            else:
                consumer.seek(partition, start)
        return consumer

    def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=1000)
