"""Finds a real Kafka, InfluxDB and Redis: named by the environment, in Docker, or native.

What cannot be had is `Absent`, with a reason that says what to install or run.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import native.influxd
import native.kafka
import native.redis
from native.influxd_binary import binary as influxd_binary
from native.kafka_files import VERSION as KAFKA_VERSION
from native.process import Process, StartFailed
from native.step import PreparationFailed

KAFKA_IMAGE = f"apache/kafka:{KAFKA_VERSION}"
INFLUX_IMAGE = "influxdb:2.7"
DEFAULT_ENGINE = "unix:///var/run/docker.sock"
ORG = "stepclock"
TOKEN = secrets.token_hex(16)

log = logging.getLogger(__name__)

Service = TypeVar("Service")


class Absent(Exception):
    """The service cannot be had here; the message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Kafka:
    """A broker that all tests of a session share: make topics of your own."""

    bootstrap_servers: str
    #: "environment", "docker" or "native"
    how: str
    #: Only where it is native.
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class Influx:
    """An InfluxDB that all tests of a session share: make buckets of your own."""

    url: str
    token: str
    org: str
    #: "environment", "docker" or "native"
    how: str
    #: Only where it is native.
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis that all tests of a session share: use names of your own."""

    url: str
    #: "environment" or "native"
    how: str


@contextmanager
def kafka_service(folder: Path) -> Iterator[Kafka]:
    """A broker for as long as the block lasts. Raises Absent."""
    servers = os.environ.get("STEPCLOCK_TEST_KAFKA")
    if servers:
        yield Kafka(servers, "environment")
        return
    with first_of(_docker_kafka, lambda: _native_kafka(folder)) as kafka:
        yield kafka


@contextmanager
def influx_service(folder: Path) -> Iterator[Influx]:
    """An InfluxDB for as long as the block lasts. Raises Absent."""
    url = os.environ.get("STEPCLOCK_TEST_INFLUX_URL")
    if url:
        token = os.environ.get("STEPCLOCK_TEST_INFLUX_TOKEN", "")
        yield Influx(url, token, os.environ.get("STEPCLOCK_TEST_INFLUX_ORG", ORG), "environment")
        return
    with first_of(_docker_influx, lambda: _native_influx(folder)) as influx:
        yield influx


@contextmanager
def redis_service(folder: Path) -> Iterator[Redis]:
    """A Redis for as long as the block lasts. Raises Absent."""
    url = os.environ.get("STEPCLOCK_TEST_REDIS_URL")
    if url:
        yield Redis(url, "environment")
        return
    with private_redis(folder) as redis:
        yield Redis(redis.url, "native")


@contextmanager
def private_redis(folder: Path, *, port: int | None = None) -> Iterator[native.redis.Redis]:
    """A native Redis of one's own, to kill or to freeze. Raises Absent."""
    if names := native.redis.missing():
        raise Absent(f"no native Redis without {', '.join(names)} (Debian: redis-server)")
    try:
        redis = native.redis.start(folder, port=port)
    except StartFailed as exc:
        raise Absent(f"no native Redis: {exc}") from exc
    with redis:
        yield redis


@contextmanager
def private_kafka(
    folder: Path,
    *,
    port: int | None = None,
    advertised_port: int | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[native.kafka.Broker]:
    """A native broker of one's own, to kill or to freeze. Raises Absent."""
    if names := native.kafka.missing():
        raise Absent(f"no native Kafka without {', '.join(names)}")
    try:
        native.kafka.ensure(log.info)
        broker = native.kafka.start(
            folder, port=port, advertised_port=advertised_port, settings=settings
        )
    except (PreparationFailed, StartFailed) as exc:
        raise Absent(f"no native Kafka: {exc}") from exc
    with broker:
        yield broker
    shutil.rmtree(folder / "data")


@contextmanager
def private_influx(folder: Path, *, port: int | None = None) -> Iterator[native.influxd.InfluxDB]:
    """A native InfluxDB of one's own, to kill or to freeze. Raises Absent."""
    if not influxd_binary().exists():  # the build takes longer than a test may
        without = ", ".join(native.influxd.missing())
        hint = f", which needs {without}" if without else ""
        raise Absent(f"no native InfluxDB before `make services` has built it{hint}")
    try:
        influxdb = native.influxd.start(folder, port=port, org=ORG, token=TOKEN)
    except StartFailed as exc:
        raise Absent(f"no native InfluxDB: {exc}") from exc
    with influxdb:
        yield influxdb
    shutil.rmtree(folder / "engine")


@contextmanager
def _native_kafka(folder: Path) -> Iterator[Kafka]:
    with private_kafka(folder) as broker:
        yield Kafka(broker.bootstrap_servers, "native", broker.process)


@contextmanager
def _native_influx(folder: Path) -> Iterator[Influx]:
    with private_influx(folder) as influxdb:
        yield Influx(influxdb.url, influxdb.token, influxdb.org, "native", influxdb.process)


@contextmanager
def _docker_kafka() -> Iterator[Kafka]:
    with _container(KAFKA_IMAGE, 9092, _kafka_env, native.kafka.serves) as (host, port):
        yield Kafka(f"{host}:{port}", "docker")


def _kafka_env(host: str, port: int) -> dict[str, str]:
    """The broker's settings in the form that the image takes."""
    settings = {
        **native.kafka.SETTINGS,
        "listeners": "PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093",
        "advertised.listeners": f"PLAINTEXT://{host}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": "1@127.0.0.1:9093",
    }
    return {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in settings.items()}


@contextmanager
def _docker_influx() -> Iterator[Influx]:
    onboarding = {
        "DOCKER_INFLUXDB_INIT_MODE": "setup",
        "DOCKER_INFLUXDB_INIT_USERNAME": "admin",
        "DOCKER_INFLUXDB_INIT_PASSWORD": TOKEN,
        "DOCKER_INFLUXDB_INIT_ORG": ORG,
        "DOCKER_INFLUXDB_INIT_BUCKET": "onboarding",
        "DOCKER_INFLUXDB_INIT_ADMIN_TOKEN": TOKEN,
    }
    ready = native.influxd.is_ready
    with _container(INFLUX_IMAGE, 8086, lambda _host, _port: onboarding, ready) as (host, port):
        yield Influx(f"http://{host}:{port}", TOKEN, ORG, "docker")


def require_engine() -> None:
    """Return if a Docker engine is there. Raises Absent."""
    engine = os.environ.get("DOCKER_HOST") or DEFAULT_ENGINE
    if engine.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(engine.removeprefix("unix://"))
            except OSError:
                raise Absent("no Docker engine answers") from None


def _container(
    image: str,
    port_inside: int,
    env: Callable[[str, int], dict[str, str]],
    ready: Callable[[str, int], bool],
) -> AbstractContextManager[tuple[str, int]]:
    """A container, provided that a Docker engine is there. Raises Absent."""
    require_engine()
    # Late, since testcontainers looks for an engine as it is imported.
    from tests.containers import container  # noqa: PLC0415

    return container(image, port_inside, env=env, ready=ready)


@contextmanager
def first_of(*ways: Callable[[], AbstractContextManager[Service]]) -> Iterator[Service]:
    reasons: list[str] = []
    with ExitStack() as stack:
        for way in ways:
            try:
                service = stack.enter_context(way())
            except Absent as exc:
                log.info("%s", exc)
                reasons.append(str(exc))
                continue
            yield service
            return
    raise Absent("; ".join(reasons))
