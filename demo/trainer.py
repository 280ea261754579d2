"""The process of one training job: ``python -m demo.trainer --run lr-0.1 …``.

Where its metrics go and with which key is in the environment (STEPCLOCK_ENDPOINT,
STEPCLOCK_TOKEN), as for any job that uses the client.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import stepclock

from demo import digits, rows
from demo.progress import TrainerProgress
from demo.rows import LoggedRow
from demo.training import Hyperparameters, train

_REPORT_EVERY_S = 0.2


class Reporter:
    """Tells how the run goes, at most every 0.2 s and at its end."""

    def __init__(self, path: Path, run: stepclock.Run) -> None:
        self._path = path
        self._run = run
        self._written = time.monotonic()
        self._steps = 0
        self._loss = self._accuracy = float("nan")

    def step(self, metrics: Mapping[str, float]) -> None:
        """Note one step of training."""
        self._steps += 1
        self._loss = metrics["train/loss"]
        self._accuracy = metrics.get("val/accuracy", self._accuracy)
        if time.monotonic() - self._written >= _REPORT_EVERY_S:
            self.write()

    def write(self, *, done: bool = False, receipt: stepclock.Receipt | None = None) -> None:
        """Replace the progress file."""
        self._written = time.monotonic()
        stats = self._run.stats()
        TrainerProgress(
            steps=self._steps,
            loss=self._loss,
            accuracy=self._accuracy,
            acknowledged=stats.acknowledged,
            limited=stats.limited,
            last_error=stats.last_error,
            done=done,
            receipt=receipt,
        ).write(self._path)


def main() -> int:
    """Train to the end and log every step; the last report holds the receipt."""
    arguments = _parser().parse_args()
    run = stepclock.init(
        arguments.experiment,
        run_id=arguments.run,
        config={"lr": arguments.lr, "steps": arguments.steps, "seed": arguments.seed},
    )
    reporter = Reporter(arguments.progress, run)
    _train(arguments, run, reporter)
    deadline = time.monotonic() + arguments.finish_s
    while not run.flush(timeout=_REPORT_EVERY_S) and time.monotonic() < deadline:
        reporter.write()
    reporter.write(done=True)
    receipt = run.finish(timeout=max(0.0, deadline - time.monotonic()))
    reporter.write(done=True, receipt=receipt)
    return 0


def _train(arguments: argparse.Namespace, run: stepclock.Run, reporter: Reporter) -> None:
    hyperparameters = Hyperparameters(arguments.lr, arguments.steps, arguments.seed)
    started = time.monotonic()
    with arguments.ledger.open("ab") as ledger:
        for step, metrics in enumerate(train(digits.read(arguments.data), hyperparameters)):
            due = started + step / arguments.steps_per_s
            time.sleep(max(0.0, due - time.monotonic()))  # a larger model would take that long
            rows.append(ledger, LoggedRow(run.id, run.rank, step, metrics))
            run.log(metrics, step)
            reporter.step(metrics)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.trainer", description=__doc__)
    parser.add_argument("--experiment", default="digits")
    parser.add_argument("--run", required=True)
    parser.add_argument("--lr", type=float, required=True, help="learning rate after warm-up")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--steps-per-s", type=float, default=250.0, help="pace of the training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, required=True, help="digits.npz")
    parser.add_argument("--ledger", type=Path, required=True, help="file to record the rows in")
    parser.add_argument("--progress", type=Path, required=True, help="file to report in")
    parser.add_argument(
        "--finish-s", type=float, default=120.0, help="seconds for what is on its way at the end"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
