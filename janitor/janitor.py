"""One round over every namespace: look, decide, delete and write."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from janitor.decide import Patience, judged_at, stale_steps, summaries, verdicts
from schemas.line_protocol.precision import Precision
from schemas.retention import EVENTS_CLASS
from schemas.store.attempts import AttemptState, AttemptStore
from schemas.store.protocols import LinesRefused, LineWriter, StoreMisconfigured
from schemas.store.run_state import JANITOR, LOOK_BACK_NS, State, line_of, standings
from telemetry.metrics import (
    JANITOR_DELETIONS,
    JANITOR_ROUND_AT,
    JANITOR_ROUND_SECONDS,
    JANITOR_RUNS,
    JANITOR_VERDICTS,
)

_log = logging.getLogger("stepclock.janitor")

#: How long before the oldest lines that are looked at a run's newest one may stand for all of its
#: others to be there: its ranks end within it.
_WHOLE_NS = 86_400 * 10**9

#: Lines of a write.
_LINES = 1000


class Janitor:
    """Keeps attempts and states of runs. For one thread at a time; several may run at once.

    namespaces is asked at each round. canary_class: the class that carries canaries.
    max_deletions bounds a round: each costs the store a look through its files, and the next round
    goes on; rng chooses, so that zombies, of which each round finds something, keep no other run
    and no other namespace waiting. dry_run: say what would be done, and do nothing. now_ns: Unix
    time.
    """

    def __init__(
        self,
        store: AttemptStore,
        writer: LineWriter,
        namespaces: Callable[[], Collection[str]],
        patience: Patience,
        canary_class: str,
        *,
        max_deletions: int = 20,
        dry_run: bool = False,
        say: Callable[[str], None] = _log.info,
        now_ns: Callable[[], int] = time.time_ns,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._writer = writer
        self._namespaces = namespaces
        self._patience = patience
        self._canary_class = canary_class
        self._max_deletions = max_deletions
        self._dry_run = dry_run
        self._say = say
        self._now_ns = now_ns
        self._now = now
        self._rng = rng or random.Random()  # noqa: S311 - an order, no secret

    def round(self) -> bool:
        """One round; whether all was done, or the bound left some for the next.

        A namespace without its buckets is left out with a warning. Raises StoreUnavailable.
        """
        began = self._now()
        left = self._max_deletions
        counts: Counter[str] = Counter()
        whole = True
        namespaces = list(self._namespaces())
        # One that uses up the bound, or on which the store fails, must not always come first.
        self._rng.shuffle(namespaces)
        for namespace in namespaces:
            try:
                deleted, done = self._keep(namespace, left, counts)
            except StoreMisconfigured as exc:
                _log.warning("namespace %s is left out: %s", namespace, exc)
                continue
            left -= deleted
            whole = whole and done
        for state in State:
            JANITOR_RUNS.labels(state.value).set(counts[state])
        JANITOR_ROUND_SECONDS.observe(self._now() - began)
        JANITOR_ROUND_AT.set(self._now_ns() / 1e9)
        return whole

    def _keep(self, namespace: str, max_deletions: int, counts: Counter[str]) -> tuple[int, bool]:
        """Keep one namespace: how many deletions it took, and whether that was all."""
        now_ns = self._now_ns()
        # The canary first: what a gateway took before it, and is stored, is found after it.
        judged_at_ns = judged_at(now_ns, self._store.canary_ns(self._canary_class))
        # States second: an attempt that says where it begins has its points at the latest soon.
        # A run whose last line is older has been lost for days, or nobody was there to say so.
        since_ns = now_ns - LOOK_BACK_NS
        states = self._store.attempt_states(namespace, since_ns)
        stale = list(stale_steps(self._store.attempt_steps(namespace), states))
        if len(stale) > max_deletions:
            self._rng.shuffle(stale)
        for one in stale[:max_deletions]:
            self._say(
                f"{namespace}: {one.experiment} {one.run}: points of {one.measurement} leave class "
                f"steps: attempt {one.attempt} from step {one.from_step}"
            )
            if not self._dry_run:
                self._store.delete_steps(namespace, one)
                JANITOR_DELETIONS.inc()
        new = list(verdicts(states, judged_at_ns, self._patience))
        new += list(summaries((*states, *new), since_ns + _WHOLE_NS))
        for state in new:
            why = f", {state.reason}" if state.reason else ""
            self._say(f"{namespace}: {state.experiment} {state.run}: {state.state}{why}")
        if not self._dry_run:
            self._write(namespace, new)
        counts.update(state.state for state in standings((*states, *new)).values())
        return min(len(stale), max_deletions), len(stale) <= max_deletions

    def _write(self, namespace: str, states: Sequence[AttemptState]) -> None:
        for first in range(0, len(states), _LINES):
            some = states[first : first + _LINES]
            lines = b"\n".join(map(line_of, some))
            try:
                self._writer.write(namespace, EVENTS_CLASS, lines, Precision.NS)
            except LinesRefused as exc:  # a client gave a field of run_state another kind
                _log.warning("namespace %s: states can't be written: %s", namespace, exc)
            else:
                for state in some:
                    if state.by == JANITOR:
                        JANITOR_VERDICTS.labels(state.state).inc()
