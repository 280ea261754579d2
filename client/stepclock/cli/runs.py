"""`stepclock runs`: the runs that are stored, the newest first."""

from __future__ import annotations

import argparse
import time
from typing import Any

from stepclock.cli.doctor.examination import EXPERIMENT
from stepclock.cli.options import add_gateway_options, new_parser, settings_of
from stepclock.cli.reads import ListedRun, Reads
from stepclock.cli.terminal import Terminal, duration, printable, table

_EXAMPLES = """\
  stepclock runs
  stepclock runs resnet50 -n 0
  stepclock runs --state failed --state lost
  stepclock runs resnet50 --endpoint https://metrics.example:8787"""

_STATES = ("running", "finished", "failed", "preempted", "silent", "lost")

#: Colours of states that a person looks for.
COLORS = {"running": "green", "failed": "red", "lost": "red", "silent": "yellow"}


def add_command(commands: Any) -> None:
    """Add it to the command line."""
    parser = new_parser(commands, "runs", "list the runs that are stored", _EXAMPLES)
    parser.add_argument("experiment", metavar="EXPERIMENT", nargs="?", help="only its runs")
    parser.add_argument(
        "-n", type=int, default=20, metavar="N", help="runs at most, 0 for all (default: 20)"
    )
    parser.add_argument(
        "--state",
        metavar="STATE",
        choices=_STATES,
        action="append",
        help=f"only runs that are {', '.join(_STATES[:-1])} or {_STATES[-1]}; may be repeated",
    )
    add_gateway_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    reads = Reads(settings)
    if args.experiment is None:
        experiments = [name for name in reads.experiments() if name != EXPERIMENT]
    else:
        experiments = [args.experiment]
    found = [
        run
        for experiment in experiments
        for run in reads.runs(experiment)
        if args.state is None or run.state in args.state
    ]
    reads.close()
    found.sort(key=lambda run: run.last_time_ns, reverse=True)
    shown = found[: args.n] if args.n > 0 else found
    terminal = Terminal(secret=settings.token)
    if not found:
        terminal.say(_none(args.experiment, args.state))
    for line in lines_of(shown, terminal, time.time_ns()):
        terminal.say(line)
    if len(shown) < len(found):
        terminal.say(f"and {len(found) - len(shown)} older ones (-n 0 shows all)")
    return 0


def _none(experiment: str | None, states: list[str] | None) -> str:
    if experiment is None and states is None:
        return "no runs yet"
    which = f" {' or '.join(states)}" if states else ""
    return f"no{which} runs" + (f" of {experiment}" if experiment else "")


def lines_of(runs: list[ListedRun], terminal: Terminal, now_ns: int) -> list[str]:
    """The table; none for no runs."""
    if not runs:
        return []
    head = ["EXPERIMENT", "RUN", "STATE", "ATTEMPT", "STEPS", "AGE"]
    lines = table([head, *(_cells(run, now_ns) for run in runs)])
    painted = [terminal.paint(lines[0], "bold")]
    for run, line in zip(runs, lines[1:]):
        color = COLORS.get(run.state or "")
        painted.append(terminal.paint(line, color) if color else line)
    return painted


def _cells(run: ListedRun, now_ns: int) -> list[str]:
    steps = "-" if run.last_step is None else f"{run.first_step} - {run.last_step}"
    return [
        printable(run.experiment),
        printable(run.run),
        printable(run.state or "-"),
        "-" if run.attempt is None else str(run.attempt),
        steps,
        duration(max(0.0, (now_ns - run.last_time_ns) / 1e9)),
    ]
