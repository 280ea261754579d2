"""What once stopped, starved or swelled the gateway."""

import asyncio
import gzip
import random
import threading
import time
import tracemalloc

import pytest

from ingest.app import Dependencies, create_app
from ingest.errors import BadRequest, Internal
from ingest.keys.auth import KeyStore
from ingest.publish.circuit_breaker import CircuitState
from ingest.publish.origin import Origin, Piece
from ingest.settings import HttpSettings
from schemas import retention
from schemas.line_protocol.precision import Precision
from schemas.log.block import MAX_BLOCK_BYTES, MAX_DELIVERIES, Block, encode_headers
from schemas.log.protocols import LogUnavailable, RecordRefused
from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump
from tests.asgi import AsgiClient, lifespan
from tests.fakes.gateway import Gateway, running
from tests.unit.ingest.publish.test_group_commit import Bench

CLASSES = retention.parse(retention.default_text())


def app_of(gateway, tmp_path, publisher, **dependencies):
    return create_app(
        HttpSettings(),
        Dependencies(
            publisher,
            gateway.log.progress("stepclock.dlq"),
            gateway.reader,
            KeyStore(tmp_path / "keys.toml"),
            CLASSES,
            **dependencies,
        ),
    )


async def until_taken(client, within_s=10):
    deadline = time.monotonic() + within_s
    while (await client.write("a b=1")).status != 204:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_half_open_recovers_after_its_trial_was_refused():
    async def scenario():
        bench = Bench()
        bench.breaker.failed()
        bench.breaker.probe_succeeded()
        bench.log.send_error = RecordRefused("too large")
        with pytest.raises(Internal):
            await bench.add(b"a")
        bench.log.send_error = None
        assert not bench.breaker.refuses()
        assert await bench.add(b"b") == 0
        assert bench.breaker.state is CircuitState.CLOSED

    asyncio.run(scenario())


def test_a_send_that_raises_leaves_no_block_in_flight_and_asks_for_a_probe():
    async def scenario():
        bench = Bench()
        real = bench.commits._publisher.send

        def broken(*_):
            raise ValueError("unrecognized partition")

        for _ in range(3):
            bench.commits._publisher.send = broken
            with pytest.raises(Internal):
                await bench.add(b"a")
            assert bench.breaker.state is CircuitState.OPEN
            bench.breaker.probe_succeeded()
        bench.commits._publisher.send = real
        assert await asyncio.wait_for(bench.add(b"b"), 5) == 0

    asyncio.run(scenario())


def test_the_supervisor_outlives_a_machine_without_file_descriptors(tmp_path):
    async def scenario():
        gateway = Gateway(tmp_path)
        publisher = gateway.log.publisher()
        real, calls = publisher.probe, []

        def probe(timeout_s):
            calls.append(timeout_s)
            if len(calls) == 2:
                raise OSError(24, "Too many open files")
            return real(timeout_s)

        publisher.probe = probe
        app = app_of(gateway, tmp_path, publisher)
        async with lifespan(app):
            client = AsgiClient(app, gateway.key)
            gateway.log.send_error = LogUnavailable("gone")
            assert (await client.write("a b=1")).status == 503
            gateway.log.send_error = None
            await until_taken(client)
            assert len(calls) > 2

    asyncio.run(scenario())


def test_a_frozen_store_behind_health_does_not_keep_the_log_from_recovering(tmp_path):
    async def scenario():
        gateway = Gateway(tmp_path)
        release = threading.Event()
        app = app_of(
            gateway, tmp_path, gateway.log.publisher(), ping_store=lambda: release.wait(30)
        )
        async with lifespan(app):
            client = AsgiClient(app, gateway.key)
            gateway.log.send_error = LogUnavailable("gone")
            assert (await client.write("a b=1")).status == 503
            health = [client.request("GET", "/health") for _ in range(40)]
            answers = await asyncio.gather(*health)
            assert {answer.status for answer in answers} == {503}
            gateway.log.send_error = None
            await until_taken(client)
            release.set()

    asyncio.run(scenario())


def test_a_line_of_exactly_the_largest_block_is_refused_and_its_neighbours_are_not(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            at = b" %d" % time.time_ns()
            head = b'a s="'
            line = head + b"x" * (MAX_BLOCK_BYTES - len(head) - 1 - len(at)) + b'"' + at
            assert len(line) == MAX_BLOCK_BYTES
            answer = await gateway.client.write(line + b"\na b=1" + at)
            assert answer.status == 400
            assert gateway.lines() == [b"a b=1" + at]

    asyncio.run(scenario())


def test_the_list_of_refused_rows_is_bounded_and_so_are_the_rows(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            body = b'{"rows":[' + b",".join([b"{}"] * 5000) + b"]}"
            answer = await gateway.client.request("POST", "/api/v1/metrics", body)
            assert answer.status == 400
            assert len(answer.json()["rejected"]) == 1000
            assert answer.json()["rejected_total"] == 4 * 5000
            nested = b'{"rows":[' + b"[" * 10**6 + b"]" * 10**6 + b"]}"
            answer = await gateway.client.request("POST", "/api/v1/metrics", nested)
            assert answer.status == 400
            assert "nested too deeply" in answer.json()["detail"]
            body = b'{"rows":[' + b",".join([b"{}"] * 100_001) + b"]}"
            answer = await gateway.client.request("POST", "/api/v1/metrics", body)
            assert answer.status == 413

    asyncio.run(scenario())


def test_the_event_loop_turns_while_a_large_body_is_validated(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            body = b"a  b=1\n" * 60_000  # two spaces: the slowest way through
            writing = asyncio.create_task(gateway.client.write(body))
            turns = 0
            while not writing.done():
                await asyncio.sleep(0.005)
                turns += 1
            assert (await writing).status == 204
            assert turns > 20

    asyncio.run(scenario())


MIB = 1024 * 1024
HOSTILE = {
    "another member": b'{"x":[' + b"1," * (16 * MIB - 8) + b"1]}",
    "an endless row": b'{"rows":[{"x":[' + b"1," * (16 * MIB - 16) + b"1]}]}",
    "many containers": b'{"rows":[' + b'{"":{}},' * 90_000 + b"0]}",
    "blanks": b'{"rows":[' + b" " * (32 * MIB - 20) + b"0]}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_json_of_32_mib_in_32_kib_does_not_hold_the_event_loop(tmp_path, name):
    body = gzip.compress(HOSTILE[name])
    assert len(body) < 33 * 1024
    gaps_s = []

    async def scenario():
        async with running(tmp_path) as gateway:
            post = gateway.client.request
            headers = {"Content-Encoding": "gzip"}
            requests = [post("POST", "/api/v1/metrics", body, headers=headers) for _ in range(6)]
            posting = asyncio.gather(*requests)
            began_s = last_s = time.monotonic()
            while not posting.done() and last_s < began_s + 3:  # the tenant may rest for longer
                await asyncio.sleep(0.001)
                now_s = time.monotonic()
                gaps_s.append(now_s - last_s)
                last_s = now_s
            posting.cancel()
            await asyncio.gather(posting, return_exceptions=True)

    # The best of three, since neighbours on the machine hold it up too. It was 2.6 s each time.
    worst_s = []
    for _ in range(3):
        gaps_s.clear()
        asyncio.run(scenario())
        worst_s.append(max(gaps_s))
    assert min(worst_s) < 0.5  # on an idle machine some 0.02


def test_hostile_json_holds_no_more_memory_than_is_counted(tmp_path):
    names = random.Random(1).sample(range(16**6), 16**5)
    row = b'{"rows":[{' + b",".join(b'"%06x":1' % name for name in names) + b"}]}"
    body = gzip.compress(row, 1)  # 10 MiB of names in 4 MiB, and 150 MiB as objects

    async def scenario():
        async with running(tmp_path) as gateway:
            headers = {"Content-Encoding": "gzip"}
            post = gateway.client.request
            requests = [post("POST", "/api/v1/metrics", body, headers=headers) for _ in range(3)]
            tracemalloc.start()
            try:
                answers = await asyncio.gather(*requests)
                return {answer.status for answer in answers}, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    statuses, peak_bytes = asyncio.run(scenario())
    assert peak_bytes < 96 * MIB
    assert statuses == {413}


def test_a_good_request_does_not_wait_for_megabytes_of_another_tenant_s_bad_lines(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            bad = asyncio.create_task(gateway.client.write(b"x\n" * 200_000))
            large = b"m f=1\n" * 20_000
            for body in (b"m f=1", large, b"m f=1"):
                assert (await gateway.client.write(body, key=gateway.other_key)).status == 204
            assert not bad.done()
            bad.cancel()

    asyncio.run(scenario())


def test_a_good_request_does_not_wait_for_another_tenant_s_bodies_that_can_not_be_read(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            junk = b'{"rows":[' + b"0," * 5_000 + b"x]}"  # the error comes last
            post = gateway.client.request
            bad = [asyncio.create_task(post("POST", "/api/v1/metrics", junk)) for _ in range(100)]
            await bad[0]
            assert (await gateway.client.write(b"m f=1", key=gateway.other_key)).status == 204
            assert not all(task.done() for task in bad)
            for task in bad:
                task.cancel()

    asyncio.run(scenario())


def test_a_tenant_that_hammers_is_let_in_again_when_it_sends_good_lines(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            answers = await asyncio.gather(*(gateway.client.write(b"x") for _ in range(500)))
            assert {answer.status for answer in answers} == {400}
            assert (await gateway.client.write(b"m f=1")).status == 204

    asyncio.run(scenario())


def test_changed_limits_take_effect_on_living_buckets_and_a_broken_file_keeps_the_old(
    tmp_path, caplog
):
    async def scenario():
        async with running(tmp_path) as gateway:
            body = b"\n".join(b"m f=%d" % n for n in range(15))
            path = tmp_path / "keys.toml"
            client = AsgiClient(gateway.app, gateway.small_key)  # 10 points/s, burst 20
            assert (await client.write(body)).status == 204
            refused = await client.write(body)
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")

            good = path.read_text()
            path.write_text(good.replace("burst = 20", "burst = 'many'"))
            gateway.keys.reload()
            assert "burst must be a whole number" in caplog.text
            assert (await client.write(body)).status == 429

            path.write_text(good.replace("burst = 20", "burst = 200"))
            gateway.keys.reload()
            for _ in range(12):  # what was used stays used: 15 of 200
                assert (await client.write(body)).status == 204
            assert (await client.write(body)).status == 429

    asyncio.run(scenario())


def test_errors_of_the_read_routes_are_problem_documents(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            get = gateway.client.request
            for path, query, status in [
                ("/api/v1/experiments/e/series", "", 400),
                ("/api/v1/experiments/e/series", "metric=a&points=0", 400),
                ("/api/v1/experiments/e/series", "metric=a&from=-5", 400),
                ("/api/v1/experiments/e/series", f"metric=a&to={10**14}", 400),
                ("/nowhere", "", 404),
                ("/api/v2/write", "", 405),
            ]:
                answer = await get("GET", path, query=query)
                assert answer.status == status, (path, query, answer.body)
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["detail"]

    asyncio.run(scenario())


def test_an_experiment_with_a_slash_can_be_read(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            path = "/api/v1/experiments/team/resnet/runs"
            answer = await gateway.client.request("GET", path)
            assert (answer.status, answer.json()["experiment"]) == (200, "team/resnet")

    asyncio.run(scenario())


def test_a_keys_file_that_is_no_table_keeps_the_old_keys(tmp_path):
    path = tmp_path / "keys.toml"
    key, record = new_key("a")
    path.write_text(dump([record]))
    store = KeyStore(path, check_every_s=0)
    for text in ("tenants = 5\n", "[[keys]]\nid = 1\n"):
        path.write_text(text)
        assert store.authenticate(key).id == record.id


def test_a_row_that_is_too_long_is_not_said_to_have_a_wrong_time(tmp_path):
    async def scenario():
        async with running(tmp_path) as gateway:
            long_row = {"experiment": "e", "run": "r", "step": 1, "values": {"loss": 0.5}}
            long_row["tags"] = {f"t{n}": "x" * 1000 for n in range(70)}
            late_row = {"experiment": "e", "run": "r", "step": 1, "time": 1, "values": {}}
            answer = await gateway.client.post_rows([long_row, late_row])
            assert answer.status == 400
            assert [(r["index"], r["field"]) for r in answer.json()["rejected"]] == [
                (0, "row"),
                (1, "time"),
            ]
            assert "series too long" in answer.json()["rejected"][0]["reason"]

    asyncio.run(scenario())


def test_the_headers_of_a_block_with_the_longest_names_fit_a_record():
    name = ("\N{GRINNING FACE}" * 250).encode()
    headers = {
        b"stepclock-stream": name,
        b"stepclock-experiment": name,
        b"stepclock-run": name,
        b"stepclock-sequence": b"9" * 18,
    }
    delivery = Origin.from_headers(headers, 1).delivery(Piece(b"x", 1), 0)
    block = Block("t", "n", Precision.NS, 1, 1, b"", deliveries=tuple([delivery] * MAX_DELIVERIES))
    size = sum(len(value) for _, value in encode_headers(block))
    assert size + MAX_BLOCK_BYTES < 1_000_000


@pytest.mark.parametrize("header", [b"stepclock-sequence", b"stepclock-start"])
def test_a_number_of_a_stream_that_no_block_can_hold_is_refused(header):
    headers = {b"stepclock-stream": b"s", b"stepclock-sequence": b"%d" % (2**63 - 1)}
    assert Origin.from_headers(headers, 1).stream is not None
    with pytest.raises(BadRequest, match="must be a whole number"):
        Origin.from_headers(headers | {header: b"%d" % 2**63}, 1)


def test_a_body_that_can_never_wait_for_the_log_is_too_large_and_not_told_to_come_back(tmp_path):
    async def scenario():
        async with running(tmp_path, max_pending_bytes=1024 * 1024) as gateway:
            stamped = b"a b=1\n" * 60_000  # 360 KB, and with times 1.6 MB
            answer = await gateway.client.write(stamped)
            assert answer.status == 413
            assert "at most 1048576" in answer.json()["message"]
            assert "retry-after" not in answer.headers
            assert gateway.lines() == []
            assert (await gateway.client.write(stamped[: len(stamped) // 3])).status == 204
            # It was validated like any other, and costs as much: else it would go on for ever.
            statuses = [
                (await gateway.client.write(stamped, key=gateway.small_key)).status
                for _ in range(2)
            ]
            assert statuses == [413, 429]

    asyncio.run(scenario())
