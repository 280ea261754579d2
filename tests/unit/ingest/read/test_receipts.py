"""Receipts: they say `stored` once all of it is, and name what is not."""

import asyncio
from functools import partial

import pytest

from schemas.log import receipt
from schemas.log.dead_letter import DeadLetter, Reason, encode_headers
from schemas.log.protocols import TopicPartition
from tests.fakes.gateway import running, scenario


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
