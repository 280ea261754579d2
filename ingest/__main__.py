"""`python -m ingest`: the gateway on Kafka, with InfluxDB behind the read routes."""

from __future__ import annotations

import sys

from adapters.influx.reader import InfluxReader
from adapters.kafka.progress import KafkaProgress
from adapters.kafka.publisher import KafkaPublisher
from adapters.redis import RedisBuckets
from adapters.settings import load_retention
from ingest.app import Dependencies, create_app
from ingest.http.bounds import ConnectionBounds
from ingest.http.server import run_http
from ingest.keys.auth import KeyStore
from ingest.keys.credentials import ensure_keys
from ingest.settings import GatewaySettings
from schemas.log.protocols import DEAD_LETTER_TOPIC, topic_of
from schemas.retention import Kind
from telemetry.logs import configure


def run(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Waits for Kafka by itself."""
    configure(settings.log_level, settings.audit_file)
    # kafka-python's sender thread and the event loop share the interpreter lock: a shorter
    # switch interval cut the p99 of group commit to a third.
    sys.setswitchinterval(0.0005)
    retention = load_retention(settings.retention_file)
    keys = KeyStore(ensure_keys(settings.keys_file, settings.data_dir, settings.host))
    topics = [topic_of(c.name) for c in retention.values() if c.kind is Kind.INGEST]
    publisher = KafkaPublisher(
        settings.kafka,
        topics=topics,
        ack_deadline_s=settings.ack_deadline_s,
        # Our own bound answers first, and without opening the circuit: it leaves room for headers.
        max_in_flight_bytes=2 * settings.max_pending_bytes,
    )
    reader = InfluxReader(settings.influx)
    try:
        progress = KafkaProgress(settings.kafka, settings.consumer_group, DEAD_LETTER_TOPIC)
        redis_url = settings.redis_url.get_secret_value()
        app = create_app(
            settings,
            Dependencies(
                publisher,
                progress,
                reader,
                keys,
                retention,
                reader.ping,
                shared_buckets=(
                    RedisBuckets(redis_url, timeout_s=settings.redis_timeout_s)
                    if redis_url
                    else None
                ),
            ),
        )
        return run_http(
            app,
            settings.host,
            settings.port,
            address_file=settings.address_file,
            drain_s=settings.drain_s,
            bounds=ConnectionBounds.of(settings),
            tls=settings.tls_context(),
            on_started=lambda _: keys.reload_on_hangup(),
        )
    finally:
        publisher.close(settings.drain_s)
        reader.close()


if __name__ == "__main__":
    raise SystemExit(run(GatewaySettings()))
