"""One process of workers between Kafka and InfluxDB: ``python -m consumers``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from adapters.influx.writer import InfluxWriter
from adapters.kafka.publisher import KafkaPublisher
from adapters.kafka.source import KafkaSource
from adapters.settings import load_retention
from consumers.dead_letters import DeadLetters
from consumers.errors import ConsumerStopped
from consumers.probes import Probes
from consumers.settings import ConsumerSettings
from consumers.team import Team
from consumers.views import StepsView, WallView
from consumers.worker import Worker
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, RecordRefused, topic_of
from schemas.retention import Kind
from telemetry.logs import configure
from telemetry.probe_server import write_address
from telemetry.stop_signals import StopSignals

_log = logging.getLogger("stepclock.consumer")

_PROBE_S = 2.0

#: Compressed bytes that the sources of one process fetch ahead, all together.
_FETCH_BYTES = 8 * 1024 * 1024


def run(settings: ConsumerSettings) -> int:
    """Work until SIGTERM or SIGINT.

    0 after the drain, 130 if it was SIGINT, 1 if a worker had to stop.

    Kafka or InfluxDB may be away at the start and later: the worker waits for them.
    """
    configure(settings.log_level, settings.audit_file)
    signals = StopSignals()
    try:
        work(settings, signals.stop)
    except ConsumerStopped as exc:
        _log.error("%s", exc)
        return 1
    return signals.exit_code


def work(
    settings: ConsumerSettings,
    stop: threading.Event,
    *,
    on_stored: Callable[[int, int], None] | None = None,
) -> None:
    """Work until stop is set, then drain. Raises ConsumerStopped, which says what to do.

    on_stored(received_ns, points) is called for each block once it is stored, on the thread of
    the worker that stored it. stop is set here too when a worker fails.
    """
    classes = load_retention(settings.retention_file).values()
    topics = [topic_of(c.name) for c in classes if c.kind is Kind.INGEST]
    probes = Probes(
        settings.probe_host,
        settings.probe_port,
        live_after_s=settings.live_after_s,
        workers=settings.threads,
    )
    publisher = KafkaPublisher(settings.kafka, topics=[DEAD_LETTER_TOPIC])
    share = settings.share_of_a_thread()

    def make(number: int) -> tuple[Worker, Callable[[], None]]:
        writer = InfluxWriter(settings.influx, timeout_s=settings.influx_timeout_s)
        worker = Worker(
            KafkaSource(
                settings.kafka,
                settings.consumer_group,
                instance_id=settings.instance_id_of(number),
                fetch_max_bytes=_FETCH_BYTES // settings.threads,
            ),
            writer,
            DeadLetters(publisher, timeout_s=settings.dead_letter_timeout_s),
            topics=topics,
            views=[WallView(), StepsView(settings.volatile_tags)],
            settings=share,
            on_stored=on_stored,
        )
        probes.watch(worker, number)
        return worker, writer.close

    try:
        _log.info("probes and metrics at %s", probes.url)
        if not settings.influx.token:
            _log.warning("STEPCLOCK_INFLUX_TOKEN is not set: InfluxDB will refuse every write")
        if settings.probe_address_file is not None:
            write_address(settings.probe_address_file, probes.url)
        if _wait_for_log(publisher, stop):
            _log.info(
                "consuming %s as group %s, threads: %d",
                ", ".join(topics),
                settings.consumer_group,
                settings.threads,
            )
            Team(make, settings.threads).run(stop)
    finally:
        publisher.close(_PROBE_S)
        probes.close()


def _wait_for_log(publisher: KafkaPublisher, stop: threading.Event) -> bool:
    """Wait until dead letters can be written; False if told to stop meanwhile."""
    said = False
    while not stop.is_set():
        try:
            publisher.probe(_PROBE_S)
            publisher.partition_count(DEAD_LETTER_TOPIC)
        except (LogUnavailable, RecordRefused) as exc:
            if not said:
                _log.warning("waiting for Kafka and topic %s: %s", DEAD_LETTER_TOPIC, exc)
                said = True
            stop.wait(1.0)
        else:
            return True
    return False


if __name__ == "__main__":
    raise SystemExit(run(ConsumerSettings()))
