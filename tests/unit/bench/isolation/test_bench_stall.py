import asyncio
import gzip
import json
from collections import Counter

import pytest

from bench.isolation import hostile
from bench.isolation.stall import KINDS, Plan, Seen, section
from bench.isolation.ticking_serve import TICK_S, Ticker


def test_the_middle_and_the_worst_round_are_shown_in_milliseconds():
    seen = {
        "idle": Seen([0.001, 0.002, 0.0015], [0.0001, 0.0001, 0.0002]),
        "JSON": Seen([0.4, 2.5, 0.5], [0.3, 0.4, 0.5], Counter({"503": 2, "400": 1200})),
    }
    rows = section(seen, Plan(rounds=3)).tables[0].rows
    assert rows == [
        ["idle", "1.50", "2.00", "0.100", "0.200", ""],
        ["JSON", "500", "2500", "400", "500", "400: 1,200, 503: 2"],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_body_is_of_one_size_which_the_gateway_takes(kind):
    body = kind.make()
    assert 32 * 1024 * 1024 - 100 < len(body) <= 32 * 1024 * 1024
    assert not kind.gzipped or len(gzip.compress(body)) < 128 * 1024


def test_hostile_json_is_json_but_no_rows_that_are_stored(monkeypatch):
    monkeypatch.setattr(hostile, "_SIZE", 200)
    assert set(json.loads(hostile.one_list())["x"]) == {1}
    [row] = json.loads(hostile.list_in_a_row())["rows"]
    assert isinstance(row["values"]["x"], list)


def test_a_ticker_tells_a_stall_once():
    async def scenario():
        ticker = Ticker()
        await ticker.take()
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(spin, 0.2)
        await asyncio.sleep(0.01)
        stall_s, cpu_s = await ticker.take()
        assert stall_s > 0.15
        assert 0 < cpu_s <= stall_s + TICK_S
        assert await ticker.take() == (0, 0)

    def spin(seconds):
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            pass

    asyncio.run(scenario())
