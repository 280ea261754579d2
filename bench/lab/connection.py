"""One keep-alive HTTP/1.1 connection that costs little: ready bytes out, a status back."""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple, cast

from schemas.retention import DEFAULT_CLASS

_STATUS_AT = len("HTTP/1.1 ")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *([^\r]*)\r\n", re.IGNORECASE)


class Answer(NamedTuple):
    """Status, and Retry-After as it was sent (b"" where there was none)."""

    status: int
    retry_after: bytes

    def wait_s(self) -> int:
        """Retry-After in whole seconds, the only form that influxdb-client reads.

        Raises ValueError for another form, and where there is none.
        """
        if not self.retry_after.isdigit():
            raise ValueError(f"Retry-After {self.retry_after!r} is no whole number of seconds")
        return int(self.retry_after)


def build_request(
    host: str, port: int, key: str, body: bytes, *, class_name: str = DEFAULT_CLASS
) -> bytes:
    """A write of lines timed in ms to a class."""
    return build_post(host, port, key, write_target(class_name), body)


def write_target(class_name: str = DEFAULT_CLASS) -> str:
    """Where lines timed in ms go."""
    return f"/api/v2/write?bucket={class_name}&precision=ms"


def build_post(
    host: str, port: int, key: str, target: str, body: bytes, *, gzipped: bool = False
) -> bytes:
    """A body to any target. gzipped: it is compressed already."""
    encoding = b"Content-Encoding: gzip\r\n" if gzipped else b""
    return (
        b"POST %b HTTP/1.1\r\n"
        b"Host: %b:%d\r\nAuthorization: Bearer %b\r\n%bContent-Length: %d\r\n\r\n"
        % (target.encode(), host.encode(), port, key.encode(), encoding, len(body))
    ) + body


class Connection(asyncio.Protocol):
    """Sends one request at a time; `connect` makes one."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def connect(cls, host: str, port: int) -> Connection:
        """An open connection. Raises OSError."""
        _transport, protocol = await asyncio.get_running_loop().create_connection(cls, host, port)
        return protocol

    async def send(self, request: bytes) -> Answer:
        """The answer to a request. Raises ConnectionError if the server breaks it off."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio calls this."""
        # Not an instance of it with uvloop, but it does all of it.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """asyncio calls this; an answer may come in pieces."""
        self._received += data
        answer = parse_answer(self._received)
        if answer is not None and self._answer is not None:
            self._received = b""
            waiting, self._answer = self._answer, None
            if not waiting.done():
                waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio calls this."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the connection was lost: {exc}"))


def parse_answer(received: bytes) -> Answer | None:
    """The answer if it is there in full.

    Understands what has a Content-Length, no body, or chunks of text without empty lines.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = received[: end + 2]
    status = int(head[_STATUS_AT : _STATUS_AT + 3])
    if status == 204:
        return Answer(status, b"")
    if _CHUNKED.search(head) and not received.endswith(b"\r\n0\r\n\r\n"):
        return None
    length = _CONTENT_LENGTH.search(head)
    if len(received) < end + 4 + (int(length[1]) if length else 0):
        return None
    retry_after = _RETRY_AFTER.search(head)
    return Answer(status, retry_after[1] if retry_after else b"")
