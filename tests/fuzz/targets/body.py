"""Decompression: never more than may be, only the named errors, and what zlib and zstd read."""

from __future__ import annotations

import gzip

import zstandard

from ingest.errors import BadRequest, BodyTooLarge, UnsupportedEncoding
from ingest.http.body import unpack
from ingest.limits.byte_budget import ByteBudget, Held

MAX_BYTES = 2000
TOKENS = (b"gzip\n", b"zstd\n", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"x-gzip")


def check(data: bytes) -> None:
    """The first line is the Content-Encoding."""
    encoding, _, body = data.partition(b"\n")
    try:
        plain = _unpacked(body, encoding.strip().lower())
    except (BadRequest, BodyTooLarge):
        return
    except UnsupportedEncoding:
        assert encoding.strip().lower() not in {b"gzip", b"x-gzip", b"zstd"}
        return
    assert len(plain) <= MAX_BYTES
    match encoding.strip().lower():
        case b"gzip" | b"x-gzip":
            assert plain == gzip.decompress(body)
        case b"zstd":
            decompressor = zstandard.ZstdDecompressor()
            with decompressor.stream_reader(body, read_across_frames=True) as reader:
                assert plain == reader.read(MAX_BYTES + 1)
        case _:
            raise AssertionError(f"{encoding!r} was taken")


def _unpacked(body: bytes, encoding: bytes) -> bytes:
    budget = ByteBudget("reading", "read buffer", 32 * 1024 * 1024)
    work = unpack(body, encoding, MAX_BYTES, Held(budget, "fuzz"))
    while True:
        try:
            next(work)
        except StopIteration as done:
            assert budget.held_bytes == len(done.value)
            return done.value
