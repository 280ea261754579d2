"""PostgreSQL as a local process on a socket of its own, set up for writing, then thrown away."""

from __future__ import annotations

import importlib
import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from native.process import Process
from native.step import PreparationFailed, Report, run_step

_DEBIAN = Path("/usr/lib/postgresql")
_READY_TIMEOUT_S = 30.0

#: What the manual and its practitioners tell for a machine that writes much; synchronous_commit
#: is each session's own.
SETTINGS = {
    "shared_buffers": "2GB",
    "effective_cache_size": "8GB",
    "wal_buffers": "64MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "wal_compression": "lz4",
    "max_connections": "30",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "jit": "off",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server; dsn is for psycopg."""

    process: Process
    dsn: str
    version: str

    def connect(self) -> Any:
        """A connection on which every statement is a transaction of its own."""
        return _driver().connect(self.dsn, autocommit=True)


@contextmanager
def start_postgres(tell: Report) -> Iterator[Cluster]:
    """A new cluster in a folder of its own. Raises PreparationFailed, StartFailed.

    The server refuses to run as root: then it runs as postgres or nobody.
    """
    driver, binaries = _driver(), _binaries()
    folder = Path(tempfile.mkdtemp(prefix="stepclock-postgres-"))
    try:
        prefix = _unprivileged(folder)
        tell("starting PostgreSQL")
        run_step(
            "initdb",
            [
                *prefix,
                *(str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "bench"),
                *("-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"),
            ],
            log_path=folder / "initdb.log",
            report=tell,
            timeout_s=60.0,
        )
        dsn = f"host={folder} user=bench dbname=postgres"
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        process = Process(
            "PostgreSQL",
            [
                *prefix,
                *(str(binaries / "postgres"), "-D", str(folder / "data"), "-k", str(folder)),
                *("-h", "", *options),
            ],
            log_path=folder / "postgres.log",
            ready=lambda: _answers(driver, dsn),
            ready_timeout_s=_READY_TIMEOUT_S,
        )
        with process:
            process.start()
            with driver.connect(dsn) as connection:
                version = connection.info.parameter_status("server_version") or "?"
            yield Cluster(process, dsn, version.partition(" ")[0])
    finally:
        shutil.rmtree(folder)


def _driver() -> Any:
    """psycopg, which nothing but this part needs."""
    try:
        return importlib.import_module("psycopg")
    except ImportError as exc:
        raise PreparationFailed(
            "psycopg is missing: `make bench-postgres` installs it and runs this part"
        ) from exc


def _binaries() -> Path:
    """The folder of the newest server, as Debian lays them, or as PATH says."""
    found = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    path = shutil.which("postgres")
    if path is None:
        raise PreparationFailed("there is no PostgreSQL; on Debian: apt-get install postgresql")
    return Path(path).resolve().parent


def _unprivileged(folder: Path) -> list[str]:
    """What to put before a command so that it runs without root, owning the folder."""
    if os.geteuid() != 0:
        return []
    names = [user.pw_name for user in pwd.getpwall()]
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    # It replaces itself by the command, so the pid is the server's; and a change of user takes
    # back the kernel's promise to end it with us, which is asked for again.
    return [
        *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
        *("--pdeathsig", "INT", "--"),
    ]


def _answers(driver: Any, dsn: str) -> bool:
    try:
        driver.connect(dsn, connect_timeout=2).close()
    except driver.OperationalError:
        return False
    return True


def cpu_s(pid: int) -> float:
    """CPU seconds of a server so far: of itself, its sessions that ended, and those that live."""
    ticks = os.sysconf("SC_CLK_TCK")
    own = _fields(pid)
    spent = sum(own[11:15])  # utime, stime, and both of the children it has waited for
    for child in Path("/proc").glob("[0-9]*"):
        try:
            fields = _fields(int(child.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if fields[1] == pid:
            spent += fields[11] + fields[12]
    return spent / ticks


def _fields(pid: int) -> list[int]:
    """/proc/PID/stat behind the state, from number 3 (0 stands for the state itself)."""
    text = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    return [int(field) if re.fullmatch(r"-?\d+", field) else 0 for field in text.split()]
