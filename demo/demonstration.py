"""The demonstration from the first step of training to the ledger."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from stepclock import Receipt

from demo import gateway, latency, report, rows
from demo.chart import loss_chart
from demo.display import Display
from demo.fleet import Fleet
from demo.ledger import Cells, Ledger, compare, logged_cells, stored_cells
from demo.pipeline import Pipeline
from demo.plan import DEMO, NAMESPACE, Plan
from demo.progress import TrainerProgress

_LOOK_EVERY_S = 0.2
_CURVE_POINTS = 80

#: How long a run may wait at its end until the store holds everything. A consumer that was
#: killed is missed after its session timeout only.
FINISH_S = 120.0


class DemoFailed(Exception):
    """A trainer could not do its part; the message holds its last words."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the client says became of each run, and what the store says that knows no client."""

    receipts: Mapping[str, Receipt]
    ledger: Ledger

    @property
    def clean(self) -> bool:
        """Whether both say, of the same number of steps, that all is stored."""
        logged = sum(receipt.logged for receipt in self.receipts.values())
        return (
            self.ledger.clean
            and logged == self.ledger.logged
            and all(receipt.ok for receipt in self.receipts.values())
        )


def demonstrate(
    pipeline: Pipeline,
    plan: Plan,
    folder: Path,
    *,
    output: Console,
    screen: Console,
    finish_s: float = FINISH_S,
) -> Outcome:
    """Train, watch, and report; then compare the receipts with the ledger.

    The store is asked once, when the receipts are there: what they call stored must be in it.
    Results go to `output`, progress to `screen`; `folder` is made and takes the trainers'
    files. Raises DemoFailed, ReadFailed, StoreUnavailable.
    """
    with (
        Fleet(
            plan, folder, gateways=pipeline.gateways, keys=pipeline.keys, finish_s=finish_s
        ) as fleet,
        Display(plan, screen) as display,
    ):
        took_s = _watch(fleet, plan, pipeline, display)
        failures = fleet.failures()
        if failures:
            raise DemoFailed("\n".join(f"{run}: {words}" for run, words in failures.items()))
        states = fleet.progress()
        logged = logged_cells(row for path in fleet.ledgers for row in rows.read(path))
    stored = stored_cells(pipeline.reader, NAMESPACE, plan.experiment)
    _report(pipeline, plan, stored, states, took_s, output)
    receipts = {run: state.receipt for run, state in states.items() if state.receipt}
    return Outcome(receipts, compare(logged, stored))


def _watch(fleet: Fleet, plan: Plan, pipeline: Pipeline, display: Display) -> float:
    """Show progress until the trainers end; midway, one of several consumers is killed.

    The seconds until all was acknowledged.
    """
    began = time.monotonic()
    took_s = None
    unharmed = True
    while fleet.running:
        states = fleet.progress()
        display.show(states)
        if unharmed and _trained_share(plan, states) >= 0.5:
            unharmed = False
            if note := pipeline.kill_consumer():
                display.note(note)
        if took_s is None and all(state.done for state in states.values()):
            took_s = time.monotonic() - began
        time.sleep(_LOOK_EVERY_S)
    display.show(fleet.progress())
    return took_s or time.monotonic() - began


def _trained_share(plan: Plan, states: Mapping[str, TrainerProgress]) -> float:
    """How much of the plan is trained; a run that ended early counts as whole."""
    done = sum(
        run.hyperparameters.steps if states[run.name].done else states[run.name].steps
        for run in plan.runs
    )
    return done / plan.steps


def _report(
    pipeline: Pipeline,
    plan: Plan,
    stored: Cells,
    states: Mapping[str, TrainerProgress],
    took_s: float,
    output: Console,
) -> None:
    """Print what is stored, the curves by way of the product's read route, and the receipts."""
    key = pipeline.keys[DEMO.name]
    curves = gateway.read_curves(
        pipeline.gateways[0], key, plan.experiment, "train/loss", points=_CURVE_POINTS
    )
    latencies = latency.describe(pipeline.latencies())
    output.print(report.runs_table(plan, stored, states))
    output.print(loss_chart(curves, width=output.width, colour=output.is_terminal))
    output.print(report.figures(plan, stored, states, took_s=took_s, latencies=latencies))
    output.print(report.receipts_table(plan, states))
