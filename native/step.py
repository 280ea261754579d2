"""One step of a preparation that runs another program, with a line of progress now and then.

What was prepared is kept between runs in the user's cache folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from native.process import log_tail, spawn

Report = Callable[[str], None]

PROGRESS_EVERY_S = 5.0


def cache_folder(service: str) -> Path:
    """The folder of one service, such as ~/.cache/stepclock/kafka (moved by XDG_CACHE_HOME)."""
    return platformdirs.user_cache_path("stepclock") / service


class PreparationFailed(Exception):
    """A service could not be prepared; the message says which step and why."""


def run_step(
    title: str,
    argv: Sequence[str],
    *,
    log_path: Path,
    report: Report,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 3600.0,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Run a program to its end, reporting every few seconds what it said last.

    Raises PreparationFailed with the tail of its output when it fails or takes too long. The
    program and its children are ended when we are interrupted.
    """
    report(f"{title} …")
    began = reported = now()
    child = spawn(argv, log_path=log_path, env=env, cwd=cwd)
    try:
        while child.poll() is None:
            try:
                child.wait(0.1)
            except subprocess.TimeoutExpired:
                if now() - began > timeout_s:
                    raise PreparationFailed(
                        f"{title} took longer than {timeout_s:g} s:\n{log_tail(log_path)}"
                    ) from None
                if now() - reported >= PROGRESS_EVERY_S:
                    reported = now()
                    report(f"{title} … {reported - began:.0f} s  {log_tail(log_path, 1).strip()}")
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if child.returncode != 0:
        raise PreparationFailed(
            f"{title} failed with status {child.returncode}; {log_path}:\n{log_tail(log_path)}"
        )
    report(f"{title}: {now() - began:.1f} s")


@contextmanager
def exclusive(folder: Path, report: Report) -> Iterator[Path]:
    """Hold the only right to prepare things in a folder, among all processes of this machine.

    Gives an empty folder within it to work in, removed at the end: what is finished is renamed
    out of it, so that an interrupted preparation leaves nothing that looks whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "unfinished"
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that prepares {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(work, ignore_errors=True)  # of one that was killed
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work)
