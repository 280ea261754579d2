"""`stepclock-server backfill` between a real Kafka and a real InfluxDB."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from influxdb_client import InfluxDBClient

from adapters.kafka.admin import KafkaAdmin
from adapters.kafka.reader import KafkaReader
from native.proxy import Proxy
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, Delivery, encode_headers
from schemas.log.protocols import DEAD_LETTER_TOPIC
from tests.contract.worker.test_worker_real import (
    EVENTS,
    RAW,
    START_MS,
    SYSTEM,
    Rig,
    point,
    provisioned,
)
from tests.deadline import eventually
from tests.services import Influx

pytestmark = [pytest.mark.real, pytest.mark.slow]

MEASUREMENTS = {
    "raw": ["resnet", "vit"],
    "steps": ["resnet", "vit", "nonfinite"],
    "events": ["nonfinite", "delivery"],
    "system": ["cpu"],
}


@pytest.fixture
def rig(kafka_process: Callable[..., Any], influx: Influx) -> Iterator[Rig]:
    with provisioned(kafka_process().bootstrap_servers, influx) as rig:
        yield rig


def environment(rig: Rig, **changes: str) -> dict[str, str]:
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("STEPCLOCK_")}
    return inherited | {
        "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": rig.kafka,
        "STEPCLOCK_INFLUX_URL": rig.influx.url,
        "STEPCLOCK_INFLUX_TOKEN": rig.influx.token,
        "STEPCLOCK_INFLUX_ORG": rig.influx.org,
        "STEPCLOCK_INFLUX_TIMEOUT_S": "2",
        "STEPCLOCK_RETRY_CAP_S": "0.5",
        "STEPCLOCK_CONSUMER_GROUP": rig.namespace,
        "COLUMNS": "160",
        **changes,
    }


def started(rig: Rig, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "admin", "backfill", *arguments],
        env=environment(rig, **changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def backfill(rig: Rig, *arguments: str, code: int = 0) -> str:
    process = started(rig, *arguments)
    out, err = process.communicate(timeout=90)
    assert process.returncode == code, out + err
    return out + err


def figures(said: str) -> dict[str, int]:
    line = re.search("^backfill: (.+)$", said, re.MULTILINE)
    assert line is not None, said
    return {name: int(value) for name, value in (one.split("=") for one in line[1].split())}


def content(rig: Rig) -> dict[str, list[object]]:
    return {
        bucket: [
            (p.experiment, sorted(p.tags.items()), p.time_ns, sorted(p.fields.items()))
            for name in names
            for p in rig.reader.points(rig.namespace, bucket, name)
        ]
        for bucket, names in MEASUREMENTS.items()
    }


def empty(rig: Rig) -> None:
    """Delete every point, as an accident or somebody by the API would."""
    with InfluxDBClient(rig.influx.url, rig.influx.token, org=rig.influx.org) as client:
        for bucket in MEASUREMENTS:
            client.delete_api().delete(
                "1970-01-01T00:00:00Z",
                "2262-01-01T00:00:00Z",
                "",
                bucket=f"{rig.namespace}/{bucket}",
            )
    assert not any(content(rig).values())


def send_delivered(rig: Rig, text: bytes, partition: int) -> None:
    count = text.count(b"\n") + 1
    deliveries = (Delivery("s", partition, START_MS * 10**6, "resnet", "a", 0, 1, 0, count),)
    block = Block("vision", rig.namespace, Precision.MS, count, 0, text, deliveries=deliveries)
    assert rig.publisher is not None
    rig.publisher.send(RAW, partition, text, encode_headers(block)).result(10)


def fill(rig: Rig) -> dict[str, list[object]]:
    """Points in every class, written by a worker that has gone; what the store holds."""
    for partition in range(3):
        steps = range(1000 * partition, 1000 * partition + 1000)
        send_delivered(rig, b"\n".join(point(n) for n in steps), partition)
    rig.send_lines(b"vit,run=b f=1,step=7i 1700000000007", partition=1)
    bad = point(7).replace(b"loss=0.5", b'loss="high"')
    rig.send_lines(bad, partition=0)  # behind its neighbours, so the field is a number by then
    rig.send_lines(
        b"nonfinite,experiment=resnet,run=a,host=n1 count=1,step=7i 1700000000007", topic=EVENTS
    )
    rig.send_lines(b"cpu,host=n1 usage=1 1700000000007", topic=SYSTEM)
    with rig.working(rig.settings()):
        assert eventually(lambda: sum(rig.committed().values()) == 7)
    before = content(rig)
    assert {bucket: len(points) for bucket, points in before.items()} == {
        "raw": 3001,
        "steps": 3002,
        "events": 4,
        "system": 1,
    }
    return before


def letters(rig: Rig) -> int:
    return sum(1 for _ in KafkaReader(rig.kafka).read(DEAD_LETTER_TOPIC))


def test_what_was_deleted_is_back_and_neither_group_nor_dead_letters_have_changed(rig):
    before = fill(rig)
    committed, dead = rig.committed(), letters(rig)
    dry = backfill(rig, "--dry-run")
    assert figures(dry)["points"] == 3004
    assert re.search(rf"{rig.namespace}/steps\s+│\s+3,003\b", dry)
    assert content(rig) == before
    empty(rig)
    said = backfill(rig, "--yes")
    assert content(rig) == before
    assert figures(said) == {
        "records": 7,
        "of": 7,
        "points": 3003,
        "refused": 2,
        "new": 0,
        "left_out": 0,
        "deleted": 0,
    }
    assert "action=backfill" in said
    assert (rig.committed(), letters(rig)) == (committed, dead)
    with KafkaAdmin(rig.kafka) as admin:
        assert admin.member_count(rig.namespace) == 0

    backfill(rig, "--yes")  # once more: everything overwrites itself
    assert content(rig) == before
    assert backfill(rig, code=2).count("say --yes") == 1


def test_only_one_view_of_one_run_comes_back(rig):
    before = fill(rig)
    empty(rig)
    said = backfill(rig, "--view", "steps", "--run", "b", "--namespace", rig.namespace, "--yes")
    assert figures(said)["points"] == 1
    after = content(rig)
    assert after["steps"] == [p for p in before["steps"] if p[0] == "vit"]
    assert [bucket for bucket, points in after.items() if points] == ["steps"]
    assert figures(backfill(rig, "--experiment", "resnet", "--class", "raw", "--yes"))["of"] == 5
    after = content(rig)
    assert after["raw"] == [p for p in before["raw"] if p[0] == "resnet"]
    assert after["events"] == [p for p in before["events"] if p[0] == "delivery"]


def test_from_a_time_on_only_later_records_come_back(rig):
    fill(rig)
    newest_ms = max(
        record.timestamp_ms
        for topic in (RAW, EVENTS, SYSTEM)
        for record in KafkaReader(rig.kafka).read(topic)
    )
    assert eventually(lambda: datetime.now(UTC).timestamp() * 1000 > newest_ms + 1)
    rig.send_lines(point(5000), partition=2)  # points as old as the others, a record that is newer
    empty(rig)
    since = datetime.fromtimestamp((newest_ms + 1) / 1000, UTC).isoformat(timespec="milliseconds")
    said = backfill(rig, "--from", since, "--yes")
    assert figures(said)["of"] == 1
    assert rig.times("raw") == [(START_MS + 5000) * 10**6]
    assert rig.times("steps") == [5000 * 10**6]
    assert "nothing to write" in backfill(rig, "--from", "2100-01-01", "--yes")


def test_it_ends_by_itself_while_more_is_written_and_waits_for_a_store_that_is_away(rig):
    for n in range(60):
        rig.send(100 * n, 100, partition=n % 3)
    over = threading.Event()
    sent = [60]

    def keep_sending() -> None:
        while not over.wait(0.01):
            rig.send(100 * sent[0], 100, partition=sent[0] % 3)
            sent[0] += 1

    host, _, port = rig.influx.url.removeprefix("http://").partition(":")
    sender = threading.Thread(target=keep_sending)
    with Proxy(host, int(port)) as proxy:
        proxy.cut()
        process = started(
            rig, "--yes", "--influx", f"http://127.0.0.1:{proxy.port}", STEPCLOCK_BATCH_POINTS="500"
        )
        sender.start()
        try:
            assert process.stderr is not None
            for said in process.stderr:
                if "store does not answer" in said:
                    break
            proxy.restore()
            out, err = process.communicate(timeout=60)
        finally:
            over.set()
            sender.join()
            process.kill()
            process.wait()
    assert process.returncode == 0, out + err
    found = figures(out)
    assert 60 <= found["of"] == found["records"] < sent[0]
    assert found["points"] == 100 * found["of"]
    assert len(rig.times("raw")) == len(rig.times("steps")) == found["points"]


def test_ctrl_c_ends_it_and_the_command_that_it_names_does_the_rest(rig):
    for n in range(300):
        rig.send(100 * n, 100, partition=n % 3)
    host, _, port = rig.influx.url.removeprefix("http://").partition(":")
    with Proxy(host, int(port)) as proxy:
        process = started(
            rig,
            "--yes",
            "--influx",
            f"http://127.0.0.1:{proxy.port}",
            STEPCLOCK_BATCH_POINTS="500",
            STEPCLOCK_BATCH_POINTS_MAX="500",
            STEPCLOCK_MAX_BUFFERED_BYTES="50000",
            STEPCLOCK_DRAIN_S="1",
        )
        try:
            assert eventually(lambda: len(rig.times("steps")) >= 1000)
            proxy.freeze()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 130, out + err
    found = figures(out)
    assert 0 < found["records"] < found["of"] == 300
    [command] = re.findall("^go on with: (.+)$", err, re.MULTILINE)
    words = shlex.split(command)
    assert words[:3] == ["stepclock-server", "backfill", "--from"]
    rest = figures(backfill(rig, *words[2:], "--yes"))
    assert rest["of"] <= 300
    assert len(rig.times("raw")) == len(rig.times("steps")) == 30_000


def test_what_is_refused_now_is_kept_in_a_file_for_a_replay(rig, tmp_path):
    rig.send(0, 3)
    with rig.working(rig.settings()):
        assert eventually(lambda: len(rig.times("steps")) == 3)
    empty(rig)
    rig.send_lines(b'other,run=a loss="text",step=1i 1700000000001', partition=0)
    rig.send_lines(b"other,run=a loss=0.5,step=2i 1700000000002", partition=0)
    path = tmp_path / "refused.jsonl"
    said = backfill(rig, "--yes", "--refused", str(path), code=1)
    assert figures(said)["new"] == 2
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    assert {(row["view"], row["reason"]) for row in rows} == {
        ("wall", "refused"),
        ("steps", "refused"),
    }
    assert letters(rig) == 0
    assert "exists already" in backfill(rig, "--yes", "--refused", str(path), code=2)
