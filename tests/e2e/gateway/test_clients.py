"""Clients that others wrote, unchanged, through the real gateway, Kafka, consumer, InfluxDB."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime

import pytest
from influxdb_client import InfluxDBClient, Point, WriteOptions
from influxdb_client.client.write_api import SYNCHRONOUS

from tests.e2e.pipeline.chain import chain

NAMESPACE = "clients"


@pytest.fixture(scope="module")
def running(tmp_path_factory, kafka, influx):
    folder = tmp_path_factory.mktemp("clients")
    with chain(folder, kafka.bootstrap_servers, influx, namespace=NAMESPACE) as running:
        yield running


def by_flux(influx, bucket, experiment):
    """{step: loss} as Flux finds it."""
    query = (
        f'from(bucket: "{bucket}") |> range(start: 0, stop: 2200-01-01T00:00:00Z) '
        f'|> filter(fn: (r) => r._measurement == "{experiment}") '
        '|> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")'
    )
    with InfluxDBClient(influx.url, influx.token, org=influx.org) as client:
        tables = client.query_api().query(query)
    return {row["step"]: row["loss"] for table in tables for row in table.records}


def by_influxql(influx, class_name, experiment):
    """{step: loss} as InfluxQL finds it, through the mapping of the database."""
    query = f'SELECT "step", "loss" FROM "{class_name}"."{experiment}"'
    parameters = urllib.parse.urlencode({"db": NAMESPACE, "q": query, "epoch": "ns"})
    request = urllib.request.Request(
        f"{influx.url}/query?{parameters}", headers={"Authorization": f"Token {influx.token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        [result] = json.load(answer)["results"]
    assert "error" not in result, result
    return {step: loss for s in result.get("series", []) for _, step, loss in s["values"]}


def assert_found_everywhere(influx, experiment, expected):
    looks = [
        lambda: by_flux(influx, f"{NAMESPACE}/raw", experiment),
        lambda: by_flux(influx, f"{NAMESPACE}/steps", experiment),
        lambda: by_influxql(influx, "raw", experiment),
        lambda: by_influxql(influx, "steps", experiment),
    ]
    deadline = time.monotonic() + 30
    for look in looks:
        while (found := look()) != expected:
            assert time.monotonic() < deadline, (found, expected)
            time.sleep(0.1)


def points(experiment, count):
    at = time.time_ns()
    for step in range(count):
        yield (
            Point(experiment)
            .tag("run", "r1")
            .field("loss", 1 / (step + 1))
            .field("step", step)
            .time(at + step)
        )


@pytest.mark.parametrize("gzip", [False, True])
def test_influxdb_client_synchronous(running, influx, gzip):
    experiment = f"sync{gzip}"
    with (
        InfluxDBClient(running.urls[0], running.key, org="any", enable_gzip=gzip) as client,
        client.write_api(write_options=SYNCHRONOUS) as writer,
    ):
        assert client.ping()
        writer.write(bucket="raw", record=list(points(experiment, 50)))
    assert_found_everywhere(influx, experiment, {n: 1 / (n + 1) for n in range(50)})


def test_influxdb_client_batching_with_gzip(running, influx):
    failures = []
    with (
        InfluxDBClient(running.urls[0], running.key, org="any", enable_gzip=True) as client,
        client.write_api(
            write_options=WriteOptions(batch_size=100, flush_interval=200),
            error_callback=lambda *failure: failures.append(failure),
        ) as writer,
    ):
        for point in points("batching", 1000):
            writer.write(bucket=f"{NAMESPACE}/raw", record=point)
    assert failures == []
    assert_found_everywhere(influx, "batching", {n: 1 / (n + 1) for n in range(1000)})


def test_influxdb_1_write(running, influx):
    at = int(datetime.now(UTC).timestamp())
    body = "\n".join(f"v1,run=r1 loss={n}.5,step={n}i {at + n}" for n in range(20))
    query = urllib.parse.urlencode(
        {"db": NAMESPACE, "rp": "raw", "precision": "s", "u": "me", "p": running.key}
    )
    request = urllib.request.Request(f"{running.urls[0]}/write?{query}", data=body.encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 204
    assert_found_everywhere(influx, "v1", {n: n + 0.5 for n in range(20)})


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_without_times(running, influx):
    body = "\n".join(f"curl,run=r1 loss={n}.5,step={n}i" for n in range(20))
    done = subprocess.run(
        [
            "curl",
            "-sS",
            "-i",
            "-H",
            f"Authorization: Token {running.key}",
            "--data-binary",
            body,
            f"{running.urls[0]}/api/v2/write?bucket=raw",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.startswith("HTTP/1.1 204"), done.stdout
    assert "stepclock-stamped: 20" in done.stdout.lower()
    assert_found_everywhere(influx, "curl", {n: n + 0.5 for n in range(20)})


def test_json_with_nan_is_found_as_nonfinite_event_in_both_views(running, influx):
    rows = [
        {"experiment": "json", "run": "r1", "step": n, "values": {"loss": float(n), "x": "NaN"}}
        for n in range(5)
    ]
    request = urllib.request.Request(
        f"{running.urls[0]}/api/v1/metrics",
        data=json.dumps({"rows": rows}).encode(),
        headers={"Authorization": f"Bearer {running.key}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 202
    assert_found_everywhere(influx, "json", {n: float(n) for n in range(5)})
    deadline = time.monotonic() + 30
    for class_name in ("events", "steps"):
        while True:
            events = list(running.reader.points(NAMESPACE, class_name, "nonfinite"))
            if len(events) == 5:
                break
            assert time.monotonic() < deadline, events
            time.sleep(0.1)
        assert {e.fields["step"] for e in events} == set(range(5))
        assert all(e.tags["metric"] == "x" and e.tags["kind"] == "nan" for e in events)


def test_the_read_routes_answer_from_influxdb(running, influx):
    body = "\n".join(f"reading,run=r{n % 2} loss={n},step={n}i" for n in range(100))
    headers = {"Authorization": f"Bearer {running.key}"}
    base = running.urls[0]
    request = urllib.request.Request(
        f"{base}/api/v2/write?bucket=raw", data=body.encode(), headers=headers
    )
    urllib.request.urlopen(request, timeout=10).close()
    path = f"{base}/api/v1/experiments/reading/series?metric=loss&points=5&from=0&to=100"
    deadline = time.monotonic() + 30
    while True:
        with urllib.request.urlopen(urllib.request.Request(path, headers=headers)) as answer:
            runs = {run["run"]: run for run in json.load(answer)["runs"]}
        if sum(sum(run["count"]) for run in runs.values()) == 100:
            break
        assert time.monotonic() < deadline, runs
        time.sleep(0.1)
    assert runs["r0"]["t"] == [0, 20, 40, 60, 80]
    assert runs["r0"]["min"] == [0, 20, 40, 60, 80]
    assert runs["r1"]["max"] == [19, 39, 59, 79, 99]


def test_a_receipt_tells_when_the_points_are_in_influxdb_and_names_what_it_refused(running, influx):
    headers = {"Authorization": f"Bearer {running.key}"}
    base = running.urls[0]

    def write(line):
        request = urllib.request.Request(
            f"{base}/api/v2/write?bucket=raw", data=line.encode(), headers=headers
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            receipt = answer.headers["Stepclock-Receipt"]
        ask = urllib.request.Request(f"{base}/api/v1/receipts/{receipt}?wait_s=30", headers=headers)
        with urllib.request.urlopen(ask, timeout=40) as answer:
            return json.load(answer)

    assert write("receipts,run=r1 loss=1,step=1i") == {
        "settled": True,
        "stored": True,
        "rejected": [],
    }
    assert by_influxql(influx, "raw", "receipts") == {1: 1}
    answer = write('receipts,run=r1 loss="a word"')
    assert (answer["settled"], answer["stored"]) == (True, False)
    assert answer["rejected"][0]["reason"] == "refused"
    assert "type" in answer["rejected"][0]["detail"]
