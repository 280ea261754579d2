"""`stepclock-server serve`: one process, killed and restarted."""

import json
import re
import socket
import time
import urllib.request
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from embedded.store.store import SqliteStore
from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump
from tests.deadline import eventually
from tests.e2e.pipeline.chain import get, service
from tests.e2e.pipeline.load import Load, assert_all_stored


@pytest.fixture
def server(tmp_path):
    key, record = new_key("e2e")
    (tmp_path / "keys.toml").write_text(dump([record]))
    environment = {
        "STEPCLOCK_DATA_DIR": str(tmp_path),
        "STEPCLOCK_KEYS_FILE": str(tmp_path / "keys.toml"),
        "STEPCLOCK_CANARY_S": "0.2",
    }
    running = service("serve", ["admin", "serve"], tmp_path, environment)
    running.key = key
    running.data_dir = tmp_path
    yield running
    running.process.stop()


def test_a_receipt_of_the_embedded_server_is_settled_and_stored(server):
    headers = {"Authorization": f"Bearer {server.key}"}
    write = urllib.request.Request(
        f"{server.url}/api/v2/write?bucket=raw", b"e,run=r loss=1,step=1i", headers
    )
    with urllib.request.urlopen(write, timeout=10) as answer:
        receipt = answer.headers["Stepclock-Receipt"]
    ask = urllib.request.Request(
        f"{server.url}/api/v1/receipts/{receipt}?wait_s=20", headers=headers
    )
    with urllib.request.urlopen(ask, timeout=30) as answer:
        assert json.load(answer) == {"settled": True, "stored": True, "rejected": []}


def test_canaries_go_through_the_embedded_server(server):
    def stored():
        metrics = get(server.url, "/metrics")
        return float(
            re.search(r"^stepclock_consumer_canary_seconds_count (.+)$", metrics, re.MULTILINE)[1]
        )

    assert eventually(lambda: stored() >= 2)
    with closing(SqliteStore(server.data_dir / "store.db")) as store:
        points = list(store.points("stepclock", "system", "_canary"))
        assert store.experiments("stepclock") == []
    assert {point.tags["partition"] for point in points} == {"0"}


@pytest.mark.slow
def test_the_embedded_server_killed_under_load_keeps_every_acknowledged_point(server):
    with closing(SqliteStore(server.data_dir / "store.db")) as store:
        with Load([server.url], server.key, threads=3) as load:
            for _ in range(3):
                load.wait_for(2000)
                server.process.kill()
                server.process.start()
            load.wait_for(1000)
        assert load.answers[0] > 0, "the kill was noticed"
        assert_all_stored(store, load)


def test_a_point_posted_to_the_embedded_server_is_read_back_by_step(server):
    headers = {"Authorization": f"Bearer {server.key}"}
    rows = [
        {"experiment": "e", "run": "r", "step": n, "values": {"loss": 1.0 / (n + 1)}}
        for n in range(10)
    ]
    body = json.dumps({"rows": rows}).encode()
    request = urllib.request.Request(f"{server.url}/api/v1/metrics", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["accepted"] == 10
    url = f"{server.url}/api/v1/experiments/e/series?metric=loss"

    def read():
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return json.load(answer)["runs"]

    eventually(lambda: read() and len(read()[0]["t"]) == 10)
    [run] = read()
    assert run["t"] == list(range(10))
    assert run["mean"] == [1.0 / (n + 1) for n in range(10)]


def test_the_embedded_server_tells_its_own_latency(server):
    with Load([server.url], server.key) as load:
        load.wait_for(500)
    deadline = time.monotonic() + 20
    while "stepclock_consumer_end_to_end_seconds_count 0.0" in get(server.url, "/metrics"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sigterm_under_load_ends_in_order_and_keeps_every_acknowledged_point(server):
    popen = server.process._popen
    with (
        closing(SqliteStore(server.data_dir / "store.db")) as store,
        socket.create_connection(
            (urlsplit(server.url).hostname, urlsplit(server.url).port)
        ) as idle,
    ):
        stalled = (
            f"POST /api/v2/write?bucket=raw HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            f"Authorization: Bearer {server.key}\r\n\r\nhalf a body"
        )
        idle.sendall(stalled.encode())
        with Load([server.url], server.key) as load:
            load.wait_for(1000)
            # A type conflict: its dead letter may have to be written while the worker drains.
            conflict = f"load,run=r0 value=1i {time.time_ns()}".encode()
            request = urllib.request.Request(
                f"{server.url}/api/v2/write?bucket=raw",
                conflict,
                {"Authorization": f"Bearer {server.key}"},
            )
            urllib.request.urlopen(request, timeout=10).close()
            server.process.stop(grace_s=40)
        assert popen.returncode == 0
        server.process.start()
        assert_all_stored(store, load)
