"""Lines of measurement ``run_state`` in class events: how a run goes, said by itself and for it.

A client writes one at the start of an attempt, at each heartbeat and at the end. Of a run that
says no more, the janitor writes `silent` and then `lost`; the newest line of a run is its state.
"""

from __future__ import annotations

import re
from enum import StrEnum

from schemas.line_protocol import Line, encode, encode_string
from schemas.store import AttemptState

MEASUREMENT = "run_state"

#: Tag of lines that the janitor wrote: a series of their own, which no client's line overwrites.
BY = "by"
JANITOR = "janitor"

_NUMBER = re.compile(r"[0-9]{1,9}")


class State(StrEnum):
    """What the newest line says. The last two are the janitor's."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    PREEMPTED = "preempted"
    SILENT = "silent"  # no heartbeat for a while: busy, stuck, or its network is away
    LOST = "lost"  # so long that nobody expects it back


def number_of(attempt: str) -> int | None:
    """The place of an attempt among those of its run; None for a text that has none.

    Attempts are counted from 0 or 1, in decimal digits.
    """
    return int(attempt) if _NUMBER.fullmatch(attempt) else None


def line_of(state: AttemptState) -> bytes:
    """The line, its time in ns. Raises ValueError for names that no line holds."""
    tags = {
        "attempt": state.attempt,
        BY: state.by,
        "experiment": state.experiment,
        "rank": state.rank,
        "run": state.run,
    }
    fields = [(b"state", encode_string(state.state))]
    for name, step in (("first_step", state.first_step), ("step", state.step)):
        if step is not None:
            fields.append((name.encode(), b"%di" % step))
    if state.reason:
        fields.append((b"reason", encode_string(state.reason)))
    return encode(
        Line(
            MEASUREMENT.encode(),
            tuple((key.encode(), value.encode()) for key, value in tags.items() if value),
            tuple(fields),
            state.time_ns,
        )
    )
