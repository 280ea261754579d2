"""The lines that are sent: two fields a line, as a training job writes them."""

from __future__ import annotations

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
