"""Who a run is: an id that a restart of the same job finds again, its rank, its attempt."""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Longest name of an experiment or a run in bytes: it travels in a header of each request.
MAX_NAME = 250

#: Measurements of Stepclock's own.
_RESERVED = frozenset({"nonfinite", "run_config", "run_state", "checkpoint", "delivery"})

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]|#!~")

# How often an id was given in this process: a second run of one job gets a name of its own,
# the same one after a restart.
_given: dict[tuple[str, str], int] = {}


@dataclass(frozen=True)
class Identity:
    """Experiment, run, rank and attempt: the names under which everything is stored.

    attempt: how often the job was started before, from 0.
    """

    experiment: str
    run: str
    rank: int
    attempt: int


def identify(
    experiment: str,
    name: str | None,
    run_id: str | None,
    attempt: int | None,
    state_dir: Path,
    environ: Mapping[str, str] = os.environ,
) -> Identity:
    """The identity of a run that starts now. Raises ValueError for a name that can't be.

    run_id: or STEPCLOCK_RUN_ID, or what a SLURM job, torchrun or a pod has for all its
    restarts, or a new one. attempt: or STEPCLOCK_ATTEMPT, or what the scheduler counted, or, as
    far as this machine knows, how often the run was started before.
    """
    check_experiment(experiment)
    rank = rank_of(environ)
    chosen = run_id or environ.get("STEPCLOCK_RUN_ID")
    inherited = None if chosen else _id_of_job(environ)
    if chosen or inherited:
        run = chosen or f"{inherited}-{name}" if name and not chosen else chosen or inherited
        assert run is not None
        if inherited:
            run = _numbered(experiment, run)
        check_name("run", run)
        counted = attempt if attempt is not None else _counted(environ)
        if counted is None:
            counted = _count_here(state_dir, f"{experiment}\n{run}\n{rank}")
    else:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        run = f"{name or 'run'}-{stamp}-{os.urandom(3).hex()}"
        check_name("run", run)
        counted = attempt or 0
    return Identity(experiment, run, rank, max(0, counted))


def rank_of(environ: Mapping[str, str]) -> int:
    """The rank that torchrun, SLURM or MPI gave this process; 0 for a job of one."""
    for variable in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        if variable == "SLURM_PROCID" and environ.get("SLURM_JOB_NAME") in {"bash", "interactive"}:
            continue  # a shell within an allocation is no launched rank
        text = environ.get(variable, "")
        if text.isdecimal():
            return int(text)
    return 0


def check_experiment(experiment: str) -> None:
    """Raises ValueError for what can't be an experiment, and says why."""
    check_name("experiment", experiment)
    if experiment in _RESERVED or experiment.startswith(("_", "#")):
        raise ValueError(f"an experiment can't be called {experiment!r}: the name is reserved")


def check_name(what: str, name: str) -> None:
    """Raises ValueError for a name that no line or header can carry."""
    if not isinstance(name, str) or not name or name != name.strip():
        raise ValueError(f"{what} must be text without spaces around it, not {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = MAX_NAME + 1
    if size > MAX_NAME:
        raise ValueError(f"{what} must be UTF-8 of at most {MAX_NAME} bytes: {name[:80]!r}")
    if _CONTROL.search(name):
        raise ValueError(f"{what} must not hold control characters, backslashes or #!~: {name!r}")


def _id_of_job(environ: Mapping[str, str]) -> str | None:
    """What all starts of the same job have in common."""
    job = environ.get("SLURM_JOB_ID")
    if job:
        array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
        return f"slurm-{array}_{task}" if array and task else f"slurm-{job}"
    torchrun = environ.get("TORCHELASTIC_RUN_ID")
    if torchrun and torchrun != "none":  # torchrun's default, the same for all jobs
        return torchrun
    pod = environ.get("POD_NAME")
    if pod:
        unique = environ.get("POD_UID", "")[:8]
        return f"{pod}-{unique}" if unique else pod
    return None


def _numbered(experiment: str, run: str) -> str:
    number = _given[experiment, run] = _given.get((experiment, run), 0) + 1
    return run if number == 1 else f"{run}-{number}"


def _counted(environ: Mapping[str, str]) -> int | None:
    """The attempt as somebody else counted it.

    A job that SLURM requeues starts torchrun anew, whose own count begins at 0 again: a requeue
    weighs more than any number of restarts within.
    """
    given = environ.get("STEPCLOCK_ATTEMPT", "")
    if given.isdecimal():
        return int(given)
    requeued = environ.get("SLURM_RESTART_COUNT", "")
    restarted = environ.get("TORCHELASTIC_RESTART_COUNT", "")
    if restarted.isdecimal() and (environ.get("TORCHELASTIC_RUN_ID", "none") != "none" or requeued):
        return int(restarted) + (1000 * int(requeued) if requeued.isdecimal() else 0)
    # SLURM sets it from the first requeue on.
    if requeued.isdecimal():
        return int(requeued)
    return 0 if environ.get("SLURM_JOB_ID") else None


def _count_here(state_dir: Path, key: str) -> int:
    """How often this was asked before on this machine; 0 where that can't be kept."""
    import hashlib

    path = state_dir / "attempts" / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One byte for each start: appending needs no lock.
        with path.open("ab") as file:
            file.write(b".")
            return file.tell() - 1
    except OSError:
        return 0


def run_prefix(experiment: str, run: str) -> str:
    """What the names of all streams of a run begin with, and of few others."""
    digest = zlib.crc32(f"{experiment}\n{run}".encode())
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", run)[:80].strip(".") or "run"
    return f"{readable}.{digest:08x}."


def stream_name(identity: Identity, start_ns: int) -> str:
    """A name that no other start of a process has, fit for a header and for a folder."""
    return (
        f"{run_prefix(identity.experiment, identity.run)}r{identity.rank}.a{identity.attempt}"
        f".{start_ns}-{os.getpid()}-{os.urandom(2).hex()}"
    )
