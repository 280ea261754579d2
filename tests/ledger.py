"""What clients sent and what they were told, and the oracle that compares it with a store."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from schemas.store.protocols import StoredPoint

EXPERIMENT = "load"
#: Runs with this prefix send lines without a time, which the gateway then gives them.
UNTIMED = "u"
RUN_NS = 10**9
STEP_NS = 1000

#: One numbered point: run and step.
Point = tuple[str, int]


@dataclass
class Ledger:
    """Numbered points of the experiment `load`: what was sent, and what became of it.

    start_ns: time of step 0 of run 0.
    """

    start_ns: int
    #: Valid points, whatever was answered.
    sent: set[Point] = field(default_factory=set)
    #: Valid points that got a 2xx, or stood beside a line that was refused by name.
    acknowledged: set[Point] = field(default_factory=set)
    #: Lines that no gateway may take, of bodies that were answered.
    malformed: set[Point] = field(default_factory=set)
    #: Those of them that an answer named.
    named: set[Point] = field(default_factory=set)
    #: Acknowledged lines that only the store can refuse: text where numbers stand.
    mistyped: set[Point] = field(default_factory=set)

    def time_of(self, point: Point) -> int:
        """When a timed point was measured: no two are, and no two have the same step and run."""
        run, step = point
        return self.start_ns + int(run[1:]) * RUN_NS + step * STEP_NS

    def line(self, point: Point) -> str:
        """A valid line, whose value tells its step."""
        return self._line(point, f"{point[1]}.5")

    def malformed_line(self, point: Point) -> str:
        """A line that lacks its value."""
        return self._line(point, "")

    def mistyped_line(self, point: Point) -> str:
        """A line that is well formed, with a text for a number."""
        return self._line(point, '"text"')

    def _line(self, point: Point, value: str) -> str:
        run, step = point
        line = f"{EXPERIMENT},run={run} value={value},step={step}i"
        return line if run.startswith(UNTIMED) else f"{line} {self.time_of(point)}"


@dataclass
class Verdict:
    """What is wrong, by view: the class that holds it.

    missing: acknowledged, and not stored. invented: stored, and never sent so. doubled: stored
    more than once. unaccounted: refused lines that no answer names, or no dead letter holds.
    """

    missing: dict[str, set[Point]] = field(default_factory=dict)
    invented: dict[str, set[Point]] = field(default_factory=dict)
    doubled: dict[str, set[Point]] = field(default_factory=dict)
    unaccounted: set[Point] = field(default_factory=set)

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return self.line == "missing=0 invented=0 doubled=0" and not self.unaccounted

    @property
    def line(self) -> str:
        """How many points are wrong in which way, all views together."""
        ways = {"missing": self.missing, "invented": self.invented, "doubled": self.doubled}
        return " ".join(f"{name}={sum(map(len, found.values()))}" for name, found in ways.items())

    @property
    def where(self) -> str:
        """Which points: for each way, view and run how many, and the span of their steps."""
        ways = {
            "missing": self.missing,
            "invented": self.invented,
            "doubled": self.doubled,
            "unaccounted": {"any view": self.unaccounted},
        }
        texts = []
        for way, views in ways.items():
            for view, points in views.items():
                steps: defaultdict[str, list[int]] = defaultdict(list)
                for run, step in points:
                    steps[run].append(step)
                texts += [
                    f"{way} in {view}: {len(found)} of {run}, steps {min(found)}-{max(found)}"
                    for run, found in sorted(steps.items())
                ]
        return "; ".join(texts)


def judge(
    ledger: Ledger,
    views: Mapping[str, Iterable[StoredPoint]],
    dead: Mapping[str, Collection[Point]] | None = None,
) -> Verdict:
    """Compare every point of each view with the ledger.

    views: what each class holds of the experiment. dead: points in dead letters, by class.
    Points that lack a field are passed over: InfluxDB shows one that is being written field by
    field, and a whole one that went missing is missing.
    """
    verdict = Verdict()
    for view, stored in views.items():
        found: Counter[Point] = Counter()
        invented: defaultdict[str, set[Point]] = defaultdict(set)
        for each in stored:
            if each.fields.keys() != {"value", "step"}:
                continue
            point = (each.tags["run"], int(each.fields["step"]))
            found[point] += 1
            if point not in ledger.sent or not _is_as_sent(ledger, view, point, each):
                invented[view].add(point)
        verdict.missing[view] = ledger.acknowledged - found.keys()
        verdict.invented[view] = invented[view]
        verdict.doubled[view] = {point for point, count in found.items() if count > 1}
        if dead is not None:
            verdict.unaccounted |= ledger.mistyped.difference(dead[view])
    verdict.unaccounted |= ledger.malformed ^ ledger.named
    return verdict


def _is_as_sent(ledger: Ledger, view: str, point: Point, stored: StoredPoint) -> bool:
    run, step = point
    if stored.fields["value"] != step + 0.5:
        return False
    if view == "steps":
        return stored.time_ns == step * 1_000_000
    return run.startswith(UNTIMED) or stored.time_ns == ledger.time_of(point)
