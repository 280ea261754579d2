"""Attempts of runs: what the store tells of them, and the protocol that deletes stale steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AttemptSteps:
    """The steps that one attempt of a run has in one measurement of class steps.

    measurement: the experiment itself, or `nonfinite`, whose points name it in a tag. attempt:
    the tag's text. Steps between the ends may be missing.
    """

    measurement: str
    experiment: str
    run: str
    attempt: str
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class AttemptState:
    """A line of `schemas.store.run_state`. step: the last one logged; by: who wrote it, "" the run.

    Texts are empty and steps None where the line says nothing.
    """

    experiment: str
    run: str
    time_ns: int
    state: str
    rank: str = ""
    attempt: str = ""
    by: str = ""
    first_step: int | None = None
    step: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StaleSteps:
    """Points of class steps that another attempt took the place of: all from one step on.

    Raises ValueError for an empty name, which would match what belongs to nobody.
    """

    measurement: str
    experiment: str
    run: str
    attempt: str
    from_step: int

    def __post_init__(self) -> None:
        if not (self.measurement and self.experiment and self.run and self.attempt):
            raise ValueError(f"a name is empty: {self}")
        if self.from_step < 0:
            raise ValueError(f"a step is negative: {self}")


class AttemptStore(Protocol):
    """What the janitor asks and does about attempts of runs. For one thread.

    Every method raises StoreUnavailable, or StoreMisconfigured where the token may not.
    """

    def attempt_steps(self, namespace: str) -> list[AttemptSteps]:
        """Every attempt with points in class steps, in any order; none without a tag attempt."""
        ...

    def attempt_states(self, namespace: str, since_ns: int) -> list[AttemptState]:
        """The newest line of each series of run_state, of those with a time from since_ns on."""
        ...

    def canary_ns(self, retention_class: str) -> int | None:
        """When the newest canary of a gateway that is stored was sent; None without any.

        retention_class: the class that carries them.
        """
        ...

    def delete_steps(self, namespace: str, stale: StaleSteps) -> None:
        """Delete these points from class steps, those of every rank; no other class changes.

        What is written meanwhile may stay. Deleting what is not there does nothing.
        """
        ...
