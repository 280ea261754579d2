"""Who takes part in the demo: tenants with their limits, and runs with their learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from demo.training import Hyperparameters
from schemas.tenants.keys import DEFAULT_NAMESPACE, Tenant

NAMESPACE = DEFAULT_NAMESPACE

#: Points/s of the guest, and how many it may send at once: less than it wants to send.
GUEST_POINTS_PER_S = 60

DEMO = Tenant("demo", NAMESPACE)
GUEST = Tenant("guest", NAMESPACE, rate=GUEST_POINTS_PER_S, burst=GUEST_POINTS_PER_S)
TENANTS = (DEMO, GUEST)

#: Above about 3 this network diverges; 8 ends in infinities and NaN for every seed.
_LEARNING_RATES = (0.02, 0.1, 0.5, 8.0)
_GUEST_LEARNING_RATE = 0.2

#: The guest trains faster than its limit lets it send, for a part of the time; in the rest its
#: sender catches up.
_GUEST_PACE = 1.6
_GUEST_SHARE = 0.8
_MIN_GUEST_STEPS = 3 * GUEST_POINTS_PER_S


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One training process."""

    name: str
    tenant: Tenant
    hyperparameters: Hyperparameters
    steps_per_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The runs of one experiment."""

    experiment: str
    runs: tuple[TrainingRun, ...]

    @property
    def steps(self) -> int:
        """Steps of all runs, if each trained to its end."""
        return sum(run.hyperparameters.steps for run in self.runs)


def make_plan(experiment: str, *, steps: int, steps_per_s: float) -> Plan:
    """A plan whose runs of the tenant `demo` train `steps` steps at the given pace."""
    runs = [
        TrainingRun(f"lr-{rate:g}", DEMO, Hyperparameters(rate, steps, seed), steps_per_s)
        for seed, rate in enumerate(_LEARNING_RATES, start=1)
    ]
    guest_steps = int(steps / steps_per_s * GUEST_POINTS_PER_S * _GUEST_SHARE)
    guest = Hyperparameters(
        _GUEST_LEARNING_RATE, max(guest_steps, _MIN_GUEST_STEPS), seed=len(runs) + 1
    )
    name = f"guest-lr-{_GUEST_LEARNING_RATE:g}"
    runs.append(TrainingRun(name, GUEST, guest, _GUEST_PACE * GUEST_POINTS_PER_S))
    return Plan(experiment, tuple(runs))
