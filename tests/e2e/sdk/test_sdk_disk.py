"""Real disks that are full, out of inodes, read-only or taken away, under a job of the client."""

import json
import subprocess
from contextlib import closing

import pytest
import stepclock

from embedded.store.store import SqliteStore
from native.ports import LOOPBACK
from tests.deadline import eventually
from tests.e2e.sdk.jobs import embedded_server, jobs, surroundings, way_to

#: A mount namespace of its own, in which a file system of our size lies over the spool.
UNSHARED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNTED = 'options=$1; folder=$2; shift 2; mount -t tmpfs -o "$options" none "$folder" && exec "$@"'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with embedded_server(tmp_path_factory.mktemp("disk"), STEPCLOCK_CANARY_S="0") as running:
        yield running


@pytest.fixture(scope="module")
def _mounts(tmp_path_factory):
    tried = [*UNSHARED, MOUNTED, "sh", "size=1m", str(tmp_path_factory.mktemp("mount")), "true"]
    try:
        done = subprocess.run(tried, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        pytest.skip(f"no file system can be mounted: {exc}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")


@pytest.fixture
def network(server):
    with way_to(server) as proxy:
        yield proxy


@pytest.fixture
def job(server, network, tmp_path):
    """Starts a job; mount: options of a file system that lies over its spool."""

    def start(code, mount=None, spool="spool"):
        environment = surroundings(
            server,
            tmp_path,
            STEPCLOCK_ENDPOINT=f"http://{LOOPBACK}:{network.port}",
            STEPCLOCK_SPOOL_DIR=str(tmp_path / spool),
            STEPCLOCK_SYSTEM_INTERVAL="0",
            STEPCLOCK_SEND_INTERVAL="0.05",
        )
        before = []
        if mount is not None:
            (tmp_path / spool).mkdir()
            before = [*UNSHARED, MOUNTED, "sh", mount, str(tmp_path / spool)]
        return begin(code, environment, before)

    with jobs() as begin:
        yield start


@pytest.fixture
def stored(server):
    """Values of all rows of an experiment's run by their step."""

    def read(experiment, run="r"):
        with closing(SqliteStore(server.folder / "store.db")) as store:
            points = list(store.points("stepclock", "raw", experiment, run))
        found = {point.fields["step"]: point.fields["loss"] for point in points}
        assert len(found) == len(points)
        return found

    return read


def go_on(popen):
    popen.stdin.write("\n")
    popen.stdin.flush()


def receipt_of(popen):
    out, err = popen.communicate(timeout=60)
    assert popen.returncode == 0, err
    return json.loads(out)


FULL = """
    run = stepclock.init("{experiment}", run_id="r", max_memory={max_memory})
    for step in range(20_000):
        run.log({{"loss": step / 7, "more": "x" == "", "some": 1 / (step + 1)}}, step)
        if step % {portion} == 0:
            assert run.engine.drain.wait_for_turn(20)
    assert os.statvfs(run.folder).f_bavail < 100
    print("full", flush=True)
    sys.stdin.readline()
    receipt = run.finish()
    print(json.dumps(vars(receipt) | {{"ok": receipt.ok, "left": os.listdir(run.folder.parent)}}))
"""


@pytest.mark.usefixtures("_mounts")
def test_on_a_full_disk_rows_wait_in_memory_and_are_sent_when_the_gateway_comes(
    job, network, stored
):
    network.cut()
    popen = job(FULL.format(experiment="full", max_memory=1 << 26, portion=500), "size=1m")
    assert popen.stdout.readline() == "full\n", popen.communicate()
    network.restore()
    go_on(popen)
    receipt = receipt_of(popen)
    assert receipt["ok"], receipt
    assert receipt["left"] == []
    assert stored("full") == {step: step / 7 for step in range(20_000)}


@pytest.mark.usefixtures("_mounts")
def test_with_disk_and_memory_full_the_oldest_rows_of_memory_go_and_are_counted(
    job, network, stored
):
    network.cut()
    popen = job(FULL.format(experiment="both", max_memory=200_000, portion=50), "size=1m")
    assert popen.stdout.readline() == "full\n", popen.communicate()
    network.restore()
    go_on(popen)
    receipt = receipt_of(popen)
    assert receipt["dropped"] > 0
    assert receipt["rows_dropped"] == 0
    assert receipt["stored"] + receipt["dropped"] == receipt["lines"], receipt
    found = stored("both")
    assert all(loss == step / 7 for step, loss in found.items())
    gone = sorted(set(range(20_000)) - set(found))
    assert gone == list(range(gone[0], gone[-1] + 1)), "what was on the disk and the newest stay"
    assert gone[0] > 0
    assert gone[-1] < 19_999
    assert len(gone) <= receipt["dropped"] <= len(gone) + 20


SOME = """
    run = stepclock.init("{experiment}", run_id="r", config={{"lr": 0.1}})
    for step in range(300):
        run.log({{"loss": step / 7}}, step)
        if step % 100 == 0:
            run.flush(timeout=20)
    receipt = run.finish()
    print(json.dumps(vars(receipt) | {{"ok": receipt.ok}}))
"""

#: From one on which the folder can't be made to one on which only the journal can't be written.
DISKS = [
    "ro",
    *(f"size=1m,nr_inodes={number}" for number in range(1, 8)),
    *(f"size={kib}k" for kib in (4, 8, 12, 16)),
]


@pytest.mark.usefixtures("_mounts")
def test_whatever_the_disk_lacks_from_the_start_all_rows_are_stored(job, stored):
    running = [
        job(SOME.format(experiment=f"disk{number}"), options, f"spool{number}")
        for number, options in enumerate(DISKS)
    ]
    for number, (options, popen) in enumerate(zip(DISKS, running, strict=True)):
        receipt = receipt_of(popen)
        assert receipt["ok"], (options, receipt)
        assert stored(f"disk{number}") == {step: step / 7 for step in range(300)}, options


def test_with_a_file_where_the_spool_should_be_all_rows_are_stored(job, stored, tmp_path):
    (tmp_path / "spool").write_text("")
    assert receipt_of(job(SOME.format(experiment="file")))["ok"]
    assert stored("file") == {step: step / 7 for step in range(300)}


REMOVED = """
    run = stepclock.init("removed", run_id="{run}")
    def log(first):
        for step in range(first, first + 100):
            run.log({{"loss": step / 7}}, step)
        assert run.engine.drain.wait_for_turn(20)
    log(0)
    print("logged", flush=True)
    sys.stdin.readline()
    log(100)
    print("logged", flush=True)
    sys.stdin.readline()
    log(200)
    receipt = run.finish()
    print(json.dumps(vars(receipt) | {{"ok": receipt.ok, "left": os.listdir(run.folder.parent)}}))
"""


def test_a_spool_that_is_removed_under_a_job_is_made_anew_and_loses_nothing(
    job, network, stored, server, tmp_path
):
    network.cut()
    popens = [job(REMOVED.format(run="r")), job(REMOVED.format(run="killed"))]
    for popen in popens:
        assert popen.stdout.readline() == "logged\n", popen.communicate()
    subprocess.run(["rm", "-rf", str(tmp_path / "spool")], check=True)
    for popen in popens:
        go_on(popen)
        assert popen.stdout.readline() == "logged\n", popen.communicate()
    # Until it is written again, what numbers meant goes with the process.
    assert eventually(lambda: list((tmp_path / "spool").glob("killed.*/journal.jsonl")))
    popens[1].kill()
    popens[1].communicate()
    [result] = [
        each
        for each in stepclock.sync(tmp_path / "spool", endpoint=server.url, token=server.key)
        if not each.busy
    ]
    assert result.ok, result
    assert stored("removed", "killed") == {step: step / 7 for step in range(200)}
    network.restore()
    go_on(popens[0])
    receipt = receipt_of(popens[0])
    assert receipt["ok"], receipt
    assert receipt["left"] == []
    assert stored("removed") == {step: step / 7 for step in range(300)}
