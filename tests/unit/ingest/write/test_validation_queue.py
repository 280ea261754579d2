import asyncio
import threading
import time
import weakref

import pytest

from ingest.errors import BadRequest
from ingest.http.body import ClientGone
from ingest.write.validation_queue import ValidationQueue

LARGE = 1_000_000
SMALL = 100


async def staying():
    await asyncio.Event().wait()


class Bench:
    """A queue whose CPU clock moves only as the bodies say."""

    def __init__(self):
        self.cpu_s = 0.0
        self.turns = []
        self.queue = ValidationQueue(cpu_s=lambda: self.cpu_s)

    def body(self, name, turns=1, *, refuses=False, cost_s=1.0):
        """Work of which each part is a turn, since it costs more than one."""
        for number in range(turns):
            self.turns.append((name, threading.current_thread() is threading.main_thread()))
            self.cpu_s += cost_s
            yield (number + 1) * refuses
        return name

    def run(self, tenant, size, work, receive=None, read_s=0.0):
        async def validated():
            waits = self.queue.run(tenant, work, receive or staying, read_s, inline=size is SMALL)
            value, self.unpaid_s = await waits
            return value

        return asyncio.ensure_future(validated())


def test_a_small_body_is_validated_at_once_on_the_event_loop():
    async def scenario():
        bench = Bench()
        assert await bench.run("a", SMALL, bench.body("x", cost_s=0.0)) == "x"
        assert bench.turns == [("x", True)]

    asyncio.run(scenario())


def test_a_small_body_that_takes_long_goes_on_beside_the_event_loop():
    async def scenario():
        bench = Bench()
        assert await bench.run("a", SMALL, bench.body("x", 3)) == "x"
        assert bench.turns == [("x", True), ("x", False), ("x", False)]

    asyncio.run(scenario())


def test_tenants_take_turns_however_much_one_of_them_sends():
    async def scenario():
        bench = Bench()
        greedy = [bench.run("greedy", LARGE, bench.body("g", 10)) for _ in range(4)]
        modest = bench.run("modest", LARGE, bench.body("m", 3))
        assert await modest == "m"
        names = [name for name, _ in bench.turns]
        last = len(names) - names[::-1].index("m")
        assert names[:last].count("g") <= 3  # one before each of its turns
        assert await asyncio.gather(*greedy) == ["g"] * 4

    asyncio.run(scenario())


def test_bodies_of_one_tenant_are_validated_in_their_order():
    async def scenario():
        bench = Bench()
        waiting = [bench.run("a", LARGE, bench.body(n, 2)) for n in range(5)]
        await asyncio.gather(*waiting)
        assert [name for name, _ in bench.turns] == [n for n in range(5) for _ in range(2)]

    asyncio.run(scenario())


def test_a_tenant_rests_after_refusals_and_others_do_not_wait_for_it():
    async def scenario():
        bench = Bench()
        began = time.monotonic()
        # 0.2 s of CPU are a fifth of a second's core: four fifths of rest, less the credit.
        bad = bench.run("bad", LARGE, bench.body("b", refuses=True, cost_s=0.2))
        small = bench.run("bad", SMALL, bench.body("c", cost_s=0.0))
        assert await bench.run("good", LARGE, bench.body("d")) == "d"
        assert await bench.run("good", SMALL, bench.body("e")) == "e"
        assert not bad.done()
        assert await asyncio.gather(bad, small) == ["b", "c"]
        assert time.monotonic() - began >= 0.8 - 0.25

    asyncio.run(scenario())


def test_an_error_now_and_then_costs_no_waiting():
    async def scenario():
        bench = Bench()
        for _ in range(10):
            await bench.run("a", SMALL, bench.body("x", refuses=True, cost_s=0.001))
        assert {on_loop for _, on_loop in bench.turns} == {True}

    asyncio.run(scenario())


def test_refusals_of_whole_requests_are_paced_too():
    async def scenario():
        bench = Bench()
        began = time.monotonic()
        await asyncio.gather(*(bench.queue.refuse("hammer") for _ in range(300)))
        # Each counts 0.6 ms of CPU, a fifth of the time; the first ones are on credit.
        assert time.monotonic() - began >= 299 * 0.0024 - 0.25

    asyncio.run(scenario())


def test_a_refusal_that_was_dear_to_find_counts_as_what_it_cost():
    async def scenario():
        bench = Bench()
        began = time.monotonic()
        await asyncio.gather(*(bench.queue.refuse("junk", 0.05) for _ in range(4)))
        assert time.monotonic() - began >= 3 * 0.2 - 0.25

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_refused_body_counts_with_what_it_took_to_read(size):
    async def scenario():
        bench = Bench()
        began = time.monotonic()
        for _ in range(2):
            await bench.run("a", size, bench.body("x", cost_s=0.0), read_s=9.0)  # a good one
        for _ in range(3):
            bad = bench.body("x", 2, refuses=True, cost_s=0.0)
            await bench.run("a", size, bad, read_s=0.05)
        assert 2 * 0.2 - 0.25 <= time.monotonic() - began < 5

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_body_that_is_refused_as_a_whole_says_what_all_of_it_took(size):
    def refused(bench):
        for _ in range(3):
            bench.cpu_s += 1.0
            yield 0
        bench.cpu_s += 0.5
        raise BadRequest("cut off")

    async def scenario():
        bench = Bench()
        with pytest.raises(BadRequest) as refusal:
            await bench.run("a", size, refused(bench), read_s=0.25)
        assert (refusal.value.paced, refusal.value.spent_s) == ("a", 3.75)

    asyncio.run(scenario())


@pytest.mark.parametrize(("refuses", "unpaid_s"), [(False, 3.25), (True, 0.0)])
def test_what_a_body_took_is_told_as_far_as_its_tenant_has_not_rested_for_it(refuses, unpaid_s):
    async def scenario():
        bench = Bench()
        bench.queue._rest = lambda *_: None
        await bench.run("a", LARGE, bench.body("x", 3, refuses=refuses), read_s=0.25)
        assert bench.unpaid_s == unpaid_s

    asyncio.run(scenario())


def test_a_thread_that_can_not_be_started_harms_only_the_body_that_asked_for_it(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    async def scenario():
        bench = Bench()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                await bench.run("a", LARGE, bench.body("x"))
        async with asyncio.timeout(10):
            assert await bench.run("a", LARGE, bench.body("y")) == "y"
            assert await bench.run("b", LARGE, bench.body("z")) == "z"

    asyncio.run(scenario())


def test_work_that_fails_harms_only_the_body_it_failed_at():
    def failing():
        yield 0
        raise RuntimeError("BUG")

    async def scenario():
        bench = Bench()
        broken = bench.run("a", LARGE, failing())
        good = bench.run("a", LARGE, bench.body("x"))
        with pytest.raises(RuntimeError, match="BUG"):
            await broken
        assert await good == "x"

    asyncio.run(scenario())


def test_a_body_whose_client_is_gone_is_validated_no_further():
    async def scenario():
        bench = Bench()
        left = asyncio.Event()

        async def leaving():
            await left.wait()
            return {"type": "http.disconnect"}

        gone = bench.run("a", LARGE, bench.body("gone", 10**9), leaving)
        while not bench.turns:
            await asyncio.sleep(0)
        left.set()
        with pytest.raises(ClientGone):
            await gone
        assert await bench.run("a", LARGE, bench.body("next")) == "next"

    asyncio.run(scenario())


def test_nobody_waits_behind_a_body_whose_client_is_gone():
    async def scenario():
        bench = Bench()
        first = bench.run("a", LARGE, bench.body("first", 3))
        gone = bench.run("a", LARGE, bench.body("gone", 1000))
        last = bench.run("a", LARGE, bench.body("last"))
        await asyncio.sleep(0)
        gone.cancel()
        assert await last == "last"
        assert await first == "first"
        assert "gone" not in {name for name, _ in bench.turns}

    asyncio.run(scenario())


def test_a_body_whose_client_is_gone_is_kept_no_longer():
    async def scenario():
        bench = Bench()
        first = bench.run("a", LARGE, bench.body("first", 10**9))
        work = bench.body("gone")
        kept = weakref.ref(work)
        gone = bench.run("a", LARGE, work)
        del work
        while not bench.turns:
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        del gone
        for _ in range(5):
            await asyncio.sleep(0)
        assert kept() is None  # although the first one is in its turn for ever
        first.cancel()

    asyncio.run(scenario())
