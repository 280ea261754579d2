"""The demonstration from the first step of training to the ledger."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from demo import gateway, latency, report, rows
from demo.chart import loss_chart
from demo.display import Display
from demo.fleet import Fleet
from demo.ledger import Cells, Ledger, compare, sent_cells, stored_cells
from demo.pipeline import Pipeline
from demo.plan import DEMO, NAMESPACE, Plan
from demo.progress import Progress
from schemas.store import StoreUnavailable

_LOOK_EVERY_S = 0.2
_CURVE_POINTS = 80

#: How long the store may take to hold everything after the last acknowledgement. A consumer
#: that was killed is missed after its session timeout only.
SETTLE_TIMEOUT_S = 120.0


class DemoFailed(Exception):
    """A trainer could not do its part; the message holds its last words."""


def demonstrate(
    pipeline: Pipeline,
    plan: Plan,
    folder: Path,
    *,
    output: Console,
    screen: Console,
    settle_timeout_s: float = SETTLE_TIMEOUT_S,
) -> Ledger:
    """Train, watch, wait until everything is stored, and report; the ledger is the result.

    Results go to `output`, progress to `screen`; `folder` is made and takes the trainers'
    files. Raises DemoFailed, ReadFailed, StoreUnavailable.
    """
    with (
        Fleet(plan, folder, gateways=pipeline.gateways, keys=pipeline.keys) as fleet,
        Display(plan, screen) as display,
    ):
        began = time.monotonic()
        states = _watch(fleet, plan, pipeline, display)
        took_s = time.monotonic() - began
        failures = fleet.failures()
        if failures:
            raise DemoFailed("\n".join(f"{run}: {words}" for run, words in failures.items()))
        sent = sent_cells(row for path in fleet.ledgers for row in rows.read(path))
    for problem in (state.problem for state in states.values() if state.problem):
        screen.print(problem, style="red", markup=False)
    accepted = sum(state.accepted for state in states.values())
    rejected = sum(state.rejected for state in states.values())
    deadline = time.monotonic() + settle_timeout_s
    told = -1
    while True:
        stored = _read_store(pipeline, plan, deadline)
        ledger = compare(sent, stored, accepted=accepted, rejected=rejected)
        if ledger.clean or time.monotonic() > deadline:
            break
        if ledger.stored != told:
            told = ledger.stored
            screen.print(f"stored {told:,} of {ledger.sent:,} steps …", highlight=False)
        time.sleep(_LOOK_EVERY_S)
    _report(pipeline, plan, stored, states, took_s, output)
    return ledger


def _watch(fleet: Fleet, plan: Plan, pipeline: Pipeline, display: Display) -> dict[str, Progress]:
    """Show progress until the trainers end; midway, one of several consumers is killed."""
    unharmed = True
    while fleet.running:
        states = fleet.progress()
        display.show(states)
        if unharmed and _accepted_share(plan, states) >= 0.5:
            unharmed = False
            if note := pipeline.kill_consumer():
                display.note(note)
        time.sleep(_LOOK_EVERY_S)
    states = fleet.progress()
    display.show(states)
    return states


def _accepted_share(plan: Plan, states: Mapping[str, Progress]) -> float:
    """How much of the plan the gateways hold; a run that ended early counts as whole."""
    done = sum(
        run.hyperparameters.steps if states[run.name].done else states[run.name].accepted
        for run in plan.runs
    )
    return done / plan.steps


def _read_store(pipeline: Pipeline, plan: Plan, deadline: float) -> Cells:
    """What the store holds now. Raises StoreUnavailable if it can't be asked until deadline."""
    while True:
        try:
            return stored_cells(pipeline.reader, NAMESPACE, plan.experiment)
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_EVERY_S)


def _report(
    pipeline: Pipeline,
    plan: Plan,
    stored: Cells,
    states: Mapping[str, Progress],
    took_s: float,
    output: Console,
) -> None:
    """Print the table, the curves by way of the product's read route, and the figures."""
    key = pipeline.keys[DEMO.name]
    curves = gateway.read_curves(
        pipeline.gateways[0], key, plan.experiment, "train/loss", points=_CURVE_POINTS
    )
    latencies = latency.describe(pipeline.latencies())
    output.print(report.runs_table(plan, stored, states))
    output.print(loss_chart(curves, width=output.width, colour=output.is_terminal))
    output.print(report.figures(plan, stored, states, took_s=took_s, latencies=latencies))
