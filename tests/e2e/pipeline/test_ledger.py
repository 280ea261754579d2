"""The ledger on a real chain: whole, then with losses planted in the log and in the store."""

import json
import time
import urllib.request
from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from adapters.kafka.client import connect_admin, to_library
from schemas.log import receipt
from schemas.log.protocols import TopicPartition
from tests.e2e.pipeline.chain import chain

pytestmark = pytest.mark.slow

LINES = 20


@pytest.fixture
def own(tmp_path, kafka_process, influx_process):
    broker, database = kafka_process(), influx_process()
    with chain(tmp_path, broker.bootstrap_servers, database) as running:
        running.broker, running.database = broker, database
        yield running


class Job:
    """A training job that names its stream and counts its requests."""

    def __init__(self, url, key, run):
        self.url, self.key, self.run = url, key, run
        self.start_ns = time.time_ns()
        self.sequence = 0

    def send(self):
        steps = range(self.sequence * LINES, (self.sequence + 1) * LINES)
        body = "\n".join(
            f"resnet,run={self.run},rank=0 loss=0.5,step={step}i {self.start_ns + step * 1000}"
            for step in steps
        )
        headers = {
            "Authorization": f"Bearer {self.key}",
            "Stepclock-Stream": f"{self.run}-0",
            "Stepclock-Sequence": str(self.sequence),
            "Stepclock-Start": str(self.start_ns),
            "Stepclock-Experiment": "resnet",
            "Stepclock-Run": self.run,
        }
        self.sequence += 1
        url = f"{self.url}/api/v2/write?bucket=raw"
        request = urllib.request.Request(url, body.encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.headers["Stepclock-Receipt"]


def stored(own, issued):
    request = urllib.request.Request(
        f"{own.urls[0]}/api/v1/receipts/{issued}?wait_s=20",
        headers={"Authorization": f"Bearer {own.key}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["stored"]


def delete_row(database, bucket, run, time_ns):
    when = f"{datetime.fromtimestamp(time_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}"
    at = f"{when}.{time_ns % 10**9:09d}Z"
    document = {"start": at, "stop": at, "predicate": f'run="{run}"'}
    request = urllib.request.Request(
        f"{database.url}/api/v2/delete?org={database.org}&bucket={quote(bucket, safe='')}",
        json.dumps(document).encode(),
        {"Authorization": f"Token {database.token}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 204


def delete_before(broker, partition, offset):
    with closing(connect_admin(broker.bootstrap_servers, timeout_s=10.0)) as admin:
        admin.delete_records({to_library(partition): offset})


def ledger(own, *arguments):
    return own.admin("ledger", *arguments)


def test_planted_losses_are_found_and_named(own):
    whole, deleted, robbed = (Job(own.urls[0], own.key, run) for run in ("a", "b", "c"))
    for _ in range(5):
        receipts = [job.send() for job in (whole, deleted)]
    assert all(stored(own, receipt) for receipt in receipts)
    done = ledger(own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == (
        "ledger: runs=2 delivered=200 dead=0 stored=200 findings=0"
    )

    # A row goes from the store, in both views.
    delete_row(own.database, "stepclock/raw", "b", deleted.start_ns + 42 * 1000)
    delete_row(own.database, "stepclock/steps", "b", 42 * 10**6)
    done = ledger(own, "b")
    assert done.returncode == 1
    assert "resnet run b, stream b-0: 1 of 20 lines are not in class raw" in done.stdout
    assert "where steps 40 to 59 stand" in done.stdout

    # Blocks go from the log before a worker reads them.
    own.consumers[0].process.stop()
    for _ in range(3):
        lost = robbed.send()
    [block] = receipt.decode(lost)
    delete_before(own.broker, TopicPartition("stepclock.raw", block.partition), block.offset + 1)
    kept = robbed.send()
    own.add_consumer(STEPCLOCK_ACCEPT_LOSS="true")
    assert stored(own, kept)
    done = ledger(own, "c")
    assert done.returncode == 1
    assert "run c, stream c-0: requests 0 to 2 never reached the store" in done.stdout
    assert ledger(own, "a").returncode == 0
