"""``tests``: which test of one revision is which of another."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from tests.structure.comparison import Comparison, Difference, Side, closeness, misled
from tests.structure.units import TESTS, Definitions, Unit, under

_FILE = re.compile(r"(^|/)test_\w*\.py$")


@dataclass(slots=True)
class Mapping:
    """The tests of two revisions one to one, and what has no counterpart."""

    pairs: list[tuple[Unit, Unit]] = field(default_factory=list)
    changed: list[tuple[Unit, Unit]] = field(default_factory=list)
    renamed: list[tuple[Unit, Unit]] = field(default_factory=list)
    #: Tests of the same text whose names lead to other definitions.
    misled: list[Difference] = field(default_factory=list)
    lost: list[Unit] = field(default_factory=list)
    #: Tests whose equal stood once before and now stands again elsewhere.
    doubled: list[Unit] = field(default_factory=list)
    new: list[Unit] = field(default_factory=list)
    #: Of fixtures, rigs, constants and whatever else is no test.
    helpers: Comparison = field(default_factory=Comparison)

    @classmethod
    def of(cls, before: Iterable[Unit], after: Iterable[Unit]) -> Mapping:
        """Map by all units of two revisions, product included: that is what tests lead to."""
        before, after = list(before), list(after)
        old, new = Definitions(before), Definitions(after)
        left, right = [u for u in before if is_test(u)], [u for u in after if is_test(u)]
        known = {unit.key for unit in left}
        result = cls()
        result.pairs += _take(left, right, lambda unit: unit.key)
        result.misled = misled(result.pairs, old, new)
        result.changed += _take(left, right, lambda unit: unit.name)
        result.renamed += _take(left, right, _without_name)
        result.pairs += result.changed + result.renamed
        result.lost = left
        result.doubled = [unit for unit in right if unit.key in known]
        result.new = [unit for unit in right if unit.key not in known]
        result.helpers = Comparison.of(Side(_helpers(before), old), Side(_helpers(after), new))
        return result

    @property
    def holds(self) -> bool:
        different = self.changed or self.misled or self.helpers.differences
        return not (self.lost or self.doubled or different)

    def table(self) -> list[tuple[str, str]]:
        return sorted((id_of(old), id_of(new)) for old, new in self.pairs)


def is_test(unit: Unit) -> bool:
    """Whether pytest collects a unit as a test, or as a class that a state machine is run by."""
    if not _FILE.search(unit.path):
        return False
    *classes, name = unit.name.split(".")
    if unit.kind == "function":
        return name.startswith("test_") and all(one.startswith("Test") for one in classes)
    return name.startswith("Test") and unit.normal.text.endswith(".TestCase")


def _helpers(units: list[Unit]) -> list[Unit]:
    return [unit for unit in units if under(unit.path, TESTS) and not is_test(unit)]


def id_of(unit: Unit) -> str:
    return "::".join([unit.path, *unit.name.split(".")])


def _take(
    left: list[Unit], right: list[Unit], key: Callable[[Unit], Hashable]
) -> list[tuple[Unit, Unit]]:
    """Take out of both lists what has the same key, pair by pair, the closest in place first."""
    groups: dict[Hashable, list[Unit]] = defaultdict(list)
    for unit in right:
        groups[key(unit)].append(unit)
    pairs = [(old, new) for old in left for new in groups[key(old)]]
    pairs.sort(key=lambda pair: -closeness(*pair))
    taken: list[tuple[Unit, Unit]] = []
    for old, new in pairs:
        if old in left and new in right:
            left.remove(old)
            right.remove(new)
            taken.append((old, new))
    return taken


def _without_name(unit: Unit) -> str:
    name = unit.name.rpartition(".")[2]
    return re.sub(rf"\bdef {re.escape(name)}\(", "def (", unit.normal.text, count=1)
