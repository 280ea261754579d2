"""The command `stepclock` against the embedded server, as client/README.md shows it."""

import csv
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import stepclock
from pyarrow import parquet

from native.ports import free_ports
from schemas.tenants.keys import Role, new_key
from tests.certificates import Authority
from tests.deadline import eventually
from tests.e2e.sdk.jobs import CLIENT, embedded_server, surroundings

README = (CLIENT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server, with keys of each kind and a run of two attempts."""
    folder = tmp_path_factory.mktemp("command")
    read_key, reader = new_key("reader", role=Role.READ)
    old_key, old = new_key("old", expires=datetime.now(UTC) - timedelta(days=1))
    with embedded_server(folder, reader, old) as running:
        running.read_key, running.old_key = read_key, old_key
        settings = {
            "endpoint": running.url,
            "token": running.key,
            "spool_dir": str(folder / "spool"),
            "handle_signals": False,
            "system_interval": 0,
        }
        for attempt, first, last, offset in [(0, 0, 60, 0.0), (1, 40, 100, 100.0)]:
            run = stepclock.init("resnet50", run_id="r12", attempt=attempt, **settings)
            for step in range(first, last):
                lr = 0.1 if step else float("nan")
                run.log({"train/loss": offset + step, "lr": lr}, step=step)
            assert run.finish().ok
        yield running


@pytest.fixture
def command(server, tmp_path):
    """Runs `stepclock` as a user would; its environment may be changed."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "stepclock", *arguments],
            env=surroundings(server, tmp_path, **environment),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def offline(folder, name, rows):
    """What a job without a server leaves in a spool."""
    run = stepclock.init(
        "offline",
        run_id=name,
        mode="offline",
        spool_dir=str(folder),
        handle_signals=False,
        system_interval=0,
    )
    for step in range(rows):
        run.log({"loss": 1 / (step + 1)}, step=step)
    run.finish()


# -- doctor ---------------------------------------------------------------------------------------


def test_the_doctor_sends_a_point_through_all_hops_and_reads_it_back(command):
    done = command("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for hop in ("spool", "resolve", "connect", "gateway", "clock", "write", "store", "read"):
        assert re.search(rf"^ok +{hop} ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^ok +store +[\d.]+ (ms|s) ", done.stdout, re.MULTILINE)
    assert "all is well" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("key", "said", "remedy"),
    [
        ("read_key", "may only read", "role write"),
        ("old_key", "expired at", "keys create"),
        (None, "the key is not known", "STEPCLOCK_TOKEN"),
    ],
)
def test_the_doctor_knows_keys_that_may_not_write(command, server, key, said, remedy):
    token = getattr(server, key) if key else new_key("stranger")[0]
    done = command("doctor", STEPCLOCK_TOKEN=token)
    assert done.returncode == 1
    assert said in done.stdout
    assert remedy in done.stdout
    assert token not in done.stdout + done.stderr


def test_a_flag_wins_over_the_environment_and_that_over_the_credentials_file(
    command, server, tmp_path
):
    (tmp_path / "key").write_text(server.key)
    folder = tmp_path / ".config" / "stepclock"
    folder.mkdir(parents=True)
    (folder / "credentials.toml").write_text(f'key = "{server.key}"\n')
    wrong = new_key("stranger")[0]
    assert command("doctor", STEPCLOCK_TOKEN=wrong).returncode == 1
    assert command("doctor", STEPCLOCK_TOKEN="").returncode == 0
    done = command("doctor", "--token-file", "key", STEPCLOCK_TOKEN=wrong)
    assert done.returncode == 0, done.stdout


def test_the_doctor_names_a_server_that_is_away(command):
    (port,) = free_ports(1)
    done = command("doctor", "--endpoint", f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "nothing listens" in done.stdout


def test_the_doctor_knows_certificates_and_ports_that_want_tls(tmp_path, command, server):
    authority = Authority.new(tmp_path / "authority")
    signed = authority.sign("gateway")
    environment = {
        "STEPCLOCK_DATA_DIR": str(tmp_path),
        "STEPCLOCK_KEYS_FILE": str(server.process.log_path.parent / "keys.toml"),
        "STEPCLOCK_TLS_CERT_FILE": str(signed.certificate),
        "STEPCLOCK_TLS_KEY_FILE": str(signed.key),
    }
    (port,) = free_ports(1)
    popen = subprocess.Popen(
        [sys.executable, "-m", "admin", "serve"],
        env=os.environ | environment | {"STEPCLOCK_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        https = f"https://127.0.0.1:{port}"
        eventually(
            lambda: (
                command("doctor", "--endpoint", https, "--ca-file", str(authority.file)).returncode
                == 0
            )
        )
        done = command("doctor", "--endpoint", https)
        assert done.returncode == 1
        assert "is not signed by the authorities that this system knows" in done.stdout
        assert "STEPCLOCK_CA_FILE" in done.stdout
        done = command("doctor", "--endpoint", f"http://127.0.0.1:{port}", "--timeout", "2")
        assert done.returncode == 1
        assert "the port wants TLS" in done.stdout
    finally:
        popen.terminate()
        popen.wait(30)


# -- sync -----------------------------------------------------------------------------------------


def test_sync_sends_a_spool_and_says_what_it_sent(command, tmp_path):
    for number in range(3):
        offline(tmp_path / "spool", f"sent-{number}", 50)
    done = command("sync", "-j", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(3):
        assert re.search(rf"^offline sent-{number}: \d+ lines sent$", done.stdout, re.MULTILINE)
    total = sum(
        int(count) for count in re.findall(r": (\d+) lines sent$", done.stdout, re.MULTILINE)
    )
    assert total > 150  # and what runs say of themselves
    assert f"3 streams, {total} lines sent\n" in done.stdout
    assert list((tmp_path / "spool").iterdir()) == []
    done = command("sync")
    assert (done.returncode, done.stdout) == (0, f"nothing to send in {tmp_path / 'spool'}\n")


def test_sync_leaves_what_it_can_not_send_and_says_so_by_its_exit_code(command, tmp_path):
    offline(tmp_path / "spool", "left", 10)
    (port,) = free_ports(1)
    done = command("sync", "--timeout", "0.3", "--endpoint", f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "lines are not sent, they stay in the spool" in done.stdout
    assert "no answer" in done.stdout
    assert command("sync").returncode == 0
    assert command("sync", "nosuch").returncode == 2


def test_sync_live_goes_on_until_the_job_ends(command, server, tmp_path):
    job = stepclock.init(
        "offline",
        run_id="live",
        mode="offline",
        spool_dir=str(tmp_path / "spool"),
        handle_signals=False,
        system_interval=0,
    )
    job.log({"loss": 1.0}, step=0)
    job.flush()
    out = tmp_path / "out"
    with out.open("wb") as file:
        popen = subprocess.Popen(
            [sys.executable, "-m", "stepclock", "sync", "--live"],
            env=surroundings(server, tmp_path),
            stdout=file,
        )
    try:
        eventually(lambda: "its job still writes" in out.read_text())
        job.log({"loss": 0.5}, step=1)
        job.finish()
        assert popen.wait(60) == 0
    finally:
        popen.kill()
        popen.wait()
    assert list((tmp_path / "spool").iterdir()) == []
    exported = command("export", "live").stdout
    assert exported == "step,loss\n0,1.0\n1,0.5\n"


def test_ctrl_c_ends_sync_with_130_and_nothing_is_lost(command, server, tmp_path):
    offline(tmp_path / "spool", "stopped", 10)
    (port,) = free_ports(1)
    popen = subprocess.Popen(
        [sys.executable, "-m", "stepclock", "sync", "--endpoint", f"http://127.0.0.1:{port}"],
        env=surroundings(server, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Its journal says that a request was made up; then it waits for the server.
    eventually(lambda: list((tmp_path / "spool").glob("*/journal.jsonl")))
    popen.send_signal(signal.SIGINT)
    out, err = popen.communicate(timeout=30)
    assert popen.returncode == 130
    assert "sync again to go on" in out
    assert "Traceback" not in err
    assert command("sync").returncode == 0
    assert len(command("export", "stopped").stdout.splitlines()) == 11


# -- runs, tail, export ---------------------------------------------------------------------------


def test_runs_lists_what_is_stored_the_newest_first_and_not_the_doctor_s(command):
    assert command("doctor").returncode == 0
    done = command("runs", "-n", "0")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["EXPERIMENT", "RUN", "STATE", "ATTEMPT", "STEPS", "AGE"]
    assert any(re.match(r"resnet50 +r12 +finished +1 +0 - 99 +\d", row) for row in rows)
    assert not any("stepclock-doctor" in row for row in rows)
    assert "stepclock-doctor" in command("runs", "stepclock-doctor").stdout
    assert command("runs", "nosuch").stdout == "no runs of nosuch\n"


def test_tail_shows_the_last_value_of_each_metric(command):
    done = command("tail", "r12", "--once")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "r12 finished step=99 lr=0.1 train/loss=199\n"
    only = command("tail", "r1", "--once", "--metric", "train/*", "--experiment", "resnet50")
    assert "lr=" not in only.stdout


def test_tail_follows_a_run_and_ctrl_c_ends_it(server, tmp_path):
    settings = {
        "endpoint": server.url,
        "token": server.key,
        "spool_dir": str(tmp_path / "job"),
        "handle_signals": False,
        "system_interval": 0,
    }
    with stepclock.init("followed", run_id="f1", **settings) as run:
        run.log({"loss": 4.0}, step=0)
        assert run.flush(30)
        out = tmp_path / "out"
        with out.open("wb") as file:
            popen = None
            while popen is None or popen.poll() == 1:  # until the first row is stored
                popen = subprocess.Popen(
                    [sys.executable, "-m", "stepclock", "tail", "f1", "--interval", "0.1"],
                    env=surroundings(server, tmp_path),
                    stdout=file,
                )
                eventually(lambda p=popen: "loss=4" in out.read_text() or p.poll() is not None)
        run.log({"loss": 2.5}, step=1)
        run.flush(30)
        eventually(lambda: "step=1 loss=2.5" in out.read_text())
        popen.send_signal(signal.SIGINT)
        assert popen.wait(30) == 130


JOB = """
import sys
import stepclock

with stepclock.init("jobs", run_id=sys.argv[1], system_interval=0) as run:
    run.log({"loss": 1.0}, step=run.attempt)
    run.flush()
    print("logged", flush=True)
    if sys.stdin.readline() == "raise\\n":
        raise ValueError("no memory")
"""


@pytest.fixture
def job(server, tmp_path):
    """Starts a job that logs a row and ends as its standard input says."""
    started = []

    def start(run):
        popen = subprocess.Popen(
            [sys.executable, "-c", JOB, run],
            env=surroundings(server, tmp_path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(popen)
        assert popen.stdout.readline() == "logged\n"
        return popen

    yield start
    for popen in started:
        popen.kill()
        popen.communicate()


def stands(command, run):
    """State and attempt of a run of those jobs, as `stepclock runs` shows them."""
    for line in command("runs", "jobs", "-n", "0").stdout.splitlines():
        if line.split()[1] == run:
            return line.split()[2:4]
    return None


@pytest.mark.parametrize(
    ("ending", "state", "said"),
    [
        ("end", "finished", "has finished"),
        ("raise", "failed", "has failed: ValueError: no memory"),
    ],
)
def test_a_run_s_state_is_told_and_tail_ends_with_its_job(
    command, job, server, tmp_path, ending, state, said
):
    name = f"job-{ending}"
    popen = job(name)
    assert eventually(lambda: stands(command, name) == ["running", "0"], 60)
    tail = subprocess.Popen(
        [sys.executable, "-m", "stepclock", "tail", name, "--interval", "0.1"],
        env=surroundings(server, tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        first = tail.stdout.readline()
        assert first == f"{name} running step=0 loss=1\n"
        popen.communicate(f"{ending}\n", timeout=60)
        out, _ = tail.communicate(timeout=60)
    finally:
        tail.kill()
        tail.wait()
    assert out.splitlines()[-1] == f"{name} {said}"
    assert tail.returncode == 0
    assert stands(command, name) == [state, "0"]
    for asked, shown in [(state, True), ("lost", False)]:
        listed = command("runs", "jobs", "-n", "0", "--state", asked).stdout
        assert (name in listed) is shown
    assert command("runs", "jobs", "--state", "lost").stdout == "no lost runs of jobs\n"
    assert command("runs", "--state", "losing").returncode == 2


def test_tail_waits_for_a_run_that_is_preempted_until_its_next_attempt_ends(
    command, job, server, tmp_path
):
    popen = job("taken")
    popen.terminate()
    assert popen.wait(60) == -signal.SIGTERM
    assert eventually(lambda: stands(command, "taken") == ["preempted", "0"], 60)
    tail = subprocess.Popen(
        [sys.executable, "-m", "stepclock", "tail", "taken", "--interval", "0.1"],
        env=surroundings(server, tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert tail.stdout.readline() == "taken preempted step=0 loss=1\n"
        popen = job("taken")
        assert eventually(lambda: stands(command, "taken") == ["running", "1"], 60)
        assert tail.poll() is None
        popen.communicate("end\n", timeout=60)
        out, _ = tail.communicate(timeout=60)
    finally:
        tail.kill()
        tail.wait()
    assert out.splitlines()[-1] == "taken has finished"
    assert stands(command, "taken") == ["finished", "1"]


def test_export_is_one_curve_of_all_attempts_with_what_is_not_finite(command, tmp_path):
    done = command("export", "r12", "--csv")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "r12 of resnet50: 100 rows, 2 metrics\n"
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == ["step", "lr", "train/loss"]
    assert rows[1] == ["0", "nan", "0.0"]
    assert [int(row[0]) for row in rows[1:]] == list(range(100))
    # From step 40 on the second attempt counts.
    assert [float(row[2]) for row in rows[1:]] == [*range(40), *range(140, 200)]
    assert command("export", "r12", "--csv", "r12.csv").stdout == ""
    assert (tmp_path / "r12.csv").read_text() == done.stdout


def test_export_says_what_it_lacks(command, tmp_path):
    done = command("export", "nosuch")
    assert done.returncode == 1
    assert "there is no run 'nosuch'" in done.stderr
    done = command("export", "r12", "--csv", "no/such/folder.csv")
    assert done.returncode == 1
    assert "can't be written" in done.stderr
    blocked = tmp_path / "blocked" / "pyarrow"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError")
    path = os.pathsep.join([str(CLIENT), str(blocked.parent)])
    done = command("export", "r12", "--parquet", "x.parquet", PYTHONPATH=path)
    assert done.returncode == 1
    assert "pip install 'stepclock[parquet]'" in done.stderr
    assert not (tmp_path / "x.parquet").exists()


def test_export_writes_parquet(server, tmp_path, monkeypatch):
    from stepclock.cli.main import main  # noqa: PLC0415

    monkeypatch.setenv("STEPCLOCK_TOKEN", server.key)
    path = tmp_path / "r12.parquet"
    assert main(["export", "r12", "--endpoint", server.url, "--parquet", str(path)]) == 0
    table = parquet.read_table(path)
    assert table.column_names == ["step", "lr", "train/loss"]
    assert table["step"].to_pylist() == list(range(100))
    assert table["train/loss"].to_pylist() == [*range(40), *range(140, 200)]


# -- the page -------------------------------------------------------------------------------------


def test_every_command_of_the_page_runs(command, tmp_path):
    (block,) = re.findall(r"^```sh\n(stepclock .*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "spool").mkdir()
    lines = block.splitlines()
    assert {shlex.split(line)[1] for line in lines} == {"doctor", "sync", "runs", "tail", "export"}
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        words = [word.replace("/scratch", str(tmp_path)) for word in words]
        done = command(*words)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
