"""Loss curves by step, drawn with characters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import plotext
from rich.text import Text

from demo.gateway import RunCurve

_WIDTH = 100
_HEIGHT = 24

#: Losses above belong to runs that diverge; drawing them would flatten all others.
_LARGEST_LOSS = 10.0
_SMALLEST_LOSS = 1e-4
_LOSS_TICKS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
_STEP_TICKS = 5

#: Where there are no colours to tell curves apart.
_PLAIN_MARKERS = "ox+*#%@"


def loss_chart(curves: Sequence[RunCurve], *, width: int, colour: bool) -> Text:
    """The curves in so many columns at most, the loss on a logarithmic scale.

    Buckets without a finite loss between 0.0001 and 10 are left out.
    """
    shown = {curve.run: _drawable(curve) for curve in curves}
    shown = {run: points for run, points in shown.items() if len(points) > 1}
    if not shown:
        return Text("no curves: no run has two finite losses")
    last_step = max(points[-1][0] for points in shown.values())
    lowest, highest = _bounds(shown.values())
    figure = plotext.figure
    figure.clear()
    figure.plot_size(min(width, _WIDTH), _HEIGHT)
    figure.theme("simple" if colour else "colorless")
    figure.title("train/loss by step")
    for (run, points), marker in zip(shown.items(), itertools.cycle(_PLAIN_MARKERS), strict=False):
        signal = figure.signal(
            [step for step, _ in points],
            [exponent for _, exponent in points],
            marker="braille" if colour else marker,
        )
        signal.lines()
        signal.label(run)
        figure.draw(signal)
    losses = [loss for loss in _LOSS_TICKS if lowest <= math.log10(loss) <= highest]
    figure.ruler("y").ticks([math.log10(loss) for loss in losses], [f"{loss:g}" for loss in losses])
    steps = [round(last_step * part / _STEP_TICKS) for part in range(_STEP_TICKS + 1)]
    figure.ruler("x").ticks(steps, [f"{step:,}" for step in steps])
    figure.legend(x=last_step, y=highest, ha="right", va="top", relative=True)
    return Text.from_ansi(str(figure.build()))


def _drawable(curve: RunCurve) -> list[tuple[int, float]]:
    """Steps with the decimal logarithm of the loss."""
    points = zip(curve.steps, curve.means, strict=True)
    return [
        (step, math.log10(mean)) for step, mean in points if _SMALLEST_LOSS <= mean <= _LARGEST_LOSS
    ]


def _bounds(curves: Iterable[list[tuple[int, float]]]) -> tuple[float, float]:
    exponents = [exponent for points in curves for _step, exponent in points]
    return min(exponents), max(exponents)
