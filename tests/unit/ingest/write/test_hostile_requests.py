"""Many requests at once that end in every way there is: nothing that they held or owed is left."""

import asyncio
import gzip
import json
import random
import time

import pytest
import zstandard

from schemas.log.protocols import LogUnavailable
from tests.fakes.gateway import running

ROW = {"experiment": "e", "run": "r", "step": 1, "values": {"a": 1}}


def text_of(chance):
    count = chance.choice([1, 50, 4000])
    line = chance.choice(["m f=1\n", "bad\n", "\n", f'm f="\n" {time.time_ns()}\n', "m f=1\n#\n"])
    row = chance.choice([ROW, {}, 1, ROW | {"values": dict.fromkeys(map(str, range(99)), "NaN")}])
    rows = json.dumps({"rows": [row] * count})
    cut = chance.randrange(len(rows))
    path, text = chance.choice(
        [("/write", line * count), ("/api/v1/metrics", chance.choice([rows, rows[:cut]]))]
    )
    return path, chance.choice([text, text, text, "", " " * 30_000]).encode()


def packed(text, chance):
    encoding = chance.choice(["", "", "identity", "gzip", "zstd", "br"])
    body = {"gzip": gzip.compress, "zstd": zstandard.compress}.get(encoding, bytes)(text)
    return encoding, body[: chance.choice([len(body), len(body), len(body) // 2])]


async def send(gateway, chance):
    """One request, which may be cut off, left or cancelled; its status, if there is one."""
    path, text = text_of(chance)
    encoding, body = packed(text, chance)
    key = chance.choice([gateway.key, gateway.other_key, gateway.small_key])
    size = max(1, len(body) // chance.choice([1, 1, 7]))
    chunks = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False
    leaves = chance.random() < 0.3
    if leaves:
        messages = messages[: chance.randrange(len(messages) + 1)]

    async def receive():
        for _ in range(chance.choice([0, 0, 1, 20])):
            await asyncio.sleep(0)
        if messages:
            return messages.pop(0)
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    answered = []

    async def answer(message):
        answered.append(message)

    length = chance.choice([len(body), len(body), 0, 10**9])
    headers = {"authorization": f"Bearer {key}", "content-length": str(length)}
    headers |= {"content-encoding": encoding} if encoding else {}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    task = asyncio.create_task(gateway.app(scope, receive, answer))
    if chance.random() < 0.3:
        for _ in range(chance.choice([1, 5, 200])):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])
    starts = [m["status"] for m in answered if m["type"] == "http.response.start"]
    assert len(starts) == (0 if task.cancelled() or not answered else 1)
    return starts[0] if starts else None


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_held_once_all_requests_have_ended_somehow(tmp_path, seed):
    chance = random.Random(seed)
    settings = {"max_body_bytes": 200_000, "max_decompressed_bytes": 400_000}

    async def scenario():
        async with running(tmp_path, burst_points=10**9, **settings) as gateway:
            budget = gateway.app._pipeline._bounds.budget
            queue = gateway.app._pipeline._queue
            budget._max_bytes = chance.choice([600_000, 20_000_000])
            queue._rest = lambda *_: None  # paced tenants would wait for minutes
            statuses = set()
            for _ in range(6):
                gateway.log.send_error = chance.choice([None, None, LogUnavailable("gone")])
                requests = [send(gateway, chance) for _ in range(15)]
                statuses |= set(await asyncio.gather(*requests))
                assert budget.held_bytes == 0
            assert 500 not in statuses
            assert len(statuses) > 3
            async with asyncio.timeout(30):
                while queue._in_turn is not None:  # whoever left may still be in its turn
                    await asyncio.sleep(0)
            assert not any(waiting.jobs for waiting in queue._queues.values())
            assert budget.held_bytes == 0

    asyncio.run(scenario())
