"""`kill -9` at a random moment of thirty jobs, then `sync`: stored is what was spooled, once."""

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import pytest
import stepclock
from stepclock.spool.chunk import chunks
from stepclock.spool.stream import Stream

from embedded.store.store import SqliteStore
from native.ports import LOOPBACK
from schemas.line_protocol.codec import parse
from schemas.line_protocol.tokens import field_value
from schemas.store.delivery import decode
from tests.deadline import eventually
from tests.e2e.sdk.jobs import embedded_server, surroundings, way_to

AT_ONCE = 8
STEPS = 400

#: It notes when each row was logged. Segments are small, so that many are deleted on the way.
JOB = f"""
import os, sys, time
notes = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(what):
    os.write(notes, f"{{what}} {{time.monotonic_ns()}}\\n".encode())
note("started")
import stepclock, stepclock.spool.writer
stepclock.spool.writer._SEGMENT_BYTES = 4096
run = stepclock.init("killed", run_id=sys.argv[1], config={{"lr": 0.1}}, handle_signals=False)
for step in range({STEPS}):
    run.log({{"loss": step / 7, "lr": 1 / (step + 1)}}, step)
    note(step)
    time.sleep(0.001)
note("finishing")
run.finish(timeout=5)
note("finished")
"""


@dataclass
class Job:
    """One of them: how it runs, from what on a moment is drawn, and how long after that it dies."""

    run: str
    kind: str
    after: str
    delay_s: float
    killed_ns: int = 0
    reached: str = ""
    logged: dict[int, int] = field(default_factory=dict)  # step -> when


def drawn(chance):
    """Thirty jobs that are killed all over their lives, most of them while they log."""
    jobs = []
    for number in range(30):
        kind = ("online", "online", "offline", "faulty", "faulty")[number % 5]
        after, longest_s = chance.choice(
            [("started", 0.3), *[("0", 0.6)] * 3, ("finishing", 0.4)],
        )
        jobs.append(Job(f"r{number}", kind, after, chance.uniform(0, longest_s)))
    return jobs


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    with embedded_server(folder, STEPCLOCK_CANARY_S="0") as running:
        yield running


def live(job, environment, notes):
    """Start a job, and kill it when its time has come."""
    path = notes / job.run
    with subprocess.Popen(
        [sys.executable, "-c", JOB, job.run, str(path)], env=environment
    ) as popen:
        deadline = time.monotonic() + 60
        while not (path.exists() and f"{job.after} " in path.read_text()):
            assert popen.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(job.delay_s)  # the random moment itself, not a wait
        job.killed_ns = time.monotonic_ns()
        popen.kill()
    for line in path.read_text().splitlines():
        what, when = line.split()
        job.reached = "logging" if what.isdecimal() else what
        if what.isdecimal():
            job.logged[int(what)] = int(when)


def points_of(spool):
    """Every point that lies in a spool, by stream: (class, measurement, tags, time) -> fields."""
    found = {}
    for folder in sorted(spool.iterdir()):
        if not (folder / "stream.json").exists():
            assert not list(folder.glob("*.seg")), "rows that nobody could tell whose they are"
            continue
        points = found.setdefault(Stream.read(folder).name, {})
        for path in sorted(folder.glob("*.seg")):
            for chunk in chunks(path.read_bytes()):
                for raw in chunk.payload.split(b"\n"):
                    line = parse(raw)
                    tags = frozenset((k.decode(), v.decode()) for k, v in line.tags)
                    point = (chunk.class_name, line.measurement.decode(), tags, line.time)
                    points[point] = {k.decode(): field_value(v) for k, v in line.fields}
    return found


def stored_points(store):
    """The same of what is in the store, by run."""
    found = {}
    for class_name, names in (
        ("raw", ["killed"]),
        ("events", ["run_config", "run_state"]),
    ):
        for name in names:
            for each in store.points("stepclock", class_name, name):
                point = (class_name, name, frozenset(each.tags.items()), each.time_ns)
                found.setdefault(each.tags["run"], {})[point] = dict(each.fields)
    return found


def delivered_lines(store):
    """Lines by run, as the server counts what was delivered to it."""
    found = Counter()
    for point in store.points("stepclock", "events", "delivery"):
        record = decode(point)
        found[record.run] += record.lines - record.dead
    return found


def test_thirty_jobs_killed_at_random_moments_are_stored_exactly_as_spooled(
    server, tmp_path, capsys
):
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    jobs = drawn(chance)
    spool, notes = tmp_path / "spool", tmp_path / "notes"
    notes.mkdir()
    common = surroundings(
        server, tmp_path, STEPCLOCK_SYSTEM_INTERVAL="0", STEPCLOCK_SEND_INTERVAL="0.02"
    )
    ended = threading.Event()

    with way_to(server) as network:

        def trouble():
            """The way to the server is cut, or swallows answers, again and again."""
            faults = random.Random(seed)
            while not ended.wait(faults.uniform(0.05, 0.2)):
                faults.choice(
                    [network.cut, network.restore, lambda: network.freeze(answers_only=True)]
                )()
            network.restore()

        more = {
            "online": {},
            "offline": {"STEPCLOCK_MODE": "offline"},
            "faulty": {"STEPCLOCK_ENDPOINT": f"http://{LOOPBACK}:{network.port}"},
        }
        unruly = threading.Thread(target=trouble)
        unruly.start()
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda job: live(job, common | more[job.kind], notes), jobs))
        finally:
            ended.set()
            unruly.join()
        assert eventually(lambda: not network.open_connections)

    spooled = points_of(spool)
    results = stepclock.sync(spool, endpoint=server.url, token=server.key)
    assert all(result.ok for result in results), (seed, results)

    with closing(SqliteStore(tmp_path / "server" / "store.db")) as store:
        stored, delivered = stored_points(store), delivered_lines(store)
    spooled_lines = missing = doubled = late = 0
    for name, points in spooled.items():
        run = name.partition(".")[0]
        spooled_lines += len(points)
        missing += sum(stored.get(run, {}).get(point) != fields for point, fields in points.items())
    stored_lines = sum(map(len, stored.values()))
    for job in jobs:
        points = stored.get(job.run, {})
        doubled += delivered[job.run] - len(points)
        steps = sorted(f["step"] for (class_name, *_), f in points.items() if class_name == "raw")
        # Whatever was acknowledged before: from the first on, without a hole.
        assert steps == list(range(len(steps))), (seed, job)
        lost = [when for step, when in job.logged.items() if step >= len(steps)]
        late += sum(job.killed_ns - when > 100e6 for when in lost)
        # A machine may be slow; two seconds are not that.
        assert not any(job.killed_ns - when > 2e9 for when in lost), (seed, job)
    figure = (
        f"{len(jobs)} jobs killed {dict(Counter(job.reached for job in jobs))}, seed {seed}: "
        f"{spooled_lines} lines in the spool, {stored_lines} stored, "
        f"{missing} missing, {doubled} doubled, {late} rows of more than 0.1 s before not kept"
    )
    with capsys.disabled():
        print(f"\n{figure}")
    assert (missing, doubled) == (0, 0), figure
    assert [path for path in spool.iterdir() if (path / "stream.json").exists()] == []
