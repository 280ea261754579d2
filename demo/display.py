"""Live progress on standard error: a table that redraws itself, or plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from demo.plan import Plan
from demo.progress import TrainerProgress

_LINE_EVERY_S = 2.0
_BAR_CELLS = 24


class Display:
    """Shows how the runs go; on anything but a terminal one line each two seconds."""

    def __init__(
        self, plan: Plan, console: Console, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._console = console
        self._now = now
        self._started = self._printed = now()
        self._notes: list[str] = []
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Keep a remarkable event in view."""
        note = f"{self._now() - self._started:5.1f} s  {text}"
        self._notes.append(note)
        if not self._live:
            self._print(note)

    def show(self, progress: Mapping[str, TrainerProgress]) -> None:
        """Draw the present state."""
        if self._live:
            self._live.update(self._table(progress), refresh=True)
        elif self._now() - self._printed >= _LINE_EVERY_S:
            self._printed = self._now()
            self._print(self._line(progress))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _line(self, progress: Mapping[str, TrainerProgress]) -> str:
        states = progress.values()
        # A run that diverged ends early: then what it trained is all that will come.
        expected = sum(
            progress[run.name].steps if progress[run.name].done else run.hyperparameters.steps
            for run in self._plan.runs
        )
        return (
            f"{self._now() - self._started:5.1f} s  "
            f"trained {sum(state.steps for state in states):,} of {expected:,} steps, "
            f"{sum(state.acknowledged for state in states):,} lines acknowledged, "
            f"429 answers {sum(state.limited for state in states):,}"
        )

    def _table(self, progress: Mapping[str, TrainerProgress]) -> Table:
        table = Table(
            title=f"experiment {self._plan.experiment}",
            caption="\n".join([self._line(progress), *self._notes]),
            caption_justify="left",
        )
        table.add_column("run", no_wrap=True)
        table.add_column("tenant")
        table.add_column("steps trained", no_wrap=True)
        for heading in ("loss", "val accuracy", "lines", "429s"):
            table.add_column(heading, justify="right", no_wrap=True)
        for run in self._plan.runs:
            state = progress[run.name]
            total = run.hyperparameters.steps
            full = _BAR_CELLS * state.steps // total
            bar = "█" * full + "░" * (_BAR_CELLS - full)
            table.add_row(
                run.name,
                run.tenant.name,
                f"{bar} {state.steps:>5}",
                f"{state.loss:.3g}",
                f"{state.accuracy:.3f}",
                f"{state.acknowledged:,}",
                f"{state.limited}" if state.limited else "",
            )
        return table
