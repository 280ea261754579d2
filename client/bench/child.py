"""A process with one client: `child.py measure|log|read`, told by a JSON document on stdin.

measure: time every call of one case. log: log at a pace and say in shared memory what was logged,
to be killed. read: the steps that can be read back. The answer goes into the file `answer`.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

from trackers import TRACKERS, Servers

#: Calls that returned, and the Unix time in ns of the first and of the last of them.
PROGRESS = struct.Struct("=qqq")


def metrics(width: int, step: int) -> dict[str, float]:
    """One step's values; the names are the same in each."""
    values = {"loss": 1 / (step + 1), "accuracy": step / (step + 7), "lr": 0.1}
    values.update((f"layer{number}/norm", step + number / 7) for number in range(width - 4))
    values["last"] = float(step)
    return values


def measure(
    name: str,
    folder: Path,
    servers: Servers,
    *,
    width: int,
    pace_s: float,
    calls: int,
    most_s: float,
) -> dict[str, Any]:
    """Nanoseconds of every call, and what the process took besides."""
    tracker = TRACKERS[name](folder, servers)
    log, clock = tracker.log, time.perf_counter_ns
    gc.collect()
    took: list[int] = []
    end = clock() + int(most_s * 1e9)
    for step in range(calls):
        row = metrics(width, step)
        began = clock()
        log(row, step)
        ended = clock()
        took.append(ended - began)
        if ended > end:
            break
        if pace_s:
            time.sleep(pace_s)
    rss = rss_mib()
    began = clock()
    ok = tracker.finish()
    return {"took_ns": took, "rss_mib": rss, "finish_s": (clock() - began) / 1e9, "ok": ok}


def log_until_killed(
    name: str, folder: Path, servers: Servers, *, calls: int, pace_s: float
) -> None:
    """Log, and after each call that returned write down that it did."""
    with (folder / "progress").open("r+b") as file:
        progress = mmap.mmap(file.fileno(), PROGRESS.size)
    tracker = TRACKERS[name](folder, servers)
    first_ns = 0
    for step in range(calls):
        tracker.log(metrics(4, step), step)
        now_ns = time.time_ns()
        first_ns = first_ns or now_ns
        PROGRESS.pack_into(progress, 0, step + 1, first_ns, now_ns)
        time.sleep(pace_s)
    time.sleep(60.0)  # the end comes from outside


def rss_mib() -> float:
    """What this process and all that descend from it hold in memory."""
    return sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for pid in [os.getpid(), *descendants(os.getpid())]
    ) / (1 << 20)


def descendants(pid: int) -> list[int]:
    """The ids of a process' children, and of theirs."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, new = [], [pid]
    while new:
        new = [child for each in new for child in parents.get(each, [])]
        found += new
    return found


def main() -> None:
    """Do what the document says."""
    task = json.load(sys.stdin)
    name, folder, servers = task["tracker"], Path(task["folder"]), task["servers"]
    if task["do"] == "log":
        log_until_killed(name, folder, servers, **task["how"])
    elif task["do"] == "measure":
        answer: Any = measure(name, folder, servers, **task["how"])
        (folder / "answer").write_text(json.dumps(answer))
    else:
        (folder / "answer").write_text(json.dumps(TRACKERS[name].steps(folder, servers)))


if __name__ == "__main__":
    main()
