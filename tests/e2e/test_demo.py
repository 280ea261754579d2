"""The demo as its user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stepclock

import native.kafka
from native.influxd_binary import binary as influxd_binary

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LEDGER = re.compile(r"ledger: logged=(\d+) stored=(\d+) nonfinite=(\d+) missing=0")
#: A row of the table of receipts: run, steps logged, lines, lines stored, nothing else.
RECEIPT = re.compile(r"│ (\S+) +│ +([\d,]+) │ +([\d,]+) │ +([\d,]+) │ +│")
RUNS = {"lr-0.02", "lr-0.1", "lr-0.5", "lr-8", "guest-lr-0.2"}
DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def _client(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(stepclock.__file__).parents[1]))


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "admin", "demo", *options]


def processes_of(folder: Path) -> Iterator[int]:
    """Processes that name the demo's folder in their arguments or environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:  # it ended, or is another user's
            continue
        if bytes(folder) in words:
            yield int(process.name)


def check_report(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == 0, finished.stderr
    last_line = finished.stdout.splitlines()[-1]
    ledger = LEDGER.fullmatch(last_line)
    assert ledger is not None, last_line
    logged, stored, nonfinite = map(int, ledger.groups())
    assert logged == stored > 0
    assert nonfinite > 0
    receipts = {
        run: [int(count.replace(",", "")) for count in counts]
        for run, *counts in RECEIPT.findall(finished.stdout)
    }
    assert receipts.keys() == RUNS
    assert all(lines == stored for _steps, lines, stored in receipts.values())
    assert sum(steps for steps, _lines, _stored in receipts.values()) == logged
    assert "train/loss by step" in finished.stdout
    assert re.search(r"p50 .* to .*, p99 .* to .* m?s, from receipt", finished.stdout)
    assert re.search(r"guest-lr-0\.2 was told to wait \d+ times", finished.stdout)


def run(
    seconds: str, *options: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("--seconds", seconds, "--keep", str(folder / "demo"), *options),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )


def test_the_demo_ends_with_receipts_and_a_ledger_in_which_nothing_is_missing(tmp_path) -> None:
    check_report(run("2", folder=tmp_path))
    assert not list(processes_of(tmp_path))


def test_ctrl_c_ends_every_process_and_the_exit_code_is_130(tmp_path) -> None:
    folder = tmp_path / "demo"
    with subprocess.Popen(
        command("--seconds", "600", "--keep", str(folder)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + DEADLINE_S
        while len(list(folder.glob("runs/*.ledger.jsonl"))) < 5:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(set(processes_of(tmp_path)) - {process.pid}) >= 6  # serve and five trainers
        process.send_signal(signal.SIGINT)
        _output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert not list(processes_of(tmp_path))


def check_loss_of_a_consumer(finished: subprocess.CompletedProcess[str]) -> None:
    check_report(finished)
    assert re.search(r"consumer \d \(pid \d+\) was killed with -9", finished.stderr)


@pytest.mark.timeout(600)
def test_on_services_of_ones_own_nothing_is_missing_although_a_consumer_is_killed(
    kafka, influx, tmp_path
) -> None:
    services = ("--kafka", kafka.bootstrap_servers, "--influx", influx.url, "--org", influx.org)
    finished = run("4", *services, folder=tmp_path, STEPCLOCK_INFLUX_TOKEN=influx.token)
    check_loss_of_a_consumer(finished)
    assert re.search(r"Runs of experiment digits-\d{8}-\d{6}", finished.stdout)
    assert not list(processes_of(tmp_path))


@pytest.mark.skipif(
    bool(native.kafka.missing()) or not influxd_binary().exists(),
    reason="needs Java and Maven, and InfluxDB as `make services` builds it",
)
@pytest.mark.timeout(600)
def test_on_native_services_nothing_is_missing_although_a_consumer_is_killed(tmp_path) -> None:
    check_loss_of_a_consumer(run("6", "--real", folder=tmp_path))
    assert not list(processes_of(tmp_path))
