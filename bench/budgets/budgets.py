"""A guard that neighbours can't disturb: instructions of hot functions, memory of a request.

Instructions are counted by valgrind (callgrind): one run calls each function n times, and one
for each function calls it twice as often; the difference is what n calls cost, without the
start of the interpreter. Memory is what `bench.budgets.requests` finds.
The limits stand in budgets.toml.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from bench.budgets import requests
from bench.report import Section, Table

FILE = Path(__file__).with_name("budgets.toml")
TOLERANCE_PERCENT = 10

#: How often each function is called: some 20 ms of its own, many times that under valgrind.
_CALLS = {"admit": 10, "steps": 10, "block": 200}
_ROOT = FILE.parents[2]
_COUNTED = (sys.executable, "-m", "bench.budgets.counted")
_COLLECTED = re.compile(r"Collected : (\d+)")
_TIMEOUT_S = 120.0
_HEADER = """\
# What a call or a request may cost; `python -m bench budgets` fails beyond 10 % either way, so
# that a gain is kept as well. `python -m bench budgets --write` renews this file: say in the
# commit what made the difference. It holds for one Python, since another one runs other code.
# Instructions: of x86-64 with AVX2, which valgrind emulates wherever the host has it.
"""


class Unmeasurable(Exception):
    """There is no valgrind here, or it failed; the message says which."""


class OtherPython(Exception):
    """The file holds for another Python; the message says for which."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What was measured beside what is allowed."""

    name: str
    measured: int
    allowed: int

    @property
    def off_percent(self) -> float:
        """How far it lies above (or, negative, below) the file."""
        if self.allowed:
            return (self.measured - self.allowed) / self.allowed * 100
        return 100.0 if self.measured else 0.0

    @property
    def kept(self) -> bool:
        """Whether it lies within the tolerance."""
        return abs(self.off_percent) <= TOLERANCE_PERCENT


def measure() -> dict[str, dict[str, int]]:
    """The figures of this checkout, as they stand in the file. Raises Unmeasurable."""
    return {"instructions": instructions(), "requests": requests.measure()}


def instructions() -> dict[str, int]:
    """Instructions of one call of each function. Raises Unmeasurable."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise Unmeasurable("instructions are counted by valgrind, which is not installed")
    # What is not compiled yet would count in the first run only.
    subprocess.run(_COUNTED, cwd=_ROOT, env=_environment(), check=True, timeout=_TIMEOUT_S)
    runs = [_CALLS, *({**_CALLS, name: 2 * calls} for name, calls in _CALLS.items())]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        base, *doubled = pool.map(lambda calls: _collected(valgrind, calls), runs)
    return {
        name: (collected - base) // calls
        for (name, calls), collected in zip(_CALLS.items(), doubled, strict=True)
    }


def load(path: Path = FILE) -> dict[str, dict[str, int]]:
    """What the file allows. Raises OtherPython."""
    content = tomllib.loads(path.read_text("utf-8"))
    version = content.pop("python")
    if version != _python():
        raise OtherPython(f"{path.name} holds for Python {version}; this is {_python()}")
    return content


def write(figures: Mapping[str, Mapping[str, int]], path: Path = FILE) -> None:
    """Renew the file."""
    path.write_text(_HEADER + tomli_w.dumps({"python": _python(), **figures}), "utf-8")


def compare(
    measured: Mapping[str, Mapping[str, int]], allowed: Mapping[str, Mapping[str, int]]
) -> Section:
    """Every figure of either side, and those that are beyond."""
    budgets = [
        Budget(f"{kind}: {name}", measured[kind].get(name, 0), allowed.get(kind, {}).get(name, 0))
        for kind in measured
        for name in {**measured[kind], **allowed.get(kind, {})}
    ]
    return Section(
        f"Budgets, each within {TOLERANCE_PERCENT} %",
        [
            Table(
                ("figure", "measured", "budget", "off by"),
                [
                    [b.name, f"{b.measured:,}", f"{b.allowed:,}", f"{b.off_percent:+.1f} %"]
                    for b in budgets
                ],
            )
        ],
        failures=[
            f"{budget.name} is {abs(budget.off_percent):.1f} % "
            + ("above its budget" if budget.off_percent > 0 else "below: renew the file (--write)")
            for budget in budgets
            if not budget.kept
        ],
    )


def _collected(valgrind: str, calls: Mapping[str, int]) -> int:
    """Instructions of a whole process."""
    command = [
        valgrind,
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        *_COUNTED,
        *(f"{name}={times}" for name, times in calls.items()),
    ]
    result = subprocess.run(
        command,
        cwd=_ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    found = _COLLECTED.search(result.stderr)
    if result.returncode != 0 or found is None:
        raise Unmeasurable(f"valgrind failed:\n{result.stderr[-2000:]}")
    return int(found[1])


def _environment() -> dict[str, str]:
    """Nothing else of ours: its size moves the stack, and variables change the way."""
    return {"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0"}


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
