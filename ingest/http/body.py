"""Reading a request's body within bounds, as sent and as decompressed."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

import zstandard
from isal import igzip_lib, isal_zlib

from ingest.errors import (
    BadRequest,
    BodyStalled,
    BodyTooLarge,
    GatewayError,
    UnsupportedEncoding,
)
from ingest.limits.byte_budget import ByteBudget

#: Seconds without a byte after which a body is given up: it holds memory and the shutdown.
_STALL_S = 10.0

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: A zstd frame may ask for a window of any size; 8 MiB is the default maximum of RFC 8878.
_ZSTD_MAX_WINDOW_BYTES = 8 * 1024 * 1024

#: zstd can't bound its output, so it gets little input at a time: 256 bytes hold at most 64
#: run-length blocks of 128 KiB, so a bomb is noticed within 8 MiB of the limit.
_ZSTD_SLICE_BYTES = 256

# The stubs of isal call this an instance; it is the class.
_GZIP_ERROR: type[Exception] = cast("type[Exception]", igzip_lib.IsalError)

#: Concatenated gzip members or zstd frames; each costs a copy of what follows.
_MAX_MEMBERS = 64


class ClientGone(Exception):
    """The connection ended in the middle of the body: nobody to answer, nothing was taken."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Largest body in bytes, as sent and as decompressed, and what all together may hold."""

    sent: int
    decompressed: int
    budget: ByteBudget


async def read_body(
    receive: Receive, declared: bytes | None, encoding: bytes, bounds: Bounds, tenant: str
) -> tuple[bytes, float]:
    """The whole body, decompressed, and the CPU seconds that this took.

    declared: the Content-Length header, if any. tenant: whose body it is.

    Raises BodyTooLarge (before reading, where the length was declared), BadRequest,
    UnsupportedEncoding, BodyStalled, Unavailable, ClientGone.
    """
    body = await _read(receive, declared, bounds, tenant)
    if not encoding and len(body) <= bounds.decompressed:
        return body, 0.0
    began_s = time.thread_time()
    try:
        body = decompress(body, encoding, bounds.decompressed)
    except GatewayError as exc:
        exc.spent_s = time.thread_time() - began_s
        raise
    return body, time.thread_time() - began_s


async def _read(receive: Receive, declared: bytes | None, bounds: Bounds, tenant: str) -> bytes:
    max_bytes = bounds.sent
    if declared is not None and int(declared) > max_bytes:
        raise _too_large(f"the body has {int(declared)} bytes", max_bytes)
    body = bytearray()  # not a list: a chunk may be one byte long, and an object costs sixty
    held = 0
    try:
        while True:
            message = await _next_part(receive)
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            if chunk:
                if len(body) + len(chunk) > max_bytes:
                    raise _too_large("the body is too large", max_bytes)
                bounds.budget.check(tenant, len(chunk))
                bounds.budget.take(tenant, len(chunk))
                held += len(chunk)
                if not message.get("more_body") and not body:
                    return bytes(chunk)  # the usual body comes in one piece
                body += chunk
            if not message.get("more_body"):
                return bytes(body)
    finally:
        if held:
            bounds.budget.give_back(tenant, held)


async def _next_part(receive: Receive) -> MutableMapping[str, Any]:
    """The next message of a body. Raises BodyStalled if there is none for a while.

    Mostly it is here before it is asked for, and then no timer is set: that costs more than
    all else here.
    """
    awaited = receive().__await__()
    try:
        waits_for = next(awaited)
    except StopIteration as came:
        return came.value  # type: ignore[no-any-return]  # a StopIteration holds anything
    try:
        async with asyncio.timeout(_STALL_S):
            return await _go_on(awaited, waits_for)
    except TimeoutError:
        raise BodyStalled(f"no byte of the body came for {_STALL_S:g} s") from None


@types.coroutine
def _go_on(
    awaited: Generator[Any, None, MutableMapping[str, Any]], waits_for: object
) -> Generator[Any, None, MutableMapping[str, Any]]:
    """Await what was taken as far as its first wait."""
    try:
        yield waits_for
    except BaseException:
        awaited.close()
        raise
    return (yield from awaited)


def decompress(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """The body without its Content-Encoding: identity, gzip (RFC 1952) or zstd (RFC 8878).

    Never makes more than max_bytes. Raises BodyTooLarge, BadRequest, UnsupportedEncoding.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        if len(body) > max_bytes:
            raise _too_large(f"the body has {len(body)} bytes", max_bytes)
        return body
    if name in (b"gzip", b"x-gzip"):
        return _gunzip(body, max_bytes)
    if name == b"zstd":
        return _unzstd(body, max_bytes)
    raise UnsupportedEncoding(
        f"Content-Encoding {name.decode('latin-1')!r} is not supported; use gzip, zstd or none"
    )


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    rest = body
    for _ in range(_MAX_MEMBERS):
        member = isal_zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(rest, max_bytes + 1 - size)
        except _GZIP_ERROR as exc:
            raise BadRequest(f"the gzip body is corrupt: {exc}") from exc
        size += len(part)
        if size > max_bytes:
            raise _too_large("decompressed, the body is too large", max_bytes)
        if not member.eof:
            raise BadRequest("the gzip body is cut off: its end is missing")
        parts.append(part)
        rest = member.unused_data
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise BadRequest(f"the gzip body has over {_MAX_MEMBERS} members; compress it as one")


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    rest = body
    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
        for _ in range(_MAX_MEMBERS):
            frame = decompressor.decompressobj()
            start = 0
            while not frame.eof:
                if start >= len(rest):
                    raise BadRequest("the zstd body is cut off: its end is missing")
                part = frame.decompress(rest[start : start + _ZSTD_SLICE_BYTES])
                start += _ZSTD_SLICE_BYTES
                size += len(part)
                if size > max_bytes:
                    raise _too_large("decompressed, the body is too large", max_bytes)
                parts.append(part)
            rest = frame.unused_data + rest[start:]
            if not rest:
                return b"".join(parts)
    except zstandard.ZstdError as exc:
        raise BadRequest(f"the zstd body is corrupt: {exc}") from exc
    raise BadRequest(f"the zstd body has over {_MAX_MEMBERS} frames; compress it as one")


def _too_large(what: str, max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"{what}; at most {max_bytes} are taken in one request: send smaller parts")
