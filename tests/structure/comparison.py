"""``functions``: whether two revisions hold the same functions, classes and constants."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher, unified_diff
from functools import partial
from pathlib import PurePosixPath

from tests.structure.normal_form import MARK
from tests.structure.units import Definitions, Unit

_MARKED = re.compile(rf"{MARK}(?=\w)")


@dataclass(frozen=True, slots=True)
class Difference:
    """A unit that only one side has, or two of one name that differ."""

    before: Unit | None
    after: Unit | None
    #: Names that are written alike and lead to different definitions.
    misled: tuple[str, ...] = ()

    def __str__(self) -> str:
        unit = self.before or self.after
        assert unit is not None
        if self.before is None:
            return f"only after: {unit.kind} {unit.name} at {unit.place}"
        if self.after is None:
            return f"only before: {unit.kind} {unit.name} at {unit.place}"
        head = f"{unit.kind} {unit.name}: {self.before.place} -> {self.after.place}"
        if self.misled:
            return f"{head}\n  other definitions are meant by: {', '.join(self.misled)}"
        return "\n".join([head, *_diff(self.before, self.after)])


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared of a revision, and all that its names may lead to."""

    compared: list[Unit]
    definitions: Definitions


@dataclass(slots=True)
class Comparison:
    """Units of two revisions as multisets of names and normal forms."""

    #: Units by kind that stand on both sides.
    equal: Counter[str] = field(default_factory=Counter)
    pairs: list[tuple[Unit, Unit]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    @classmethod
    def of(cls, before: Side, after: Side) -> Comparison:
        result = cls()
        left, right = result._pair_equal(before.compared, after.compared)
        result.differences += misled(result.pairs, before.definitions, after.definitions)
        for one in left:
            others = [unit for unit in right if (unit.name, unit.kind) == (one.name, one.kind)]
            other = max(others, key=partial(closeness, one), default=None)
            if other is not None:
                right.remove(other)
            result.differences.append(Difference(one, other))
        result.differences += [Difference(None, unit) for unit in right]
        return result

    def _pair_equal(self, before: list[Unit], after: list[Unit]) -> tuple[list[Unit], list[Unit]]:
        """What is left of both sides when equals are paired, the closest in place first."""
        groups: dict[tuple[str, str], tuple[list[Unit], list[Unit]]] = defaultdict(lambda: ([], []))
        for side, units in enumerate((before, after)):
            for unit in units:
                groups[unit.key][side].append(unit)
        for olds, news in groups.values():
            for _ in range(min(len(olds), len(news))):
                old, new = max(
                    ((old, new) for old in olds for new in news),
                    key=lambda pair: closeness(*pair),
                )
                olds.remove(old)
                news.remove(new)
                self.pairs.append((old, new))
                self.equal[old.kind] += 1
        return (
            [unit for olds, _ in groups.values() for unit in olds],
            [unit for _, news in groups.values() for unit in news],
        )


def misled(
    pairs: Iterable[tuple[Unit, Unit]], old: Definitions, new: Definitions
) -> list[Difference]:
    """Pairs of equal text whose names lead to other definitions than they did.

    A definition that is itself changed is told once, not again for each that uses it.
    """
    pairs = list(pairs)
    led_to: dict[tuple[str, str], tuple[Counter[object], Counter[object]]] = defaultdict(
        lambda: (Counter(), Counter())
    )
    for one, other in pairs:
        led_to[one.key][0][old.led_to(one)] += 1
        led_to[one.key][1][new.led_to(other)] += 1
    found = []
    for one, other in pairs:
        before, after = old.led_to(one), new.led_to(other)
        if before not in led_to[one.key][0] - led_to[one.key][1]:
            continue
        names = {
            name
            for (name, digest), there in zip(before, after, strict=True)
            if (name, digest) != there and (name, digest) in new.all
        }
        if names:
            found.append(Difference(one, other, tuple(sorted(names))))
    return found


def closeness(one: Unit, other: Unit) -> float:
    """From 0 to 2: how much two places look alike, files of the same name above all."""
    if one.path == other.path:
        return 2.0
    same_file = PurePosixPath(one.path).name == PurePosixPath(other.path).name
    return same_file + SequenceMatcher(None, one.path, other.path, autojunk=False).ratio()


def _diff(before: Unit, after: Unit) -> list[str]:
    texts = before.normal.text, after.normal.text
    old, new = (_MARKED.sub("", text).splitlines() for text in texts)
    if old == new:
        old, new = (text.splitlines() for text in texts)
    return list(unified_diff(old, new, before.place, after.place, lineterm=""))
