"""How a cost grows: the slope of its logarithm over that of its cause, and a rule upon it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from bench.report import Table


class Growth(IntEnum):
    """What a curve does, the better first."""

    FLAT = 0
    LINEAR = 1
    WORSE = 2


#: Greatest slopes. A cost that doubles over four orders of magnitude has a slope of 0.08.
_FLAT_SLOPE = 0.15
_LINEAR_SLOPE = 1.15

RULE = (
    "The slope is that of a straight line through (log of the cause, log of the cost), by least "
    f"squares: flat up to {_FLAT_SLOPE}, linear up to {_LINEAR_SLOPE}, worse above."
)


@dataclass(frozen=True, slots=True)
class Curve:
    """A cost at growing numbers of something. expected: no worse than that, or the claim fails."""

    cause: str
    cost: str
    expected: Growth
    points: Sequence[tuple[int, float]]
    form: Callable[[float], str]

    @property
    def slope(self) -> float:
        """The exponent with which the cost grows; nan of a single point."""
        if len(self.points) < 2:
            return math.nan
        return statistics.linear_regression(
            [math.log(n) for n, _cost in self.points],
            # What is too small to be measured counts as a thousandth.
            [math.log(max(cost, 1e-3)) for _n, cost in self.points],
        ).slope

    @property
    def growth(self) -> Growth:
        """What the rule says."""
        if self.slope <= _FLAT_SLOPE:
            return Growth.FLAT
        return Growth.LINEAR if self.slope <= _LINEAR_SLOPE else Growth.WORSE


def table(cause: str, curves: Sequence[Curve]) -> Table:
    """The curves of one cause, a row each."""
    numbers = sorted({n for curve in curves for n, _cost in curve.points})
    return Table(
        (cause, *(f"{n:,}" for n in numbers), "slope", "found", "expected"),
        [
            [
                curve.cost,
                *(
                    curve.form(found[n]) if n in (found := dict(curve.points)) else "-"
                    for n in numbers
                ),
                f"{curve.slope:.2f}",
                curve.growth.name.lower(),
                curve.expected.name.lower(),
            ]
            for curve in curves
        ],
    )


def failures(curves: Sequence[Curve]) -> list[str]:
    """Those that grow faster than expected."""
    return [
        f"{curve.cost} over {curve.cause} is {curve.growth.name.lower()} (slope "
        f"{curve.slope:.2f}); expected {curve.expected.name.lower()}"
        for curve in curves
        if curve.growth > curve.expected
    ]
