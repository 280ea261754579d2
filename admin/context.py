"""What a command works on: flags first, then the environment, then what `serve` left."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from adapters.kafka.connection import KafkaConnection
from adapters.settings import (
    PREFIX,
    CommonSettings,
    InfluxSettings,
    KafkaSettings,
    default_data_dir,
    load_retention,
    problems,
    unknown_variables,
)
from admin.terminal import errors, fail
from consumers.settings import ConsumerSettings
from embedded.settings import ServeSettings
from ingest.settings import GatewaySettings
from janitor.settings import JanitorSettings
from schemas.log.protocols import DEAD_LETTER_TOPIC, Publisher, Reader, topic_of
from schemas.retention import InvalidRetention, Kind
from schemas.store.protocols import StoreReader

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
        from adapters.kafka.reader import KafkaReader  # noqa: PLC0415 - loaded where it is used

        return KafkaReader(self.connection, timeout_s=_ANSWER_S)

    @contextmanager
    def publishing(self, topics: Collection[str]) -> Iterator[Publisher]:
        """Connects, and fails if one of the topics is missing."""
        from adapters.kafka.publisher import KafkaPublisher  # noqa: PLC0415 - loaded where it is used

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
        from embedded.log.file import SqliteLog  # noqa: PLC0415 - loaded where it is used
        from embedded.log.reader import SqliteReader  # noqa: PLC0415 - loaded where it is used

        return SqliteReader(SqliteLog(self.path, [DEAD_LETTER_TOPIC]))

    @contextmanager
    def publishing(self, topics: Collection[str]) -> Iterator[Publisher]:
        """Appends beside the publisher of a running `serve`, transaction by transaction."""
        from embedded.log.file import SqliteLog  # noqa: PLC0415 - loaded where it is used
        from embedded.log.publisher import SqlitePublisher  # noqa: PLC0415 - loaded where it is used

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


_URL_VARIABLE = PREFIX + "INFLUX_URL"

InfluxUrl = Annotated[
    str | None, typer.Option("--influx", help=f"Base URL of InfluxDB 2 ({_URL_VARIABLE}).")
]
StoreDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Data folder of `serve` instead of InfluxDB (STEPCLOCK_DATA_DIR)."
    ),
]


@contextmanager
def reading(influx: str | None, data_dir: Path | None) -> Iterator[tuple[str, StoreReader]]:
    """The store that flags or environment name, with its name; ends the command without one."""
    if influx is not None and data_dir is not None:
        fail("give --influx or --data-dir, not both", code=2)
    influx = influx or (None if data_dir else os.environ.get(_URL_VARIABLE))
    if influx:
        from adapters.influx.reader import InfluxReader  # noqa: PLC0415 - loaded where it is used

        try:
            settings = InfluxSettings(influx_url=influx)
        except ValidationError as exc:
            fail("; ".join(map(": ".join, problems(exc))), code=2)
        with closing(InfluxReader(settings.influx)) as reader:
            yield f"InfluxDB at {influx}", reader
        return
    from embedded.serve import store_path  # noqa: PLC0415 - loaded where it is used
    from embedded.store.store import SqliteStore  # noqa: PLC0415 - loaded where it is used

    variable = os.environ.get(PREFIX + "DATA_DIR")
    path = store_path(data_dir or (Path(variable) if variable else default_data_dir()))
    if not path.exists():
        fail(f"no store at {path}; give --influx URL or --data-dir FOLDER", code=2)
    with closing(SqliteStore(path)) as store:
        yield str(path), store


S = TypeVar("S", bound=CommonSettings)

#: The settings of each process, by the command that starts it.
SETTINGS_OF: Mapping[str, type[CommonSettings]] = {
    "gateway": GatewaySettings,
    "consumer": ConsumerSettings,
    "janitor": JanitorSettings,
    "serve": ServeSettings,
}


def chosen_settings(kind: type[S], **flags: Any) -> S:
    """Flag over environment over default. Exit code 2 for what can't be."""
    for variable, near in unknown_variables(os.environ, SETTINGS_OF.values()):
        hint = f"; did you mean {near}?" if near else ""
        errors().print(f"warning: {variable} is not a setting{hint}", style="yellow")
    try:
        return kind(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as exc:
        for name, wrong in problems(exc):
            errors().print(f"error: {name}: {wrong}", style="red", markup=False)
        raise typer.Exit(2) from exc
    except SettingsError as exc:
        errors().print(f"error: {exc}", style="red", markup=False)
        raise typer.Exit(2) from exc
