"""The process of one training job: ``python -m demo.trainer --url … --run lr-0.1 …``.

The key comes from the environment (STEPCLOCK_TOKEN), where other users can't read it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from demo import digits
from demo.progress import Progress
from demo.rows import Row
from demo.sender import Sender, SendingFailed
from demo.training import Hyperparameters, train

KEY_VARIABLE = "STEPCLOCK_TOKEN"

_REPORT_EVERY_S = 0.2


class Reporter:
    """Tells how the run goes, at most every 0.2 s and at its end."""

    def __init__(self, path: Path, sender: Sender) -> None:
        self._path = path
        self._sender = sender
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

    def write(self, *, done: bool = False, problem: str | None = None) -> None:
        """Replace the progress file."""
        self._written = time.monotonic()
        totals = self._sender.totals
        Progress(
            steps=self._steps,
            loss=self._loss,
            accuracy=self._accuracy,
            accepted=totals.accepted,
            rejected=totals.rejected,
            limited=totals.limited,
            limited_s=totals.limited_s,
            retried=totals.retried,
            last_fault=totals.last_fault,
            done=done,
            problem=problem or totals.first_rejection,
        ).write(self._path)


def main() -> int:
    """Train to the end and send every step's metrics; 0, or 1 if the gateway took not all."""
    arguments = _parser().parse_args()
    sender = Sender(arguments.url, os.environ[KEY_VARIABLE], arguments.ledger)
    reporter = Reporter(arguments.progress, sender)
    try:
        _train(arguments, sender, reporter)
        sender.finish()
        while not sender.wait(_REPORT_EVERY_S):
            reporter.write()
    except SendingFailed as exc:
        reporter.write(problem=str(exc))
        sys.stderr.write(f"{exc}\n")
        return 1
    reporter.write(done=True)
    return 0


def _train(arguments: argparse.Namespace, sender: Sender, reporter: Reporter) -> None:
    hyperparameters = Hyperparameters(arguments.lr, arguments.steps, arguments.seed)
    started = time.monotonic()
    for step, metrics in enumerate(train(digits.read(arguments.data), hyperparameters)):
        due = started + step / arguments.steps_per_s
        time.sleep(max(0.0, due - time.monotonic()))  # a larger model would take that long
        sender.log(
            Row(arguments.experiment, arguments.run, arguments.rank, step, time.time_ns(), metrics)
        )
        reporter.step(metrics)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.trainer", description=__doc__)
    parser.add_argument("--url", required=True, help="gateway, http://host:port")
    parser.add_argument("--experiment", default="digits")
    parser.add_argument("--run", required=True)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--lr", type=float, required=True, help="learning rate after warm-up")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--steps-per-s", type=float, default=250.0, help="pace of the training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, required=True, help="digits.npz")
    parser.add_argument("--ledger", type=Path, required=True, help="file to record the rows in")
    parser.add_argument("--progress", type=Path, required=True, help="file to report in")
    return parser


if __name__ == "__main__":
    sys.exit(main())
