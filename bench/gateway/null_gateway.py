"""A gateway without a log: ``python -m bench.gateway.null_gateway``.

Settings as for ``python -m ingest``.

Its publisher acknowledges each block at once and forgets it, so nothing that it answers is
durable: it is here only to show what HTTP, validation and group commit cost without Kafka.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future

from adapters.influx.reader import InfluxReader
from adapters.settings import load_retention
from bench.lab.services import PARTITIONS
from ingest.app import Dependencies, create_app
from ingest.http.bounds import ConnectionBounds
from ingest.http.server import run_http
from ingest.keys.auth import KeyStore
from ingest.keys.credentials import ensure_keys
from ingest.settings import GatewaySettings
from schemas.log.protocols import Headers, Record, TopicPartition


class NullPublisher:
    """schemas.log.protocols.Publisher that keeps nothing but the offsets it has given."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = defaultdict(int)

    def send(self, topic: str, partition: int, _value: bytes, _headers: Headers) -> Future[int]:
        """Acknowledge at once."""
        where = topic, partition
        future: Future[int] = Future()
        future.set_result(self._next[where])
        self._next[where] += 1
        return future

    def partition_count(self, _topic: str) -> int:
        """As many as the benchmark's topics have."""
        return PARTITIONS

    def probe(self, timeout_s: float) -> None:
        """There is nothing to ask."""

    def close(self, timeout_s: float) -> None:
        """There is nothing to wait for."""


class _NoProgress:
    """schemas.log.protocols.Progress of workers that do not exist."""

    def committed(self) -> Mapping[TopicPartition, int]:
        """Nothing is."""
        return {}

    def appended(self) -> Iterator[Record]:
        """Nothing is."""
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


def run(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    sys.setswitchinterval(0.0005)  # as the gateway does
    reader = InfluxReader(settings.influx)
    keys = KeyStore(ensure_keys(settings.keys_file, settings.data_dir, settings.host))
    on = Dependencies(
        NullPublisher(), _NoProgress(), reader, keys, load_retention(settings.retention_file)
    )
    try:
        return run_http(
            create_app(settings, on),
            settings.host,
            settings.port,
            address_file=None,
            drain_s=settings.drain_s,
            bounds=ConnectionBounds.of(settings),
        )
    finally:
        reader.close()


if __name__ == "__main__":
    raise SystemExit(run(GatewaySettings()))
