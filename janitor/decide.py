"""What the janitor decides, from what the store says and the time. Nothing is done here.

All state is in the store: two janitors, or one that was killed, decide and write the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from schemas.store.attempts import AttemptState, AttemptSteps, StaleSteps
from schemas.store.run_state import JANITOR, SUMMARY, RunKey, State, number_of, place_of, standings

_NS_PER_S = 10**9

#: Canaries come every few seconds; so much time may have passed since the newest.
_CANARY_APART_NS = 30 * _NS_PER_S
_CANARIES_COUNT_NS = 86_400 * _NS_PER_S


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds without a heartbeat after which a running run is silent, and lost."""

    silent_after_s: float
    lost_after_s: float


def stale_steps(
    steps: Iterable[AttemptSteps], states: Iterable[AttemptState]
) -> Iterator[StaleSteps]:
    """What leaves class steps: of each attempt all from where a higher one of its run begins.

    An attempt begins at the least step that it shows or says it began with. So a zombie, an
    attempt that goes on beside a higher one, loses to it from there; and what holds no number
    is left alone.
    """
    known = list(steps)
    begins = _begins(known, states)
    for one in known:
        number = number_of(one.attempt)
        if number is None:
            continue
        higher = [step for other, step in begins[one.experiment, one.run].items() if other > number]
        if higher and min(higher) <= one.last_step:
            yield StaleSteps(one.measurement, one.experiment, one.run, one.attempt, min(higher))


def _begins(
    steps: Iterable[AttemptSteps], states: Iterable[AttemptState]
) -> Mapping[RunKey, Mapping[int, int]]:
    """The step at which each attempt of a run begins, by its number."""
    begins: defaultdict[RunKey, dict[int, int]] = defaultdict(dict)
    known: list[AttemptSteps | AttemptState] = [*steps, *states]
    for one in known:
        number = number_of(one.attempt)
        if number is not None and one.first_step is not None:
            of_run = begins[one.experiment, one.run]
            of_run[number] = min(of_run.get(number, one.first_step), one.first_step)
    return begins


def judged_at(now_ns: int, canary_ns: int | None) -> int:
    """The time up to which a heartbeat that is missing was not sent, or not taken by a gateway.

    Where points come late, heartbeats do too: nobody falls silent then. Canaries that stopped a
    day ago were switched off, and tell nothing.
    """
    if canary_ns is None or now_ns - canary_ns > _CANARIES_COUNT_NS:
        return now_ns
    return min(now_ns, canary_ns + _CANARY_APART_NS)


def verdicts(
    states: Iterable[AttemptState], now_ns: int, patience: Patience
) -> Iterator[AttemptState]:
    """A line for each run that is newly silent or lost.

    It stands at the moment at which patience ended, not at which that was noticed, so that it
    is the same whoever writes it; a heartbeat after that moment makes the run running again.
    """
    known = list(states)
    said = standings(one for one in known if one.by == JANITOR)
    for run, last in standings(one for one in known if not one.by).items():
        if last.state != State.RUNNING:
            continue
        verdict = _verdict(last, now_ns, patience)
        # One that is as new stands already; a newer one was made by other settings.
        if verdict is not None and (run not in said or _order(verdict) > _order(said[run])):
            yield verdict


def summaries(states: Iterable[AttemptState], since_ns: int) -> Iterator[AttemptState]:
    """A line for each run of which the newest line does not say how it stands.

    Dashboards show a run's newest line: that may be one rank's, an old attempt's, or a verdict
    on a run whose own end was stored late. The summary is the newest line then. Runs without a
    line since since_ns are left as they are: the others of them may not be known any more.
    """
    known = list(states)
    newest: dict[RunKey, AttemptState] = {}
    for state in known:
        run = (state.experiment, state.run)
        if run not in newest or state.time_ns > newest[run].time_ns:
            newest[run] = state
    for run, stands in standings(known).items():
        last = newest[run]
        if last.time_ns >= since_ns and last.state != stands.state:
            yield replace(stands, time_ns=last.time_ns + 1, by=SUMMARY)


def _verdict(last: AttemptState, now_ns: int, patience: Patience) -> AttemptState | None:
    for state, after_s in (
        (State.LOST, patience.lost_after_s),
        (State.SILENT, patience.silent_after_s),
    ):
        at_ns = last.time_ns + round(after_s * _NS_PER_S)
        if at_ns <= now_ns:
            reason = f"no heartbeat for {after_s:g} s"
            return replace(last, time_ns=at_ns, state=state.value, by=JANITOR, reason=reason)
    return None


def _order(state: AttemptState) -> tuple[int, int]:
    return place_of(state), state.time_ns
