"""Lines of measurement ``run_state`` in class events: how a run goes, said by itself and for it.

A client writes one at the start of an attempt, at each heartbeat and at the end, on each rank
that logs. Of a run that says no more, the janitor writes `silent` and then `lost`. What these
lines say of a run together, `standings` decides, for all who ask.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from enum import StrEnum

from schemas.line_protocol.bounds import MAX_STEP
from schemas.line_protocol.codec import Line, encode, encode_string
from schemas.store.attempts import AttemptState
from schemas.store.protocols import RunSummary

MEASUREMENT = "run_state"

#: Tag of lines that the janitor wrote: series of their own, which no client's line overwrites.
#: Those by SUMMARY repeat how a run stands, for readers that look at its newest line alone.
BY = "by"
JANITOR = "janitor"
SUMMARY = "summary"

#: Lines of a run are looked for from so long before its newest point on.
LOOK_BACK_NS = 7 * 86_400 * 10**9

#: Experiment and run.
RunKey = tuple[str, str]

# As far as Unix times in ns.
_NUMBER = re.compile(r"[0-9]{1,19}")


class State(StrEnum):
    """How a run stands. The last two are the janitor's."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    PREEMPTED = "preempted"
    SILENT = "silent"  # no heartbeat for a while: busy, stuck, or its network is away
    LOST = "lost"  # so long that nobody expects it back


#: Which of several ranks speaks for the run. Ranks that a launcher ends because another one failed
#: are `preempted`; where one ended as it should and another without a word, the run did not finish.
#: Other texts, which plain clients may write, weigh nothing.
_WEIGHT: Mapping[str, int] = {
    State.RUNNING: 5,
    State.FAILED: 4,
    State.PREEMPTED: 3,
    State.LOST: 2,
    State.SILENT: 2,
    State.FINISHED: 1,
}


def number_of(attempt: str) -> int | None:
    """The place of an attempt among those of its run; None for a text that has none.

    Attempts are counted from 0 or 1, in decimal digits.
    """
    return int(attempt) if _NUMBER.fullmatch(attempt) else None


def standings(lines: Iterable[AttemptState]) -> dict[RunKey, AttemptState]:
    """How each run stands: the line of its highest attempt that speaks for it.

    What an earlier attempt says after the next one has begun tells nothing of the run. A run is
    running as long as one of its ranks is; once none is, the gravest of their ends counts, and of
    failures the first, the others being mostly its echo. The newest line of a rank is its word.
    The janitor's counts for ranks that had none since a heartbeat: a run that said how it ended did
    so, however late that came to be stored.
    """
    highest: dict[RunKey, list[AttemptState]] = {}
    for line in lines:
        found = highest.setdefault((line.experiment, line.run), [])
        if found and place_of(line) > place_of(found[0]):
            found.clear()
        if not found or place_of(line) == place_of(found[0]):
            found.append(line)
    return {run: _speaker(found) for run, found in highest.items()}


def place_of(line: AttemptState) -> int:
    """The place of a line's attempt; one without a number comes before all."""
    number = number_of(line.attempt)
    return -1 if number is None else number


def _speaker(lines: list[AttemptState]) -> AttemptState:
    """The line that speaks for an attempt, of all its lines."""
    words = {line.rank: line for line in sorted(lines, key=_age) if not line.by}
    verdict = max((line for line in lines if line.by == JANITOR), key=_age, default=None)
    heard = [
        word
        for word in words.values()
        if word.state != State.RUNNING or verdict is None or word.time_ns > verdict.time_ns
    ]
    if verdict is not None and len(heard) < len(words):
        heard.append(verdict)
    if not heard:
        return max(lines, key=_age)
    weight = max(_WEIGHT.get(line.state, 0) for line in heard)
    gravest = [line for line in heard if _WEIGHT.get(line.state, 0) == weight]
    return (min if gravest[0].state == State.FAILED else max)(gravest, key=_age)


def _age(line: AttemptState) -> tuple[int, str, str]:
    """Later lines are larger; of the same moment always the same one."""
    return line.time_ns, line.rank, line.by


def asked_since_ns(runs: Collection[RunSummary]) -> int:
    """From when on to look for what runs say of themselves; there must be some.

    Who logs says by heartbeats that it runs: no run's last word is much older than its newest
    point, and years of others need not be read.
    """
    return min(run.last_time_ns for run in runs) - LOOK_BACK_NS


def with_states(
    runs: Iterable[RunSummary], experiment: str, lines: Iterable[AttemptState]
) -> list[RunSummary]:
    """Runs of an experiment, with how they stand."""
    stand = standings(lines)
    return [_with_state(run, stand.get((experiment, run.run))) for run in runs]


def _with_state(run: RunSummary, line: AttemptState | None) -> RunSummary:
    if line is None:
        return run
    return replace(
        run,
        state=line.state,
        attempt=number_of(line.attempt),
        reason=line.reason or None,
    )


def step_of(said: float | str | None) -> int | None:
    """The step that a field of a client's line names, perhaps as a float; None if it is none."""
    try:
        step = int(float(said)) if said is not None else -1
    except (OverflowError, ValueError):
        return None
    return step if 0 <= step <= MAX_STEP else None


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
