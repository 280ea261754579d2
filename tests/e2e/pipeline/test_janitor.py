"""A run resumed 200 steps back on another node, its old spool late: through the whole chain."""

import time
import urllib.request
from contextlib import closing

import pytest

from embedded.store.store import SqliteStore
from schemas.store.protocols import Clock, SeriesQuery
from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump
from tests.deadline import eventually
from tests.e2e.pipeline.chain import chain, service

QUICK = {"STEPCLOCK_JANITOR_INTERVAL_S": "0.2", "STEPCLOCK_CANARY_S": "0"}


class Job:
    """One run, as its clients would send it; times are a second apart, from an hour ago on."""

    def __init__(self, url, key):
        self.url, self.key = url, key
        self.start_ns = time.time_ns() - 3600 * 10**9

    def post(self, retention_class, lines):
        request = urllib.request.Request(
            f"{self.url}/api/v2/write?bucket={retention_class}",
            "\n".join(lines).encode(),
            {"Authorization": f"Bearer {self.key}"},
        )
        urllib.request.urlopen(request, timeout=30).close()

    def log(self, attempt, node, steps, *, began_s):
        """Two ranks; the loss tells the attempt."""
        self.post(
            "raw",
            [
                f"resnet,run=r,rank={rank},attempt={attempt},node={node} "
                f"loss={attempt + 1},step={step}i {self.start_ns + (began_s + step) * 10**9}"
                for step in steps
                for rank in (0, 1)
            ],
        )

    def nan(self, attempt, step):
        tags = f"experiment=resnet,run=r,rank=0,attempt={attempt}"
        time_ns = self.start_ns + step * 10**9
        self.post(
            "events",
            [f"nonfinite,{tags},metric=lr,kind=nan count=1,step={step}i {time_ns}"],
        )

    def says(self, attempt, state, time_ns, first_step):
        tags = f"experiment=resnet,run=r,rank=0,attempt={attempt}"
        self.post(
            "events",
            [f'run_state,{tags} state="{state}",first_step={first_step}i {time_ns}'],
        )


def shown(reader, retention_class):
    """Attempt and step of every point, each of both ranks."""
    return sorted(
        (int(point.tags["attempt"]), point.fields["step"])
        for point in reader.points("stepclock", retention_class, "resnet", "r")
    )


def tell_and_check(job, reader):
    both = lambda attempt, steps: [(attempt, step) for step in steps for _ in (0, 1)]  # noqa: E731
    job.says(0, "running", job.start_ns, 0)
    job.log(0, "n1", range(600), began_s=0)
    job.nan(0, 500)
    job.nan(0, 900)
    job.says(0, "preempted", job.start_ns + 1000 * 10**9, 0)

    # Resumed at 800 of 1000 steps on another node, and logs every fifth step.
    job.says(1, "running", time.time_ns(), 800)
    job.log(1, "n2", range(800, 1200, 5), began_s=1000)
    job.nan(1, 1100)
    clean = both(0, range(800)) + both(1, range(800, 1200, 5))

    # What the first attempt had spooled is synced only now, in parts.
    for first in range(600, 1000, 100):
        job.log(0, "n1", range(first, first + 100), began_s=0)
    everything = both(0, range(1000)) + both(1, range(800, 1200, 5))
    assert eventually(lambda: shown(reader, "raw") == everything, 60)
    assert eventually(lambda: shown(reader, "steps") == clean, 60)
    query = SeriesQuery("stepclock", "resnet", "loss", points=100_000)
    (series,) = reader.series(query)
    assert series.t == (*range(800), *range(800, 1200, 5))
    assert series.mean == (1.0,) * 800 + (2.0,) * 80
    assert set(series.count) == {2}, "one value of each rank at each step"
    (by_time,) = reader.series(
        SeriesQuery("stepclock", "resnet", "loss", clock=Clock.WALL, points=100_000)
    )
    assert sum(by_time.count) == len(everything)
    assert set(by_time.mean) >= {1.0, 2.0}

    def nonfinite():
        points = reader.points("stepclock", "steps", "nonfinite", "r")
        return sorted(point.fields["step"] for point in points)

    assert eventually(lambda: nonfinite() == [500, 1100], 60)
    assert len(list(reader.points("stepclock", "events", "nonfinite", "r"))) == 3

    # The second attempt says no more: its newest line is from ten minutes ago.
    job.says(2, "running", time.time_ns() - 600 * 10**9, 1200)

    def states():
        return [
            (point.tags["attempt"], point.fields["state"])
            for point in reader.points("stepclock", "events", "run_state", "r")
            if point.tags.get("by") == "janitor"
        ]

    assert eventually(lambda: states() == [("2", "silent")], 60)


def test_a_resumed_run_is_one_clean_curve_in_the_embedded_server(tmp_path):
    key, record = new_key("e2e")
    (tmp_path / "keys.toml").write_text(dump([record]))
    environment = QUICK | {
        "STEPCLOCK_DATA_DIR": str(tmp_path),
        "STEPCLOCK_KEYS_FILE": str(tmp_path / "keys.toml"),
    }
    running = service("serve", ["admin", "serve"], tmp_path, environment)
    try:
        with closing(SqliteStore(tmp_path / "store.db")) as store:
            tell_and_check(Job(running.url, key), store)
    finally:
        running.process.stop()


@pytest.mark.slow
def test_a_resumed_run_is_one_clean_curve_on_the_real_chain_though_a_janitor_was_killed(
    tmp_path, kafka_process, influx_process
):
    broker, database = kafka_process(), influx_process()
    with chain(tmp_path, broker.bootstrap_servers, database, **QUICK) as running:
        janitors = [
            service(
                f"janitor-{number}",
                ["admin", "janitor"],
                tmp_path,
                running.environment,
                "STEPCLOCK_PROBE_PORT",
            )
            for number in range(2)
        ]
        try:
            job = Job(running.urls[0], running.key)
            job.log(0, "n1", range(10), began_s=0)
            janitors[0].process.kill()
            tell_and_check(job, running.reader)
            done = running.admin("janitor", "--once")
            assert (done.returncode, done.stdout) == (0, "")
            job.log(0, "n1", [999], began_s=5000)
        finally:
            for janitor in janitors:
                janitor.process.stop()
        assert eventually(lambda: (0, 999) in shown(running.reader, "steps"), 30)
        line = "stepclock: resnet r: points of resnet leave class steps: attempt 0 from step 800\n"
        for flags, left in ((["--dry-run"], True), (["--once"], False)):
            done = running.admin("janitor", *flags)
            assert (done.returncode, done.stdout) == (0, line)
            assert ((0, 999) in shown(running.reader, "steps")) is left
