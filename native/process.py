"""A child process: started until ready, frozen, killed, restarted, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

CHILD = Path(__file__).with_name("child.py")
POLL_S = 0.02

# The kernel ends a child with the *thread* that started it, so all of them are started on one
# thread that lives as long as this process does.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="native-spawner")


class StartFailed(Exception):
    """A process ended, or was not ready in time; the message holds the tail of its log."""


def spawn(
    argv: Sequence[str],
    *,
    log_path: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that dies with us, in a process group of its own, output into a file.

    `env` is added to our own environment. Ctrl-C in a terminal does not reach the child.
    """
    command = [sys.executable, "-I", "-S", str(CHILD), str(os.getpid()), *argv]
    environment = {**os.environ, **(env or {})}

    def popen() -> subprocess.Popen[bytes]:
        with log_path.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 -- every caller names the program itself
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )

    return _spawner.submit(popen).result()


def log_tail(log_path: Path, lines: int = 25) -> str:
    """The last lines of a log file, '' where there is none."""
    if not log_path.exists():
        return ""
    with log_path.open("rb") as file:
        file.seek(max(0, log_path.stat().st_size - 64 * 1024))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


class Process:
    """A service in the background, ended by its pid only. Used by one thread at a time.

    `ready` is asked every 20 ms after a start and says whether the service answers; it returns
    False, rather than raise, while nothing listens yet.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_path: Path,
        ready: Callable[[], bool],
        ready_timeout_s: float = 60.0,
        env: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._argv = list(argv)
        self._ready = ready
        self._ready_timeout_s = ready_timeout_s
        self._env = env
        self._now = now
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process exists, frozen or not."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """Process id. RuntimeError when it does not run."""
        if self._popen is None or self._popen.poll() is not None:
            raise RuntimeError(f"{self.name} does not run")
        return self._popen.pid

    def start(self) -> float:
        """Start and wait until ready; returns the seconds that took. Raises StartFailed."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        began = self._now()
        self._popen = spawn(self._argv, log_path=self.log_path, env=self._env)
        while not self._ready():
            if self._popen.poll() is not None:
                raise self._start_failed(f"ended with status {self._popen.returncode}")
            if self._now() - began > self._ready_timeout_s:
                self.kill()
                raise self._start_failed(f"was not ready after {self._ready_timeout_s:g} s")
            time.sleep(POLL_S)
        # Whoever answered may have been someone else on our port, with ours about to give up.
        if self._popen.poll() is not None:
            raise self._start_failed(f"ended with status {self._popen.returncode}")
        return self._now() - began

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL if it still runs after grace_s seconds. Idempotent."""
        if self._popen is None:
            return
        self._signal(signal.SIGCONT)  # a frozen process takes no SIGTERM
        self._signal(signal.SIGTERM)
        try:
            self._popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Idempotent."""
        if self._popen is None:
            return
        self._signal(signal.SIGKILL)
        self._popen.wait()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its ports accept connections, nothing answers.

        Returns once every thread of it stands still, which the signal alone does not promise.
        """
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> float:
        """Stop it if it runs and start it on the same ports and data; seconds until ready."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        """The process as it is; leaving the block stops it."""
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is not None:
            self._popen.send_signal(number)  # does nothing once the process has been reaped

    def _start_failed(self, what: str) -> StartFailed:
        return StartFailed(f"{self.name} {what}; {self.log_path}:\n{log_tail(self.log_path)}")


@dataclass(frozen=True, slots=True)
class Service:
    """A running process that others talk to. Leaving its block stops it."""

    process: Process

    def __enter__(self) -> Self:
        """The service itself."""
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()
