"""A circuit breaker towards the log (Nygard, Release It!): while it is away, say so at once.

closed: writes go through. The first write that the log did not take in its deadline opens
it: that deadline is long (10 s), so one is evidence enough. open: every write is refused
with Retry-After, and the supervisor probes the log. half-open: a probe succeeded, one block
may try; its success closes the breaker, its failure opens it again.
"""

from __future__ import annotations

from enum import IntEnum

from telemetry import metrics


class CircuitState(IntEnum):
    """Also the value of the metric stepclock_gateway_circuit_state."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """State only: who probes, and when, is the supervisor's affair. One thread."""

    def __init__(self, *, retry_after_s: float = 2.0) -> None:
        #: What to tell refused clients: the time in which a probe and a trial fit.
        self.retry_after_s = retry_after_s
        self._state = CircuitState.OPEN  # nothing is known of the log before the first probe
        self._trial_in_flight = False
        self._failed_once = False
        self._publish()

    @property
    def state(self) -> CircuitState:
        """The state now."""
        return self._state

    def refuses(self) -> bool:
        """True if a write must be refused now; looks only, changes nothing."""
        return self._state is CircuitState.OPEN or (
            self._state is CircuitState.HALF_OPEN and self._trial_in_flight
        )

    @property
    def trying(self) -> bool:
        """The trial is in flight: what is gathered waits for its outcome."""
        return self._trial_in_flight

    def begin(self) -> None:
        """A block goes out; in half-open it is the trial."""
        if self._state is CircuitState.HALF_OPEN:
            self._trial_in_flight = True

    def succeeded(self) -> None:
        """The log acknowledged a block. A late one while open says nothing of now."""
        if self._state is CircuitState.HALF_OPEN:
            self._trial_in_flight = False
            self._state = CircuitState.CLOSED
            self._publish()

    def refused(self) -> None:
        """The log refused a block for what it is. That says nothing of the log: another may try."""
        self._trial_in_flight = False

    def failed(self) -> None:
        """The log did not take a block in time."""
        if self._state is not CircuitState.OPEN:
            metrics.CIRCUIT_OPENED.inc()
        self._failed_once = True
        self._trial_in_flight = False
        self._state = CircuitState.OPEN
        self._publish()

    def probe_succeeded(self) -> None:
        """The log answers: let one block try, or all at the start, when none has failed yet."""
        if self._state is CircuitState.OPEN:
            self._state = CircuitState.HALF_OPEN if self._failed_once else CircuitState.CLOSED
            self._trial_in_flight = False
            self._publish()

    def _publish(self) -> None:
        metrics.CIRCUIT_STATE.set(self._state)
