from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import native.influxd
import native.kafka
import native.redis
from native.influxd import InfluxDB
from native.kafka import Broker
from native.ports import free_ports
from native.proxy import Proxy
from tests.services import (
    Absent,
    Influx,
    Kafka,
    Redis,
    first_of,
    influx_service,
    kafka_service,
    redis_service,
)

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[3]
PATIENCE_S = 20.0
SLEEPER = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]


def address(server: str) -> tuple[str, int]:
    host, port = server.rsplit(":", 1)
    return host, int(port)


def test_services_named_by_the_environment_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STEPCLOCK_TEST_KAFKA", "broker:9092")
    monkeypatch.setenv("STEPCLOCK_TEST_INFLUX_URL", "http://influx:8086")
    monkeypatch.setenv("STEPCLOCK_TEST_INFLUX_TOKEN", "secret")
    monkeypatch.setenv("STEPCLOCK_TEST_INFLUX_ORG", "acme")
    with kafka_service(tmp_path) as kafka, influx_service(tmp_path) as influx:
        assert kafka == Kafka("broker:9092", "environment")
        assert influx == Influx("http://influx:8086", "secret", "acme", "environment")


def test_the_reasons_of_every_way_that_failed_are_kept() -> None:
    @contextmanager
    def absent(reason: str) -> Iterator[str]:
        raise Absent(reason)
        yield "never"

    @contextmanager
    def present() -> Iterator[str]:
        yield "here"

    with first_of(lambda: absent("no engine"), present) as service:
        assert service == "here"
    with (
        pytest.raises(Absent, match="no engine; no java"),
        first_of(lambda: absent("no engine"), lambda: absent("no java")),
    ):
        pass


def run_pytest(
    tmp_path: Path, source: str, ci: str, *more: str
) -> subprocess.CompletedProcess[str]:
    """A session of its own on one file, where no service can be had."""
    test = tmp_path / "test_it.py"
    test.write_text(source)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STEPCLOCK_TEST_")}
    environment |= {
        "CI": ci,
        "PATH": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path),
        "DOCKER_HOST": f"unix://{tmp_path}/docker.sock",
    }
    options = ["-c", "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *more, str(test)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_absent_service_skips_with_what_is_missing(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "def test_it(kafka): pass", ci="")
    assert done.returncode == 0
    assert (
        "real: kafka=absent influxdb=unused redis=unused tests=0 skipped=1 because "
        "no Docker engine answers; no native Kafka without java, mvn\n"
    ) in done.stdout


def test_an_absent_service_fails_in_ci(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "def test_it(influx_process): influx_process()", ci="true")
    assert done.returncode == 1
    assert "Failed: no native InfluxDB before `make services` has built it" in done.stdout


SKIPPED = """
import pytest
@pytest.mark.real
def test_skipped(): pytest.skip("not today")
@pytest.mark.real
def test_ran(): pass
@pytest.mark.real
@pytest.mark.xfail(strict=True)
def test_expected_to_fail(): assert False
def test_without_services(): pytest.skip("no matter")
"""


def test_a_skipped_real_test_fails_the_session_in_ci(tmp_path: Path) -> None:
    line = "real: kafka=unused influxdb=unused redis=unused tests=1 skipped=1 because not today\n"
    locally = run_pytest(tmp_path, SKIPPED, ci="")
    assert locally.returncode == 0
    assert line in locally.stdout
    for processes in ("0", "2"):
        in_ci = run_pytest(tmp_path, SKIPPED, "true", "-n", processes)
        assert in_ci.returncode == 1
        assert line in in_ci.stdout


def test_tests_in_processes_of_their_own_tell_which_services_they_found(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "def test_it(kafka): pass", "", "-n", "2")
    assert "real: kafka=absent influxdb=unused redis=unused tests=0 skipped=1" in done.stdout


def test_two_tests_of_one_name_are_an_error_since_only_one_would_run(tmp_path: Path) -> None:
    twice = ("--keep-duplicates", str(tmp_path / "test_it.py"))
    done = run_pytest(tmp_path, "def test_it(): pass", "", *twice)
    assert done.returncode == 4
    assert "several tests are called ::test_it" in done.stderr


def test_the_shared_kafka_serves(kafka: Kafka) -> None:
    server = kafka.bootstrap_servers.split(",", maxsplit=1)[0]
    assert native.kafka.serves(*address(server))


def test_the_shared_influxdb_is_ready(influx: Influx) -> None:
    assert native.influxd.is_ready(*address(influx.url.removeprefix("http://")))


def test_a_redis_named_by_the_environment_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STEPCLOCK_TEST_REDIS_URL", "redis://cache:6379/3")
    with redis_service(tmp_path) as redis:
        assert redis == Redis("redis://cache:6379/3", "environment")


def test_a_killed_redis_comes_back_on_its_port(
    redis_process: Callable[..., native.redis.Redis],
) -> None:
    redis = redis_process()
    redis.process.kill()
    assert not native.redis.serves(HOST, redis.port)
    redis.process.start()
    assert native.redis.serves(HOST, redis.port)


def test_a_killed_broker_comes_back_on_its_port(kafka_process: Callable[..., Broker]) -> None:
    broker = kafka_process()
    broker.process.kill()
    assert not native.kafka.serves(HOST, broker.port)
    broker.process.start()
    assert native.kafka.serves(HOST, broker.port)


def test_a_broker_behind_a_proxy_sends_clients_there(kafka_process: Callable[..., Broker]) -> None:
    (port,) = free_ports(1)
    with Proxy(HOST, port) as proxy:
        broker = kafka_process(port=port, advertised_port=proxy.port)
        assert broker.bootstrap_servers == f"{HOST}:{proxy.port}"
        assert native.kafka.serves(HOST, proxy.port)
        assert f":{proxy.port}\n" in (broker.folder / "server.properties").read_text()
        proxy.cut()
        assert not native.kafka.serves(HOST, proxy.port)
        assert native.kafka.serves(HOST, port)
        proxy.restore()
        assert native.kafka.serves(HOST, proxy.port)


def test_a_killed_influxdb_comes_back_on_its_port(influx_process: Callable[..., InfluxDB]) -> None:
    influxdb = influx_process()
    influxdb.process.kill()
    assert not native.influxd.is_ready(HOST, influxdb.port)
    influxdb.process.start()
    assert native.influxd.is_ready(HOST, influxdb.port)


def test_a_frozen_influxdb_accepts_but_does_not_answer(
    influx_process: Callable[..., InfluxDB],
) -> None:
    influxdb = influx_process()
    influxdb.process.pause()
    with socket.create_connection((HOST, influxdb.port), timeout=0.2) as connection:
        connection.sendall(b"GET /ready HTTP/1.1\r\nHost: here\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    influxdb.process.resume()
    assert native.influxd.is_ready(HOST, influxdb.port)
