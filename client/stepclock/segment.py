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

    Raises OSError where the disk does not say: that is no reason to take it as gone.
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


def lock(path: Path) -> int:
    """A lock that the system releases when the process ends. Raises OSError if it is held."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        os.close(fd)
        raise
    return fd


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        os.close(lock(path))
    except OSError:
        return path.exists()
    return False
