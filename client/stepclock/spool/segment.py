"""The files of a stream: segments by number, and locks that end with their process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def segment_path(folder: Path, number: int) -> Path:
    """Where a segment lies."""
    return folder / f"{number:08d}.seg"


def segment_numbers(folder: Path) -> list[int]:
    """The segments of a folder in order; none for a folder that is not there."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(int(n[:-4]) for n in names if n.endswith(".seg") and n[:-4].isdecimal())


def read_segment(
    folder: Path, number: int, memory: Mapping[int, bytes], start: int, size: int
) -> bytes | None:
    """What a segment holds by now, from an offset on; None for one that is gone.

    Raises OSError where it can't be told: too many open files, a disk that fails.
    """
    held = memory.get(number)
    if held is not None:
        return held[start : start + size]
    try:
        with segment_path(folder, number).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(size)
    except (FileNotFoundError, NotADirectoryError):
        return None


def lock(path: Path, *, create: bool = True) -> int:
    """A lock that the system releases when the process ends. Raises OSError if it is held."""
    fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0) | os.O_CLOEXEC, 0o600)
    try:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        os.close(fd)
        raise
    return fd


def has_locks() -> bool:
    """Whether this system has such locks: without them nobody can be told to be dead."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        os.close(lock(path, create=False))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def remove(folder: Path) -> None:
    """Remove a stream that is stored, but not what was refused of it.

    The segments first: a journal outlives the lines that it numbers, wherever this is cut off.
    """
    for number in segment_numbers(folder):
        segment_path(folder, number).unlink(missing_ok=True)
    if (folder / "refused.jsonl").exists():
        for path in folder.iterdir():
            if path.name not in {"refused.jsonl", "stream.json"}:
                path.unlink(missing_ok=True)
    else:
        import shutil  # dear to import

        shutil.rmtree(folder, ignore_errors=True)
