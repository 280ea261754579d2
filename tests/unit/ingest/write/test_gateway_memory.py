"""What a request holds: no more than is counted, however it ends and whatever it waits for."""

import asyncio
import gzip
import tracemalloc

import pytest

from ingest.write import validation_queue
from telemetry import metrics
from tests.fakes.gateway import running

GZIP = {"content-encoding": "gzip"}

#: What one body holds while it is looked at, and how many there are at once.
BODY_BYTES = 240 * 1024
REQUESTS = 20

BOMB = gzip.compress(b"\0" * 2 * BODY_BYTES)
TOO_MANY_LINES = gzip.compress(b"\n" * 18 + b"#" * (BODY_BYTES - 18))
NO_ROW = gzip.compress(b'{"rows":["%b"]}' % (b"x" * (BODY_BYTES - 20)))
NOT_JSON = gzip.compress(b'{"rows":[' + b" " * (BODY_BYTES - 20) + b"x]}")
ONE_LINE = gzip.compress(b"m f=1\n#" + b"#" * (BODY_BYTES - 7))
ONE_ROW = gzip.compress(
    b'{"rows":[{"experiment":"e","run":"r","step":1,"values":{"loss":1,"no":"%b"}}]}'
    % (b"x" * (BODY_BYTES - 100))
)


async def held_by(requests, pending_bytes=0):
    """Bytes that the requests hold once all of them wait, with so many of them for the log."""
    tracemalloc.start()
    try:
        tasks = [asyncio.create_task(request) for request in requests]
        for _ in range(20):
            await asyncio.sleep(0)
        while metrics.PENDING_BYTES._value.get() < pending_bytes:
            await asyncio.sleep(0.01)
        return tracemalloc.get_traced_memory()[0], tasks
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v2/write", BOMB),
        ("/api/v2/write", TOO_MANY_LINES),
        ("/api/v1/metrics", NO_ROW),
        ("/api/v1/metrics", NOT_JSON),
    ],
    ids=["a bomb", "over its limit", "over its limit by bytes", "not JSON at its end"],
)
def test_a_request_that_is_refused_holds_no_body_while_its_tenant_rests(
    tmp_path, monkeypatch, path, body
):
    monkeypatch.setattr(
        validation_queue, "_CREDIT_S", -60.0
    )  # the first refusal is the last for a minute

    async def scenario():
        async with running(tmp_path, max_decompressed_bytes=BODY_BYTES) as gateway:
            key = gateway.other_key if body is NOT_JSON else gateway.small_key

            async def post(path, body):
                return await gateway.client.request(
                    "POST", path, body, query="bucket=raw", headers=GZIP, key=key
                )

            taken = await post("/api/v2/write", gzip.compress(b"m f=1\n" * 5))
            assert taken.status == 204
            assert (await post(path, body)).status in {400, 413, 429}
            held, tasks = await held_by(post(path, body) for _ in range(REQUESTS))
            assert not any(task.done() for task in tasks)
            assert held < 2 * BODY_BYTES
            for task in tasks:
                task.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        ("/api/v2/write", ONE_LINE, b"m f=1 1795277400000000000\n"),
        ("/api/v1/metrics", ONE_ROW, b"e,run=r loss=1.0,step=1i 1795277400000000000\n"),
    ],
)
def test_only_what_was_admitted_of_a_body_waits_for_the_log(tmp_path, path, body, line):
    async def scenario():
        async with running(tmp_path) as gateway:
            gateway.log.hold()
            post = gateway.client.request
            held, tasks = await held_by(
                (
                    post("POST", path, body, query="bucket=raw", headers=GZIP)
                    for _ in range(REQUESTS)
                ),
                REQUESTS * len(line),
            )
            assert not any(task.done() for task in tasks)
            assert held < 2 * BODY_BYTES
            gateway.log.release()
            answers = await asyncio.gather(*tasks)
            assert {answer.status for answer in answers} <= {202, 204}

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/api/v2/write", "/api/v1/metrics"])
def test_who_is_over_its_limit_rests_also_for_what_was_decompressed(tmp_path, monkeypatch, path):
    spent = []

    async def refuse(_, tenant, spent_s=0.0):
        spent.append((tenant, spent_s))

    monkeypatch.setattr(validation_queue.ValidationQueue, "refuse", refuse)
    body = {
        "/api/v2/write": gzip.compress(b"\n" * 18 + b"#" * 10**6),
        "/api/v1/metrics": gzip.compress(b'{"rows":[' + b"0," * 17 + b'0,"%b"]}' % (b"x" * 10**6)),
    }[path]

    async def scenario():
        async with running(tmp_path) as gateway:
            await gateway.client.write(b"m f=1\n" * 5, key=gateway.small_key)
            answer = await gateway.client.request(
                "POST", path, body, query="bucket=raw", headers=GZIP, key=gateway.small_key
            )
            assert answer.status == 429
            [(tenant, spent_s)] = spent
            assert tenant == "small"
            assert spent_s > 0

    asyncio.run(scenario())
