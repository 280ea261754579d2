"""Two shapes of lines: one metric and a step, and eight metrics and a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: Time between two steps of a run.
STEP_MS = 10


def body(run: str, first_step: int, count: int, epoch_ms: int) -> bytes:
    """Consecutive steps of one run, timed in ms, joined by newline.

    ``metric,project=p,run=r12 train/loss=0.31,step=1200i 1795277400000``. No two lines of a
    run share a time, nor a step, so that no store merges them. epoch_ms: time of step 0.
    """
    head = f"metric,project=p,run={run} train/loss="
    return "\n".join(
        # Digits that look random, so that compression has something to do.
        f"{head}{step * 2654435761 % 1_000_003 / 1e6},step={step}i {epoch_ms + step * STEP_MS}"
        for step in range(first_step, first_step + count)
    ).encode()


def bodies(run: str, lines: int, count: int, epoch_ms: int) -> list[bytes]:
    """`count` bodies of `lines` lines each, one behind the other."""
    return [body(run, number * lines, lines, epoch_ms) for number in range(count)]


_NAMES = (
    "train/loss",
    "train/accuracy",
    "lr",
    "grad_norm",
    "tokens_per_s",
    "eval/loss",
    "gpu_util",
    "gpu_mem",
)

RUNS = 20


def values(step: int, count: int) -> list[float]:
    """The metrics of a step: digits that look random, as real ones do."""
    return [(step * count + n) * 2654435761 % 1_000_003 / 1e6 for n in range(count)]


@dataclass(frozen=True, slots=True)
class Shape:
    """metrics: of a line, beside its step. body(run, first step, lines, time of step 0)."""

    title: str
    metrics: int
    body: Callable[[str, int, int, int], bytes]

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics by name."""
        return _NAMES[: self.metrics]

    def bodies(self, lines: int, size: int, epoch_ms: int) -> Iterator[bytes]:
        """`lines` distinct lines of RUNS runs in bodies of `size`, the runs taking turns."""
        for first in range(0, lines // RUNS, size):
            for run in range(RUNS):
                yield self.body(f"r{run}", first, size, epoch_ms)

    def rows(self, lines: int, epoch_ms: int) -> Iterator[tuple[str, int, int, list[float]]]:
        """The same points apart: run, step, time in ms, values."""
        for step in range(lines // RUNS):
            for run in range(RUNS):
                yield f"r{run}", step, epoch_ms + step * STEP_MS, values(step, self.metrics)


def _wide_body(run: str, first_step: int, count: int, epoch_ms: int) -> bytes:
    head = f"metric,project=p,run={run} "
    return "\n".join(
        head
        + ",".join(f"{n}={v}" for n, v in zip(_NAMES, values(step, len(_NAMES)), strict=True))
        + f",step={step}i {epoch_ms + step * STEP_MS}"
        for step in range(first_step, first_step + count)
    ).encode()


NARROW = Shape("1 metric and step", 1, body)
WIDE = Shape("8 metrics and step", len(_NAMES), _wide_body)
