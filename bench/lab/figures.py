"""Arithmetic of figures: percentiles, spreads of repeated runs, deviations, costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, middle and greatest of the same figure over repeated runs."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value. Raises ValueError for none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("a spread needs at least one value")
        return cls(ordered[0], statistics.median(ordered), ordered[-1])

    def text(self, form: Callable[[float], str]) -> str:
        """``low / median / high``, each as `form` writes it."""
        return " / ".join(form(value) for value in (self.low, self.median, self.high))


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` of 100 values do not exceed (nearest rank).

    nan where there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def deviation_percent(measured: float, target: float) -> float:
    """How far a measured figure lies above (or, negative, below) its target, in percent."""
    return (measured - target) / target * 100


def share_percent(part: float, whole: float) -> float:
    """What percentage of the whole a part is; nan of nothing."""
    return part / whole * 100 if whole else math.nan


def per_million(cpu_s: float, points: int) -> float:
    """CPU seconds that a million points cost; nan for no points."""
    return cpu_s / points * 1e6 if points else math.nan


def whole(value: float) -> str:
    """A count or a rate in full: ``1,234,567``; ``-`` where there is none."""
    return "-" if math.isnan(value) else f"{value:,.0f}"


def short(value: float) -> str:
    """A figure to three digits: ``0.912``, ``9.12``, ``91.2``, ``912``."""
    if math.isnan(value):
        return "-"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def column(values: Sequence[float], form: Callable[[float], str]) -> str:
    """A cell of a table: the spread of repeated runs, or the one value there is."""
    return form(values[0]) if len(values) == 1 else Spread.of(values).text(form)
