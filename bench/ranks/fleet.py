"""The ranks of a job as processes, and what the server takes of the CPU meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stepclock

from bench.consumer.drain import Stalled
from bench.lab import machine
from bench.lab.figures import share_percent
from bench.lab.services import Tell
from native.process import log_tail, spawn
from schemas.store.protocols import StoreReader

_ROOT = Path(__file__).resolve().parents[2]

_LOOK_S = 0.05
_START_S = 180.0
_END_S = 240.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where ranks send to, the processes whose CPU is told by name, and the store behind."""

    url: str
    key: str
    pids: Mapping[str, int]
    reader: StoreReader


@dataclass(frozen=True, slots=True)
class Job:
    """What the ranks accounted for, and shares of a core that were used while they logged."""

    accounts: list[dict[str, Any]]
    cpu_percent: Mapping[str, float]
    machine_percent: float


def run_job(
    folder: Path, server: Server, processes: int, options: Mapping[str, int], tell: Tell
) -> Job:
    """All ranks from their start to their accounts; options are those of `rank_job`.

    Raises Stalled.
    """
    folder.mkdir()
    start = folder / "start"
    tell(f"starting {processes} processes")
    arguments = {**options, "start": start}
    ranks = [_rank(folder, rank, processes, server, arguments) for rank in range(processes)]
    try:
        _wait(folder, ranks, "ready", _START_S)
        tell("logging")
        began, busy_s = time.monotonic(), machine.busy_s()
        cpu_s = {name: machine.cpu_s(pid) for name, pid in server.pids.items()}
        start.touch()
        _wait(folder, ranks, "logged", options["steps"] / options["steps-per-s"] + _END_S)
        took_s = time.monotonic() - began
        cpu_percent = {
            name: share_percent(machine.cpu_s(pid) - cpu_s[name], took_s)
            for name, pid in server.pids.items()
        }
        machine_percent = share_percent(machine.busy_s() - busy_s, took_s)
        tell("waiting for the receipts")
        accounts = [json.loads(path.read_text("utf-8")) for path in _wait(folder, ranks, "json")]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return Job(accounts, cpu_percent, machine_percent)


def _rank(
    folder: Path, rank: int, processes: int, server: Server, options: Mapping[str, object]
) -> subprocess.Popen[bytes]:
    arguments = {**options, "files": folder / str(rank)}
    return spawn(
        [sys.executable, "-m", "bench.ranks.rank", *(f"--{k}={v}" for k, v in arguments.items())],
        log_path=folder / f"{rank}.log",
        env={
            "PYTHONPATH": str(Path(stepclock.__file__).parents[1]),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "STEPCLOCK_ENDPOINT": server.url,
            "STEPCLOCK_TOKEN": server.key,
            "STEPCLOCK_SPOOL_DIR": str(folder / "spool"),
        },
        cwd=_ROOT,
    )


def _wait(
    folder: Path, ranks: list[subprocess.Popen[bytes]], kind: str, within_s: float = _END_S
) -> list[Path]:
    """Such a file of every rank, once they are there. Raises Stalled."""
    paths = [folder / f"{rank}.{kind}" for rank in range(len(ranks))]
    deadline = time.monotonic() + within_s
    for rank, path in enumerate(paths):
        while not path.exists():
            code = ranks[rank].poll()
            if code or time.monotonic() > deadline:
                words = log_tail(folder / f"{rank}.log", 5)
                raise Stalled(f"rank {rank} is not {kind} after {within_s:.0f} s: {words}")
            time.sleep(_LOOK_S)
    return paths
