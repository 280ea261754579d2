"""What a way in gets from the pipeline: shown with one that the product does not have."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time

import pytest

from ingest.errors import BadRequest, GatewayError, InputRefused
from ingest.keys.auth import key_in_headers
from ingest.publish import pieces
from ingest.write.ingest_classes import Target
from ingest.write.line_decoder import LineDecoder
from ingest.write.pipeline import Admitted
from schemas.admission.admission import MAX_LISTED, Part
from schemas.admission.body import admit
from schemas.line_protocol import series
from schemas.line_protocol.codec import split
from schemas.line_protocol.precision import Precision
from schemas.log import receipt
from schemas.log.block import MAX_BLOCK_BYTES
from schemas.log.protocols import LogUnavailable
from tests.fakes.gateway import running

PATH = "/api/v9/csv"


def in_words(error: GatewayError, instance: str) -> tuple[bytes, bytes]:
    """The dialect: one line of text, and one for each line that was refused."""
    rejected = error.body().get("rejected", [])
    says = [f"{instance}: {error.message}", *(f"line {r['line']}: {r['why']}" for r in rejected)]
    return b"text/plain", "\n".join(says).encode()


class CsvDecoder:
    """Lines of `run,step,metric,value`, all of one experiment, which the query string names."""

    dialect = staticmethod(in_words)
    inline_bytes = 64 * 1024

    def key(self, scope):
        return key_in_headers(scope["headers"])

    def target(self, query):
        if not query:
            raise BadRequest("the experiment is missing; ask for ?resnet50")
        return Target(None, "raw", Precision.NS)

    def points(self, body):
        return body.count(b"\n") + 1

    def decode(self, body, target, classes, held):
        rules = classes.rules(target.class_name)
        good, rejected, refused = [], [], 0
        for number, text in enumerate(body.split(b"\n"), 1):
            run, _, rest = text.partition(b",")
            step, _, rest = rest.partition(b",")
            metric, _, value = rest.partition(b",")
            line = b"csv,run=%b %b=%b,step=%bi %d" % (run, metric, value, step, classes.stamp())
            found = admit(line, Precision.NS, rules, classes.stamp)
            if found.points:
                good.append(line)
                held.take(len(line))
            else:
                refused += 1
                if len(rejected) < MAX_LISTED:
                    rejected.append({"line": number, "why": found.refusals[0].reason})
            yield refused
        parts = [("raw", Part(b"\n".join(good), len(good), Precision.NS, multiline=False))]
        return Admitted(
            parts if good else [], len(good), refused, len(good), rejected, refused, len(good) or 1
        )

    def answer(self, admitted, receipt):
        if not admitted.accepted:
            raise InputRefused("nothing was stored", {"rejected": admitted.rejected})
        headers = [(b"content-type", b"text/plain"), (b"stepclock-receipt", receipt.encode())]
        text = f"{admitted.accepted} stored, {admitted.refused} refused"
        return 200, headers, text.encode()


def scenario(test, **settings):
    """Run an async test that takes a gateway with the way in, and a function that posts to it."""

    def run(tmp_path):
        async def body():
            async with running(tmp_path, **settings) as gateway:
                gateway.app.add_write_route(PATH, CsvDecoder())

                async def post(body, *, query="resnet50", **more):
                    return await gateway.client.request("POST", PATH, body, query=query, **more)

                await test(gateway, post)

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


def with_settings(**settings):
    return lambda test: scenario(test, **settings)


@scenario
async def test_what_is_good_is_stored_with_a_receipt_and_the_dialect_answers(gateway, post):
    answer = await post(b"r1,1,loss,0.5\nr1,2,loss,\nr2,1,loss,0.25")
    assert (answer.status, answer.body) == (200, b"2 stored, 1 refused")
    [position] = receipt.decode(answer.headers["stepclock-receipt"])
    assert position.retention_class == "raw"
    assert [line.rsplit(b" ", 1)[0] for line in gateway.lines()] == [
        b"csv,run=r1 loss=0.5,step=1i",
        b"csv,run=r2 loss=0.25,step=1i",
    ]


@scenario
async def test_what_is_refused_as_a_whole_is_said_in_the_dialect(gateway, post):
    answer = await post(b"r1,one,loss,0.5")
    assert (answer.status, answer.headers["content-type"]) == (400, "text/plain")
    assert answer.body.startswith(b"/api/v9/csv: nothing was stored\nline 1: ")
    assert (await post(b"r1,1,loss,1", query="")).status == 400
    assert gateway.lines() == []


@scenario
async def test_keys_are_asked_for_and_their_role_too(gateway, post):
    answer = await post(b"r1,1,loss,1", key="sk_000000000000_wrong")
    assert (answer.status, answer.headers["content-type"]) == (401, "text/plain")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert (await post(b"r1,1,loss,1", key=gateway.read_key)).status == 403
    assert (await gateway.client.request("GET", PATH)).status == 405


@scenario
async def test_points_are_limited_before_anything_is_decoded(gateway, post):
    small = {"key": gateway.small_key}  # 10 points/s, burst 20
    assert (await post(b"\n".join([b"r1,1,loss,1"] * 20), **small)).status == 200
    answer = await post(b"r1,1,loss,1", **small)
    assert answer.status == 429
    assert answer.headers["ratelimit-policy"] == '"points";q=20;w=2'
    assert int(answer.headers["retry-after"]) >= 1
    assert len(gateway.lines()) == 20


@scenario
async def test_what_turns_out_to_be_less_is_charged_less(gateway, post):
    blank = b"\n" * 18
    assert (await post(blank + b"r1,1,loss,1", key=gateway.small_key)).status == 200
    good = b"\n".join([b"r1,1,loss,1"] * 19)
    assert (await post(good, key=gateway.small_key)).status == 200


@with_settings(max_body_bytes=2000, max_decompressed_bytes=4000)
async def test_bodies_are_bounded_and_unpacked(gateway, post):
    assert (await post(b"r1,1,loss,1\n" * 200)).status == 413
    packed = {"headers": {"Content-Encoding": "gzip"}}
    assert (await post(gzip.compress(b"r1,1,loss,1"), **packed)).status == 200
    answer = await post(gzip.compress(b"r1,1,loss,1\n" * 400), **packed)
    assert (answer.status, b"decompressed" in answer.body) == (413, True)
    assert (await post(b"r1,1,loss,1", headers={"Content-Encoding": "br"})).status == 415


@scenario
async def test_with_the_log_away_nothing_is_charged(gateway, post):
    body = b"\n".join([b"r1,1,loss,1"] * 20)
    gateway.log.send_error = LogUnavailable("gone")
    answer = await post(body, key=gateway.small_key)
    assert (answer.status, answer.headers["content-type"]) == (503, "text/plain")
    gateway.log.send_error = None
    deadline = time.monotonic() + 10
    while (answer := await post(body, key=gateway.small_key)).status == 503:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert answer.status == 200


@with_settings(series_mode="enforce", series_per_hour=3, series_learn_s=0)
async def test_new_series_are_limited(gateway, post):
    assert (await post(b"a,1,loss,1\nb,1,loss,1\nc,1,loss,1")).status == 200
    answer = await post(b"d,1,loss,1")
    assert answer.status == 429
    assert answer.headers["ratelimit-policy"] == '"series";q=3;w=3600'


@scenario
async def test_a_large_body_is_decoded_beside_the_event_loop_and_paced_if_it_is_bad(gateway, post):
    bad = asyncio.create_task(post(b"x\n" * 40_000))
    await asyncio.sleep(0)
    answer = await post(b"r1,1,loss,1", key=gateway.other_key)
    assert answer.status == 200
    assert not bad.done()
    bad.cancel()


@scenario
async def test_what_becomes_of_points_is_counted_by_tenant(gateway, post):
    def counted(page):
        text = page.body.decode()
        return [line for line in text.splitlines() if "points_total{" in line and "other" in line]

    await post(b"r1,1,loss,1\nx", key=gateway.other_key)
    page = await gateway.client.request("GET", "/metrics")
    outcomes = {line.partition('outcome="')[2].partition('"')[0] for line in counted(page)}
    assert outcomes >= {"accepted", "refused"}
    assert f'route="{PATH}"' in page.body.decode()


@scenario
async def test_what_only_the_parser_can_cut_is_cut_beside_the_event_loop(gateway, post):
    looked_at = []

    def noting(lines):
        for item in split(lines):
            looked_at.append(threading.current_thread())
            yield item

    with pytest.MonkeyPatch.context() as patch:
        for module in (pieces, series):
            patch.setattr(module, "split", noting)
        lines = [b'm f="%d\n%b" %d' % (i, b"x" * 200, time.time_ns()) for i in range(4000)]
        gateway.app.add_write_route(PATH, LineDecoder())
        answer = await post(b"\n".join(lines), query="bucket=raw", key=gateway.other_key)
    assert answer.status == 204
    assert looked_at
    assert threading.current_thread() not in looked_at
    blocks = gateway.blocks()
    assert [block.points for block in blocks] == [len(list(split(b.lines))) for b in blocks]
    assert b"\n".join(block.lines for block in blocks) == b"\n".join(lines)
    assert len(blocks) == 2


def test_what_is_cut_in_steps_is_joined_to_pieces_that_just_fit_a_block():
    lines = [b'm f="\n%b" 1' % (b"x" * size) for size in [1, 70_000, 2] * 12 + [0] * 1000]
    part = Part(b"\n".join(lines), len(lines), Precision.NS, multiline=True)
    steps = list(pieces.steps_of(part))
    assert all(step.points <= 250 for step in steps)
    assert all(step.points == 1 or len(step.lines) < 64 * 1024 for step in steps)
    made = list(pieces.joined(steps))
    assert b"\n".join(piece.lines for piece in made) == part.lines
    assert [piece.points for piece in made] == [len(list(split(p.lines))) for p in made]
    assert all(len(piece.lines) < MAX_BLOCK_BYTES for piece in made)
    assert len(made) == 2
