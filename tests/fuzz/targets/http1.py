"""One connection: however the bytes come, the same requests are read, and answers are HTTP."""

from __future__ import annotations

import asyncio
import re
import zlib

import httptools
import uvicorn
from uvicorn.server import ServerState

from ingest.http.bounds import ConnectionBounds
from ingest.http.protocol import BoundedHttpProtocol

BOUNDS = ConnectionBounds(max_connections=3)
STATUSES = {204, 400, 408, 414, 431}
TOKENS = (
    *(b"POST /w HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"HTTP/1.0", b"HEAD"),
    *(
        b"CONNECT x:1 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        b"Host: x",
    ),
)


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.eof = self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.eof, "written behind the end"
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class _App:
    """Reads each request whole, keeps what it was, answers 204."""

    def __init__(self) -> None:
        self.requests: list[tuple[object, ...]] = []

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.requests.append((scope["method"], scope["raw_path"], tuple(scope["headers"]), body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


_loop = asyncio.new_event_loop()


def check(data: bytes) -> None:
    whole = _read([data])
    cut = zlib.crc32(data) % (len(data) + 1)
    assert _read([data[:cut], data[cut:]]) == whole
    if len(data) <= 300:
        assert _read([data[i : i + 1] for i in range(len(data))]) == whole


def _read(chunks: list[bytes]) -> tuple[list[tuple[object, ...]], list[int], bool]:
    """Requests, statuses of the answers, and whether the connection ended."""
    return _loop.run_until_complete(_connection(chunks))


async def _connection(chunks: list[bytes]) -> tuple[list[tuple[object, ...]], list[int], bool]:
    app = _App()
    config = uvicorn.Config(app, ws="none", access_log=False, log_config=None)
    loop = asyncio.get_running_loop()
    state = ServerState()
    protocol = BoundedHttpProtocol(config, state, {}, loop, bounds=BOUNDS, now=lambda: 1000.0)
    transport = _Transport()
    protocol.connection_made(transport)
    for chunk in chunks:
        if chunk:
            protocol.data_received(chunk)
    while True:
        turns = len(transport.written), len(app.requests)
        for _ in range(8):
            await asyncio.sleep(0)
        if (len(transport.written), len(app.requests)) == turns:
            break
    statuses = _statuses(transport.written)
    assert set(statuses) <= STATUSES, statuses
    ended = transport.closed or transport.eof
    protocol.connection_lost(None)
    for _ in range(4):
        await asyncio.sleep(0)
    assert not state.tasks
    return app.requests, statuses, ended


def _statuses(written: bytes) -> list[int]:
    """The statuses of what must be a row of HTTP answers."""
    found: list[int] = []

    class _Answers:
        def on_message_complete(self) -> None:
            found.append(parser.get_status_code())

    parser = httptools.HttpResponseParser(_Answers())
    # An interim answer is not counted; the parser reads it as one of its own.
    parser.feed_data(re.sub(rb"HTTP/1.1 100 Continue\r\n\r\n", b"", written))
    return found
