import asyncio

from ingest.limits.dry_run import DryRun
from ingest.limits.token_bucket import Limit, OverLimit
from schemas.log.protocols import LogUnavailable
from schemas.tenants.keys import Tenant, new_key
from schemas.tenants.keys_file import dump
from telemetry import metrics
from tests.asgi import AsgiClient, lifespan
from tests.fakes.gateway import Gateway, running

BODY = b"\n".join(b"m f=%d" % n for n in range(20))


def would_limit(tenant):
    return metrics.DRY_RUN_LIMITED.labels(tenant)._value.get()


def test_a_dry_run_answers_as_without_a_limit_and_counts_what_it_would_have_refused(tmp_path):
    async def scenario():
        async with running(tmp_path, dry_run=True) as gateway:
            before = would_limit("small")  # 10 points/s, burst 20
            for _ in range(5):
                answer = await gateway.client.write(BODY, key=gateway.small_key)
                assert (answer.status, answer.body) == (204, b"")
            assert would_limit("small") == before + 80
            assert len(gateway.lines()) == 100

    asyncio.run(scenario())


def test_a_dry_run_of_one_tenant_leaves_the_limits_of_others(tmp_path):
    async def scenario():
        gateway = Gateway(tmp_path)
        dry_key, dry = new_key("dry", rate=10, burst=20, dry_run=True)
        key, record = new_key("small", rate=10, burst=20)
        (tmp_path / "keys.toml").write_text(dump([dry, record]))
        gateway.keys.reload()
        async with lifespan(gateway.app):
            client = AsgiClient(gateway.app)
            for limited, expected in ((dry_key, 204), (key, 429)):
                assert (await client.write(BODY, key=limited)).status == 204
                assert (await client.write(BODY, key=limited)).status == expected

    asyncio.run(scenario())


def test_what_a_dry_run_let_in_without_a_charge_is_not_refunded(tmp_path):
    async def scenario():
        gateway = Gateway(tmp_path, dry_run=True)
        key, record = new_key("slow", rate=1, burst=20)  # full again after 20 s
        (tmp_path / "keys.toml").write_text(dump([record]))
        gateway.keys.reload()
        async with lifespan(gateway.app):
            client = AsgiClient(gateway.app, key)
            assert (await client.write(BODY)).status == 204
            gateway.log.send_error = LogUnavailable("away")
            assert (await client.write(BODY)).status == 503
            gateway.log.send_error = None
            before = would_limit("slow")
            while (await client.write(BODY)).status != 204:
                await asyncio.sleep(0.02)
            assert would_limit("slow") == before + 20

    asyncio.run(scenario())


def test_it_says_so_once_a_minute_for_each_tenant(caplog):
    now = [0.0]
    dry_run = DryRun(everybody=True, now=lambda: now[0])
    refusal = OverLimit(1.0, Limit(10, 20), 0)
    for second in range(0, 125, 5):
        now[0] = second
        dry_run.note(Tenant("a"), 7, refusal)
    dry_run.note(Tenant("b"), 7, refusal)
    assert [("tenant a" in line, "429 for 7 points" in line) for line in caplog.messages] == [
        (True, True),
        (True, True),
        (True, True),
        (False, True),
    ]
