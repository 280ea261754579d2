"""A peer as the same chain: Telegraf in front of Kafka, and another one behind it.

``TELEGRAF=/path/to/telegraf`` says that there is one. It is set up as its best figures were
reached: the newer parser, bounds that hold what is sent and not stored, large batches.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.kafka.admin import KafkaAdmin, TopicSpec
from bench.lab.services import PARTITIONS
from native.influxd import InfluxDB
from native.kafka import Broker
from native.ports import LOOPBACK, free_ports
from native.process import Process
from native.step import PreparationFailed

_ENVIRONMENT = {"GOGC": "400"}

#: It flushes as often as a batch of ours is written at the latest, so that latencies compare.
_AGENT = """
[agent]
  flush_interval = "250ms"
  flush_jitter = "0s"
  metric_batch_size = {batch}
  metric_buffer_limit = 1000000
  omit_hostname = true
  quiet = true
"""

_LISTENER = """
[[inputs.influxdb_v2_listener]]
  service_address = "{host}:{port}"
  parser_type = "upstream"
  max_undelivered_metrics = 400000

[[outputs.kafka]]
  brokers = ["{brokers}"]
  topic = "{topic}"
  version = "2.6.0"
  required_acks = -1
  compression_codec = 4
  idempotent_writes = true
  routing_tag = "run"
  data_format = "influx"
"""

_SINK = """
[[inputs.kafka_consumer]]
  brokers = ["{brokers}"]
  kafka_version = "2.6.0"
  topics = ["{topic}"]
  consumer_group = "{topic}"
  offset = "oldest"
  max_undelivered_messages = 50000
  data_format = "influx"
  influx_parser_type = "upstream"

[[outputs.influxdb_v2]]
  urls = ["{url}"]
  token = "{token}"
  organization = "{org}"
  bucket = "{bucket}"
  content_encoding = "identity"
"""


def binary() -> Path | None:
    """The peer's program, None where none is named. Raises PreparationFailed if it can't run."""
    named = os.environ.get("TELEGRAF")
    if not named:
        return None
    if not os.access(named, os.X_OK):
        raise PreparationFailed(f"TELEGRAF={named} is no program")
    return Path(named)


@contextmanager
def chain(
    program: Path, folder: Path, broker: Broker, database: InfluxDB, bucket: str
) -> Iterator[tuple[str, Process, Process]]:
    """Its URL for writes, and its two processes, with a topic of their own.

    Raises StartFailed.
    """
    topic = f"peer.{bucket.replace('/', '.')}"
    with KafkaAdmin(broker.bootstrap_servers) as admin:
        admin.create_topics([TopicSpec(topic, PARTITIONS, replication=1, retention_ms=None)])
    (port,) = free_ports(1)
    listener = _LISTENER.format(
        host=LOOPBACK, port=port, brokers=broker.bootstrap_servers, topic=topic
    )
    sink = _SINK.format(
        brokers=broker.bootstrap_servers,
        topic=topic,
        url=database.url,
        token=database.token,
        org=database.org,
        bucket=bucket,
    )
    with (
        _process(program, folder, "peer gateway", _AGENT.format(batch=20_000) + listener) as front,
        _process(program, folder, "peer consumer", _AGENT.format(batch=5_000) + sink) as back,
    ):
        back.start()
        front.start()
        yield f"http://{LOOPBACK}:{port}", front, back


def _process(program: Path, folder: Path, name: str, config: str) -> Process:
    path = folder / f"{name.replace(' ', '-')}.conf"
    path.touch(mode=0o600)
    path.write_text(config, "utf-8")
    port = config.partition(f'service_address = "{LOOPBACK}:')[2].partition('"')[0]
    return Process(
        name,
        [str(program), "--config", str(path)],
        log_path=path.with_suffix(".log"),
        # The sink listens nowhere: what it is late by, the warm-up takes.
        ready=lambda: not port or _listens(int(port)),
        env=_ENVIRONMENT,
    )


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True
