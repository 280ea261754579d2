import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from ingest.limits.dry_run import DryRun
from ingest.limits.series_limit import Mode, SeriesLimiter
from schemas.admission.admission import Part
from schemas.line_protocol.precision import Precision
from schemas.tenants.keys import Tenant, new_key
from schemas.tenants.keys_file import dump
from telemetry import metrics
from tests.asgi import AsgiClient, lifespan
from tests.fakes.gateway import Gateway, running

SECOND = 10**9
HOUR = 3600 * SECOND
VISION = Tenant("vision")


class Bench:
    """A limiter with a clock that stands until it is moved."""

    def __init__(self, mode=Mode.ENFORCE, per_hour=10, **arguments):
        self.now_ns = 100 * HOUR
        self.limiter = SeriesLimiter(
            mode,
            per_hour,
            DryRun(everybody=False),
            now_ns=lambda: self.now_ns,
            **{"learn_s": 0, **arguments},
        )

    def charge(self, *runs, tenant=VISION, tag=b"run"):
        lines = b"\n".join(b"m,%b=%b f=1 1" % (tag, str(run).encode()) for run in runs)
        part = Part(lines, len(runs), Precision.NS, multiline=False)
        return self.limiter.charge(tenant, self.limiter.of([part]))


def counted(tenant, outcome):
    return metrics.NEW_SERIES.labels(tenant, outcome)._value.get()


def test_series_beyond_the_limit_are_refused_and_known_ones_never():
    bench = Bench(per_hour=10)
    assert bench.charge(*range(10)) is None
    refusal = bench.charge(10)
    assert (refusal.per_hour, refusal.new) == (10, 1)
    assert bench.charge(*range(10)) is None


def test_after_retry_after_the_same_request_is_taken():
    bench = Bench(per_hour=10)
    bench.charge(*range(10))
    refusal = bench.charge(10, 11)
    assert refusal.retry_after_s == 720.0  # an hour's tenth for each
    bench.now_ns += 719 * SECOND
    assert bench.charge(10, 11) is not None
    bench.now_ns += SECOND
    assert bench.charge(10, 11) is None


def test_what_was_refused_is_not_known():
    bench = Bench(per_hour=2)
    bench.charge(1, 2)
    assert bench.charge(3) is not None
    assert bench.charge(3) is not None


def test_a_request_with_more_new_series_than_the_limit_is_not_refused_for_ever():
    bench = Bench(per_hour=10)
    assert bench.charge(*range(25)) is None
    bench.now_ns += HOUR
    assert bench.charge("x").retry_after_s == 1800 + 360  # what is owed, then one
    assert bench.charge(*range(25)) is None


def test_the_refusal_names_the_tag_whose_values_grow():
    bench = Bench(per_hour=2000)
    for step in range(2000):
        bench.charge(step, tag=b"run=r%d,step" % (step % 7))
    refusal = bench.charge("last", tag=b"run=r1,step")
    assert refusal.grown == "tag step has 2,001 values this hour"


def test_an_experiment_whose_name_changes_is_named_too():
    bench = Bench(per_hour=3)
    for n in range(4):
        part = Part(b"exp%d,run=r f=1 1" % n, 1, Precision.NS, multiline=False)
        refusal = bench.limiter.charge(VISION, bench.limiter.of([part]))
    assert refusal.grown == "the experiment has 4 names this hour"


def test_a_series_is_known_until_it_was_silent_for_an_hour():
    bench = Bench(per_hour=1)
    bench.charge("a")
    for _ in range(5):
        bench.now_ns += HOUR
        assert bench.charge("a") is None
    assert bench.charge("b") is None  # the limit of these hours was not used
    bench.now_ns += 3 * HOUR
    assert bench.charge("a") is None
    assert bench.charge("b") is not None


def test_while_it_learns_series_are_known_without_being_counted():
    bench = Bench(per_hour=1, learn_s=60)
    before = counted("vision", "taken")
    bench.charge(*range(100))
    assert counted("vision", "taken") == before
    bench.now_ns += 60 * SECOND
    assert bench.charge(*range(100)) is None
    assert bench.charge("new") is None
    assert bench.charge("newer") is not None


def test_observing_counts_and_says_once_what_enforcing_would_refuse(caplog):
    bench = Bench(Mode.OBSERVE, per_hour=5)
    tenant = Tenant("observed")
    for n in range(9):
        assert bench.charge(n, tenant=tenant) is None
    assert (counted("observed", "taken"), counted("observed", "over")) == (5, 4)
    [line] = caplog.messages
    assert "tenant observed" in line
    assert "tag run has 6 values this hour" in line


def test_a_tenant_on_a_dry_run_is_only_observed():
    bench = Bench(per_hour=1)
    tenant = Tenant("dry", dry_run=True)
    assert bench.charge(*range(5), tenant=tenant) is None
    assert bench.charge(7, tenant=tenant) is None
    assert counted("dry", "over") == 1


def test_off_looks_at_nothing():
    bench = Bench(Mode.OFF, per_hour=1)
    part = Part(b"a f=1 1", 1, Precision.NS, multiline=False)
    assert bench.limiter.of([part]) == {}
    assert bench.charge(*range(50)) is None
    assert bench.limiter.forget_idle() == 0


def test_tenants_have_limits_of_their_own_and_replicas_take_their_share():
    bench = Bench(per_hour=10, replicas=2)
    assert bench.charge(*range(5)) is None
    assert bench.charge(6) is not None
    large = Tenant("large", series_per_hour=40)
    assert bench.charge(*range(20), tenant=large) is None
    assert bench.charge("x", tenant=large) is not None


def test_a_changed_limit_takes_effect_on_a_tenant_that_is_known():
    bench = Bench(per_hour=10)
    bench.charge(*range(10))
    assert bench.charge("x") is not None
    assert bench.charge("x", tenant=Tenant("vision", series_per_hour=20)) is None


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 300), st.integers(0, 2))))
def test_what_is_remembered_stays_within_its_bound_and_is_forgotten(history):
    bench = Bench(Mode.OBSERVE, per_hour=1000, max_known=200)
    for tenant, run, hours in history:
        bench.now_ns += hours * HOUR
        bench.charge(run, run + 1000, tenant=Tenant(tenant))
        assert bench.limiter.forget_idle() <= 200
    bench.now_ns += 5 * HOUR
    assert bench.limiter.forget_idle() == 0


def test_one_tenant_fills_no_more_than_its_share_of_the_memory():
    bench = Bench(Mode.OBSERVE, per_hour=10**6, max_known=400)
    for run in range(1000):
        bench.charge(run)
    other = Tenant("other")
    bench.charge("a", tenant=other)
    before = counted("other", "taken")
    bench.charge("a", tenant=other)
    assert counted("other", "taken") == before


def test_the_gateway_answers_429_that_names_the_tag_and_stores_nothing(tmp_path):
    async def scenario():
        settings = {"series_mode": "enforce", "series_per_hour": 3, "series_learn_s": 0}
        async with running(tmp_path, **settings) as gateway:
            now = time.time_ns()
            taken = b"\n".join(b"m,run=r,step=%d f=1 %d" % (n, now) for n in range(3))
            assert (await gateway.client.write(taken)).status == 204
            answer = await gateway.client.write(b"m,run=r,step=3 f=1 %d\nm f=1 %d" % (now, now))
            assert answer.status == 429
            assert "tag step has 4 values this hour" in answer.json()["message"]
            assert answer.headers["retry-after"] == "2400"
            assert answer.headers["ratelimit-policy"] == '"series";q=3;w=3600'
            assert (await gateway.client.write(taken)).status == 204
            assert gateway.lines() == 2 * taken.split(b"\n")

            row = {"experiment": "e", "run": "r", "step": 1, "values": {"loss": 0.5}}
            answer = await gateway.client.post_rows([row])
            assert (answer.status, answer.json()["title"]) == (429, "too many requests")
            assert len(gateway.lines()) == 6

    asyncio.run(scenario())


def test_by_default_the_gateway_only_observes(tmp_path):
    async def scenario():
        async with running(tmp_path, series_per_hour=1, series_learn_s=0) as gateway:
            for step in range(5):
                answer = await gateway.client.write(f"m,step={step} f=1 {time.time_ns()}")
                assert answer.status == 204

    asyncio.run(scenario())


def test_a_limit_in_the_keys_file_takes_effect_while_the_gateway_runs(tmp_path):
    async def scenario():
        gateway = Gateway(tmp_path, series_mode="enforce", series_learn_s=0)
        key, record = new_key("small", series_per_hour=1)
        path = tmp_path / "keys.toml"
        path.write_text(dump([record]))
        async with lifespan(gateway.app):
            client = AsgiClient(gateway.app, key)
            gateway.keys.reload()
            assert (await client.write("a f=1")).status == 204
            assert (await client.write("b f=1")).status == 429
            path.write_text(path.read_text().replace("series_per_hour = 1", "series_per_hour = 9"))
            gateway.keys.reload()
            assert (await client.write("b f=1")).status == 204

    asyncio.run(scenario())
