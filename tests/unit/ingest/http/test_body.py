import asyncio
import gzip
import itertools
import random
import time
import zlib

import pytest
import zstandard

from ingest.errors import (
    BadRequest,
    BodyStalled,
    BodyTooLarge,
    Unavailable,
    UnsupportedEncoding,
)
from ingest.http.body import ClientGone, read_body, unpack
from ingest.limits.byte_budget import ByteBudget, Held

LIMIT = 1_000_000


def receiver(*messages):
    queue = list(messages)

    async def receive():
        return queue.pop(0)

    return receive


def part(body, more):
    return {"type": "http.request", "body": body, "more_body": more}


def reading(max_bytes):
    return ByteBudget("reading", "read buffer", max_bytes)


def read(receive, declared=None, budget=None):
    held = Held(budget or reading(LIMIT), "vision")
    try:
        return asyncio.run(read_body(receive, declared, 10, held))
    finally:
        held.release()


def decompress(body, encoding, max_bytes, held=None):
    work = unpack(body, encoding, max_bytes, held or Held(reading(32 * LIMIT), "vision"))
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


def test_parts_are_joined():
    assert read(receiver(part(b"ab", True), part(b"", True), part(b"cd", False))) == b"abcd"


def test_a_declared_length_over_the_limit_is_refused_before_reading():
    with pytest.raises(BodyTooLarge, match="11 bytes; at most 10 are"):
        read(receiver(), declared=b"11")


def test_an_undeclared_body_is_refused_as_soon_as_it_is_too_large():
    with pytest.raises(BodyTooLarge):
        read(receiver(part(b"x" * 6, True), part(b"x" * 6, True)))


def test_a_connection_that_ends_in_the_body_is_nobody_to_answer():
    with pytest.raises(ClientGone):
        read(receiver(part(b"ab", True), {"type": "http.disconnect"}))


def test_all_bodies_together_are_bounded_and_the_room_is_given_back():
    budget = reading(8)
    budget.take("other", 4)
    with pytest.raises(Unavailable, match="read buffer is full"):
        read(receiver(part(b"abcd", True), part(b"e", False)), budget=budget)
    assert read(receiver(part(b"abcd", False)), budget=budget) == b"abcd"
    budget.give_back("other", 4)
    assert read(receiver(part(b"abcdefgh", False)), budget=budget) == b"abcdefgh"


def test_one_tenant_s_uploads_leave_room_for_those_of_another():
    budget = reading(9)
    budget.take("vision", 4)
    with pytest.raises(Unavailable, match="tenant 'vision' has used its share"):
        read(receiver(part(b"abc", False)), budget=budget)
    budget.take("other", 1)
    budget.give_back("vision", 4)
    assert read(receiver(part(b"abc", False)), budget=budget) == b"abc"


def test_a_body_that_stops_coming_is_given_up(monkeypatch):
    monkeypatch.setattr("ingest.http.body._STALL_S", 0.01)

    async def silence():
        await asyncio.Event().wait()

    with pytest.raises(BodyStalled) as stalled:
        read(silence)
    assert stalled.value.headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [(b"gzip", gzip.compress), (b"zstd", zstandard.ZstdCompressor().compress)],
)
class TestCompressed:
    @pytest.mark.parametrize("text", [b"", b"m f=1", b"m f=1\n" * 50_000])
    def test_bodies_come_out_as_they_went_in(self, encoding, compress, text):
        assert decompress(compress(text), encoding, LIMIT) == text

    def test_concatenated_members_are_one_body(self, encoding, compress):
        assert decompress(compress(b"a") + compress(b"b" * 9000), encoding, LIMIT) == (
            b"a" + b"b" * 9000
        )

    def test_what_is_made_is_counted_as_it_grows_and_a_full_buffer_ends_it(
        self, encoding, compress
    ):
        budget = reading(10 * LIMIT)
        work = unpack(
            compress(random.Random(1).randbytes(3 * LIMIT)),
            encoding,
            8 * LIMIT,
            Held(budget, "vision"),
        )
        sizes = [budget.held_bytes for _ in work]
        grown = [later - earlier for earlier, later in itertools.pairwise(sizes)]
        assert max(grown) <= LIMIT
        assert budget.held_bytes == 3 * LIMIT
        with pytest.raises(Unavailable, match="read buffer"):
            decompress(compress(bytes(8 * LIMIT)), encoding, 8 * LIMIT, Held(budget, "vision"))

    def test_no_part_of_a_bomb_takes_long(self, encoding, compress):
        held = Held(reading(64 * LIMIT), "vision")
        work = unpack(compress(bytes(32 * LIMIT)), encoding, 32 * LIMIT, held)
        began_s, longest_s = time.thread_time(), 0.0
        for _ in work:
            now_s = time.thread_time()
            longest_s, began_s = max(longest_s, now_s - began_s), now_s
        assert longest_s < 0.05  # mostly 1 ms

    def test_a_cut_body_is_named(self, encoding, compress):
        with pytest.raises(BadRequest, match="cut off"):
            decompress(compress(b"m f=1\n" * 100)[:-3], encoding, LIMIT)

    def test_a_corrupt_body_is_named(self, encoding, compress):
        body = bytearray(compress(bytes(range(256)) * 8))
        body[len(body) // 2] ^= 0xFF
        body[3] ^= 0xFF
        with pytest.raises(BadRequest, match=r"corrupt|cut off"):
            decompress(bytes(body), encoding, LIMIT)

    def test_a_bomb_is_refused_before_it_is_inflated(self, encoding, compress):
        with pytest.raises(BodyTooLarge, match="decompressed"):
            decompress(compress(bytes(30 * LIMIT)), encoding, LIMIT)

    def test_a_plain_body_called_compressed_is_named(self, encoding, compress):
        with pytest.raises(BadRequest):
            decompress(b"m f=1", encoding, LIMIT)

    def test_endless_tiny_members_are_refused(self, encoding, compress):
        with pytest.raises(BadRequest, match="over 64"):
            decompress(compress(b"") * 1000, encoding, LIMIT)


def test_a_bomb_inside_many_members_is_counted_over_all_of_them():
    with pytest.raises(BodyTooLarge):
        decompress(gzip.compress(bytes(LIMIT // 2)) * 3, b"gzip", LIMIT)


def test_an_unknown_encoding_is_refused_by_name():
    with pytest.raises(UnsupportedEncoding, match="'br' is not supported"):
        decompress(zlib.compress(b"x"), b"br", LIMIT)


def test_a_window_that_a_zstd_frame_asks_for_is_counted_while_it_is_read():
    budget = reading(32 * LIMIT)
    compressor = zstandard.ZstdCompressor(level=19).compressobj()  # of unknown size: 8 MiB
    work = unpack(
        compressor.compress(b"m f=1") + compressor.flush(), b"zstd", LIMIT, Held(budget, "vision")
    )
    next(work)
    assert budget.held_bytes == 8 * 1024 * 1024 + 5
    assert list(work) == []
    assert budget.held_bytes == 5
