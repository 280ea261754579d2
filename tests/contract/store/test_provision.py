"""`provision` against a real Kafka and a real InfluxDB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from adapters.influx.admin import Bucket, InfluxAdmin
from adapters.influx.connection import InfluxConnection
from adapters.influx.reader import InfluxReader
from adapters.influx.writer import InfluxWriter
from admin.provision.command import provision_command
from native.influxd import InfluxDB
from native.kafka import Broker
from schemas.line_protocol.precision import Precision
from schemas.store.protocols import StoreMisconfigured
from tests.contract.store.stores import RECENT_NS, fresh_name
from tests.services import Influx

DAY_S = 86_400


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(provision_command)
    return app


@pytest.fixture
def admin(influx: Influx) -> Iterator[InfluxAdmin]:
    with InfluxAdmin(InfluxConnection(influx.url, influx.token, influx.org)) as admin:
        yield admin


@pytest.fixture
def private_influx(influx_process: Callable[[], InfluxDB]) -> InfluxDB:
    """One whose namespace `stepclock` nobody else relies on."""
    return influx_process()


@pytest.fixture
def retention_file(
    private_influx: InfluxDB,
    kafka_process: Callable[[], Broker],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Path:
    """The retention file, still to be made, of a Kafka and an InfluxDB of the test's own."""
    for name, value in {
        "KAFKA_BOOTSTRAP_SERVERS": kafka_process().bootstrap_servers,
        "INFLUX_URL": private_influx.url,
        "INFLUX_TOKEN": private_influx.token,
        "INFLUX_ORG": private_influx.org,
        "KEYS_FILE": str(tmp_path / "keys.toml"),
        "RETENTION_FILE": str(tmp_path / "retention.toml"),
    }.items():
        monkeypatch.setenv(f"STEPCLOCK_{name}", value)
    return tmp_path / "retention.toml"


def retention_text(raw: str = "90d", every: str = "10m") -> str:
    return f"""
[classes.raw]
kind = "ingest"
keep = "{raw}"
[classes.events]
kind = "ingest"
keep = "400d"
[classes.steps]
kind = "derived"
keep = "forever"
shard = "100y"
[classes.coarse]
kind = "derived"
keep = "400d"
[classes.coarse.rollup]
from = "events"
window = "5m"
every = "{every}"
delay = "1m"
look_back = "1h"
"""


def test_provision_is_idempotent_and_asks_before_it_shortens(
    app: typer.Typer, retention_file: Path, private_influx: InfluxDB
) -> None:
    at = InfluxConnection(private_influx.url, private_influx.token, private_influx.org)
    retention_file.write_text(retention_text())
    retention_file.with_name("keys.toml").write_text(
        f'[tenants.a]\nnamespace = "keyed"\n[keys.k]\ntenant = "a"\nsha256 = "{"0" * 64}"\n'
    )

    def run(*flags: str, partitions: int = 2) -> tuple[int, str]:
        arguments = ["--namespace", "vision", "--partitions", str(partitions), *flags]
        result = CliRunner().invoke(app, arguments)
        return result.exit_code, result.output

    def buckets() -> dict[str, Bucket]:
        with InfluxAdmin(at) as admin:
            return admin.buckets()

    code, output = run("--dry-run")
    assert (code, "vision/raw" in output) == (0, True), output
    assert "vision/raw" not in buckets()

    code, output = run("--yes")
    assert code == 0, output
    for namespace in ("stepclock", "vision", "keyed"):
        raw, steps = f"{namespace}/raw", f"{namespace}/steps"
        assert buckets()[raw] == Bucket(raw, 90 * DAY_S, DAY_S)
        assert buckets()[steps] == Bucket(steps, None, 100 * 365 * DAY_S)

    code, output = run()
    assert (code, "nothing to do" in output) == (0, True), output

    code, output = run(partitions=5)
    assert (code, "has 2 partitions, not 5: left as it is" in output) == (0, True), output

    with InfluxAdmin(at) as admin:
        made = admin.tasks()
    assert sorted(task.name for task in made) == [
        f"stepclock rollup {namespace}/coarse" for namespace in ("keyed", "stepclock", "vision")
    ]
    retention_file.write_text(retention_text(every="20m"))
    code, output = run()
    assert (code, "3 done" in output) == (0, True), output
    with InfluxAdmin(at) as admin:
        changed = admin.tasks()
    assert {task.id for task in changed} == {task.id for task in made}
    assert all("every: 20m" in task.flux for task in changed)

    retention_file.write_text(retention_text(raw="1h", every="20m"))
    code, output = run()
    assert (code, "keeps 90d, shards of 1d → keeps 1h" in output) == (1, True), output
    assert buckets()["vision/raw"].keep_s == 90 * DAY_S

    code, output = run("--yes")
    assert code == 0, output
    assert buckets()["vision/raw"] == Bucket("vision/raw", 3600, 3600)
    code, output = run()
    assert (code, "nothing to do" in output) == (0, True), output


def test_kafka_that_is_away_is_said_and_nothing_is_made(
    app: typer.Typer,
    influx: Influx,
    admin: InfluxAdmin,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    namespace = fresh_name()
    monkeypatch.setenv("STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("STEPCLOCK_INFLUX_URL", influx.url)
    monkeypatch.setenv("STEPCLOCK_INFLUX_TOKEN", influx.token)
    monkeypatch.setenv("STEPCLOCK_INFLUX_ORG", influx.org)
    monkeypatch.setenv("STEPCLOCK_KEYS_FILE", str(tmp_path / "none.toml"))
    result = CliRunner().invoke(app, ["--namespace", namespace])
    assert result.exit_code == 1
    assert "Kafka at 127.0.0.1:1" in result.output
    assert not any(name.startswith(namespace) for name in admin.buckets())


def test_settings_that_cannot_be_are_a_usage_error(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("STEPCLOCK_INFLUX_TOKEN", raising=False)
    monkeypatch.delenv("STEPCLOCK_INFLUX_TOKEN_FILE", raising=False)
    monkeypatch.setenv("STEPCLOCK_KEYS_FILE", str(tmp_path / "none.toml"))
    result = CliRunner().invoke(app, [])
    assert (result.exit_code, "STEPCLOCK_INFLUX_TOKEN is not set" in result.output) == (2, True)
    (tmp_path / "retention.toml").write_text("nonsense")
    monkeypatch.setenv("STEPCLOCK_RETENTION_FILE", str(tmp_path / "retention.toml"))
    result = CliRunner().invoke(app, [])
    assert (result.exit_code, "retention.toml" in result.output) == (2, True)


# -- the server's administration --------------------------------------------------------------


def test_the_default_mapping_can_be_moved_and_moved_back(admin: InfluxAdmin) -> None:
    namespace = fresh_name()
    for name in ("raw", "steps"):
        admin.create_bucket(f"{namespace}/{name}", None, None)
    assert admin.default_mapping(namespace) is None
    for name in ("raw", "steps", "raw"):
        admin.map_default(namespace, name, f"{namespace}/{name}")
        assert admin.default_mapping(namespace) == name


def test_a_mapped_namespace_answers_without_naming_the_class(
    admin: InfluxAdmin, influx: Influx
) -> None:
    namespace = fresh_name()
    admin.create_bucket(f"{namespace}/raw", None, None)
    admin.map_default(namespace, "raw", f"{namespace}/raw")
    writer = InfluxWriter(InfluxConnection(influx.url, influx.token, influx.org))
    writer.write(namespace, "raw", b"e,run=r a=1 %d" % RECENT_NS, Precision.NS)
    writer.close()
    reader = InfluxReader(InfluxConnection(influx.url, influx.token, influx.org))
    (tables,) = reader.tables(namespace, [], 'SHOW TAG VALUES FROM "e" WITH KEY = "run"')
    reader.close()
    assert tables[0]["values"] == [["run", "r"]]


def test_more_buckets_than_a_page_are_all_found(admin: InfluxAdmin) -> None:
    namespace = fresh_name()
    names = {f"{namespace}/b{i}" for i in range(103)}
    for name in names:
        admin.create_bucket(name, None, None)
    assert names <= set(admin.buckets())


def test_what_the_server_refuses_is_a_misconfiguration(admin: InfluxAdmin, influx: Influx) -> None:
    name = f"{fresh_name()}/raw"
    admin.create_bucket(name, None, None)
    with pytest.raises(StoreMisconfigured):
        admin.create_bucket(name, None, None)
    with pytest.raises(StoreMisconfigured):
        admin.update_bucket(f"{name}-unknown", None, 3600)
    with (
        InfluxAdmin(InfluxConnection(influx.url, influx.token, "nosuch")) as stranger,
        pytest.raises(StoreMisconfigured),
    ):
        stranger.buckets()
