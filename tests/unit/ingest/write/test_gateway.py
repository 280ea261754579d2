"""The gateway's application on the log and the store in memory."""

import asyncio
import contextlib
import gzip
import json
import math
import time
from functools import partial

import pytest

from ingest.app import Dependencies, create_app
from ingest.keys.auth import KeyStore
from ingest.settings import HttpSettings
from schemas import retention
from schemas.log import receipt
from schemas.log.block import decode
from schemas.log.dead_letter import DeadLetter, Reason, encode_headers
from schemas.log.protocols import LogUnavailable, TopicPartition
from schemas.store.protocols import RunSeries, RunSummary, StoredPoint, StoreUnavailable
from schemas.tenants.keys import Role, new_key
from schemas.tenants.keys_file import dump
from tests.asgi import AsgiClient, lifespan
from tests.fakes.memory_log import MemoryLog

CLASSES = retention.parse(retention.default_text())
TOPICS = {"stepclock.dlq": 1, "stepclock.raw": 4, "stepclock.system": 1, "stepclock.events": 1}


class Reader:
    """Answers the read routes, or says that the store is away."""

    away = False
    breaks_off = False

    def __init__(self):
        self.asked_points = []

    def experiments(self, namespace):
        if self.away:
            raise StoreUnavailable("connection refused")
        return [f"of-{namespace}"]

    def runs(self, namespace, experiment):
        return [
            RunSummary("r1", 0, 9, 123),
            RunSummary("r2", None, None, 124, "failed", 3, "ValueError: no memory"),
        ]

    def series(self, query):
        self.asked = query
        return [RunSeries("r1", (0, 5), (1.0, 2.0), (0.5, 2.0), (1.5, 2.0), (5, 5))]

    def metrics(self, namespace, experiment, clock):
        return [f"by-{clock}", "loss"]

    def points(self, namespace, retention_class, experiment, run=None):
        self.asked_points.append((namespace, retention_class, experiment, run))
        if self.away:
            raise StoreUnavailable("connection refused")
        if experiment == "nonfinite":
            for name, kind in [("resnet", "nan"), ("another", "inf")]:
                tags = {"run": run, "rank": "0", "experiment": name, "metric": "lr", "kind": kind}
                yield StoredPoint(experiment, tags, 8_000_000, {"count": 1.0, "step": 8})
            return
        yield StoredPoint(experiment, {"run": run}, 7_000_000, {"loss": 0.5, "step": 7})
        if self.breaks_off:
            raise StoreUnavailable("connection lost")


class Gateway:
    def __init__(self, tmp_path, **settings):
        self.log = MemoryLog(TOPICS)
        self.reader = Reader()
        self.key, record = new_key("vision")
        self.other_key, other = new_key("other")
        self.small_key, small = new_key("small", rate=10, burst=20)
        self.read_key, reader = new_key("analyst", role=Role.READ)
        path = tmp_path / "keys.toml"
        path.write_text(dump([record, other, small, reader]))
        self.keys = KeyStore(path)
        self.app = create_app(
            HttpSettings(**{"canary_s": 0} | settings),
            Dependencies(
                self.log.publisher(),
                self.log.progress("stepclock.dlq"),
                self.reader,
                self.keys,
                CLASSES,
                look_every_s=0.01,
            ),
        )
        self.client = AsgiClient(self.app, self.key)

    def blocks(self, topic="stepclock.raw"):
        return [decode(r.headers, r.value) for r in self.log.records(topic)]

    def lines(self, topic="stepclock.raw"):
        return [line for block in self.blocks(topic) for line in block.lines.split(b"\n")]


@contextlib.asynccontextmanager
async def running(tmp_path, **settings):
    gateway = Gateway(tmp_path, **settings)
    async with lifespan(gateway.app):
        yield gateway


def scenario(test):
    """Run an async test that takes a running gateway."""

    def run(tmp_path):
        async def body():
            async with running(tmp_path) as gateway:
                await test(gateway)

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


def now_ms():
    return time.time_ns() // 10**6


@scenario
async def test_a_204_means_that_the_log_has_the_lines_and_the_receipt_says_where(gateway):
    lines = f"resnet,run=r1 loss=0.5,step=1i {now_ms()}\nresnet,run=r1 loss=0.4,step=2i {now_ms()}"
    answer = await gateway.client.write(lines, query="bucket=raw&precision=ms&org=ignored")
    assert (answer.status, answer.body) == (204, b"")
    [position] = receipt.decode(answer.headers["stepclock-receipt"])
    record = next(
        r
        for r in gateway.log.records("stepclock.raw")
        if (r.partition, r.offset) == (position.partition, position.offset)
    )
    assert position.retention_class == "raw"
    assert record.value == lines.encode()
    assert decode(record.headers, record.value).tenant == "vision"


@scenario
async def test_the_answer_waits_for_the_log(gateway):
    gateway.log.hold()
    writing = asyncio.create_task(gateway.client.write(f"m f=1 {time.time_ns()}"))
    while not gateway.log.records("stepclock.raw"):
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not writing.done()
    gateway.log.release()
    assert (await writing).status == 204


@scenario
async def test_lines_without_a_time_are_stamped_in_order_and_counted(gateway):
    before = time.time_ns()
    answer = await gateway.client.write("m f=1\nm f=2\nm f=3", query="bucket=raw&precision=s")
    assert (answer.status, answer.headers["stepclock-stamped"]) == (204, "3")
    times = [int(line.rsplit(b" ", 1)[1]) for line in gateway.lines()]
    assert times == sorted(set(times))
    assert before <= times[0] <= time.time_ns()


@scenario
async def test_a_bad_line_is_named_and_its_neighbours_are_stored(gateway):
    at = time.time_ns()
    answer = await gateway.client.write(f"m f=1 {at}\nm f= {at}\nm f=3 {at}")
    assert answer.status == 400
    document = answer.json()
    assert document["code"] == "invalid"
    assert "the other 2 are stored" in document["message"]
    assert [r["line"] for r in document["rejected"]] == [2]
    assert document["rejected_total"] == 1
    assert "stepclock-receipt" in answer.headers
    assert gateway.lines() == [b"m f=1 %d" % at, b"m f=3 %d" % at]


@scenario
async def test_when_every_line_is_bad_nothing_is_stored_and_there_is_no_receipt(gateway):
    answer = await gateway.client.write("what\nis this")
    assert answer.status == 400
    assert "nothing was stored" in answer.json()["message"]
    assert "stepclock-receipt" not in answer.headers
    assert gateway.lines() == []


@scenario
async def test_without_a_valid_key_nothing_is_read(gateway):
    anonymous = AsgiClient(gateway.app)
    assert (await anonymous.write("m f=1")).status == 401
    answer = await anonymous.write("m f=1", key="sk_000000000000_wrong")
    assert (answer.status, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert gateway.lines() == []


@scenario
async def test_a_reading_key_may_not_write(gateway):
    answer = await gateway.client.write("m f=1", key=gateway.read_key)
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("bucket=stepclock/raw", 204, ""),
        ("bucket=system", 204, ""),
        ("bucket=other/raw", 403, "may not write to 'other'"),
        ("bucket=nosuch", 404, "there are events, raw, system"),
        ("bucket=steps", 400, "filled by Stepclock itself"),
        ("bucket=raw&precision=m", 400, "use ns, us, ms or s"),
        ("", 400, "use bucket=raw"),
    ],
)
def test_routing_by_bucket(tmp_path, query, status, text):
    async def body():
        async with running(tmp_path) as gateway:
            answer = await gateway.client.write("m f=1", query=query)
            assert answer.status == status
            assert text in answer.body.decode()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("db=stepclock", 204),
        ("db=stepclock&rp=system", 204),
        ("db=stepclock&precision=h", 204),
        ("db=stepclock&precision=n", 204),
        ("db=other", 403),
        ("db=stepclock&rp=nosuch", 404),
    ],
)
def test_routing_of_influxdb_1_clients(tmp_path, query, status):
    async def body():
        async with running(tmp_path) as gateway:
            answer = await gateway.client.request(
                "POST", "/write", b"m f=1", query=f"{query}&u=me&p={gateway.key}", headers={}
            )
            anonymous = AsgiClient(gateway.app)
            same = await anonymous.request(
                "POST", "/write", b"m f=1", query=f"{query}&u=me&p={gateway.key}"
            )
            assert (answer.status, same.status) == (status, status)
            if status != 204:
                assert same.json()["error"] == same.json()["message"]

    asyncio.run(body())


@scenario
async def test_compressed_bodies_are_taken(gateway):
    answer = await gateway.client.write(
        gzip.compress(b"m f=1"), headers={"Content-Encoding": "gzip"}
    )
    assert answer.status == 204
    answer = await gateway.client.write(b"junk", headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.json()["code"]) == (400, "invalid")


def test_an_oversized_body_is_refused_with_its_bound(tmp_path):
    async def body():
        async with running(tmp_path, max_body_bytes=2000) as gateway:
            answer = await gateway.client.write(b"m f=1\n" * 1000)
            assert answer.status == 413
            assert "at most 2000" in answer.json()["message"]

    asyncio.run(body())


@scenario
async def test_a_tenant_over_its_limit_is_told_when_to_come_back_and_others_are_not_touched(
    gateway,
):
    body = "\n".join(["m f=1"] * 20)
    assert (await gateway.client.write(body, key=gateway.small_key)).status == 204
    answer = await gateway.client.write(body, key=gateway.small_key)
    assert answer.status == 429
    assert answer.headers["retry-after"] in ("1", "2")
    assert answer.headers["ratelimit-policy"] == '"points";q=20;w=2'
    assert answer.headers["ratelimit"].startswith('"points";r=0;t=')
    assert "10 points/s" in answer.json()["message"]
    assert (await gateway.client.write(body)).status == 204


@scenario
async def test_with_the_log_away_writes_get_503_at_once_and_are_not_charged(gateway):
    body = "\n".join(["m f=1"] * 20)
    gateway.log.send_error = LogUnavailable("gone")
    first = await gateway.client.write(body, key=gateway.small_key)
    assert (first.status, first.headers["retry-after"]) == (503, "2")
    second = await gateway.client.write(body, key=gateway.small_key)
    assert second.status == 503
    health = await gateway.client.request("GET", "/health")
    assert (health.status, health.json()["status"]) == (503, "fail")
    assert (await gateway.client.request("GET", "/readyz")).status == 200
    gateway.log.send_error = None
    deadline = time.monotonic() + 10
    while (await gateway.client.write(body, key=gateway.small_key)).status == 503:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert len(gateway.lines()) == 20


@scenario
async def test_a_stream_goes_to_one_partition_and_its_block_says_so(gateway):
    headers = {
        "Stepclock-Stream": "host-1",
        "Stepclock-Sequence": "7",
        "Stepclock-Start": str(time.time_ns()),
        "Stepclock-Experiment": "resnet",
        "Stepclock-Run": "r1",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    for n in range(8):
        await gateway.client.write(f"m{n} f=1", headers=headers)
    assert len({r.partition for r in gateway.log.records("stepclock.raw")}) == 1
    delivery = gateway.blocks()[0].deliveries[0]
    assert (delivery.stream, delivery.sequence, delivery.experiment, delivery.points) == (
        "host-1",
        7,
        "resnet",
        1,
    )
    assert gateway.blocks()[0].traceparent == headers["traceparent"]
    bad = await gateway.client.write("m f=1", headers=headers | {"Stepclock-Sequence": "x"})
    assert bad.status == 400


@scenario
async def test_a_large_body_becomes_several_blocks_cut_between_lines(gateway):
    at = time.time_ns()
    lines = [f"m,run=r{n % 7} f={n},step={n}i {at + n}" for n in range(40_000)]
    answer = await gateway.client.write("\n".join(lines))
    assert answer.status == 204
    blocks = gateway.blocks()
    assert len(blocks) == len(receipt.decode(answer.headers["stepclock-receipt"])) > 2
    assert max(len(block.lines) for block in blocks) <= 512 * 1024
    assert [line.decode() for line in gateway.lines()] == lines
    assert sum(block.points for block in blocks) == 40_000


@scenario
async def test_json_rows_become_one_line_a_step_with_every_number_a_float(gateway):
    at = time.time_ns()
    rows = [
        {
            "experiment": "res net",
            "run": "r,1",
            "rank": 0,
            "attempt": 1,
            "tags": {"node": "a b"},
            "step": 3,
            "time": at,
            "values": {"train/loss": 0.5, "epoch": 2, "done": True},
        }
    ]
    answer = await gateway.client.post_rows(rows)
    assert answer.status == 202
    assert answer.json() | {"receipt": None} == {
        "accepted": 1,
        "stamped": 0,
        "rejected": [],
        "rejected_total": 0,
        "receipt": None,
    }
    assert answer.json()["receipt"] == answer.headers["stepclock-receipt"]
    assert gateway.lines() == [
        rb"res\ net,run=r\,1,rank=0,attempt=1,node=a\ b "
        rb"train/loss=0.5,epoch=2.0,done=1.0,step=3i " + b"%d" % at
    ]


@scenario
async def test_json_of_which_nothing_is_taken_gets_no_2xx(gateway):
    row = {"experiment": "e", "run": "r", "step": 1, "time": 5, "values": {"a": 1}}
    answer = await gateway.client.post_rows([row])
    assert answer.status == 400
    document = answer.json()
    assert (document["accepted"], document["rejected_total"]) == (0, 1)
    assert document["detail"].startswith("nothing was stored; row 0, time: time too old")
    assert document["rejected"][0]["field"] == "time"
    assert "precision" not in document["rejected"][0]["reason"]
    assert "stepclock-receipt" not in answer.headers
    assert gateway.lines() == []


@scenario
async def test_nan_and_infinities_are_data(gateway):
    values = {"a": math.nan, "b": math.inf, "c": "-Infinity", "d": "NaN", "ok": 1.5}
    row = {"experiment": "e", "run": "r", "step": 4, "values": values}
    answer = await gateway.client.post_rows([row])
    assert answer.json()["accepted"] == 1
    [line] = gateway.lines()
    assert line.startswith(b"e,run=r ok=1.5,step=4i ")
    at = line.rsplit(b" ", 1)[1]
    assert gateway.lines("stepclock.events") == [
        b"nonfinite,experiment=e,run=r,metric=%b,kind=%b count=1,step=4i %b" % (metric, kind, at)
        for metric, kind in [(b"a", b"nan"), (b"b", b"inf"), (b"c", b"-inf"), (b"d", b"nan")]
    ]
    assert len(receipt.decode(answer.json()["receipt"])) == 2


@scenario
async def test_a_row_of_nan_only_keeps_its_step(gateway):
    row = {"experiment": "e", "run": "r", "step": 4, "values": {"a": "NaN"}}
    await gateway.client.post_rows([row])
    assert gateway.lines()[0].startswith(b"e,run=r step=4i ")


@scenario
async def test_bad_rows_and_values_are_named_and_the_rest_is_stored(gateway):
    good = {"experiment": "e", "run": "r", "step": 1, "values": {"a": 1}}
    rows = [
        good,
        good | {"step": -1},
        good | {"step": 10**13},
        good | {"experiment": "nonfinite"},
        good | {"run": "a\nb"},
        good | {"values": {"a": "text", "b": 2}},
        good | {"values": {"step": 5}},
        {"experiment": "e"},
        "nonsense",
        good | {"colour": 1},
        good | {"step": 2},
    ]
    answer = await gateway.client.post_rows(rows)
    assert answer.status == 202
    document = answer.json()
    assert document["accepted"] == 4
    assert {(r["index"], r["field"]) for r in document["rejected"]} == {
        (1, "step"),
        (2, "step"),
        (3, "experiment"),
        (4, "run"),
        (5, "values.a"),
        (6, "values.step"),
        (7, "run"),
        (7, "step"),
        (7, "values"),
        (8, "row"),
        (9, "colour"),
    }
    assert all(r["reason"] for r in document["rejected"])
    assert len(gateway.lines()) == 4


GOOD_ROW_AND_MORE = (
    b'{"rows": [{"experiment": "e", "run": "r", "step": 1, "values": {"a": 1}}], "more": [1]}'
)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"rows": []}', b"{", b'{"rows": 5}', GOOD_ROW_AND_MORE],
)
def test_a_body_that_is_no_request_gets_a_problem_document(tmp_path, body):
    async def run():
        async with running(tmp_path) as gateway:
            answer = await gateway.client.request("POST", "/api/v1/metrics", body)
            assert answer.status == 400
            assert answer.headers["content-type"] == "application/problem+json"
            document = answer.json()
            assert (document["status"], document["title"]) == (400, "invalid")

    asyncio.run(run())


@scenario
async def test_read_routes_answer_for_the_key_s_namespace(gateway):
    get = gateway.client.request
    assert (await get("GET", "/api/v1/experiments")).json() == {"experiments": ["of-stepclock"]}
    assert (await get("GET", "/api/v1/experiments/resnet/runs")).json() == {
        "experiment": "resnet",
        "runs": [
            {
                "run": "r1",
                "first_step": 0,
                "last_step": 9,
                "last_time_ns": 123,
                "state": None,
                "attempt": None,
                "reason": None,
            },
            {
                "run": "r2",
                "first_step": None,
                "last_step": None,
                "last_time_ns": 124,
                "state": "failed",
                "attempt": 3,
                "reason": "ValueError: no memory",
            },
        ],
    }
    answer = await get(
        "GET",
        "/api/v1/experiments/res net/series",
        query="metric=train/loss&run=r1&run=r2&clock=step&from=5&to=10&points=2",
    )
    assert answer.json() == {
        "metric": "train/loss",
        "clock": "step",
        "runs": [
            {
                "run": "r1",
                "t": [0, 5],
                "mean": [1.0, 2.0],
                "min": [0.5, 2.0],
                "max": [1.5, 2.0],
                "count": [5, 5],
            }
        ],
    }
    asked = gateway.reader.asked
    assert (asked.namespace, asked.experiment, asked.runs) == (
        "stepclock",
        "res net",
        ("r1", "r2"),
    )
    assert (asked.start, asked.end, asked.points) == (5, 10, 2)


@scenario
async def test_metrics_are_told_by_the_clock_that_is_asked_for(gateway):
    get = gateway.client.request
    path = "/api/v1/experiments/team/resnet/metrics"
    assert (await get("GET", path)).json() == {
        "experiment": "team/resnet",
        "metrics": ["by-step", "loss"],
    }
    assert (await get("GET", path, query="clock=wall")).json()["metrics"] == ["by-wall", "loss"]


@scenario
async def test_points_of_a_run_are_lines_with_those_that_are_not_finite(gateway):
    path = "/api/v1/experiments/resnet/points"
    answer = await gateway.client.request("GET", path, query="run=r1")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"t": 7, "tags": {"run": "r1"}, "values": {"loss": 0.5}},
        {"t": 8, "tags": {"run": "r1", "rank": "0"}, "values": {"lr": "nan"}},
        {"end": 2},
    ]
    answer = await gateway.client.request("GET", path, query="run=r1&clock=wall")
    assert json.loads(answer.body.splitlines()[0])["t"] == 7_000_000
    assert gateway.reader.asked_points == [
        ("stepclock", "steps", "resnet", "r1"),
        ("stepclock", "steps", "nonfinite", "r1"),
        ("stepclock", "raw", "resnet", "r1"),
        ("stepclock", "events", "nonfinite", "r1"),
    ]


@scenario
async def test_points_say_when_the_store_is_away_and_when_it_breaks_off(gateway):
    path = "/api/v1/experiments/resnet/points"
    gateway.reader.breaks_off = True
    answer = await gateway.client.request("GET", path, query="run=r1")
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"t": 7, "tags": {"run": "r1"}, "values": {"loss": 0.5}},
        {"error": "the store does not answer: connection lost"},
    ]
    gateway.reader.away = True
    assert (await gateway.client.request("GET", path, query="run=r1")).status == 503
    assert (await gateway.client.request("GET", path)).status == 400
    assert (await AsgiClient(gateway.app).request("GET", path, query="run=r1")).status == 401


@scenario
async def test_read_routes_need_a_key_and_say_when_the_store_is_away(gateway):
    anonymous = AsgiClient(gateway.app)
    answer = await anonymous.request("GET", "/api/v1/experiments")
    assert (answer.status, answer.json()["title"]) == (401, "unauthorized")
    gateway.reader.away = True
    answer = await gateway.client.request("GET", "/api/v1/experiments", key=gateway.read_key)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1


@scenario
async def test_probes_and_metrics_answer_without_a_key(gateway):
    anonymous = AsgiClient(gateway.app)
    for path, status in [("/livez", 200), ("/readyz", 200), ("/health", 200), ("/ping", 204)]:
        assert (await anonymous.request("GET", path)).status == status
    await gateway.client.write("m f=1")
    page = (await anonymous.request("GET", "/metrics")).body.decode()
    assert 'stepclock_gateway_points_total{outcome="accepted",tenant="vision"}' in page
    assert 'stepclock_gateway_requests_total{route="/api/v2/write",status="204"}' in page
    assert "stepclock_gateway_circuit_state 0.0" in page


@scenario
async def test_the_openapi_page_is_served(gateway):
    document = json.loads((await gateway.client.request("GET", "/openapi.json")).body)
    assert "/api/v1/experiments/{experiment}/series" in document["paths"]


@scenario
async def test_a_name_that_no_experiment_can_have_is_not_found_as_the_page_says(gateway):
    get = gateway.client.request
    document = json.loads((await get("GET", "/openapi.json")).body)
    for what, query in [("runs", ""), ("metrics", ""), ("series", "metric=a"), ("points", "run=a")]:
        answer = await get("GET", f"/api/v1/experiments/a\nb/{what}", query=query)
        assert answer.status == 404
        responses = document["paths"][f"/api/v1/experiments/{{experiment}}/{what}"]["get"]
        assert "404" in responses["responses"]


@scenario
async def test_a_receipt_is_settled_once_the_workers_have_committed_past_its_blocks(gateway):
    written = await gateway.client.write("m f=1")
    receipt_text = written.headers["stepclock-receipt"]
    ask = partial(gateway.client.request, "GET", f"/api/v1/receipts/{receipt_text}")
    answer = await ask()
    assert (answer.status, answer.json()) == (
        200,
        {"settled": False, "stored": False, "rejected": []},
    )
    waiting = asyncio.create_task(ask(query="wait_s=30"))
    [position] = receipt.decode(receipt_text)
    commit(gateway, position)
    assert (await waiting).json() == {"settled": True, "stored": True, "rejected": []}


@scenario
async def test_a_receipt_whose_lines_were_refused_by_the_store_says_so_to_their_tenant(gateway):
    written = await gateway.client.write("m f=1")
    [position] = receipt.decode(written.headers["stepclock-receipt"])
    letter = DeadLetter(
        b"m f=1 7",
        Reason.REFUSED,
        "field type conflict",
        "vision",
        "stepclock",
        "wall",
        "ns",
        "stepclock.raw",
        position.partition,
        position.offset,
    )
    gateway.log.publisher().send("stepclock.dlq", 0, letter.lines, encode_headers(letter))
    commit(gateway, position)
    path = f"/api/v1/receipts/{written.headers['stepclock-receipt']}"
    answer = (await gateway.client.request("GET", path, query="wait_s=5")).json()
    assert (answer["settled"], answer["stored"]) == (True, False)
    assert answer["rejected"] == [
        {
            "class": "raw",
            "partition": position.partition,
            "offset": position.offset,
            "lines": 1,
            "view": "wall",
            "reason": "refused",
            "detail": "field type conflict",
        }
    ]
    other = (await gateway.client.request("GET", path, key=gateway.read_key)).json()
    assert other == {"settled": True, "stored": False, "rejected": []}


@pytest.mark.parametrize(
    ("text", "status"), [("nonsense", 400), ("1.nosuch-0-0", 404), ("1.raw-0-999", 200)]
)
def test_receipts_that_nobody_gave(tmp_path, text, status):
    async def body():
        async with running(tmp_path) as gateway:
            answer = await gateway.client.request("GET", f"/api/v1/receipts/{text}")
            assert answer.status == status
            assert status != 200 or answer.json()["settled"] is False

    asyncio.run(body())


def commit(gateway, position):
    """Say, as a worker would, that everything up to the block is settled."""
    partition = TopicPartition(f"stepclock.{position.retention_class}", position.partition)
    source = gateway.log.source(waits=False)
    source.subscribe([partition.topic], Silent())
    source.poll(0)
    source.commit({partition: position.offset + 1})
    source.close()


class Silent:
    def on_assigned(self, partitions):
        pass

    on_revoked = on_lost = on_assigned
