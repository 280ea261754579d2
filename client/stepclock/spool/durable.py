"""Forces a stream's files to the disk, for rows that shall outlive the machine, not only the job.

What `write()` took outlives the process; the system brings it to the disk within half a minute,
by itself. With the setting `fsync` a thread has it do so every so many seconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from stepclock.spool.segment import segment_numbers, segment_path

_log = logging.getLogger("stepclock")


def force(path: Path) -> None:
    """Return when the disk has the file, or the names in the folder. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        getattr(os, "fdatasync", os.fsync)(fd)
    finally:
        os.close(fd)


class Durability:
    """Forces what came to one stream's segments, again and again. It writes nothing itself."""

    def __init__(self, folder: Path, interval_s: float) -> None:
        self._folder = folder
        self._interval_s = interval_s
        self._forced: dict[int, int] = {}  # segment -> bytes of it that the disk has
        self._begun = False
        self._told = False
        self._stopped = threading.Event()
        #: Seconds of CPU that the thread took.
        self.cpu_s = 0.0
        self.thread = threading.Thread(target=self._run, name="stepclock-fsync", daemon=True)

    def stop(self) -> None:
        """End it after it has forced all that is there by now."""
        self._stopped.set()

    def turn(self) -> None:
        """Force what came since the last turn. A disk that can't is told once."""
        try:
            self._force_segments()
        except OSError as exc:
            if not self._told:
                self._told = True
                _log.warning("stepclock: the spool can't be forced to the disk: %s", exc)

    def _force_segments(self) -> None:
        numbers = segment_numbers(self._folder)
        forced = {}
        for number in numbers:
            path = segment_path(self._folder, number)
            try:
                size = path.stat().st_size
                if self._forced.get(number) != size:
                    force(path)
            except FileNotFoundError:  # acknowledged meanwhile
                continue
            forced[number] = size
        if not self._begun:
            force(self._folder / "stream.json")
        # A file is found after a crash once the disk has its name, too.
        if not self._begun or forced.keys() - self._forced.keys():
            force(self._folder)
        if not self._begun:
            force(self._folder.parent)
            force(self._folder.parent.parent)
            self._begun = True
        self._forced = forced

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stopped.wait(self._interval_s)
            self.turn()
            self.cpu_s = time.thread_time()
