"""How far a backfill is: a bar where somebody looks, a line now and then where nobody does."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from admin.lag.report import duration

#: Rates are those of this time past.
_WINDOW_S = 30.0


class Pace:
    """Figures of a backfill over time, as words. look() gives settled records and points."""

    def __init__(
        self,
        look: Callable[[], tuple[int, int]],
        total: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._total = total
        self._now = now
        self._seen: deque[tuple[float, int, int]] = deque()

    def described(self) -> tuple[int, str]:
        """Records settled by now, and what to say: how many, how fast, how long it will take."""
        at, (records, points) = self._now(), self._look()
        self._seen.append((at, records, points))
        while len(self._seen) > 2 and self._seen[1][0] <= at - _WINDOW_S:
            self._seen.popleft()
        since, records_then, points_then = self._seen[0]
        over_s = at - since
        said = f"{records:,} of {self._total:,} records, {points:,} points"
        if over_s > 0:
            said += f", {(points - points_then) / over_s:,.0f} points/s"
            if records >= self._total:
                return records, said
            rate = (records - records_then) / over_s
            left = f"{duration((self._total - records) / rate)} left" if rate else "stands still"
            said += f", {left}"
        return records, said


@contextmanager
def shown(console: Console, pace: Pace, total: int) -> Iterator[None]:
    """Show it for as long as the block lasts, from a thread of its own."""
    over = threading.Event()
    bar = Progress(
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}% {task.description}"),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=total)

    def show() -> None:
        while not over.wait(0.5 if console.is_terminal else 10.0):
            records, said = pace.described()
            bar.update(task, completed=records, description=said)
            if not console.is_terminal:
                console.print(said)

    thread = threading.Thread(target=show, name="progress", daemon=True)
    with bar:
        pace.described()
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            records, said = pace.described()
            bar.update(task, completed=records, description=said)
