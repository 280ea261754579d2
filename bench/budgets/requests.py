"""What memory a request takes on its way through the gateway's application, on a log of nothing.

held: objects (blocks of Python's allocator) that live because of a request at the moment when its
block is handed to the log. peak: bytes at the most, beyond its body. kept: objects that are left
of a request once it was answered, over a hundred of them; none should be.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from starlette.types import ASGIApp

from adapters.settings import load_retention
from bench.lab.lines import body
from bench.lab.services import UNLIMITED_POINTS, write_keys
from ingest.app import Dependencies, create_app
from ingest.keys.auth import KeyStore
from ingest.settings import HttpSettings
from schemas.log.protocols import Headers, Record, TopicPartition
from schemas.store.protocols import StoreReader
from schemas.tenants.keys import new_key

_SHAPES = (1, 1000)
#: Caches fill, and buffers find their size.
_WARMUP = 200
_HELD_OF = 20
_KEPT_OF = 100


class NullLog:
    """A publisher and a progress that keep nothing; at each send they note the objects alive."""

    def __init__(self) -> None:
        self.objects_at_send = 0
        self._offset = 0

    def send(self, topic: str, partition: int, value: bytes, headers: Headers) -> Future[int]:  # noqa: ARG002
        """Acknowledged at once."""
        self.objects_at_send = sys.getallocatedblocks()
        self._offset += 1
        future: Future[int] = Future()
        future.set_result(self._offset)
        return future

    def partition_count(self, topic: str) -> int:  # noqa: ARG002
        """As Kafka has it."""
        return 12

    def probe(self, timeout_s: float) -> None:
        """It is always there."""

    def close(self, timeout_s: float = 0.0) -> None:
        """Nothing to release."""

    def committed(self) -> Mapping[TopicPartition, int]:
        """Nothing: nobody waits for receipts."""
        return {}

    def appended(self) -> Iterator[Record]:
        """No dead letters."""
        return iter(())


def measure() -> dict[str, int]:
    """held, peak and kept, for bodies of each shape."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, int]:
    log = NullLog()
    key, record = new_key("bench", rate=UNLIMITED_POINTS, burst=UNLIMITED_POINTS)
    with tempfile.TemporaryDirectory(prefix="stepclock-bench-") as folder:
        keys = KeyStore(Path(write_keys(Path(folder), [record])["STEPCLOCK_KEYS_FILE"]))
        # No read route is asked.
        on = Dependencies(log, log, cast("StoreReader", None), keys, load_retention(None))
        app = create_app(HttpSettings(canary_s=0), on)
        async with _lifespan(app):
            found: dict[str, int] = {}
            for lines in _SHAPES:
                name = f"{lines} line" + ("s" if lines > 1 else "")
                found |= {
                    f"{what}, {name}": figure
                    for what, figure in (await _of_shape(app, log, key, lines)).items()
                }
    return found


async def _of_shape(app: ASGIApp, log: NullLog, key: str, lines: int) -> dict[str, int]:
    sent = body("r1", 0, lines, 1_795_277_400_000)
    for _ in range(_WARMUP):
        await _post(app, key, sent)
    gc.collect()
    gc.disable()
    try:
        # The least of some: a task in the background may have its turn meanwhile.
        held = sys.maxsize
        for _ in range(_HELD_OF):
            before = sys.getallocatedblocks()
            await _post(app, key, sent)
            held = min(held, log.objects_at_send - before)
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(_KEPT_OF):
            await _post(app, key, sent)
        gc.collect()
        kept = sys.getallocatedblocks() - before
        tracemalloc.start()
        await _post(app, key, sent)
        tracemalloc.reset_peak()
        first, _ = tracemalloc.get_traced_memory()
        await _post(app, key, sent)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    finally:
        gc.enable()
    return {
        "objects held": held,
        "objects kept": round(kept / _KEPT_OF),
        "peak bytes": peak - first,
    }


async def _post(app: ASGIApp, key: str, sent: bytes) -> None:
    """One write, without a socket. Raises RuntimeError for anything but a 204."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/api/v2/write",
        "raw_path": b"/api/v2/write",
        "query_string": b"bucket=raw&precision=ms",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"authorization", b"Bearer " + key.encode()),
            (b"content-length", b"%d" % len(sent)),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    status = 0
    messages = [{"type": "http.request", "body": sent, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()  # the client stays until it is answered
        return messages.pop()

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    if status != 204:
        raise RuntimeError(f"a write was answered with {status}")


@asynccontextmanager
async def _lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Start the application and stop it again, as a server would."""
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    await outbox.get()
    try:
        yield
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await outbox.get()
        await task
