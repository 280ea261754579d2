"""Writes: what the gateway takes, refuses and says, on a log in memory."""

import asyncio
import gzip
import math
import time

import pytest

from schemas.log import receipt
from schemas.log.block import decode
from schemas.log.protocols import LogUnavailable
from tests.asgi import AsgiClient
from tests.fakes.gateway import running, scenario


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
