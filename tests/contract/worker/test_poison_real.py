"""Lines that kill a real InfluxDB, which something restarts, written straight into a real Kafka."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from adapters.kafka.reader import KafkaReader
from native.influxd import InfluxDB
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, encode_headers
from schemas.log.dead_letter import DeadLetter, Reason, decode
from schemas.log.protocols import DEAD_LETTER_TOPIC
from tests.contract.worker.test_worker_real import RAW, SYSTEM, Rig, point, provisioned
from tests.deadline import eventually
from tests.unit.consumers.writing.test_poison import KILLER, ONE_OF_5000, TAKES_500

pytestmark = [pytest.mark.real, pytest.mark.slow]


class Supervisor:
    """Starts InfluxDB again as soon as it is dead, and counts; owns its process."""

    def __init__(self, influx: InfluxDB) -> None:
        self.deaths = 0
        self._process = influx.process
        self._kill = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor")
        self._thread.start()

    def kill(self) -> None:
        """Have it die, and return when it is dead."""
        self._kill.set()
        assert eventually(lambda: not self._kill.is_set())

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            if self._kill.is_set():
                self._process.kill()
                self._kill.clear()
            if not self._process.running:
                self.deaths += 1
                self._process.start()


class Front(ThreadingHTTPServer):
    """Before InfluxDB, and the reason why it dies: of lines that any parser takes."""

    daemon_threads = True

    def __init__(self, url: str, kill: Callable[[], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target = url
        self.kill = kill
        self.lethal_writes: list[bytes] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="front")
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Forward(BaseHTTPRequestHandler):
    server: Front

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if b"run=deadly" in body:
            self.server.lethal_writes.append(body)
            self.server.kill()
            self.close_connection = True
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        request = urllib.request.Request(self.server.target + self.path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                self.send_response(answer.status)
        except urllib.error.HTTPError as exc:
            with exc:
                text = exc.read()
            self.send_response(exc.code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        except OSError:  # nobody listens: so does nobody here
            self.close_connection = True
        else:
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def influxdb(influx_process: Callable[..., InfluxDB]) -> InfluxDB:
    return influx_process()


@pytest.fixture
def supervisor(influxdb: InfluxDB) -> Iterator[Supervisor]:
    supervisor = Supervisor(influxdb)
    yield supervisor
    supervisor.close()


@pytest.fixture
def rig(kafka_process: Callable[..., Any], influxdb: InfluxDB) -> Iterator[Rig]:
    with provisioned(kafka_process().bootstrap_servers, influxdb) as rig:
        yield rig


def put(rig: Rig, lines: bytes, *, topic: str = RAW, partition: int = 0) -> None:
    """A block that says that a gateway has checked it."""
    block = Block("intruder", rig.namespace, Precision.NS, 1, 1, lines)
    assert rig.publisher is not None
    rig.publisher.send(topic, partition, lines, encode_headers(block)).result(20)


def put_foreign(rig: Rig, lines: bytes, *, partition: int = 0) -> None:
    """A record that no gateway wrote."""
    headers = (("namespace", rig.namespace.encode()),)
    assert rig.publisher is not None
    rig.publisher.send(RAW, partition, lines, headers).result(20)


def letters(rig: Rig) -> list[DeadLetter]:
    return [decode(record) for record in KafkaReader(rig.kafka).read(DEAD_LETTER_TOPIC)]


def stored(rig: Rig, retention_class: str) -> Callable[[], int]:
    def count() -> int:
        try:
            return len(rig.times(retention_class))
        except Exception:  # noqa: BLE001  # the database may be dead at this moment
            return -1

    return count


def test_lines_that_kill_influxdb_bring_it_down_once_and_all_others_are_stored(
    rig: Rig, supervisor: Supervisor
) -> None:
    rig.send(0, 100)
    put(rig, b"\n".join([b"good v=1 1", KILLER, b"good v=2 2", TAKES_500, b"good v=3 3"]))
    put_foreign(rig, b"\n".join([b"foreign v=1 1", KILLER, TAKES_500, b"foreign v=2 2"]))
    put(rig, b"gpu v=1 1", topic=SYSTEM, partition=1)
    with rig.working(rig.settings(poison_apart_s=1.0)):
        rig.send(100, 100)
        assert eventually(lambda: stored(rig, "steps")() == 200, within_s=60)
        assert eventually(lambda: sum(rig.committed().values()) == 5, within_s=60)
    assert stored(rig, "raw")() == 200
    assert rig.times("raw", "good") == [1, 2, 3]
    assert rig.times("raw", "foreign") == [1, 2]
    assert rig.times("system", "gpu") == [1]
    found = letters(rig)
    assert {one.reason for one in found} == {Reason.MALFORMED}
    assert {one.tenant for one in found} == {"intruder", "foreign"}
    assert {line for one in found for line in one.lines.split(b"\n")} == {KILLER, TAKES_500}
    assert 1 <= supervisor.deaths <= 2, "twice if the first answer was lost on the way"


def test_a_line_that_every_parser_takes_is_found_and_set_apart(
    rig: Rig, supervisor: Supervisor, influxdb: InfluxDB
) -> None:
    front = Front(influxdb.url, supervisor.kill)
    try:
        deadly = point(2345).replace(b"run=a", b"run=deadly")
        rows = [point(n) for n in range(5000)]
        rows[2345] = deadly
        rig.send_lines(b"\n".join(rows))
        settings = rig.settings(
            influx_url=f"http://127.0.0.1:{front.server_port}", poison_apart_s=1.0
        )
        with rig.working(settings):
            put(rig, b"gpu v=1 1", topic=SYSTEM, partition=1)
            rig.send(5000, 1000, partition=1)
            assert eventually(lambda: stored(rig, "steps")() == 5999, within_s=90)
            assert eventually(lambda: sum(rig.committed().values()) == 3, within_s=60)
    finally:
        front.close()
    assert stored(rig, "raw")() == 5999
    assert rig.times("system", "gpu") == [1]
    assert [(one.view, one.reason, one.lines) for one in letters(rig)] == [
        ("wall", Reason.POISON, deadly),
        ("steps", Reason.POISON, deadly),
    ]
    assert supervisor.deaths == len(front.lethal_writes) <= ONE_OF_5000
    assert front.lethal_writes[-3:] == [deadly] * 3
