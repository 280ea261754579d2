from __future__ import annotations

import asyncio

import pytest

from bench.lab.connection import Answer, Connection, build_post, build_request, parse_answer
from bench.lab.lines import bodies, body
from schemas.admission.body import admit
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import Precision
from schemas.retention import RESERVED

LIMITED = (
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\nRetry-After: 3\r\nx-y: z\r\n\r\n{}"
)


def test_answer_is_incomplete_until_its_last_byte():
    for end in range(len(LIMITED)):
        assert parse_answer(LIMITED[:end]) is None
    assert parse_answer(LIMITED) == Answer(429, b"3")


def test_answer_without_a_body_ends_with_its_headers():
    assert parse_answer(b"HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n") == Answer(204, b"")


def test_answer_in_chunks_ends_with_the_last_of_them():
    answer = b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    for end in range(len(answer)):
        assert parse_answer(answer[:end]) is None
    assert parse_answer(answer) == Answer(202, b"")


def test_retry_after_is_read_as_whole_seconds_only():
    assert Answer(429, b"3").wait_s() == 3
    for other in (b"", b"0.5", b"Wed, 21 Oct 2026 07:28:00 GMT"):
        with pytest.raises(ValueError, match="no whole number"):
            Answer(429, other).wait_s()


def test_connection_carries_one_request_after_the_other():
    received = []

    async def serve(reader, writer):
        for answer in (LIMITED, b"HTTP/1.1 204 No Content\r\n\r\n"):
            received.append(await reader.readuntil(b"end"))
            writer.write(answer[:20])
            await writer.drain()
            writer.write(answer[20:])
        writer.close()

    async def run():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            connection = await Connection.connect("127.0.0.1", port)
            request = build_request("127.0.0.1", port, "key", b"the end")
            answers = [await connection.send(request), await connection.send(request)]
            with pytest.raises(ConnectionError):
                await connection.send(request)
            connection.close()
        return request, answers

    request, answers = asyncio.run(run())
    assert answers == [Answer(429, b"3"), Answer(204, b"")]
    assert received == [request, request]
    assert b"Content-Length: 7\r\n" in request


def test_every_generated_line_is_admitted_and_has_a_time_of_its_own():
    now_ns = 1_795_277_400 * 10**9
    rules = Rules(now_ns - 10**15, now_ns, "90d", RESERVED)
    made = bodies("r12", 100, 3, epoch_ms=now_ns // 10**6 - 3000)
    admission = admit(b"\n".join(made), Precision.MS, rules, lambda: 0)
    assert (admission.points, admission.refused_total, admission.stamped) == (300, 0, 0)
    times = [line.rpartition(b" ")[2] for line in b"\n".join(made).split(b"\n")]
    assert len(set(times)) == 300


def test_generated_line_has_two_fields_and_a_step():
    (line,) = body("r12", 1200, 1, epoch_ms=1_795_277_400_000).splitlines()
    series, fields, time = line.split(b" ")
    assert series == b"metric,project=p,run=r12"
    assert fields.startswith(b"train/loss=0.")
    assert fields.endswith(b",step=1200i")
    assert time == b"1795277412000"


def test_a_compressed_body_says_so_and_any_other_is_sent_as_it_is():
    head, _, body = build_post("h", 1, "k", "/t", b"abc", gzipped=True).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /t HTTP/1.1",
        b"Host: h:1",
        b"Authorization: Bearer k",
        b"Content-Encoding: gzip",
        b"Content-Length: 3",
    ]
    assert body == b"abc"
    assert b"Content-Encoding" not in build_post("h", 1, "k", "/t", b"abc")
