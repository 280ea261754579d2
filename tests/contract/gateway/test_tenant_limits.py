"""Limits by buckets of one's own and by buckets in Redis: the same behaviour, to the point."""

import asyncio
import logging
import secrets
import time
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.redis import RedisBuckets
from ingest.app import Dependencies, create_app
from ingest.keys.auth import KeyStore
from ingest.limits.tenant_limits import TenantLimits
from ingest.limits.token_bucket import Limit
from ingest.settings import HttpSettings
from native.ports import free_ports
from native.proxy import Proxy
from schemas.tenants.keys import Tenant, new_key
from schemas.tenants.keys_file import dump
from schemas.tenants.shared_buckets import SharedBucketsAway
from tests.asgi import AsgiClient, lifespan
from tests.fakes.gateway import CLASSES, Gateway
from tests.unit.ingest.limits.test_rate_limit import ExactBucket

#: Longer than any pause of this machine, so that only tests of slowness see a timeout.
PATIENT_S = 20.0

DEFAULT = Limit(1000, 2000)
US = 1000

steps = st.lists(
    st.tuples(
        st.sampled_from(["charge", "refund", "debt"]),
        st.integers(0, 3 * 10**6),
        st.integers(0, 50_000),
    ),
    max_size=40,
)


class Clock:
    """Whole microseconds, as Redis has them, moved by hand."""

    def __init__(self):
        self.us = 10**12

    def ns(self):
        return self.us * US


class Local:
    """Makes limits with buckets in the process."""

    def limits(self, clock, **arguments):
        return TenantLimits(DEFAULT, now_ns=clock.ns, **arguments)


class Shared:
    """Makes limits with buckets in a Redis."""

    def __init__(self, url):
        self.url = url

    def limits(self, clock, **arguments):
        shared = RedisBuckets(self.url, timeout_s=PATIENT_S, now_us=lambda: clock.us)
        return TenantLimits(DEFAULT, shared=shared, now_ns=clock.ns, **arguments)


@pytest.fixture(params=["local", "redis"])
def kind(request):
    return Local() if request.param == "local" else Shared(request.getfixturevalue("redis").url)


@asynccontextmanager
async def closing(*many):
    try:
        yield many[0] if len(many) == 1 else many
    finally:
        for one in many:
            await one.close()


def a_tenant(rate=None, burst=None):
    return Tenant(f"t-{secrets.token_hex(6)}", rate=rate, burst=burst)


def test_limits_agree_with_an_exact_model(kind):
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 10**7), st.integers(1, 10**9), steps)
    def agree(rate, burst, history):
        async def scenario():
            clock, tenant = Clock(), a_tenant(rate, burst)
            model = ExactBucket(Limit(rate, burst))
            model.at = clock.ns()
            async with closing(kind.limits(clock)) as limits:
                charged = False
                for action, elapsed_us, points in history:
                    clock.us += elapsed_us
                    model.at_time(clock.ns())
                    if action == "charge":
                        refusal = await limits.charge(tenant, points)
                        assert (refusal is None) == model.charge(points)
                        if refusal:
                            assert refusal.remaining == max(0, model.level // 1)
                        charged = True
                    elif action == "refund":
                        await limits.refund(tenant, points)
                        model.level = min(model.burst, model.level + points)
                        charged = False
                    elif charged:
                        assert (limits.in_debt(tenant) is None) == (model.level >= 1)

        asyncio.run(scenario())

    agree()


def test_a_refused_charge_succeeds_after_exactly_the_time_it_was_told(kind):
    async def scenario():
        clock, tenant = Clock(), a_tenant(rate=7, burst=100)
        async with closing(kind.limits(clock)) as limits:
            assert await limits.charge(tenant, 100) is None
            for points in (1, 13, 100):
                refusal = await limits.charge(tenant, points)
                wait_us = -(-round(refusal.retry_after_s * 1e9) // US)
                clock.us += wait_us - 1
                assert await limits.charge(tenant, points) is not None
                clock.us += 1
                assert await limits.charge(tenant, points) is None

    asyncio.run(scenario())


def test_an_oversized_request_leaves_debt_that_is_refused_before_the_body_is_read(kind):
    async def scenario():
        clock, tenant = Clock(), a_tenant(rate=10, burst=100)
        async with closing(kind.limits(clock)) as limits:
            assert await limits.charge(tenant, 1000) is None
            assert limits.in_debt(tenant).retry_after_s == pytest.approx(90.1)
            clock.us += 91 * 10**6
            assert limits.in_debt(tenant) is None
            assert await limits.charge(tenant, 10) is None

    asyncio.run(scenario())


def test_a_changed_limit_keeps_what_was_used(kind):
    async def scenario():
        clock, tenant = Clock(), a_tenant(rate=10, burst=100)
        async with closing(kind.limits(clock)) as limits:
            assert await limits.charge(tenant, 60) is None
            more = Tenant(tenant.name, rate=10, burst=200)
            refusal = await limits.charge(more, 141)
            assert refusal.remaining == 140
            assert await limits.charge(more, 140) is None

    asyncio.run(scenario())


def test_a_tenant_in_debt_is_let_in_as_soon_as_its_limit_was_raised(kind):
    async def scenario():
        clock, tenant = Clock(), a_tenant(rate=10, burst=100)
        async with closing(kind.limits(clock)) as limits:
            assert await limits.charge(tenant, 1000) is None
            assert limits.in_debt(tenant).retry_after_s == pytest.approx(90.1)
            more = Tenant(tenant.name, rate=10, burst=2000)
            assert limits.in_debt(more) is None
            assert await limits.charge(more, 1000) is None

    asyncio.run(scenario())


def test_a_clock_that_steps_back_neither_gives_nor_takes(kind):
    async def scenario():
        clock, tenant = Clock(), a_tenant(rate=10, burst=10)
        async with closing(kind.limits(clock)) as limits:
            await limits.charge(tenant, 10)
            clock.us -= 5 * 10**6
            assert (await limits.charge(tenant, 5)).remaining == 0
            clock.us += 6 * 10**6
            assert await limits.charge(tenant, 10) is None

    asyncio.run(scenario())


def test_what_was_given_back_can_be_sent_again_and_never_more_than_the_burst(kind):
    async def scenario():
        clock, tenant = Clock(), a_tenant(rate=1, burst=10)
        async with closing(kind.limits(clock)) as limits:
            assert await limits.charge(tenant, 10) is None
            assert limits.in_debt(tenant) is not None
            await limits.refund(tenant, 10)
            assert limits.in_debt(tenant) is None
            await limits.refund(tenant, 10)
            assert await limits.charge(tenant, 10) is None
            assert await limits.charge(tenant, 1) is not None

    asyncio.run(scenario())


def test_tenants_without_limits_of_their_own_get_the_default(kind):
    async def scenario():
        clock = Clock()
        async with closing(kind.limits(clock)) as limits:
            refusal = None
            tenant = a_tenant()
            assert await limits.charge(tenant, 2000) is None
            refusal = await limits.charge(tenant, 1)
            assert refusal.limit == DEFAULT

    asyncio.run(scenario())


# -- shared only --------------------------------------------------------------------------


def gateway_app(tmp_path, gateway, url, **arguments):
    return create_app(
        HttpSettings(replicas=2),
        Dependencies(
            gateway.log.publisher(),
            gateway.log.progress("stepclock.dlq"),
            gateway.reader,
            KeyStore(tmp_path / "keys.toml"),
            CLASSES,
            shared_buckets=RedisBuckets(url, **{"timeout_s": PATIENT_S, **arguments}),
        ),
    )


def body(points):
    return b"\n".join(b"m f=%d" % n for n in range(points))


def test_two_gateways_that_share_a_redis_keep_one_limit_between_them(redis, tmp_path):
    async def scenario():
        gateway = Gateway(tmp_path)
        key, record = new_key(f"t-{secrets.token_hex(6)}", rate=1, burst=1000)
        (tmp_path / "keys.toml").write_text(dump([record]))
        one, two = (gateway_app(tmp_path, gateway, redis.url) for _ in range(2))
        async with lifespan(one), lifespan(two):
            first, second = AsgiClient(one, key), AsgiClient(two, key)
            assert (await first.write(body(900))).status == 204  # its share would be 500
            assert (await second.write(body(200))).status == 429
            assert (await second.write(body(90))).status == 204
            assert (await first.write(body(200))).status == 429
            checks = (await first.request("GET", "/health")).json()["checks"]
            assert {"name": "limits", "status": "pass", "message": "limits are shared"} in checks

    asyncio.run(scenario())


def test_without_a_clock_of_ours_the_server_s_time_fills_the_bucket(redis):
    async def scenario():
        name = secrets.token_hex(6)
        async with closing(RedisBuckets(redis.url, timeout_s=PATIENT_S)) as buckets:
            charged = await buckets.charge(name, 1000, 1000, 1000)
            assert charged.wait_s == 0.0
            began = time.monotonic()
            while (await buckets.charge(name, 1000, 1000, 100)).wait_s:
                await asyncio.sleep(0.01)
            assert time.monotonic() - began > 0.05  # a tenth of a second, but for the calls

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["freeze", "cut"])
def test_with_redis_away_each_gateway_grants_its_share_and_shares_again_by_itself(
    redis, caplog, fault
):
    host, port = redis.url.removeprefix("redis://").partition("/")[0].split(":")

    async def scenario():
        caplog.set_level(logging.INFO)
        with Proxy(host, int(port)) as proxy:
            shared = RedisBuckets(f"redis://{host}:{proxy.port}/0", timeout_s=0.3)
            limits = TenantLimits(DEFAULT, replicas=4, shared=shared)
            watching = asyncio.create_task(limits.watch(interval_s=0.02))
            async with closing(limits):
                tenant = a_tenant(rate=1, burst=1000)
                assert await limits.charge(tenant, 600) is None

                getattr(proxy, fault)()
                assert await limits.charge(tenant, 200) is None  # a bucket of 250, untouched
                await asyncio.gather(*(limits.charge(tenant, 100) for _ in range(50)))
                assert limits.state.startswith("limits are local, 1/4 of each: ")
                assert (await limits.charge(tenant, 100)).limit == Limit(1, 250)
                told = [line for line in caplog.messages if "are away" in line]
                assert len(told) == 1

                proxy.restore()
                async with asyncio.timeout(PATIENT_S):
                    while limits.away is not None:
                        await asyncio.sleep(0.01)
                assert (await limits.charge(tenant, 900)).limit == Limit(1, 1000)
                # What was frozen arrives once it thaws, so nobody knows what is left.
                await limits.refund(tenant, 1000)
                assert await limits.charge(tenant, 1000) is None
                assert "limits are shared again" in caplog.messages
            watching.cancel()

    asyncio.run(scenario())


def test_one_late_answer_is_no_outage(redis, caplog):
    host, port = redis.url.removeprefix("redis://").partition("/")[0].split(":")

    async def scenario():
        with Proxy(host, int(port)) as proxy:
            shared = RedisBuckets(f"redis://{host}:{proxy.port}/0", timeout_s=0.3)
            async with closing(TenantLimits(DEFAULT, replicas=4, shared=shared)) as limits:
                tenant = a_tenant(rate=1, burst=1000)
                proxy.freeze()
                assert await limits.charge(tenant, 200) is None
                proxy.restore()
                assert await limits.charge(tenant, 600) is None
                assert limits.state == "limits are shared"
                assert not caplog.messages

    asyncio.run(scenario())


def test_a_gateway_starts_and_takes_points_without_its_redis(tmp_path):
    async def scenario():
        gateway = Gateway(tmp_path)
        (port,) = free_ports(1)
        url = f"redis://:hush@127.0.0.1:{port}/0"
        app = gateway_app(tmp_path, gateway, url, timeout_s=0.5)
        async with lifespan(app):
            client = AsgiClient(app, gateway.key)
            for _ in range(4):
                assert (await client.write(b"m f=1")).status == 204
            health = await client.request("GET", "/health")
            assert health.status == 200
            [check] = [c for c in health.json()["checks"] if c["name"] == "limits"]
            assert check["status"] == "fail"
            assert b"hush" not in health.body

    asyncio.run(scenario())


def test_a_redis_that_refuses_to_run_the_script_counts_as_away(redis):
    async def scenario():
        name = secrets.token_hex(6)
        async with closing(RedisBuckets(redis.url, timeout_s=PATIENT_S)) as buckets:
            await buckets._redis.set(f"stepclock:bucket:{name}", "no hash")
            with pytest.raises(SharedBucketsAway, match="WRONGTYPE"):
                await buckets.charge(name, 1, 1, 1)

    asyncio.run(scenario())


def test_charges_at_the_same_time_take_each_point_once(redis):
    async def scenario():
        name = secrets.token_hex(6)
        one, two = (
            RedisBuckets(redis.url, timeout_s=PATIENT_S, now_us=lambda: 1) for _ in range(2)
        )
        async with closing(one, two):
            charges = [
                buckets.charge(name, 1, 500, 1) for _ in range(500) for buckets in (one, two)
            ]
            charged = await asyncio.gather(*charges)
            assert sum(charge.wait_s == 0.0 for charge in charged) == 500

    asyncio.run(scenario())


def test_a_redis_that_was_restarted_gets_the_script_again(redis_process):
    async def scenario():
        redis = redis_process()
        async with closing(RedisBuckets(redis.url, timeout_s=PATIENT_S)) as buckets:
            assert (await buckets.charge("a", 1, 10, 10)).wait_s == 0.0
            redis.process.restart()
            with suppress(SharedBucketsAway):  # the old connection
                await buckets.ping()
            assert (await buckets.charge("a", 1, 10, 10)).wait_s == 0.0

    asyncio.run(scenario())


def test_full_buckets_leave_nothing_in_redis_and_others_go_by_themselves(redis):
    async def scenario():
        name = secrets.token_hex(6)
        key = f"stepclock:bucket:{name}"
        async with closing(RedisBuckets(redis.url, timeout_s=PATIENT_S)) as buckets:
            await buckets.charge(name, 10, 100, 50)
            assert 0 < await buckets._redis.pttl(key) <= 65_000
            await buckets.refund(name, 10, 100, 50)
            assert await buckets._redis.exists(key) == 0

    asyncio.run(scenario())
