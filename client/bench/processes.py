"""Clients in processes of their own: measured, or killed while they log."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from child import PROGRESS, descendants
from servers import Store
from trackers import MODULES, OPT_OUT, Servers

import stepclock

_CHILD = Path(__file__).with_name("child.py")

#: What is logged by a process that is to be killed.
KILL_CALLS, KILL_PACE_S = 1000, 0.003


class ClientFailed(Exception):
    """A client's process ended with an error; the message holds what it printed."""


@dataclass(frozen=True, slots=True)
class Kill:
    """What one SIGKILL left. told: calls that had returned; lost: rows of them that are gone.

    lost_ms: how long they took to log. gapless: whether the rows that are there are the first.
    """

    told: int
    lost: int
    lost_ms: float
    gapless: bool


class Processes:
    """Starts them. python: the interpreter in whose environment the clients are installed."""

    def __init__(self, folder: Path, python: Path, servers: Servers) -> None:
        self._folder = folder
        self._python = python
        self._servers = servers
        self._number = 0

    def measure(self, tracker: str, servers: Servers | None = None, **how: Any) -> dict[str, Any]:
        """One case with one client; see `child.measure`. Raises ClientFailed."""
        folder = self._new_folder(tracker)
        return dict(self._ask(self._task("measure", tracker, folder, servers, how), folder))

    def import_ms(self, tracker: str, times: int) -> list[float]:
        """How long its import takes in a fresh interpreter."""
        code = (
            "import time; began = time.perf_counter(); "
            f"import {MODULES[tracker]}; print((time.perf_counter() - began) * 1e3)"
        )
        return [float(self._run([self._python, "-c", code])) for _ in range(times)]

    def version(self, module: str) -> str:
        """A client's module and version."""
        code = f"import {module} as m; print(m.__name__, m.__version__)"
        return self._run([self._python, "-c", code]).strip()

    def kill(self, tracker: str, store: Store, chance: random.Random) -> Kill:
        """Kill a process while it logs, and see what is left of what it logged."""
        folder = self._new_folder(tracker)
        progress = folder / "progress"
        progress.write_bytes(bytes(PROGRESS.size))
        how = {"calls": KILL_CALLS, "pace_s": KILL_PACE_S}
        task = self._task("log", tracker, folder, None, how)
        with (
            (folder / "output").open("wb") as output,
            subprocess.Popen(
                [self._python, _CHILD],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment(),
            ) as process,
        ):
            assert process.stdin is not None
            process.stdin.write(json.dumps(task).encode())
            process.stdin.close()
            while PROGRESS.unpack(progress.read_bytes())[0] == 0:
                if process.poll() is not None:
                    raise ClientFailed((folder / "output").read_text("utf-8", "replace")[-2000:])
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, KILL_CALLS * KILL_PACE_S))
            helpers = descendants(process.pid)
            process.kill()
        _wait_for(helpers)
        told, first_ns, last_ns = PROGRESS.unpack(progress.read_bytes())
        if tracker == "stepclock":
            server = self._servers["stepclock"]
            stepclock.sync(folder / "spool", endpoint=server["endpoint"], token=server["token"])
            steps = store.steps(folder.name)
        else:
            steps = self._ask(self._task("read", tracker, folder, None, {}), folder)
        kept = set(steps)
        lost = len(set(range(told)) - kept)
        return Kill(
            told,
            lost,
            lost_ms=lost * (last_ns - first_ns) / max(1, told - 1) / 1e6,
            gapless=kept == set(range(len(kept))) and len(steps) == len(kept),
        )

    def _task(
        self, do: str, tracker: str, folder: Path, servers: Servers | None, how: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "do": do,
            "tracker": tracker,
            "folder": str(folder),
            "servers": servers or self._servers,
            "how": how,
        }

    def _new_folder(self, tracker: str) -> Path:
        self._number += 1
        name = "".join(c if c.isalnum() else "-" for c in tracker.lower())
        folder = self._folder / f"{name}-{self._number}"
        folder.mkdir()
        return folder

    def _ask(self, task: dict[str, Any], folder: Path) -> Any:
        self._run([self._python, _CHILD], json.dumps(task))
        return json.loads((folder / "answer").read_text())

    def _run(self, command: Sequence[str | Path], text: str = "") -> str:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            env=self._environment(),
            timeout=300.0,
            check=False,
        )
        if done.returncode:
            raise ClientFailed(f"{task_name(text)}{done.stderr[-2000:]}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("STEPCLOCK_")}
        home = {"HOME": str(self._folder), "PYTHONPATH": str(Path(stepclock.__file__).parents[1])}
        return {**kept, **OPT_OUT, **home}


def task_name(text: str) -> str:
    """Which task failed, for a message."""
    return f"{json.loads(text)['tracker']}: " if text else ""


def _wait_for(pids: list[int], most_s: float = 15.0) -> None:
    """Let helpers that outlive their client finish; end those that don't."""
    deadline = time.monotonic() + most_s
    for pid in pids:
        while Path(f"/proc/{pid}").exists():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.02)
