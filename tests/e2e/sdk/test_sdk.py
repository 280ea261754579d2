"""The SDK against the embedded server: what is logged is stored, and the receipt says so."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import stepclock
from stepclock.spool.chunk import chunks

from embedded.store.store import SqliteStore
from native.process import Process
from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump
from tests.certificates import Authority
from tests.deadline import eventually
from tests.e2e.sdk.jobs import CLIENT, embedded_server, jobs, surroundings


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    slow_key, slow_record = new_key("slow", rate=1000, burst=1000)
    with embedded_server(tmp_path_factory.mktemp("sdk"), slow_record) as running:
        running.slow_key = slow_key
        yield running


@pytest.fixture
def points(server):
    def read(class_name, measurement):
        with closing(SqliteStore(server.folder / "store.db")) as store:
            return list(store.points("stepclock", class_name, measurement))

    return read


@pytest.fixture
def begin(server, tmp_path):
    """A run against the server, with a spool of its own."""

    def run(experiment, **arguments):
        return stepclock.init(
            experiment,
            **{
                "endpoint": server.url,
                "token": server.key,
                "spool_dir": str(tmp_path / "spool"),
                "handle_signals": False,
                "system_interval": 0,
                **arguments,
            },
        )

    return run


def test_what_a_job_logs_is_stored_and_its_receipt_says_so(begin, points, tmp_path):
    run = begin("thin", run_id="r1", config={"lr": 0.1, "model": {"name": "resnet"}})
    for step in range(500):
        run.log({"train": {"loss": 1 / (step + 1)}, "lr": 0.1}, step=step)
    receipt = run.finish()
    assert receipt.ok, str(receipt)
    assert receipt.logged == 500
    assert receipt.missing == {}
    stored = points("raw", "thin")
    assert sorted(point.fields["step"] for point in stored) == list(range(500))
    assert {point.fields["train/loss"] for point in stored} == {1 / n for n in range(1, 501)}
    assert {tuple(sorted(point.tags.items())) for point in stored} == {
        (("attempt", "0"), ("rank", "0"), ("run", "r1"))
    }
    config = {p.tags["key"]: p.fields["value"] for p in points("events", "run_config")}
    assert config["model/name"] == "resnet"
    assert config["lr"] == "0.1"
    assert list((tmp_path / "spool").iterdir()) == []


def damage_a_row(folder, step):
    """Flip a byte of a row where it lies in a segment; how many lines can't be read any more."""
    for path in folder.glob("*.seg"):
        data = bytearray(path.read_bytes())
        at = data.find(b",step=%di " % step)
        if at >= 0:
            [harmed] = [c for c in chunks(data) if c.end - len(c.payload) <= at < c.end]
            data[at] ^= 1
            path.write_bytes(data)
            return harmed.lines
    raise AssertionError("no such row")


def log_in_parts(run, count):
    for step in range(count):
        run.log({"loss": 1.0}, step)
        if step % 10 == 9:
            assert run.engine.drain.wait_for_turn(10)


def test_a_receipt_says_that_rows_were_damaged_in_the_spool(begin, points):
    run = begin("damaged-live", send_interval=60)
    eventually(lambda: run.stats().acknowledged)  # the next request is a minute away
    log_in_parts(run, 30)
    assert damage_a_row(run.folder, 15) == 10
    receipt = run.finish()
    assert not receipt.ok
    assert receipt.missing == {"dropped": 10}
    assert steps_of(points("raw", "damaged-live")) == [*range(10), *range(20, 30)]


def test_sync_stores_all_but_the_damaged_rows_and_fails(server, begin, points, tmp_path):
    run = begin("damaged", mode="offline")
    log_in_parts(run, 30)
    run.finish()
    assert damage_a_row(run.folder, 15) == 10
    done = subprocess.run(
        [sys.executable, "-m", "stepclock", "sync", str(tmp_path / "spool")],
        env=os.environ
        | {
            "PYTHONPATH": str(CLIENT),
            "STEPCLOCK_ENDPOINT": server.url,
            "STEPCLOCK_TOKEN": server.key,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "10 lines are not in the spool any more, or damaged there" in done.stdout
    assert steps_of(points("raw", "damaged")) == [*range(10), *range(20, 30)]


@pytest.fixture
def job(server, tmp_path):
    """A training job: a program of its own, with the server's address in its environment."""

    def start(code, **more):
        own = {"STEPCLOCK_SYSTEM_INTERVAL": "0", "STEPCLOCK_SEND_INTERVAL": "0.05"}
        return begin(code, surroundings(server, tmp_path, **own | more))

    with jobs() as begin:
        yield start


def steps_of(points):
    return sorted(point.fields["step"] for point in points)


def test_nan_is_stored_and_shown_by_step(begin, points):
    with begin("odd", run_id="r1") as run:
        run.log({"loss": math.nan, "lr": 0.1}, step=3)
        run.log({"loss": math.inf}, step=4)
    assert {p.fields["step"]: p.fields.get("lr") for p in points("raw", "odd")} == {3: 0.1, 4: None}
    for class_name in ("events", "steps"):
        found = [p for p in points(class_name, "nonfinite") if p.tags["experiment"] == "odd"]
        found.sort(key=lambda point: point.fields["step"])
        assert [(p.tags["metric"], p.tags["kind"], p.fields["step"]) for p in found] == [
            ("loss", "nan", 3),
            ("loss", "inf", 4),
        ]


def test_two_logs_of_one_step_are_one_point_though_they_were_sent_apart(begin, points):
    with begin("merged") as run:
        run.log({"loss": 1.0}, step=1)
        assert run.flush(timeout=20)
        run.log({"accuracy": 0.5}, step=1)
    for class_name in ("raw", "steps"):
        [point] = points(class_name, "merged")
        assert (point.fields["loss"], point.fields["accuracy"]) == (1.0, 0.5)


def test_deliveries_add_up_to_the_lines_of_the_receipt(begin, points):
    run = begin("counted", run_id="r1", send_interval=0.05)
    for step in range(2500):
        run.log({"loss": 1.0}, step)
        if step % 500 == 0:
            assert run.flush(timeout=20)
    receipt = run.finish()
    assert receipt.ok, str(receipt)

    def delivered():
        found = [p for p in points("events", "delivery") if p.tags.get("experiment") == "counted"]
        numbers = sorted({int(p.fields["sequence"]) for p in found})
        assert numbers == list(range(len(numbers)))
        return sum(p.fields["points"] - p.fields["dead"] for p in found)

    assert eventually(lambda: delivered() == receipt.lines)
    assert steps_of(points("raw", "counted")) == list(range(2500))


def test_lines_that_the_gateway_refuses_are_named_and_harm_no_other(begin, points):
    run = begin("refused", run_id="r1")
    for step in range(10):
        run.log({"loss": 1.0}, step, time_ns=1 if step == 4 else None)
    receipt = run.finish()
    assert receipt.missing == {"refused": 1}
    assert receipt.stored == receipt.lines - 1
    [entry] = map(json.loads, Path(receipt.folder, "refused.jsonl").read_text().splitlines())
    assert "step=4i" in entry["line"]
    assert "time too old" in entry["reason"]
    assert steps_of(points("raw", "refused")) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_job_over_its_limit_is_slowed_on_the_wire_only_and_loses_nothing(begin, server, points):
    run = begin("limited", run_id="r1", token=server.slow_key, send_interval=0.05)
    began = time.monotonic()
    for step in range(3000):
        run.log({"loss": 1.0}, step)
    assert time.monotonic() - began < 1
    receipt = run.finish()
    assert run.stats().limited > 0
    assert receipt.ok, str(receipt)
    assert steps_of(points("raw", "limited")) == list(range(3000))


def test_a_wrong_key_keeps_all_in_the_spool_and_sync_sends_it(begin, server, points, tmp_path):
    run = begin("keyless", token="sk_wrong_key")
    run.log({"loss": 1.0}, 1)
    receipt = run.finish(timeout=0.5)
    assert receipt.unsent == receipt.lines
    [result] = stepclock.sync(tmp_path / "spool", endpoint=server.url, token=server.key)
    assert result.ok, result
    assert result.sent == result.stored == receipt.lines
    assert steps_of(points("raw", "keyless")) == [1]
    assert stepclock.sync(tmp_path / "spool", endpoint=server.url, token=server.key) == []


def test_a_server_that_is_away_for_the_whole_job_gets_everything_later(
    begin, server, points, tmp_path
):
    run = begin("away", endpoint="http://127.0.0.1:9")
    for step in range(1000):
        run.log({"loss": float(step)}, step)
    receipt = run.finish(timeout=0.3)
    assert not receipt.ok
    results = stepclock.sync(tmp_path / "spool", endpoint=server.url, token=server.key)
    assert [result.ok for result in results] == [True]
    stored = points("raw", "away")
    assert {p.fields["step"]: p.fields["loss"] for p in stored} == {n: n for n in range(1000)}
    assert len(stored) == 1000
    assert not list((tmp_path / "spool").iterdir())


def test_a_live_offline_run_is_synced_from_beside(begin, server, points, tmp_path):
    run = begin("beside", mode="offline")
    for step in range(100):
        run.log({"loss": 1.0}, step)
        if step == 50:
            assert run.flush()
            [result] = stepclock.sync(tmp_path / "spool", endpoint=server.url, token=server.key)
            assert result.live
            assert not result.left
            assert len(points("raw", "beside")) == 51
    receipt = run.finish()
    assert receipt.stored > 50
    [result] = stepclock.sync(tmp_path / "spool", endpoint=server.url, token=server.key)
    assert result.ok
    assert steps_of(points("raw", "beside")) == list(range(100))


def test_sync_leaves_a_run_alone_that_sends_for_itself(begin, server, tmp_path):
    run = begin("busy")
    run.log({"loss": 1.0}, 1)
    assert run.flush(timeout=20)
    [result] = stepclock.sync(tmp_path / "spool", endpoint=server.url, token=server.key)
    assert result.busy
    assert run.finish().ok


WORKERS = """
    run = stepclock.init("{experiment}", run_id="r1")
    run.log({{"loss": 0.0}}, 0)
    children = []
    for number in range(1, 9):
        pid = os.fork()
        if pid == 0:
            for step in range(10):
                run.log({{"loss": 1.0}}, number * 10 + step)
            sys.exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    receipt = run.finish()
    print(receipt.ok, receipt)
"""


def test_rows_of_forked_workers_are_sent_by_the_run_and_are_in_its_receipt(job, points):
    popen = job(WORKERS.format(experiment="forked"))
    out, err = popen.communicate(timeout=60)
    assert out.startswith("True"), out + err
    assert steps_of(points("raw", "forked")) == [0, *range(10, 90)]


def test_sigterm_of_the_scheduler_is_stored_as_preempted_before_the_job_ends(job, points):
    popen = job(
        """
        run = stepclock.init("preempted", run_id="r1")
        run.log({"loss": 1.0}, 7)
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    assert popen.stdout.readline() == "ready\n"
    popen.terminate()
    popen.communicate(timeout=30)
    assert popen.returncode == -signal.SIGTERM

    def states():
        found = [p for p in points("events", "run_state") if p.tags["experiment"] == "preempted"]
        found.sort(key=lambda point: point.time_ns)
        return [(p.fields["state"], p.fields.get("step")) for p in found]

    assert eventually(lambda: states()[-1:] == [("preempted", 7)])
    assert eventually(lambda: steps_of(points("raw", "preempted")) == [7])


def test_over_https_the_authority_that_is_named_is_trusted_and_no_other(tmp_path):
    authority = Authority.new(tmp_path / "authority")
    signed = authority.sign("gateway")
    key, record = new_key("tls")
    (tmp_path / "keys.toml").write_text(dump([record]))
    address = tmp_path / "url"
    process = Process(
        "serve",
        [sys.executable, "-m", "admin", "serve"],
        log_path=tmp_path / "serve.log",
        ready=address.exists,
        env={
            "STEPCLOCK_PORT": "0",
            "STEPCLOCK_ADDRESS_FILE": str(address),
            "STEPCLOCK_DATA_DIR": str(tmp_path),
            "STEPCLOCK_TLS_CERT_FILE": str(signed.certificate),
            "STEPCLOCK_TLS_KEY_FILE": str(signed.key),
        },
    )
    process.start()
    try:
        common = {"endpoint": address.read_text().strip(), "token": key, "handle_signals": False}
        common |= {"spool_dir": str(tmp_path / "spool"), "system_interval": 0}
        run = stepclock.init("tls", ca_file=str(authority.file), **common)
        run.log({"loss": 1.0}, 1)
        receipt = run.finish()
        assert receipt.ok, str(receipt)
        stranger = stepclock.init("tls", **common)
        stranger.log({"loss": 1.0}, 1)
        assert stranger.finish(timeout=1.0).unsent
        assert "CERTIFICATE_VERIFY_FAILED" in stranger.stats().last_error
    finally:
        process.stop()
