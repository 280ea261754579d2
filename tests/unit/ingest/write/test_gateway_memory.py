"""What a request holds: no more than is counted, however it ends and whatever it waits for."""

import asyncio
import gzip
import tracemalloc

import pytest

from ingest.write import judge
from tests.unit.ingest.write.test_gateway import running

GZIP = {"content-encoding": "gzip"}

#: What one body holds while it is looked at, and how many there are at once.
BODY_BYTES = 240 * 1024
REQUESTS = 20

BOMB = gzip.compress(b"\0" * 2 * BODY_BYTES)
TOO_MANY_LINES = gzip.compress(b"\n" * 18 + b"#" * (BODY_BYTES - 18))
ONE_LINE = gzip.compress(b"m f=1\n#" + b"#" * (BODY_BYTES - 7))
ONE_ROW = gzip.compress(
    b'{"rows":[{"experiment":"e","run":"r","step":1,"values":{"loss":1,"no":"%b"}}]}'
    % (b"x" * (BODY_BYTES - 100))
)


async def held_by(requests):
    """Bytes that the requests hold once all of them wait."""
    tracemalloc.start()
    try:
        tasks = [asyncio.create_task(request) for request in requests]
        for _ in range(20):
            await asyncio.sleep(0)
        return tracemalloc.get_traced_memory()[0], tasks
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", [BOMB, TOO_MANY_LINES], ids=["a bomb", "over its limit"])
def test_a_request_that_is_refused_holds_no_body_while_its_tenant_rests(
    tmp_path, monkeypatch, body
):
    monkeypatch.setattr(judge, "_CREDIT_S", -60.0)  # the first refusal is the last for a minute

    async def scenario():
        async with running(tmp_path, max_decompressed_bytes=BODY_BYTES) as gateway:

            async def write(lines):
                return await gateway.client.write(lines, headers=GZIP, key=gateway.small_key)

            assert (await write(gzip.compress(b"m f=1\n" * 5))).status == 204
            assert (await write(body)).status in {413, 429}
            held, tasks = await held_by(write(body) for _ in range(REQUESTS))
            assert not any(task.done() for task in tasks)
            assert held < 2 * BODY_BYTES
            for task in tasks:
                task.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "body"), [("/api/v2/write", ONE_LINE), ("/api/v1/metrics", ONE_ROW)]
)
def test_only_what_was_admitted_of_a_body_waits_for_the_log(tmp_path, path, body):
    async def scenario():
        async with running(tmp_path) as gateway:
            gateway.log.hold()
            post = gateway.client.request
            held, tasks = await held_by(
                post("POST", path, body, query="bucket=raw", headers=GZIP) for _ in range(REQUESTS)
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

    monkeypatch.setattr(judge.Judge, "refuse", refuse)
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
