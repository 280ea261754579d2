"""Dead letters mended and replayed, and the lag, with a real Kafka and a real InfluxDB."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from adapters.kafka.admin import KafkaAdmin
from adapters.kafka.reader import KafkaReader
from admin.__main__ import app
from admin.lag.figures import KafkaFigures
from admin.lag.report import report
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, TopicPartition
from tests.contract.worker.test_worker_real import (
    EVENTS,
    PARTITIONS,
    RAW,
    START_MS,
    SYSTEM,
    Rig,
    point,
)
from tests.deadline import eventually
from tests.services import Influx

pytestmark = [pytest.mark.real, pytest.mark.slow]

TOPICS = (RAW, SYSTEM, EVENTS)


@pytest.fixture
def rig(
    kafka_process: Callable[..., object], influx: Influx, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    for name in [name for name in os.environ if name.startswith("STEPCLOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    rig = Rig(kafka_process().bootstrap_servers, influx)  # type: ignore[attr-defined]  # Broker
    try:
        rig.provision_topics()
        rig.provision_buckets()
        monkeypatch.setenv("STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS", rig.kafka)
        monkeypatch.setenv("STEPCLOCK_CONSUMER_GROUP", rig.namespace)
        yield rig
    finally:
        rig.close()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def letters(rig: Rig) -> int:
    return sum(1 for _ in KafkaReader(rig.kafka).read(DEAD_LETTER_TOPIC))


def losses(rig: Rig, retention_class: str) -> list[object]:
    found = rig.reader.points(rig.namespace, retention_class, "resnet")
    return [stored.fields["loss"] for stored in found]


def test_a_type_conflict_mended_and_replayed_is_stored_in_both_views(
    rig: Rig, tmp_path: Path
) -> None:
    path = tmp_path / "letters.jsonl"
    bad = point(5).replace(b"loss=0.5", b'loss="0.25"')
    with rig.working(rig.settings()):
        rig.send(0, 3)
        assert eventually(lambda: len(rig.times("steps")) == 3)
        rig.send_lines(b"\n".join([point(4), bad, point(6)]), partition=1)
        assert eventually(lambda: len(rig.times("steps")) == 5)
        assert eventually(lambda: letters(rig) == 2)

        exported = run("dlq", "export", "--to", path, "--reason", "refused", "--since", "1h")
        assert exported.exit_code == 0, exported.output
        assert {json.loads(row)["view"] for row in path.read_text().splitlines()} == {
            "wall",
            "steps",
        }

        path.write_text(path.read_text().replace(r"loss=\"0.25\"", "loss=0.25"))
        dry = run("dlq", "replay", "--from", path, "--dry-run")
        assert dry.exit_code == 0, dry.output
        for _ in range(2):  # repeating it overwrites the same points
            result = run("dlq", "replay", "--from", path, "--yes")
            assert result.exit_code == 0, result.output
            assert result.stderr.count("sent 1 lines of vision, refused") == 2
        assert eventually(lambda: len(rig.times("steps")) == len(rig.times("raw")) == 6)
        assert eventually(lambda: rig.committed().get(TopicPartition(RAW, 1)) == 5)
    assert rig.times("raw") == [(START_MS + n) * 10**6 for n in (0, 1, 2, 4, 5, 6)]
    assert losses(rig, "raw").count(0.25) == losses(rig, "steps").count(0.25) == 1
    assert letters(rig) == 2


def test_what_was_not_mended_is_refused_again(rig: Rig) -> None:
    bad = point(5).replace(b"loss=0.5", b'loss="0.25"')
    with rig.working(rig.settings()):
        rig.send(0, 3)
        assert eventually(lambda: len(rig.times("steps")) == 3)
        rig.send_lines(bad)
        assert eventually(lambda: letters(rig) == 2)
        assert run("dlq", "replay", "--yes").exit_code == 0
        assert eventually(lambda: letters(rig) == 4)
        rig.send(6, 1)
        assert eventually(lambda: len(rig.times("steps")) == 4)


def test_lag_tells_records_members_and_the_age_of_what_waits(rig: Rig) -> None:
    with closing(KafkaFigures(rig.kafka, rig.namespace, TOPICS)) as figures:
        first = []

        def looked() -> bool:
            try:
                first[:] = [figures.look()]
            except LogUnavailable:  # no coordinator of groups yet
                return False
            return True

        assert eventually(looked)
        assert (first[0].lag, first[0].members) == (0, 0)
        with KafkaAdmin(rig.kafka) as admin:
            admin.set_retention(RAW, 3_600_000)
        for partition in range(PARTITIONS):
            rig.send(10 * partition, 10, partition=partition)
        waiting = figures.look()
        found = report(waiting, first[0])
        assert (waiting.lag, found.now.members) == (PARTITIONS, 0)
        assert "start one" in " ".join(found.advice)
        assert found.retention_left_h is not None
        assert 0.9 < found.retention_left_h <= 1
        with rig.working(rig.settings(threads=1)):
            assert eventually(lambda: figures.look().lag == 0)
            assert figures.look().members == 1
        settled = report(figures.look(), waiting)
        assert settled.rates is not None
        assert settled.rates.settled * settled.rates.over_s == pytest.approx(PARTITIONS)
    result = run("lag", "--json", "--every", "0.2")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["forecast"] == "nothing waits"
    assert len(json.loads(result.stdout)["partitions"]) == PARTITIONS * len(TOPICS)


def test_check_config_names_what_provision_would_make(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STEPCLOCK_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("STEPCLOCK_INFLUX_URL", rig.influx.url)
    monkeypatch.setenv("STEPCLOCK_INFLUX_TOKEN", rig.influx.token)
    monkeypatch.setenv("STEPCLOCK_INFLUX_ORG", rig.influx.org)
    key = run("keys", "create", "--tenant", "vision", "--namespace", rig.namespace)
    assert key.exit_code == 0, key.output
    result = run("check-config", "--connect")
    assert result.exit_code == 1, result.output
    assert f"bucket {rig.namespace}/rollup_5m" in result.stdout
    assert "run 'stepclock-server provision'" in result.stdout
    done = run("provision", "--keys-file", tmp_path / "keys.toml", "--yes")
    assert done.exit_code == 0, done.output
    assert run("check-config", "--connect").exit_code == 0
    with KafkaAdmin(rig.kafka) as admin:
        assert DEAD_LETTER_TOPIC in admin.describe_topics()
