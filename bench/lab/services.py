"""The processes that are measured: Kafka, InfluxDB, and ours between them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.kafka.admin import KafkaAdmin, TopicSpec
from adapters.settings import load_retention
from native import influxd, kafka
from native.influxd import InfluxDB
from native.kafka import Broker
from native.ports import LOOPBACK
from native.step import PreparationFailed, run_step
from schemas.log.protocols import topic_of
from schemas.retention import Kind
from schemas.tenants.keys import KeyRecord
from schemas.tenants.keys_file import dump

#: A limit that no figure here comes near.
UNLIMITED_POINTS = 1_000_000_000

PARTITIONS = 12

Tell = Callable[[str], None]


def start_kafka(folder: Path, tell: Tell) -> Broker:
    """A broker with its data in a folder. Raises PreparationFailed, StartFailed."""
    _require("Kafka", kafka.missing())
    kafka.ensure(tell)
    tell("starting Kafka")
    return kafka.start(folder / "kafka")


def start_influxdb(folder: Path, tell: Tell) -> InfluxDB:
    """A database with its data in a folder. Raises PreparationFailed, StartFailed."""
    _require("InfluxDB", influxd.missing())
    influxd.ensure(tell)
    tell("starting InfluxDB")
    return influxd.start(folder / "influxd")


def ingest_topics() -> list[str]:
    """The topics that clients' points travel in."""
    return [topic_of(c.name) for c in load_retention(None).values() if c.kind is Kind.INGEST]


def make_topics(broker: Broker) -> None:
    """What a gateway alone needs: the topics that it publishes to."""
    with KafkaAdmin(broker.bootstrap_servers) as admin:
        admin.create_topics(
            TopicSpec(name, PARTITIONS, replication=1, retention_ms=None)
            for name in ingest_topics()
        )


def write_keys(folder: Path, records: Sequence[KeyRecord]) -> dict[str, str]:
    """Write keys.toml; the settings that name it and the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "keys.toml"
    path.touch(mode=0o600)
    path.write_text(dump(records), "utf-8")
    return {"STEPCLOCK_KEYS_FILE": str(path), "STEPCLOCK_DATA_DIR": str(folder)}


def provision(
    folder: Path, environment: dict[str, str], tell: Tell, *, partitions: int = PARTITIONS
) -> None:
    """Topics, and buckets for every namespace of the keys file. Raises PreparationFailed."""
    run_step(
        "provisioning topics and buckets",
        [sys.executable, "-m", "admin", "provision", "--partitions", str(partitions)],
        log_path=folder / "provision.log",
        report=tell,
        env=environment,
        timeout_s=120.0,
    )


def host_and_port(url: str) -> tuple[str, int]:
    """Where a service of ours listens."""
    host, _, port = url.removeprefix("http://").partition(":")
    return host or LOOPBACK, int(port)


@dataclass(frozen=True, slots=True)
class GatewayBackend:
    """How to run a gateway: its module, its settings, and its broker unless it is embedded."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    broker: Broker | None


@contextmanager
def gateway_backend(
    folder: Path, records: Sequence[KeyRecord], *, kafka_too: bool, tell: Tell
) -> Iterator[GatewayBackend]:
    """What a gateway needs, with a Kafka of its own or embedded.

    Raises PreparationFailed, StartFailed.
    """
    environment = write_keys(folder, records)
    if not kafka_too:
        yield GatewayBackend(["admin", "serve"], environment, None)
        return
    with start_kafka(folder, tell) as broker:
        make_topics(broker)
        settings = {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STEPCLOCK_CANARY_S": "0",  # what the log holds is counted
        }
        yield GatewayBackend(["ingest"], environment | settings, broker)


def _require(service: str, missing: Sequence[str]) -> None:
    if missing:
        raise PreparationFailed(f"{service} needs programs that are missing: {', '.join(missing)}")
