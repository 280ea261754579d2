"""The report at the end: a table of runs, their curves, the figures, and the receipts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table

from demo.ledger import Cells, by_run
from demo.plan import Plan
from demo.progress import TrainerProgress
from schemas.store.protocols import FieldValue


def runs_table(plan: Plan, stored: Cells, progress: Mapping[str, TrainerProgress]) -> Table:
    """What the store holds of each run, and how its tenant fared with its limit."""
    table = Table(title=f"Runs of experiment {plan.experiment}, as the store holds them")
    table.add_column("run", no_wrap=True)
    table.add_column("tenant")
    for heading in ("steps", "loss best", "last", "accuracy best", "last", "NaN, Inf", "429s"):
        table.add_column(heading, justify="right")
    metrics = by_run(stored)
    for run in plan.runs:
        fields = metrics.get(run.name, {})
        loss, accuracy = fields.get("train/loss", {}), fields.get("val/accuracy", {})
        nonfinite = sum(
            isinstance(value, str) for field in fields.values() for value in field.values()
        )
        state = progress[run.name]
        table.add_row(
            run.name,
            run.tenant.name,
            f"{len(fields.get('step', {})):,}",
            _number(min(_finite(loss), default=None)),
            _last(loss),
            _number(max(_finite(accuracy), default=None)),
            _last(accuracy),
            f"{nonfinite:,}" if nonfinite else "",
            f"{state.limited}" if state.limited else "",
        )
    return table


def figures(
    plan: Plan,
    stored: Cells,
    progress: Mapping[str, TrainerProgress],
    *,
    took_s: float,
    latencies: str,
) -> Table:
    """Throughput, latency and what the rate limit did, one line each."""
    steps = sum(state.steps for state in progress.values())
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "throughput",
        f"{steps / took_s:,.0f} steps/s, {len(stored.cells) / took_s:,.0f} values/s "
        f"over {took_s:.1f} s from {len(plan.runs)} processes",
    )
    table.add_row("end to end", f"{latencies}, from receipt at the gateway to stored")
    for run in plan.runs:
        state = progress[run.name]
        if state.limited:
            table.add_row("rate limit", f"{run.name} was told to wait {state.limited} times")
        if state.last_error:
            table.add_row("trouble", f"{run.name}: {state.last_error}")
    return table


def receipts_table(plan: Plan, progress: Mapping[str, TrainerProgress]) -> Table:
    """What the client says became of each run: its receipt."""
    table = Table(title="Receipts: what became of each run")
    table.add_column("run", no_wrap=True)
    for heading in ("steps logged", "lines", "stored"):
        table.add_column(heading, justify="right")
    table.add_column("not stored")
    for run in plan.runs:
        receipt = progress[run.name].receipt
        if receipt is None:
            table.add_row(run.name, "-", "-", "-", "it gave no receipt")
            continue
        missing = ", ".join(f"{count:,} {where}" for where, count in receipt.missing.items())
        table.add_row(
            run.name,
            f"{receipt.logged:,}",
            f"{receipt.lines:,}",
            f"{receipt.stored:,}",
            missing,
        )
    return table


def _finite(values: Mapping[int, FieldValue]) -> list[float]:
    return [float(value) for value in values.values() if not isinstance(value, str)]


def _last(values: Mapping[int, FieldValue]) -> str:
    if not values:
        return "-"
    value = values[max(values)]
    return value if isinstance(value, str) else _number(float(value))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= math.fabs(value) < 1e4 else f"{value:.1e}"
