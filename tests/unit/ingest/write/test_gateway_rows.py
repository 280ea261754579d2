"""What rows of JSON may cost: their size as lines, the turns of the loop, the points charged."""

import asyncio
import json
from itertools import pairwise

import pytest

from ingest.limits.byte_budget import ByteBudget, Held
from ingest.write import row_decoder
from ingest.write.ingest_classes import IngestClasses
from schemas import retention
from schemas.log.protocols import LogUnavailable
from tests.fakes.gateway import running

LONG = "x" * 1000


def row(**change):
    return {"experiment": "e", "run": "r", "step": 1, "values": {"a": 1}} | change


def not_numbers(count):
    return {f"m{number}": "NaN" for number in range(count)}


def test_rows_that_grow_beyond_a_body_as_lines_are_refused_by_name(tmp_path):
    async def scenario():
        async with running(tmp_path, max_decompressed_bytes=100_000) as gateway:
            large = row(experiment=LONG, run=LONG, values=not_numbers(1000))  # 2 MB as lines
            answer = await gateway.client.post_rows([row(), large, row(step=2)])
            assert answer.status == 202
            assert answer.json()["accepted"] == 2
            [rejected] = answer.json()["rejected"]
            assert rejected["index"] == 1
            assert "100000 bytes" in rejected["reason"]
            assert len(gateway.lines()) == 2
            assert gateway.blocks("stepclock.events") == []

    asyncio.run(scenario())


def test_a_value_that_is_not_finite_is_charged_as_the_line_that_it_becomes(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:  # the burst is of 20 points

            async def post(count):
                rows = [row(values=not_numbers(count))]
                return await gateway.client.post_rows(rows, key=gateway.small_key)

            assert (await post(15)).status == 202
            answer = await post(15)
            assert answer.status == 429
            assert answer.headers["ratelimit"].startswith('"points";r=4;')
            assert len(gateway.lines("stepclock.events")) == 15
            assert (await gateway.client.write("m a=1\n" * 4, key=gateway.small_key)).status == 204

    asyncio.run(scenario())


def test_rows_not_taken_since_the_log_is_away_are_not_charged_for_what_is_not_finite(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            gateway.log.hold()
            rows = [row(values=not_numbers(15))]
            posting = asyncio.create_task(gateway.client.post_rows(rows, key=gateway.small_key))
            while not gateway.log.records("stepclock.events"):
                await asyncio.sleep(0)
            gateway.log.release(LogUnavailable("no broker"))
            assert (await posting).status == 503
            while (await gateway.client.post_rows([row()])).status != 202:
                await asyncio.sleep(0.02)
            answer = await gateway.client.write("m a=1\n" * 20, key=gateway.small_key)
            assert answer.status == 204

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"values": dict.fromkeys(map(str, range(10_001)), 1)}, "values"),
        ({"tags": dict.fromkeys(map(str, range(1_001)), 1)}, "tags"),
        (dict.fromkeys(map(str, range(1_000)), 1), "row"),
    ],
)
def test_a_row_of_very_many_members_is_refused_at_once_and_as_one(tmp_path, change, field):
    async def scenario():
        async with running(tmp_path) as gateway:
            answer = await gateway.client.post_rows([row(**change), row()])
            assert answer.status == 202
            [rejected] = answer.json()["rejected"]
            assert (rejected["index"], rejected["field"]) == (0, field)
            assert "at most" in rejected["reason"]

    asyncio.run(scenario())


def test_the_name_of_a_refused_member_is_repeated_only_in_part(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            answer = await gateway.client.post_rows([row(values={"m" * 5000: [], "a": 1})])
            [rejected] = answer.json()["rejected"]
            assert rejected["field"].startswith("values.mmm")
            assert len(rejected["field"]) < 300

    asyncio.run(scenario())


class Decoding:
    """Rows decoded turn by turn, and what was held at each of them."""

    def __init__(self, rows):
        classes = IngestClasses(retention.parse(retention.default_text()))
        budget = ByteBudget("reading", "read buffer", 10**9)
        held = Held(budget, "t")
        self.refused, self.held_bytes = [0], []
        body = json.dumps({"rows": rows}).encode()
        work = row_decoder.RowDecoder(10**8).decode(body, None, classes, held)
        try:
            while True:
                self.refused.append(next(work))
                self.held_bytes.append(budget.held_bytes)
        except StopIteration as done:
            self.admitted = done.value
        held.release()
        assert budget.held_bytes == 0


@pytest.mark.parametrize(
    "bad", [{"tags": dict.fromkeys(map(str, range(1000)), 1)}, dict.fromkeys(map(str, range(20)))]
)
def test_rows_with_many_faults_end_their_turn_sooner(bad):
    refused = Decoding([row(**bad) for _ in range(200)]).refused
    assert max(later - sooner for sooner, later in pairwise(refused)) <= 1100


def test_a_row_with_many_tags_is_as_long_as_one_with_many_values():
    tags = dict.fromkeys(map(str, range(240)), "x")
    assert len(Decoding([row(tags=tags) for _ in range(50)]).refused) > 50


def test_the_lines_of_a_row_are_looked_at_in_short_turns_and_are_counted_meanwhile(monkeypatch):
    looked_at = []
    admit = row_decoder.admit

    def noting(text, *arguments):
        looked_at.append(text.count(b"\n") + 1)
        return admit(text, *arguments)

    monkeypatch.setattr(row_decoder, "admit", noting)
    decoding = Decoding([row(run=LONG, values=not_numbers(5000))])
    assert max(looked_at) <= 100
    assert len(decoding.refused) > 50
    size = sum(len(part.lines) for _, part in decoding.admitted.parts)
    assert sorted(decoding.held_bytes)[10] > size
    assert [part.points for _, part in decoding.admitted.parts] == [1, 5000]
