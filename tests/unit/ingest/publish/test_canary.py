"""The canary: from a gateway's group commit through the log and a worker into the store."""

import asyncio
import re

import pytest

from ingest.publish.canary import Canary
from schemas import canary, retention
from schemas.canary import MEASUREMENT, class_of_canaries, gateway_line
from schemas.line_protocol.bounds import Rules, check
from schemas.line_protocol.codec import parse, scan
from schemas.line_protocol.precision import Precision
from schemas.line_protocol.scanner import Refused
from schemas.log.block import decode, encode_headers
from schemas.log.protocols import LogUnavailable
from schemas.tenants.keys import InvalidKeys, new_key
from telemetry.metrics import (
    CANARIES,
    CANARY_SECONDS,
    CANARY_SENT,
    CONSUMED_POINTS,
    DEAD_LETTERS,
    END_TO_END_SECONDS,
    POINTS,
)
from tests.fakes.gateway import CLASSES, running
from tests.fakes.worker_rig import SYSTEM, Rig

NOW_NS = 1_700_000_000_000_000_000


def samples(metric):
    """Every value of a metric, by name and labels."""
    (family,) = metric.collect()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def send(rig, *, partition=0):
    """A canary as a gateway puts it into the log."""
    line = gateway_line("gw", partition, rig.clock.now_ns())
    rig.send(line, topic=SYSTEM, partition=partition, tenant=canary.TENANT)


# -- the point ----------------------------------------------------------------------------


def test_a_canary_is_a_line_that_the_gateway_itself_would_refuse_only_for_its_name():
    rules = Rules(NOW_NS - 10**15, NOW_NS + 10**12, "30d", reserved=frozenset())
    scanned = scan(gateway_line('odd\\"name', 3, NOW_NS), 0)
    with pytest.raises(Refused, match="name is reserved"):
        check(scanned, Precision.NS, rules)
    line = parse(gateway_line("gw-1", 3, NOW_NS))
    assert (line.measurement, line.time) == (MEASUREMENT, NOW_NS)


def test_restarts_and_other_names_of_gateways_make_no_new_series():
    series = {parse(gateway_line(f"gateway-{n}", n % 12, NOW_NS + n)).tags for n in range(1000)}
    assert len(series) == 12


def test_no_key_can_be_made_for_the_tenant_of_canaries():
    with pytest.raises(InvalidKeys):
        new_key(canary.TENANT)


def test_canaries_lie_in_class_system_or_where_there_is_none_in_events():
    assert class_of_canaries(CLASSES) == "system"
    without = retention.parse(
        "\n".join(
            f'[classes.{name}]\nkind = "{kind}"\nkeep = "{keep}"'
            for name, kind, keep in (
                ("raw", "ingest", "90d"),
                ("events", "ingest", "400d"),
                ("steps", "derived", "forever"),
            )
        )
    )
    assert class_of_canaries(without) == "events"


# -- the gateway --------------------------------------------------------------------------


async def eventually(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the condition did not come true")


def test_a_gateway_sends_canaries_that_count_as_nobodys_points(tmp_path):
    async def scenario():
        async with running(tmp_path, canary_s=0.01) as gateway:
            await eventually(lambda: len(gateway.blocks("stepclock.system")) >= 3)
            return gateway.blocks("stepclock.system"), gateway.blocks("stepclock.raw")

    before = samples(POINTS)
    canaries, raw = asyncio.run(scenario())
    assert {(b.tenant, b.namespace, b.points, b.deliveries) for b in canaries} == {
        ("_canary", "stepclock", 1, ())
    }
    assert all(parse(b.lines).time == b.received_ns for b in canaries)
    assert raw == []
    assert samples(POINTS) == before


def test_an_interval_of_0_sends_none(tmp_path):
    async def scenario():
        async with running(tmp_path, canary_s=0) as gateway:
            await gateway.client.write("e v=1")
            health = await gateway.client.request("GET", "/health")
            assert [check["name"] for check in health.json()["checks"]] == ["log"]
            return gateway.blocks("stepclock.system")

    assert asyncio.run(scenario()) == []


def test_health_of_the_gateway_says_how_the_last_canary_fared(tmp_path):
    async def scenario():
        async with running(tmp_path, canary_s=0.01) as gateway:
            acknowledged = CANARIES.labels("acknowledged")._value.get
            failed = CANARIES.labels("failed")._value.get
            first = acknowledged()
            await eventually(lambda: acknowledged() > first)
            health = (await gateway.client.request("GET", "/health")).json()
            [check] = [c for c in health["checks"] if c["name"] == "canary"]
            assert check["status"] == "pass"
            assert re.fullmatch(r"acknowledged \d+\.\d s ago, within \d+ ms", check["message"])
            before = failed()
            gateway.log.send_error = LogUnavailable("away")
            await eventually(lambda: failed() > before)
            health = (await gateway.client.request("GET", "/health")).json()
            [check] = [c for c in health["checks"] if c["name"] == "canary"]
            assert check["status"] == "fail"
            assert "; since then: the log" in check["message"]

    asyncio.run(scenario())


def test_partitions_take_turns():
    class Log:
        def __init__(self):
            self.sent = []

        def partition_count(self, topic):
            assert topic == "stepclock.system"
            return 3

        def check(self, tenant, size):
            assert (tenant, size > 0) == ("_canary", True)

        def add(self, key, piece, origin):
            self.sent.append((key.partition, piece.points, origin.stream))
            acknowledged = asyncio.get_running_loop().create_future()
            acknowledged.set_result(0)
            return acknowledged

    async def scenario():
        log = Log()
        sending = Canary(log, log, CLASSES, "gw")
        for _ in range(4):
            await sending.send()
        return log.sent

    assert asyncio.run(scenario()) == [(n, 1, None) for n in (0, 1, 2, 0)]


def test_a_client_can_write_no_canary(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            for name in ("raw", "system"):
                answer = await gateway.client.write("_canary a=1", query=f"bucket={name}")
                assert (answer.status, gateway.blocks(f"stepclock.{name}")) == (400, [])

    asyncio.run(scenario())


# -- the worker ---------------------------------------------------------------------------


def test_a_canary_is_stored_and_its_latency_is_kept_apart_from_clients():
    before = samples(END_TO_END_SECONDS), samples(CONSUMED_POINTS)
    seconds = samples(CANARY_SECONDS)["stepclock_consumer_canary_seconds_sum",]
    rig = Rig(batch_age_s=0.0)
    sent_ns = rig.clock.now_ns()
    send(rig, partition=1)
    rig.clock.advance(2.0)
    rig.settle()
    [((series, time_ns), fields)] = rig.store.content("stepclock", "system").items()
    assert series == ("_canary", (("from", "gateway"), ("partition", "1")))
    assert (time_ns, fields) == (sent_ns, {"gateway": "gw"})
    assert (samples(END_TO_END_SECONDS), samples(CONSUMED_POINTS)) == before
    added = samples(CANARY_SECONDS)["stepclock_consumer_canary_seconds_sum",] - seconds
    assert added == pytest.approx(2.0, abs=0.1)
    assert CANARY_SENT._value.get() == sent_ns / 1e9
    assert rig.stored == []


def test_health_of_the_worker_says_how_old_the_last_canary_is_and_how_late_it_was():
    rig = Rig(batch_age_s=0.0)
    assert rig.worker.canary == "none stored by this worker yet"
    send(rig)
    rig.settle()
    rig.clock.advance(7.0)
    assert rig.worker.canary.startswith("sent 7.0 s ago, stored within 0.0")


def test_canaries_and_points_of_clients_share_a_batch():
    rig = Rig()
    send(rig)
    rig.send(b"gpu,host=n1 util=0.5 5", topic=SYSTEM)
    rig.settle()
    assert len(rig.store.content("stepclock", "system")) == 2
    assert [points for _received_ns, points in rig.stored] == [1]


def test_canaries_that_the_store_refuses_become_no_dead_letters():
    before = samples(DEAD_LETTERS)
    rig = Rig(park_after_s=0.0)
    rig.store.missing = {("stepclock", "system")}
    send(rig)
    rig.settle()
    assert rig.letters() == []
    assert samples(DEAD_LETTERS) == before
    assert rig.worker.canary == "none stored by this worker yet"


def test_the_block_of_a_canary_survives_the_log():
    rig = Rig()
    send(rig)
    [record] = rig.log.records(SYSTEM)
    block = decode(record.headers, record.value)
    assert block.tenant == canary.TENANT
    assert encode_headers(block) == record.headers
