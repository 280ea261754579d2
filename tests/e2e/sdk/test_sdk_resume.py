"""A job of the client killed by SIGTERM and resumed 200 steps back: through the embedded server."""

import json
import signal
from contextlib import closing

import pytest
import stepclock

from embedded.store.store import SqliteStore
from native.ports import LOOPBACK
from schemas.store.protocols import Clock, SeriesQuery
from tests.deadline import eventually
from tests.e2e.sdk.jobs import embedded_server, jobs, surroundings, way_to

FIRST = """
    run = stepclock.init("resnet", run_id="r", attempt=0, tags={"node": "n1"}, config={"lr": 0.1})
    for step in range(600):
        run.log({"loss": 1.0}, step)
    assert run.flush(timeout=20)
    print("sent", flush=True)
    sys.stdin.readline()  # the network goes
    for step in range(600, 1000):
        run.log({"loss": 1.0}, step)
    print("logged", flush=True)
    time.sleep(60)
"""

#: Its checkpoint is of step 800; from there on it logs each fifth step.
SECOND = """
    run = stepclock.init("resnet", run_id="r", attempt=1, tags={"node": "n2"})
    for step in range(800, 1200, 5):
        run.log({"loss": 2.0}, step)
    receipt = run.finish(timeout=30)
    print(json.dumps(vars(receipt) | {"ok": receipt.ok}))
"""


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    often = {"STEPCLOCK_JANITOR_INTERVAL_S": "0.2", "STEPCLOCK_CANARY_S": "0"}
    with embedded_server(folder, **often) as running:
        yield running


@pytest.fixture
def network(server):
    """The first job's way to the server."""
    with way_to(server) as proxy:
        yield proxy


@pytest.fixture
def store(server, tmp_path):
    with closing(SqliteStore(tmp_path / "server" / "store.db")) as reader:
        yield reader


@pytest.fixture
def job(server, tmp_path):
    """Starts a training job with a spool of its own, as on a node of its own."""

    def start(code, spool, endpoint, **more):
        own = {
            "STEPCLOCK_ENDPOINT": endpoint,
            "STEPCLOCK_SPOOL_DIR": str(tmp_path / spool),
            "STEPCLOCK_SEND_INTERVAL": "0.05",
        }
        return begin(code, surroundings(server, tmp_path, **own | more))

    with jobs() as begin:
        yield start


def shown(reader, retention_class, experiment="resnet"):
    """Attempt, node and step of every point, in the order of attempts and steps."""
    return sorted(
        (p.tags["attempt"], p.tags.get("node", ""), p.fields["step"])
        for p in reader.points("stepclock", retention_class, experiment, "r")
    )


def state(reader):
    """State, first and last step that the newest line of each attempt names."""
    lines = sorted(
        reader.points("stepclock", "events", "run_state", "r"), key=lambda point: point.time_ns
    )
    fields = ("state", "first_step", "step")
    return {p.tags["attempt"]: tuple(p.fields.get(name) for name in fields) for p in lines}


def test_a_resumed_job_is_one_clean_curve_by_step_and_both_attempts_by_wall_time(
    server, network, store, job, tmp_path
):
    first = job(FIRST, "spool-n1", f"http://{LOOPBACK}:{network.port}")
    assert first.stdout.readline() == "sent\n"
    network.cut()
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline() == "logged\n"
    first.terminate()
    first.communicate(timeout=30)
    assert first.returncode == -signal.SIGTERM
    assert shown(store, "raw") == [("0", "n1", step) for step in range(600)]

    second = job(SECOND, "spool-n2", server.url)
    out, err = second.communicate(timeout=60)
    receipt = json.loads(out)
    assert receipt["ok"], out + err
    assert (receipt["state"], receipt["logged"]) == ("finished", 80)
    assert eventually(lambda: state(store)["1"] == ("finished", 800, 1195))

    # The first node comes back, and what lay on its disk is sent.
    [result] = stepclock.sync(tmp_path / "spool-n1", endpoint=server.url, token=server.key)
    assert result.ok, result
    assert result.sent >= 400 + 1  # its last steps, and that it was preempted
    assert result.stored == sum(
        point.fields["points"]
        for point in store.points("stepclock", "events", "delivery")
        if point.tags["stream"] == result.stream
    )
    assert not list((tmp_path / "spool-n1").iterdir())
    assert state(store)["0"] == ("preempted", 0, 999)

    resumed = range(800, 1200, 5)
    by_time = [("0", "n1", n) for n in range(1000)] + [("1", "n2", n) for n in resumed]
    assert shown(store, "raw") == by_time
    by_step = [("0", "", n) for n in range(800)] + [("1", "", n) for n in resumed]
    assert eventually(lambda: shown(store, "steps") == by_step)

    query = SeriesQuery("stepclock", "resnet", "loss", points=100_000)
    (curve,) = store.series(query)
    assert curve.t == (*range(800), *resumed)
    assert curve.mean == (1.0,) * 800 + (2.0,) * 80
    assert set(curve.count) == {1}, "each step stands once"
    (wall,) = store.series(
        SeriesQuery("stepclock", "resnet", "loss", clock=Clock.WALL, points=100_000)
    )
    assert sum(wall.count) == 1080


#: Each second row is in the spool when it is killed, and only the first request was sent.
KILLED = """
    run = stepclock.init("killed", run_id="r", config={"lr": 0.1})
    for step in range(500):
        run.log({"loss": 1.0}, step)
    assert run.flush(timeout=20)
    for step in range(500, 1000):
        run.log({"loss": 1.0}, step)
    loader = os.fork()
    if loader == 0:  # it dies with it
        for step in range(2000, 2100):
            run.log({"loader": 1.0}, step)
        run.engine.drain.wait_for_turn(20)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(loader, 0)
    run.engine.drain.wait_for_turn(20)
    print("spooled", flush=True)
    time.sleep(60)
"""

RESTARTED = """
    run = stepclock.init("killed", run_id="r")
    assert run.attempt == 1
    for step in range(800, 1200):
        run.log({"loss": 2.0}, step)
    receipt = run.finish(timeout=30)
    print(json.dumps(vars(receipt) | {"ok": receipt.ok}))
"""


def test_what_a_killed_job_had_not_sent_its_restart_sends_by_itself(server, store, job, tmp_path):
    first = job(KILLED, "spool", server.url, STEPCLOCK_SEND_INTERVAL="600")
    assert first.stdout.readline() == "spooled\n", first.communicate()
    first.kill()
    first.communicate(timeout=30)
    sent = [("0", "", step) for step in range(500)]
    assert eventually(lambda: shown(store, "raw", "killed") == sent)
    stranger = job(KILLED.replace('"r"', '"other"'), "spool", server.url, STEPCLOCK_MODE="offline")
    assert stranger.stdout.readline() == "spooled\n", stranger.communicate()
    stranger.kill()
    stranger.communicate(timeout=30)

    second = job(RESTARTED, "spool", server.url)
    out, err = second.communicate(timeout=60)
    receipt = json.loads(out)
    assert receipt["ok"], out + err
    assert receipt["logged"] == 400
    assert receipt["lines"] == receipt["stored"] < 500
    assert receipt["recovered"] >= 600
    assert "1 other run has left rows in the spool" in err

    earlier = [("0", "", step) for step in (*range(1000), *range(2000, 2100))]
    later = [("1", "", step) for step in range(800, 1200)]
    assert shown(store, "raw", "killed") == earlier + later
    by_step = [("0", "", step) for step in range(800)] + later
    assert eventually(lambda: shown(store, "steps", "killed") == by_step)
    of_both = [
        point
        for point in store.points("stepclock", "events", "delivery")
        if point.tags["experiment"] == "killed"
    ]
    assert {point.tags["run"] for point in of_both} == {"r"}
    delivered = sum(
        point.fields["points"] for point in of_both if point.tags["topic"].endswith("raw")
    )
    assert delivered == 1100 + 400, "each line was delivered once"
    left = {path.name.split(".")[0] for path in (tmp_path / "spool").iterdir()}
    assert left == {"other"}
