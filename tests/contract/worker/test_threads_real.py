"""Several workers in one process, on a real Kafka and a real InfluxDB."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import consumers.__main__
from adapters.kafka.source import KafkaSource
from native.process import Process
from schemas.log.protocols import TopicPartition
from tests.contract.worker.test_worker_real import EVENTS, PARTITIONS, RAW, SYSTEM, Rig, provisioned
from tests.deadline import eventually
from tests.services import Influx

pytestmark = [pytest.mark.real, pytest.mark.slow]

ALL = {TopicPartition(t, n) for t in (RAW, EVENTS, SYSTEM) for n in range(PARTITIONS)}


@pytest.fixture
def rig(kafka_process: Callable[..., Any], influx: Influx) -> Iterator[Rig]:
    with provisioned(kafka_process().bootstrap_servers, influx) as rig:
        yield rig


def test_two_threads_share_the_partitions_and_drain_together(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[KafkaSource] = []

    def source(*arguments: Any, **settings: Any) -> KafkaSource:
        sources.append(KafkaSource(*arguments, **settings))
        return sources[-1]

    monkeypatch.setattr(consumers.__main__, "KafkaSource", source)
    with rig.working(rig.settings(threads=2)):
        assert eventually(lambda: len(sources) == 2 and all(s._owned for s in sources))
        assert eventually(lambda: set().union(*(s._owned for s in sources)) == ALL)
        one, other = (set(source._owned) for source in sources)
        assert not one & other
        for n in range(9):
            rig.send(10 * n, 10, partition=n % PARTITIONS)
        assert eventually(lambda: len(rig.times("steps")) == 90)
    assert len(rig.times("raw")) == 90
    assert sum(rig.committed().values()) == 9


def test_a_process_of_two_threads_that_is_killed_loses_and_doubles_nothing(
    rig: Rig, tmp_path: Path
) -> None:
    ready = tmp_path / "url"
    process = Process(
        "consumers",
        [sys.executable, "-m", "consumers"],
        log_path=tmp_path / "log",
        ready=ready.exists,
        env=os.environ
        | {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": rig.kafka,
            "STEPCLOCK_INFLUX_URL": rig.influx.url,
            "STEPCLOCK_INFLUX_TOKEN": rig.influx.token,
            "STEPCLOCK_INFLUX_ORG": rig.influx.org,
            "STEPCLOCK_CONSUMER_GROUP": rig.namespace,
            "STEPCLOCK_PROBE_PORT": "0",
            "STEPCLOCK_PROBE_ADDRESS_FILE": str(ready),
            "STEPCLOCK_THREADS": "2",
            "STEPCLOCK_BATCH_POINTS": "50",
        },
    )
    with process:
        process.start()
        for n in range(60):
            rig.send(10 * n, 10, partition=n % PARTITIONS)
            if n == 30:
                assert eventually(lambda: len(rig.times("raw")) > 100, within_s=40)
                process.kill()
        process.start()
        assert eventually(lambda: len(rig.times("steps")) == 600, within_s=40)
        assert eventually(lambda: sum(rig.committed().values()) == 60)
        process.stop()
        assert process._popen is not None
        assert process._popen.returncode == 0, "both drained"
    assert len(rig.times("raw")) == 600
    assert "Traceback" not in process.log_path.read_text()
