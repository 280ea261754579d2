from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.ports import LOOPBACK, first_ephemeral_port, free_ports
from native.process import Process, StartFailed
from native.step import PreparationFailed, exclusive, run_step
from tests.deadline import eventually

ROOT = Path(__file__).parents[3]
PATIENCE_S = 20.0
SLEEPER = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]


def state(pid: int) -> str:
    """R running, S sleeping, T stopped, Z not reaped yet (proc(5)); '' for no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    return state(pid) not in {"", "Z"}


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    log = tmp_path / "sleeper.log"
    with Process("sleeper", SLEEPER, log_path=log, ready=lambda: log.read_bytes() != b"") as it:
        yield it


def test_a_process_is_ready_when_it_says_so(sleeper: Process) -> None:
    assert sleeper.start() > 0
    assert sleeper.running
    assert is_alive(sleeper.pid)


def test_stop_ends_a_frozen_process_in_order(sleeper: Process) -> None:
    sleeper.start()
    pid = sleeper.pid
    sleeper.pause()
    began = time.monotonic()
    sleeper.stop(grace_s=PATIENCE_S)
    assert time.monotonic() - began < PATIENCE_S
    assert not sleeper.running
    assert not is_alive(pid)


def test_a_paused_process_stands_still_until_it_is_resumed(sleeper: Process) -> None:
    sleeper.start()
    for _ in range(2):
        sleeper.pause()
        assert state(sleeper.pid) == "T"
        sleeper.resume()
        assert eventually(lambda: state(sleeper.pid) == "S")


def test_stop_kills_what_ignores_it(tmp_path: Path) -> None:
    log = tmp_path / "stubborn.log"
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(600)"
    )
    stubborn = Process(
        "stubborn",
        [sys.executable, "-c", program],
        log_path=log,
        ready=lambda: log.read_bytes() != b"",
    )
    stubborn.start()
    stubborn.stop(grace_s=0.1)
    assert not stubborn.running


def test_stop_and_kill_may_be_repeated(sleeper: Process) -> None:
    sleeper.stop()
    sleeper.start()
    for _ in range(2):
        sleeper.kill()
        sleeper.stop()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = sleeper.pid


def test_a_process_can_be_started_again(sleeper: Process) -> None:
    sleeper.start()
    first = sleeper.pid
    sleeper.restart()
    assert sleeper.pid != first


def test_a_process_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    broken = Process(
        "broken",
        [sys.executable, "-c", "raise SystemExit('no such thing')"],
        log_path=tmp_path / "broken.log",
        ready=lambda: False,
    )
    with pytest.raises(StartFailed, match=r"(?s)broken ended with status 1.*no such thing"):
        broken.start()


def test_a_process_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    slow = Process(
        "slow", SLEEPER, log_path=tmp_path / "slow.log", ready=lambda: False, ready_timeout_s=0.2
    )
    with pytest.raises(StartFailed, match=r"was not ready after 0\.2 s"):
        slow.start()
    assert not slow.running


def test_a_child_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from native.process import spawn\n"
        f"print(spawn({SLEEPER!r}, log_path=Path({str(tmp_path / 'log')!r})).pid, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
        assert eventually(lambda: not is_alive(child))


def test_a_child_outlives_the_thread_that_started_it(sleeper: Process) -> None:
    starter = threading.Thread(target=sleeper.start)
    starter.start()
    starter.join()
    sleeper.pause()
    sleeper.resume()
    assert is_alive(sleeper.pid)


def test_free_ports_differ_and_are_none_that_an_outgoing_connection_gets() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert max(ports) < first_ephemeral_port()
    for port in ports:
        socket.create_server((LOOPBACK, port)).close()


def test_a_step_that_fails_shows_what_it_said(tmp_path: Path) -> None:
    said: list[str] = []
    argv = [sys.executable, "-c", "raise SystemExit('out of disk')"]
    with pytest.raises(PreparationFailed, match=r"(?s)compiling failed with status 1.*out of disk"):
        run_step("compiling", argv, log_path=tmp_path / "log", report=said.append)
    assert said == ["compiling …"]


def test_a_step_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(PreparationFailed, match=r"took longer than 0\.1 s"):
        run_step(
            "compiling", SLEEPER, log_path=tmp_path / "log", report=lambda _: None, timeout_s=0.1
        )


def test_two_preparations_never_run_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    entered = threading.Event()

    def prepare() -> None:
        with exclusive(tmp_path, said.append) as work:
            assert list(work.iterdir()) == []
            entered.set()

    second = threading.Thread(target=prepare)
    with exclusive(tmp_path, said.append) as work:
        (work / "half").touch()
        second.start()
        assert eventually(lambda: said == [f"waiting for another process that prepares {tmp_path}"])
        assert not entered.is_set()
    second.join()
    assert entered.is_set()
    assert not work.exists()
