"""Fuzzes the targets in parallel, tells what it did, and fails with the command for a finding.

``python -m tests.fuzz --seconds 60 [TARGET ...]``
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.fuzz import CORPUS, TARGETS

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "fuzz"

#: Bytes of an input; what goes wrong only with more is for the tests of bounds.
MAX_BYTES = 4096
#: Seconds that one input may take: generous, so that only what grows without measure is found.
UNIT_S = 20
RSS_MB = 1024
#: Start, reading the seeds, and the last input.
GRACE_S = 90


@dataclass(frozen=True, slots=True)
class Outcome:
    target: str
    executions: int
    per_s: int
    coverage: int
    features: int
    findings: list[Path]
    output: str
    failed: bool


def fuzz(target: str, dictionary: Path, seconds: int) -> Outcome:
    found, grown = WORK / "findings" / target, WORK / "corpus" / target
    for folder in (found, grown):
        folder.mkdir(parents=True, exist_ok=True)
    began = time.time()
    command = [
        *(sys.executable, "-m", "tests.fuzz.drive", target, grown, CORPUS / target),
        *(f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-timeout={UNIT_S}"),
        *(f"-rss_limit_mb={RSS_MB}", "-print_final_stats=1", f"-artifact_prefix={found}/"),
        f"-dict={dictionary}",
    ]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + GRACE_S,
        )
        output, failed = done.stdout + done.stderr, done.returncode != 0
    except subprocess.TimeoutExpired as exc:
        output, failed = f"{target} did not end within {exc.timeout} s", True
    new = [path for path in sorted(found.iterdir()) if path.stat().st_mtime >= began - 1]
    return Outcome(
        target,
        _last(r"stat::number_of_executed_units:\s*(\d+)", output) or _last(r"^#(\d+)\t", output),
        _last(r"stat::average_exec_per_sec:\s*(\d+)", output),
        _last(r"\bcov: (\d+)", output),
        _last(r"\bft: (\d+)", output),
        new,
        output,
        failed,
    )


def _dictionary(target: str) -> Path:
    tokens = importlib.import_module(f"tests.fuzz.targets.{target}").TOKENS
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"{target}.dict"
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"' for token in tokens)
    path.write_text("\n".join(lines) + "\n")
    return path


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.MULTILINE)
    return int(found[-1]) if found else 0


def _report(outcomes: list[Outcome]) -> None:
    print(
        f"{'target':<14}{'executions':>12}{'per s':>8}{'coverage':>10}{'features':>10}{'found':>7}"
    )
    for one in outcomes:
        print(
            f"{one.target:<14}{one.executions:>12,}{one.per_s:>8,}"
            f"{one.coverage:>10,}{one.features:>10,}{len(one.findings):>7}"
        )
    for one in (outcome for outcome in outcomes if outcome.failed):
        print(f"\n{one.target}: {_traceback(one.output)}")
        for path in one.findings:
            print(f"found: {path}\nagain: {sys.executable} -m tests.fuzz.drive {one.target} {path}")


def _traceback(output: str) -> str:
    _, mark, rest = output.partition("=== Uncaught Python exception: ===\n")
    return rest.partition("\nINFO:")[0].strip() if mark else output[-2000:]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {min(unknown)!r}; there are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: `make fuzz` installs it where it has a wheel (Linux)")
        return 1
    targets = chosen.targets or TARGETS
    print(f"fuzzing {len(targets)} targets for {chosen.seconds} s each, {chosen.jobs} at a time")
    with ThreadPoolExecutor(chosen.jobs) as pool:
        fuzz_one = partial(fuzz, seconds=chosen.seconds)
        outcomes = list(pool.map(fuzz_one, targets, map(_dictionary, targets)))
    _report(outcomes)
    return any(outcome.failed for outcome in outcomes)


if __name__ == "__main__":
    raise SystemExit(main())
