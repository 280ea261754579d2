"""Which log a command works on: flags first, then the environment, then the log of `serve`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from adapters.kafka_connection import KafkaConnection
from adapters.retention import load_retention
from adapters.settings import (
    PREFIX,
    CommonSettings,
    KafkaSettings,
    default_data_dir,
    problems,
)
from admin.terminal import fail
from schemas.log import Publisher, Reader
from schemas.retention import InvalidRetention, Kind
from schemas.topics import DEAD_LETTER_TOPIC, topic_of

_KAFKA_VARIABLE = PREFIX + "KAFKA_BOOTSTRAP_SERVERS"

#: How long Kafka may take to answer before a command gives up.
_ANSWER_S = 10.0

KafkaServers = Annotated[
    str | None,
    typer.Option("--kafka", help=f"Kafka brokers, host:port[,…] ({_KAFKA_VARIABLE})."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Data folder of `serve` instead of Kafka (STEPCLOCK_DATA_DIR)."),
]


class KafkaLog:
    """The topics of a Kafka cluster."""

    views = ("wall", "steps")

    def __init__(self, connection: KafkaConnection) -> None:
        self.connection = connection
        self.name = f"Kafka at {connection.bootstrap_servers}"

    def reader(self) -> Reader:
        """Reads with a connection of its own for each topic."""
        from adapters.kafka import KafkaReader  # noqa: PLC0415 - loaded where it is used

        return KafkaReader(self.connection, timeout_s=_ANSWER_S)

    @contextmanager
    def publishing(self, topics: Collection[str]) -> Iterator[Publisher]:
        """Connects, and fails if one of the topics is missing."""
        from adapters.kafka import KafkaPublisher  # noqa: PLC0415 - loaded where it is used

        publisher = KafkaPublisher(self.connection, topics=topics)
        try:
            publisher.probe(_ANSWER_S)
            yield publisher
        finally:
            publisher.close(_ANSWER_S)


class EmbeddedLog:
    """The log in the data folder of `serve`, which may be running meanwhile.

    Its worker writes one view; the embedded store keeps the step clock by itself.
    """

    views = ("wall",)

    def __init__(self, data_dir: Path) -> None:
        from embedded.serve import log_path, store_path  # noqa: PLC0415 - loaded where it is used

        self.path = log_path(data_dir)
        self.name = str(self.path)
        self.store_path = store_path(data_dir)

    def reader(self) -> Reader:
        """Reads with a connection of its own for each topic."""
        from embedded.log import SqliteLog  # noqa: PLC0415 - loaded where it is used
        from embedded.log_reader import SqliteReader  # noqa: PLC0415 - loaded where it is used

        return SqliteReader(SqliteLog(self.path, [DEAD_LETTER_TOPIC]))

    @contextmanager
    def publishing(self, topics: Collection[str]) -> Iterator[Publisher]:
        """Appends beside the publisher of a running `serve`, transaction by transaction."""
        from embedded.log import SqliteLog  # noqa: PLC0415 - loaded where it is used
        from embedded.log_publisher import SqlitePublisher  # noqa: PLC0415 - loaded where it is used

        publisher = SqlitePublisher(SqliteLog(self.path, topics))
        try:
            yield publisher
        finally:
            publisher.close(_ANSWER_S)


def ingest_topics() -> list[str]:
    """Topics of the ingest classes, as the retention file of the environment says."""
    try:
        classes = load_retention(CommonSettings().retention_file)
    except (InvalidRetention, OSError, ValueError) as exc:
        fail(f"retention file: {exc}", code=2)
    return [topic_of(c.name) for c in classes.values() if c.kind is Kind.INGEST]


def choose(kafka: str | None, data_dir: Path | None) -> KafkaLog | EmbeddedLog:
    """The log that flags or environment name; ends the command where there is none."""
    if kafka is not None and data_dir is not None:
        fail("give --kafka or --data-dir, not both", code=2)
    kafka = kafka or (None if data_dir else os.environ.get(_KAFKA_VARIABLE))
    if kafka:
        try:
            return KafkaLog(KafkaSettings(kafka_bootstrap_servers=kafka).kafka)
        except ValidationError as exc:
            fail("; ".join(map(": ".join, problems(exc))), code=2)
    variable = os.environ.get(PREFIX + "DATA_DIR")
    log = EmbeddedLog(data_dir or (Path(variable) if variable else default_data_dir()))
    if not log.path.exists():
        fail(f"no log at {log.path}; give --kafka HOST:PORT or --data-dir FOLDER", code=2)
    return log
