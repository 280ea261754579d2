"""Runs of a test, and what their spools hold."""

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from spools import all_lines

import stepclock

CLIENT = Path(stepclock.__file__).parents[1]

#: Nobody listens there.
DEAD = "http://127.0.0.1:9"


def begin(experiment="e", **arguments):
    arguments = {"mode": "offline", "handle_signals": False, "system_interval": 0, **arguments}
    return stepclock.init(experiment, **arguments)


def steps():
    return sorted(int(line.split("step=")[1].split("i")[0]) for line in all_lines())


def states():
    lines = [line for line in all_lines("events") if line.startswith("run_state,")]
    found = [line.split('state="')[1].split('"')[0] for line in lines]
    return [state for state, _ in itertools.groupby(found)]  # `running` is told again and again


def script(body, *, check=True, timeout=30, **environment):
    """A Python program of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "import stepclock, os, sys, time, signal\n" + textwrap.dedent(body)],
        env={**os.environ, "PYTHONPATH": str(CLIENT), "STEPCLOCK_SYSTEM_INTERVAL": "0"}
        | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def work(run, number):
    for step in range(10):
        run.log({"worker": number}, number * 10 + step)
