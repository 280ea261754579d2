"""Reading a request's body within bounds, as sent and as decompressed."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import zstandard
from isal import igzip_lib, isal_zlib

from ingest.errors import BadRequest, BodyStalled, BodyTooLarge, UnsupportedEncoding
from ingest.limits.byte_budget import ByteBudget, Held

#: Seconds without a byte after which a body is given up: it holds memory and the shutdown.
_STALL_S = 10.0

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: What gzip makes at once, and what it is given for it: what it does not take, it copies.
_GZIP_PART_BYTES = 128 * 1024
_GZIP_SLICE_BYTES = 16 * 1024

#: A zstd frame may ask for a window of any size; 8 MiB is the default maximum of RFC 8878.
_ZSTD_MAX_WINDOW_BYTES = 8 * 1024 * 1024
_ZSTD_MAX_HEADER_BYTES = 18

#: zstd can't bound its output, so it gets little input at a time: 256 bytes hold at most 64
#: run-length blocks of 128 KiB, so a bomb is noticed within 8 MiB of the limit. From a part of over
#: a MiB on it gets less.
_ZSTD_SLICE_BYTES = 256
_ZSTD_LARGE_BYTES = 1024 * 1024

# The stubs of isal call this an instance; it is the class.
_GZIP_ERROR: type[Exception] = cast("type[Exception]", igzip_lib.IsalError)

#: Concatenated gzip members or zstd frames: each costs a decompressor.
_MAX_MEMBERS = 64


class ClientGone(Exception):
    """The connection ended in the middle of the body: nobody to answer, nothing was taken."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Largest body in bytes, as sent and as decompressed, and what all together may hold."""

    sent: int
    decompressed: int
    budget: ByteBudget


async def read_body(receive: Receive, declared: bytes | None, max_bytes: int, held: Held) -> bytes:
    """The whole body as it was sent, counted in `held`.

    declared: the Content-Length header, if any.

    Raises BodyTooLarge (before reading, where the length was declared), BodyStalled,
    Unavailable, ClientGone.
    """
    if declared is not None and int(declared) > max_bytes:
        raise _too_large(f"the body has {int(declared)} bytes", max_bytes)
    # Not a list: a chunk may be one byte long, and an object costs sixty. No bytearray either: the
    # value of this is handed over without a copy, which takes 20 ms for 32 MiB.
    body = BytesIO()
    while True:
        message = await _next_part(receive)
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        if chunk:
            if body.tell() + len(chunk) > max_bytes:
                raise _too_large("the body is too large", max_bytes)
            held.take(len(chunk))
            if not message.get("more_body") and not body.tell():
                return bytes(chunk)  # the usual body comes in one piece
            body.write(chunk)
        if not message.get("more_body"):
            return body.getvalue()


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


def unpack(body: bytes, encoding: bytes, max_bytes: int, held: Held) -> Generator[int, None, bytes]:
    """Take off a body's Content-Encoding, in lower case: gzip (RFC 1952) or zstd (RFC 8878).

    Yields after each part, none of which takes more than a few milliseconds. What is made is
    counted in `held` as it grows, and is never more than max_bytes.

    Raises BodyTooLarge, BadRequest, UnsupportedEncoding, Unavailable.
    """
    if encoding in (b"gzip", b"x-gzip"):
        parts = _gunzip(body)
    elif encoding == b"zstd":
        parts = _unzstd(body, held)
    else:
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding.decode('latin-1')!r} is not supported; "
            "use gzip, zstd or none"
        )
    unpacked = BytesIO()
    try:
        for part in parts:
            if unpacked.tell() + len(part) > max_bytes:
                raise _too_large("decompressed, the body is too large", max_bytes)
            held.take(len(part))
            unpacked.write(part)
            yield 0
    except _GZIP_ERROR as exc:
        raise BadRequest(f"the gzip body is corrupt: {exc}") from exc
    except zstandard.ZstdError as exc:
        raise BadRequest(f"the zstd body is corrupt: {exc}") from exc
    return unpacked.getvalue()


def _gunzip(body: bytes) -> Generator[bytes, None, None]:
    start = 0
    for _ in range(_MAX_MEMBERS):
        member = isal_zlib.decompressobj(wbits=31)
        while not member.eof:
            given = member.unconsumed_tail
            if not given:
                given = body[start : start + _GZIP_SLICE_BYTES]
                start += len(given)
            part = member.decompress(given, _GZIP_PART_BYTES)
            if not (given or part or member.eof):
                raise BadRequest("the gzip body is cut off: its end is missing")
            yield part
        start -= len(member.unused_data)
        if start == len(body):
            return
    raise BadRequest(f"the gzip body has over {_MAX_MEMBERS} members; compress it as one")


def _unzstd(body: bytes, held: Held) -> Generator[bytes, None, None]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
    start, slice_bytes = 0, _ZSTD_SLICE_BYTES
    for _ in range(_MAX_MEMBERS):
        header = zstandard.get_frame_parameters(body[start : start + _ZSTD_MAX_HEADER_BYTES])
        window = min(header.window_size, _ZSTD_MAX_WINDOW_BYTES)
        held.take(window)
        frame = decompressor.decompressobj()
        while not frame.eof:
            given = body[start : start + slice_bytes]
            if not given:
                raise BadRequest("the zstd body is cut off: its end is missing")
            start += len(given)
            part = frame.decompress(given)
            is_large = len(part) > _ZSTD_LARGE_BYTES
            slice_bytes = slice_bytes // 2 if is_large else min(2 * slice_bytes, _ZSTD_SLICE_BYTES)
            yield part
        held.give_back(window)
        start -= len(frame.unused_data)
        if start == len(body):
            return
    raise BadRequest(f"the zstd body has over {_MAX_MEMBERS} frames; compress it as one")


def _too_large(what: str, max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"{what}; at most {max_bytes} are taken in one request: send smaller parts")
