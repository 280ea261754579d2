"""Decompression: never more than may be, only the named errors, and what zlib and zstd read."""

from __future__ import annotations

import gzip

import zstandard

from ingest.errors import BadRequest, BodyTooLarge, UnsupportedEncoding
from ingest.http.body import decompress

MAX_BYTES = 2000
TOKENS = (b"gzip\n", b"zstd\n", b"identity\n", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"x-gzip")


def check(data: bytes) -> None:
    """The first line is the Content-Encoding."""
    encoding, _, body = data.partition(b"\n")
    try:
        plain = decompress(body, encoding, MAX_BYTES)
    except (BadRequest, BodyTooLarge):
        return
    except UnsupportedEncoding:
        assert encoding.strip().lower() not in {b"", b"identity", b"gzip", b"x-gzip", b"zstd"}
        return
    assert len(plain) <= MAX_BYTES
    match encoding.strip().lower():
        case b"" | b"identity":
            assert plain == body
        case b"gzip" | b"x-gzip":
            assert plain == gzip.decompress(body)
        case b"zstd":
            decompressor = zstandard.ZstdDecompressor()
            with decompressor.stream_reader(body, read_across_frames=True) as reader:
                assert plain == reader.read(MAX_BYTES + 1)
        case _:
            raise AssertionError(f"{encoding!r} was taken")
