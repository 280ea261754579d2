"""What goes wrong when: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

GATEWAYS = ("gateway-0", "gateway-1")
CONSUMERS = ("consumer-0", "consumer-1", "consumer-2")
#: Connections by who makes them and to whom, each by way of a proxy.
LINKS = {
    "clients": ("clients-gateway-0", "clients-gateway-1"),
    "gateways": ("gateways-broker",),
    "consumers": ("consumers-broker",),
    "writers": ("consumers-database",),
}
PROCESSES = {
    "gateway": GATEWAYS,
    "consumer": CONSUMERS,
    "broker": ("broker",),
    "database": ("database",),
}
EVERYTHING = PROCESSES | LINKS


@dataclass(frozen=True)
class Kind:
    """A kind of fault: whom it can hit, and for how long it lasts, in seconds."""

    groups: Collection[str]
    least_s: float
    most_s: float


KINDS = {
    # SIGKILL, and started again afterwards.
    "kill": Kind(PROCESSES, 0.5, 8.0),
    # SIGSTOP and SIGCONT: longer than a gateway waits for Kafka, and than a session lasts.
    "pause": Kind(PROCESSES, 2.0, 13.0),
    # SIGTERM, and started again afterwards.
    "restart": Kind(PROCESSES, 0.5, 4.0),
    # Connections are reset and refused.
    "cut": Kind(LINKS, 1.0, 12.0),
    # Connections stay, and nothing passes.
    "freeze": Kind(LINKS, 2.0, 13.0),
    # Requests arrive, and their answers do not.
    "mute": Kind(LINKS, 2.0, 13.0),
    # Every 64 KiB are late, each way.
    "slow": Kind(LINKS, 3.0, 8.0),
    # One more consumer joins the group, and leaves it with SIGTERM.
    "join": Kind(("consumer",), 5.0, 10.0),
    # The database's disk has no room.
    "disk-full": Kind(("database",), 2.0, 8.0),
}


@dataclass(frozen=True)
class Fault:
    """One fault, at_s seconds after the start of the schedule."""

    at_s: float
    kind: str
    target: str
    duration_s: float

    @property
    def end_s(self) -> float:
        """When it is to be healed."""
        return round(self.at_s + self.duration_s, 1)

    def __str__(self) -> str:
        return f"{self.at_s:6.1f} s  {self.kind} {self.target} for {self.duration_s:.1f} s"


def schedule(seed: int, seconds: float, *, without: Collection[str] = ()) -> list[Fault]:
    """Faults in order of their beginnings, all healed by `seconds`.

    Never more than two at a time, and never two of the same target. Each kind but those
    `without` comes once before the others repeat, then each kind with each group of targets.
    """
    rng = random.Random(seed)
    faults: list[Fault] = []
    at_s = 1.0
    for kind, group in _deal(rng, without):
        lasting = KINDS[kind]
        duration_s = rng.uniform(lasting.least_s, lasting.most_s)
        target = "joiner" if kind == "join" else rng.choice(EVERYTHING[group])
        free_s = max((f.end_s + 0.5 for f in faults if f.target == target), default=0.0)
        only_one_s = sorted(f.end_s for f in faults)[-2] if len(faults) > 1 else 0.0
        at_s = round(max(at_s, free_s, only_one_s), 1)
        if at_s + lasting.least_s > seconds:
            return faults
        fault = Fault(at_s, kind, target, round(min(duration_s, seconds - at_s), 1))
        faults.append(fault)
        at_s += fault.duration_s * rng.uniform(0.4, 1.1) + rng.uniform(0.3, 1.5)
    raise AssertionError("BUG: there is always another fault")


def _deal(rng: random.Random, without: Collection[str]) -> Iterator[tuple[str, str]]:
    """Kinds with groups, for ever."""
    kinds = [kind for kind in KINDS if kind not in without]
    rng.shuffle(kinds)
    for kind in kinds:
        yield kind, rng.choice(list(KINDS[kind].groups))
    pairs = [(kind, group) for kind in kinds for group in KINDS[kind].groups]
    while True:
        rng.shuffle(pairs)
        yield from pairs
