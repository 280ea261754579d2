"""``python -m tests.fault_suite``: faults upon a real pipeline, and every point compared."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from bench.lab.machine import UnsupportedMachine, require_linux
from bench.report import Section, Table, show
from native.process import StartFailed
from native.step import PreparationFailed
from tests.fault_suite.run import Outcome, run

COLUMNS = 150

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
progress = Console(stderr=True, highlight=False)


@app.command(
    epilog="Examples: python -m tests.fault_suite --seed 7 --minutes 3, or with "
    "--seed 1 --seed 2 one after the other. The same seed and minutes give the same faults."
)
def main(
    seed: Annotated[list[int] | None, typer.Option(help="Seed of a schedule; repeat it.")] = None,
    minutes: Annotated[float, typer.Option(min=0.2, max=60, help="Length of a schedule.")] = 3.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep logs and data also if all held.")
    ] = False,
) -> None:
    """Kill, freeze, cut, slow and fill what a pipeline is made of; lose and double nothing.

    Two gateways, three consumers, Kafka and InfluxDB run as processes, with proxies on their
    links, under the load of clients that keep a ledger. In the end every point is compared with
    both views. Progress goes to standard error. Exit code 1: a claim did not hold.
    """
    signal.signal(signal.SIGTERM, terminate)
    outcomes = []
    folder = Path(tempfile.mkdtemp(prefix="stepclock-faults-"))
    status = 1
    try:
        require_linux()
        for number in seed or [1]:
            outcomes.append(run(number, minutes * 60, folder / f"seed-{number}", tell))
            tell(summary(outcomes[-1]))
        status = report(outcomes, minutes)
    except KeyboardInterrupt:
        tell("interrupted; every process was ended")
        status = 130
    except (AssertionError, PreparationFailed, StartFailed, UnsupportedMachine) as exc:
        progress.print(f"error: {exc}", style="red", markup=False, soft_wrap=True)
    finally:
        if status == 0 and not keep:
            shutil.rmtree(folder)
        else:
            tell(f"logs and data: {folder}")
    raise typer.Exit(status)


def report(outcomes: list[Outcome], minutes: float) -> int:
    """Print the table and the last line; the exit code."""
    failures = [
        f"{failure}; replay with --seed {o.seed} --minutes {minutes:g}"
        for o in outcomes
        for failure in o.failures
    ]
    table = Table(
        (
            "seed",
            "points sent",
            "acknowledged",
            "refused",
            "faults",
            "stall s",
            "recovery s",
            "gateway MiB",
            "consumer MiB",
            "missing, invented, doubled",
        ),
        [row(outcome) for outcome in outcomes],
    )
    notes = [f"Seed {o.seed}: {kinds(o)}. {answers(o)}" for o in outcomes]
    console = Console() if sys.stdout.isatty() else Console(width=COLUMNS)
    show(Section("Faults", [table], notes, failures), console)
    acknowledged = sum(outcome.acknowledged for outcome in outcomes)
    wrong = "missing=0 invented=0 doubled=0" if not failures else f"failures={len(failures)}"
    seeds = ",".join(str(outcome.seed) for outcome in outcomes)
    sys.stdout.write(f"seeds={seeds} acknowledged={acknowledged:,} {wrong}\n")
    return 1 if failures else 0


def row(outcome: Outcome) -> list[str]:
    """One line of the table."""
    return [
        str(outcome.seed),
        f"{outcome.sent:,}",
        f"{outcome.acknowledged:,}",
        f"{outcome.refused:,}",
        str(outcome.faults.total()),
        f"{outcome.stall_s:.1f}",
        f"{outcome.recovery_s:.1f}",
        f"{outcome.peak_mib['gateway']:.0f}",
        f"{outcome.peak_mib['consumer']:.0f}",
        outcome.verdict.line,
    ]


def summary(outcome: Outcome) -> str:
    """One line for those who wait for further seeds."""
    return f"seed {outcome.seed}: {', '.join(outcome.failures) or outcome.verdict.line}"


def kinds(outcome: Outcome) -> str:
    """How many faults of each kind, and what ended by itself."""
    text = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.faults.items()))
    ended = ", ".join(f"{name} {count}" for name, count in sorted(outcome.ended.items()))
    return text + (f"; ended by themselves and were started again: {ended}" if ended else "")


def answers(outcome: Outcome) -> str:
    """How the gateways answered."""
    counts = ", ".join(
        f"{'broken' if status == 0 else status}: {count:,}"
        for status, count in sorted(outcome.answers.items())
    )
    return f"Answers {counts}; the consumers were done {outcome.drain_s:.1f} s after the last."


def tell(text: str) -> None:
    """Progress."""
    progress.print(text, markup=False, soft_wrap=True)


def terminate(number: int, _frame: FrameType | None) -> None:
    """Leave on SIGTERM as on Ctrl-C, so that no process stays behind."""
    sys.exit(128 + number)


if __name__ == "__main__":
    app()
