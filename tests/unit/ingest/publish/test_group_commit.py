import asyncio

import pytest

from ingest.errors import Internal, Unavailable
from ingest.publish.circuit_breaker import CircuitBreaker, CircuitState
from ingest.publish.group_commit import BlockKey, GroupCommit
from ingest.publish.origin import Origin, Piece, StreamHeaders
from schemas.line_protocol.precision import Precision
from schemas.log.block import MAX_BLOCK_BYTES, Delivery, decode
from schemas.log.protocols import LogUnavailable
from tests.fakes.memory_log import MemoryLog

TOPIC = "stepclock.raw"
ORIGIN = Origin(received_ns=7)
KEY = BlockKey(TOPIC, 0, "vision", "stepclock", Precision.NS, multiline=False)


def block_key(**changes):
    fields = {name: getattr(KEY, name) for name in BlockKey.__slots__}
    return BlockKey(**fields | changes)


class Bench:
    def __init__(self, *, max_pending_bytes=10**7, max_in_flight=2):
        self.log = MemoryLog({TOPIC: 2})
        self.breaker = CircuitBreaker()
        self.breaker.probe_succeeded()
        self.commits = GroupCommit(
            self.log.publisher(),
            self.breaker,
            max_pending_bytes=max_pending_bytes,
            max_in_flight=max_in_flight,
        )

    def add(self, lines, *, to=KEY, origin=ORIGIN):
        return self.commits.add(to, Piece(lines, lines.count(b"\n") + 1), origin)

    def values(self):
        return [record.value for record in self.log.records(TOPIC)]


def test_lines_go_out_at_once_while_the_partition_is_idle():
    async def scenario():
        bench = Bench()
        bench.log.hold()
        first, second = bench.add(b"a"), bench.add(b"b")
        assert bench.values() == [b"a", b"b"]
        bench.log.release()
        assert [await first, await second] == [0, 1]

    asyncio.run(scenario())


def test_what_arrives_while_two_blocks_are_in_flight_travels_together():
    async def scenario():
        bench = Bench()
        bench.log.hold()
        waiters = [bench.add(b"l%d" % n) for n in range(10)]
        assert bench.values() == [b"l0", b"l1"]
        bench.log.release()
        offsets = await asyncio.gather(*waiters)
        assert bench.values()[2:] == [b"\n".join(b"l%d" % n for n in range(2, 10))]
        assert offsets == [0, 1, *[2] * 8]

    asyncio.run(scenario())


def test_a_block_says_what_is_in_it():
    async def scenario():
        bench = Bench(max_in_flight=1)
        bench.log.hold()
        streams = [StreamHeaders("s", n, 5, "exp", "r1") for n in range(3)]
        origins = [Origin(7, stream, f"trace-{n}") for n, stream in enumerate(streams)]
        waiters = [bench.add(b"a\nb", origin=origin) for origin in origins]
        bench.log.release()
        await asyncio.gather(*waiters)
        record = bench.log.records(TOPIC)[1]
        block = decode(record.headers, record.value)
        assert (block.tenant, block.namespace, block.precision) == (
            "vision",
            "stepclock",
            Precision.NS,
        )
        assert (block.points, block.received_ns, block.traceparent) == (4, 7, "trace-1")
        assert block.deliveries == (
            Delivery("s", 1, 5, "exp", "r1", part=0, parts=1, first=0, points=2),
            Delivery("s", 2, 5, "exp", "r1", part=0, parts=1, first=2, points=2),
        )

    asyncio.run(scenario())


def test_tenants_precisions_and_partitions_never_share_a_block():
    async def scenario():
        bench = Bench(max_in_flight=1)
        bench.log.hold()
        keys = [
            KEY,
            block_key(tenant="audio"),
            block_key(namespace="other"),
            block_key(precision=Precision.MS),
            block_key(multiline=True),
            block_key(partition=1),
        ]
        waiters = [bench.add(b"x", to=each) for each in keys for _ in range(3)]
        bench.log.release()
        await asyncio.gather(*waiters)
        blocks = [decode(r.headers, r.value) for r in bench.log.records(TOPIC)]
        assert sum(b.points for b in blocks) == 18
        assert {(b.tenant, b.namespace, b.precision, b.multiline) for b in blocks} == {
            (each.tenant, each.namespace, each.precision, each.multiline) for each in keys
        }

    asyncio.run(scenario())


def test_a_block_stays_within_its_bound():
    async def scenario():
        bench = Bench(max_in_flight=1)
        bench.log.hold()
        chunk = b"x" * (MAX_BLOCK_BYTES // 3)
        waiters = [bench.add(chunk) for _ in range(10)]
        bench.log.release()
        await asyncio.gather(*waiters)
        assert max(map(len, bench.values())) <= MAX_BLOCK_BYTES
        assert sum(value.count(b"x") for value in bench.values()) == 10 * len(chunk)

    asyncio.run(scenario())


def test_beyond_the_bound_of_pending_bytes_a_request_is_refused_and_let_in_after():
    async def scenario():
        bench = Bench(max_pending_bytes=100)
        bench.log.hold()
        waiter = bench.add(b"x" * 80)
        with pytest.raises(Unavailable, match="the gateway's publish buffer is full"):
            bench.commits.check("vision", 50)
        bench.log.release()
        await waiter
        bench.commits.check("vision", 50)

    asyncio.run(scenario())


def test_one_tenant_fills_no_more_than_its_share_and_the_message_says_whose_bound_it_was():
    async def scenario():
        bench = Bench(max_pending_bytes=300)
        bench.log.hold()
        waiters = [bench.add(b"x" * 99) for _ in range(2)]
        with pytest.raises(Unavailable, match="tenant 'vision' has used its share of"):
            bench.commits.check("vision", 99)
        bench.commits.check("audio", 99)
        waiters.append(bench.add(b"x" * 99, to=block_key(tenant="audio")))
        bench.log.release()
        await asyncio.gather(*waiters)
        bench.commits.check("vision", 300)

    asyncio.run(scenario())


def test_when_the_log_goes_away_everyone_is_told_and_the_circuit_opens():
    async def scenario():
        bench = Bench()
        bench.log.hold()
        waiters = [bench.add(b"l%d" % n) for n in range(5)]
        bench.log.release(LogUnavailable("frozen"))
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 5
        assert bench.breaker.state is CircuitState.OPEN
        with pytest.raises(Unavailable, match="not reachable") as refused:
            bench.commits.check("vision")
        assert refused.value.headers["Retry-After"] == "2"
        assert len(bench.values()) == 2  # the three that waited never went out

    asyncio.run(scenario())


def test_after_a_probe_one_block_tries_and_then_all_go_again():
    async def scenario():
        bench = Bench()
        bench.log.send_error = LogUnavailable("away")
        with pytest.raises(Unavailable):
            await bench.add(b"lost")
        bench.log.send_error = None
        bench.breaker.probe_succeeded()
        bench.commits.check("vision")
        await bench.add(b"trial")
        assert bench.breaker.state is CircuitState.CLOSED
        await bench.add(b"more")
        assert bench.values() == [b"trial", b"more"]

    asyncio.run(scenario())


def test_a_block_that_the_log_refuses_harms_no_other():
    async def scenario():
        bench = Bench()
        bench.log.max_record_bytes = 10
        bad, good = bench.add(b"x" * 20), bench.add(b"ok")
        with pytest.raises(Internal):
            await bad
        assert await good == 0
        assert bench.breaker.state is CircuitState.CLOSED

    asyncio.run(scenario())


def test_drain_waits_for_what_is_on_its_way():
    async def scenario():
        bench = Bench(max_in_flight=1)
        bench.log.hold()
        waiters = [bench.add(b"l%d" % n) for n in range(5)]
        draining = asyncio.create_task(bench.commits.drain(30.0))
        await asyncio.sleep(0)
        assert not draining.done()
        bench.log.release()
        await draining
        assert all(waiter.done() for waiter in waiters)

    asyncio.run(scenario())


def test_what_arrives_with_the_trial_waits_for_its_outcome():
    async def scenario():
        bench = Bench()
        bench.breaker.failed()
        bench.breaker.probe_succeeded()
        bench.log.hold()
        waiters = [bench.add(b"trial"), bench.add(b"a"), bench.add(b"b", to=block_key(partition=1))]
        assert bench.values() == [b"trial"]
        bench.log.release()
        await asyncio.gather(*waiters)
        assert sorted(bench.values()) == [b"a", b"b", b"trial"]

        bench.breaker.failed()
        bench.breaker.probe_succeeded()
        bench.log.hold()
        waiters = [bench.add(b"c"), bench.add(b"d"), bench.add(b"e", to=block_key(partition=1))]
        bench.log.release(LogUnavailable("still frozen"))
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3

    asyncio.run(scenario())
