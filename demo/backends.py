"""Where Kafka and InfluxDB are: services of the user's, or processes of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.influx.connection import InfluxConnection
from native import influxd, kafka
from native.step import PreparationFailed


@dataclass(frozen=True, slots=True)
class Backends:
    """Where Kafka and InfluxDB are. The token must be allowed to make buckets."""

    kafka_bootstrap_servers: str
    influx: InfluxConnection


@contextmanager
def native_backends(folder: Path, tell: Callable[[str], None]) -> Iterator[Backends]:
    """A broker and a database of our own on this machine, without Docker, until the end.

    The first time they are prepared, which takes minutes. Raises PreparationFailed, StartFailed.
    """
    missing = [*kafka.missing(), *influxd.missing()]
    if missing:
        raise PreparationFailed(
            f"not installed: {', '.join(missing)}; install them, or name services of your own "
            "with --kafka and --influx"
        )
    kafka.ensure(tell)
    influxd.ensure(tell)
    with (
        kafka.start(folder / "kafka") as broker,
        influxd.start(folder / "influxd") as database,
    ):
        yield Backends(
            broker.bootstrap_servers,
            InfluxConnection(database.url, database.token, database.org),
        )
