"""One rank of a job that logs through the client: ``python -m bench.ranks.rank …``.

It says that it is ready, waits for the start, logs at an even pace, and leaves its account in a
file. It imports nothing but the client, so that its memory is that of a job that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

EXPERIMENT, RUN = "ranks", "job"

_LOOK_S = 0.02


def value(rank: int, step: int, number: int) -> float:
    """What a rank logs for a metric at a step; nobody else logs the same of it."""
    return number + rank / 1000 + step / 1_000_000


def main() -> None:
    """Log so many steps of so many metrics, finish, account."""
    arguments = _parser().parse_args()
    interpreter_mib = _peak_mib()
    import stepclock  # noqa: PLC0415 -- what the interpreter takes without it is known now

    run = stepclock.init(EXPERIMENT, run_id=RUN, attempt=0, ranks="all", finish_timeout=120.0)
    names = [f"layer{number}/grad_norm" for number in range(arguments.metrics)]
    _file(arguments, "ready").touch()
    while not arguments.start.exists():
        time.sleep(_LOOK_S)
    began, cpu_began_s = time.monotonic(), time.process_time()
    took_s: list[float] = []
    late_s = 0.0
    for step in range(arguments.steps):
        due = began + step / arguments.steps_per_s
        time.sleep(max(0.0, due - time.monotonic()))
        late_s = max(late_s, time.monotonic() - due)
        metrics = {name: value(run.rank, step, number) for number, name in enumerate(names)}
        called = time.perf_counter()
        run.log(metrics, step)
        took_s.append(time.perf_counter() - called)
    logging_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_began_s
    _file(arguments, "logged").touch()
    receipt = run.finish()
    account = {
        "rank": run.rank,
        "logging_s": logging_s,
        "cpu_s": cpu_s,
        "took_s": took_s,
        "late_s": late_s,
        "limited": run.stats().limited,
        "requests": run.stats().requests,
        "peak_mib": _peak_mib(),
        "interpreter_mib": interpreter_mib,
        "receipt": vars(receipt),
    }
    unfinished = _file(arguments, "unfinished")
    unfinished.write_text(json.dumps(account), "utf-8")
    unfinished.replace(_file(arguments, "json"))


def _file(arguments: argparse.Namespace, kind: str) -> Path:
    path: Path = arguments.files
    return path.with_name(f"{path.name}.{kind}")


def _peak_mib() -> float:
    """The most memory that this process has held so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("BUG: Linux tells no VmHWM")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ranks.rank", description=__doc__)
    parser.add_argument("--metrics", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--steps-per-s", type=float, required=True)
    parser.add_argument("--start", type=Path, required=True, help="file whose coming is the start")
    parser.add_argument("--files", type=Path, required=True, help="its own files without suffix")
    return parser


if __name__ == "__main__":
    main()
