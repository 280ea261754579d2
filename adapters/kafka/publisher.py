"""The supervised producer: sends that never block, and a producer that can be replaced.

Why the supervision: once a batch has failed, kafka-python's idempotent producer may never
send again, and it says nothing of it: futures stay open. So the producer's own timeout is
put out of reach (`adapters.kafka.client`), each record has a deadline of ours, a producer
that missed one is given nothing more (`adapters.kafka.producer`), and `probe` puts a new one in
its place once the broker answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future

from adapters.kafka.admin import KafkaAdmin
from adapters.kafka.client import connect_producer, unavailable_if_any
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.producer import KafkaLine
from schemas.log.protocols import Headers, LogUnavailable, RecordRefused

#: What Kafka adds to a record at most: lengths, key, offset and time differences, batch head.
_RECORD_OVERHEAD_BYTES = 128
_HEADER_OVERHEAD_BYTES = 10

_log = logging.getLogger("stepclock.kafka")


class KafkaPublisher:
    """schemas.log.protocols.Publisher on Kafka: acks=all, idempotent, zstd.

    Starts without a broker: until the first `probe` succeeds, and again from the moment a
    record fails until the next probe succeeds, every send fails at once with LogUnavailable.

    ack_deadline_s: how long the broker may take for a record; the future fails within a
    quarter of a second after that. max_record_bytes: larger records (value and headers) are
    refused here, because one that the broker refuses costs the producer; keep it below the
    topics' max.message.bytes. max_in_flight_bytes: beyond it sends fail with LogUnavailable;
    the library itself would take records until memory ends.
    """

    def __init__(
        self,
        servers: KafkaConnection | str,
        *,
        topics: Collection[str],
        ack_deadline_s: float = 10.0,
        max_record_bytes: int = 1_000_000,
        max_in_flight_bytes: int = 64 * 1024 * 1024,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._topics = frozenset(topics)
        self._ack_deadline_s = ack_deadline_s
        self._max_record_bytes = max_record_bytes
        self._max_in_flight_bytes = max_in_flight_bytes
        self._now = now
        self._partition_counts: dict[str, int] = {}
        self._line: KafkaLine | None = None
        self._swapping = threading.Lock()
        self._probing = threading.Lock()
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="kafka-acks", daemon=True)
        self._watcher.start()

    def send(self, topic: str, partition: int, value: bytes, headers: Headers) -> Future[int]:
        """Append one record; see schemas.log.protocols.Publisher."""
        future: Future[int] = Future()
        # A caller that stops waiting must not be able to cancel what the broker may still get.
        future.set_running_or_notify_cancel()
        size = len(value) + _RECORD_OVERHEAD_BYTES
        size += sum(len(n.encode()) + len(v) + _HEADER_OVERHEAD_BYTES for n, v in headers)
        line = self._line
        if topic not in self._topics:
            future.set_exception(RecordRefused(f"no topic {topic!r}"))
        elif size > self._max_record_bytes:
            future.set_exception(
                RecordRefused(f"record of {size} bytes; the limit is {self._max_record_bytes}")
            )
        elif line is None:
            future.set_exception(LogUnavailable("Kafka has not answered yet, or we are closed"))
        elif not 0 <= partition < self._partition_counts[topic]:
            future.set_exception(RecordRefused(f"no partition {topic}[{partition}]"))
        else:
            line.send((topic, partition), value, headers, size, future)
        return future

    def partition_count(self, topic: str) -> int:
        """Number of partitions, as the last probe found it; LogUnavailable before the first."""
        count = self._partition_counts.get(topic)
        if count is not None:
            return count
        if topic in self._topics:
            raise LogUnavailable("Kafka has not answered yet")
        raise RecordRefused(f"no topic {topic!r}")

    def probe(self, timeout_s: float) -> None:
        """Ask the brokers for the topics; give a broken producer's place to a new one.

        Raises LogUnavailable while brokers are away, a topic is missing, or one of its
        partitions has no leader.
        """
        deadline_s = self._now() + timeout_s
        if not self._probing.acquire(timeout=timeout_s):
            raise LogUnavailable("another probe is still waiting for Kafka")
        try:
            if self._closed.is_set():
                raise LogUnavailable("the publisher is closed")
            # Half for connecting and half for the answer, which a frozen broker may never give.
            with KafkaAdmin(self._servers, timeout_s=timeout_s / 2) as admin:
                counts = admin.partition_counts(self._topics)
            missing = self._topics - counts.keys()
            if missing:
                raise LogUnavailable(f"no topic {min(missing)!r}; provision the cluster")
            self._partition_counts = counts
            if self._line is None or self._line.broken:
                self._replace(max(0.1, deadline_s - self._now()))
        finally:
            self._probing.release()

    def close(self, timeout_s: float) -> None:
        """Wait up to timeout_s for acknowledgements, then fail the rest. Idempotent."""
        with self._swapping:
            self._closed.set()
            line, self._line = self._line, None
        if line is not None:
            line.wait_until_idle(timeout_s)
            line.end("the publisher was closed")

    def _replace(self, timeout_s: float) -> None:
        with unavailable_if_any("connecting a producer"):
            producer = connect_producer(
                self._servers,
                timeout_s=timeout_s,
                max_request_bytes=self._max_record_bytes + _RECORD_OVERHEAD_BYTES,
            )
        line = KafkaLine(
            producer,
            ack_deadline_s=self._ack_deadline_s,
            max_in_flight_bytes=self._max_in_flight_bytes,
            now=self._now,
        )
        try:
            with unavailable_if_any("learning the topics"):
                for topic in self._topics:
                    producer.partitions_for(topic)
        except BaseException:
            line.end("the producer did not learn the topics")
            raise
        # From here on a send must not wait for metadata that was lost: it fails instead.
        producer.config["max_block_ms"] = 0
        with self._swapping:
            # Closed meanwhile: then the new one is what has to go.
            old = line if self._closed.is_set() else self._line
            self._line = None if self._closed.is_set() else line
        if old is not None:
            _log.warning("the Kafka producer was replaced")
            old.end("the producer was replaced")

    def _watch(self) -> None:
        tick_s = min(0.25, self._ack_deadline_s / 8)
        while not self._closed.wait(tick_s):
            line = self._line
            if line is not None:
                line.fail_overdue()
