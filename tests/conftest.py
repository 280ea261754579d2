"""Real services for tests that name them: `kafka`, `influx`, `redis`, or `kafka_process`, ….

Only these fixtures, the marker `real`, the summary lines and what running in several processes
(pytest-xdist) needs belong here; fixtures of one suite stand in that suite.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

import native.redis
from native.influxd import InfluxDB
from native.kafka import Broker
from tests.fakes.simulated import SIMULATED
from tests.services import (
    Absent,
    Influx,
    Kafka,
    Redis,
    influx_service,
    kafka_service,
    private_influx,
    private_kafka,
    private_redis,
    redis_service,
)

REAL_FIXTURES = {
    "kafka",
    "influx",
    "redis",
    "kafka_process",
    "influx_process",
    "redis_process",
}

Service = TypeVar("Service")


class RealTests:
    """What became of the tests marked `real`, for the line at the end."""

    def __init__(self) -> None:
        self.how = {"kafka": "unused", "influxdb": "unused", "redis": "unused"}
        self.ran: set[str] = set()
        #: node id of a skipped test -> reason
        self.skipped: dict[str, str] = {}

    def found(self, service: str, how: str) -> None:
        """Note how a service was come by; the session's own counts more than a private one."""
        if self.how[service] in {"unused", "absent"}:
            self.how[service] = how

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test, whichever process ran it."""
        if "real" not in report.keywords or hasattr(report, "wasxfail"):
            return
        if report.skipped and isinstance(report.longrepr, tuple):
            _path, _line, reason = report.longrepr
            self.skipped[report.nodeid] = reason.removeprefix("Skipped: ")
        elif report.when == "call":
            self.ran.add(report.nodeid)

    @property
    def line(self) -> str:
        """One line that says how much was proven against real services."""
        services = " ".join(f"{name}={how}" for name, how in self.how.items())
        counts = f"tests={len(self.ran)} skipped={len(self.skipped)}"
        because = " | ".join(sorted(set(self.skipped.values())))
        return f"real: {services} {counts}" + (f" because {because}" if because else "")


REAL = pytest.StashKey[RealTests]()


def in_ci() -> bool:
    """Whether every real service is promised, so that going without one is a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REAL] = RealTests()
    config.pluginmanager.register(config.stash[REAL])
    if is_worker(config):
        # It was started with SIGINT ignored, and so would be the processes that tests start.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_worker(config: pytest.Config) -> bool:
    """Whether this process only runs tests for another one, which reports on them."""
    return hasattr(config, "workeroutput")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REAL_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("real")
    doubled = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if doubled:
        # Spread over several processes, all but one of them would silently not run.
        raise pytest.UsageError(f"several tests are called {doubled[0]}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if is_worker(session.config):
        session.config.workeroutput["how"] = session.config.stash[REAL].how
        session.config.workeroutput["simulated"] = dict(SIMULATED)
    elif in_ci() and exitstatus == pytest.ExitCode.OK and session.config.stash[REAL].skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker of pytest-xdist has found, once it is done."""
    output = getattr(node, "workeroutput", {})
    for service, how in output.get("how", {}).items():
        if how != "unused":
            node.config.stash[REAL].found(service, how)
    SIMULATED.update(output.get("simulated", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    real = config.stash[REAL]
    if real.ran or real.skipped:
        terminalreporter.write_line(real.line)
    if SIMULATED:
        counts = ", ".join(f"{number} {what}" for what, number in SIMULATED.items())
        terminalreporter.write_line(f"simulated: {counts}")


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker shared by the session, started when first asked for."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("kafka")
        kafka = enter(stack, kafka_service(folder), "kafka", pytestconfig)
        pytestconfig.stash[REAL].how["kafka"] = kafka.how
        yield kafka


@pytest.fixture(scope="session")
def influx(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Influx]:
    """An InfluxDB shared by the session, started when first asked for."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("influx")
        influx = enter(stack, influx_service(folder), "influxdb", pytestconfig)
        pytestconfig.stash[REAL].how["influxdb"] = influx.how
        yield influx


@pytest.fixture(scope="session")
def redis(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis shared by the session, started when first asked for."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("redis")
        redis = enter(stack, redis_service(folder), "redis", pytestconfig)
        pytestconfig.stash[REAL].how["redis"] = redis.how
        yield redis


@pytest.fixture
def redis_process(
    pytestconfig: pytest.Config, tmp_path: Path
) -> Iterator[Callable[..., native.redis.Redis]]:
    """Starts native Redises for one test alone: `redis_process(port=…)`."""
    with ExitStack() as stack:

        def start(*, port: int | None = None) -> native.redis.Redis:
            folder = new_folder(tmp_path, "redis")
            started = enter(stack, private_redis(folder, port=port), "redis", pytestconfig)
            pytestconfig.stash[REAL].found("redis", "native")
            return started

        yield start


@pytest.fixture
def kafka_process(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts native brokers for one test alone: `kafka_process(port=…, advertised_port=…)`."""
    with ExitStack() as stack:

        def start(*, port: int | None = None, advertised_port: int | None = None) -> Broker:
            folder = new_folder(tmp_path, "kafka")
            broker = private_kafka(folder, port=port, advertised_port=advertised_port)
            started = enter(stack, broker, "kafka", pytestconfig)
            pytestconfig.stash[REAL].found("kafka", "native")
            return started

        yield start


@pytest.fixture
def influx_process(
    pytestconfig: pytest.Config, tmp_path: Path
) -> Iterator[Callable[..., InfluxDB]]:
    """Starts native InfluxDBs for one test alone: `influx_process(port=…)`."""
    with ExitStack() as stack:

        def start(*, port: int | None = None) -> InfluxDB:
            folder = new_folder(tmp_path, "influx")
            started = enter(stack, private_influx(folder, port=port), "influxdb", pytestconfig)
            pytestconfig.stash[REAL].found("influxdb", "native")
            return started

        yield start


def enter(
    stack: ExitStack,
    service: AbstractContextManager[Service],
    name: str,
    config: pytest.Config,
) -> Service:
    """Start a service; where it is absent, skip the test, or fail it in CI."""
    try:
        return stack.enter_context(service)
    except Absent as exc:
        absent = str(exc)
    config.stash[REAL].found(name, "absent")
    if in_ci():
        pytest.fail(absent, pytrace=False)
    pytest.skip(absent)


def new_folder(tmp_path: Path, name: str) -> Path:
    """A folder of this test that no earlier start has used."""
    return tmp_path / f"{name}-{sum(1 for _ in tmp_path.glob(f'{name}-*'))}"
