"""The ledger: what the trainers were about to log against what the store holds, value by value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from demo.rows import LoggedRow
from schemas.store.protocols import FieldValue, StoredPoint, StoreReader


class RowKey(NamedTuple):
    """The identity of one step's line. Tags are text in the store, so rank is text here."""

    run: str
    rank: str
    step: int


class Cell(NamedTuple):
    """One value of one row. A value that is no finite number is its kind: nan, inf, -inf."""

    row: RowKey
    field: str
    value: FieldValue


@dataclass(frozen=True, slots=True)
class Cells:
    """All that one side holds.

    doubled: lines too many, when several in the store have the same run, rank and step.
    nonfinite: number of points of measurement ``nonfinite``, or of values that must become one.
    """

    cells: frozenset[Cell]
    nonfinite: int
    doubled: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account. The unit is the line of one step; missing and unexpected count values.

    unexpected: values in the store that no trainer recorded (a changed value is one, and its
    original is missing).
    """

    logged: int
    stored: int
    nonfinite: int
    missing: int
    unexpected: int
    doubled: int

    @property
    def clean(self) -> bool:
        """Whether the store holds exactly what was logged."""
        return self.missing == self.unexpected == self.doubled == 0

    def __str__(self) -> str:
        """The account in one line, to be read by people and programs."""
        return (
            f"ledger: logged={self.logged} stored={self.stored} "
            f"nonfinite={self.nonfinite} missing={self.missing}"
        )


def logged_cells(rows: Iterable[LoggedRow]) -> Cells:
    """What must be in the store: the values of these rows, and the step of each."""
    cells: set[Cell] = set()
    for row in rows:
        key = RowKey(row.run, str(row.rank), row.step)
        cells.add(Cell(key, "step", row.step))
        for metric, value in row.values.items():
            cells.add(Cell(key, metric, value if math.isfinite(value) else _kind(value)))
    return Cells(frozenset(cells), sum(isinstance(cell.value, str) for cell in cells))


def stored_cells(reader: StoreReader, namespace: str, experiment: str) -> Cells:
    """What is in the store: lines in class raw, non-finite values in class events.

    Raises StoreUnavailable.
    """
    cells: set[Cell] = set()
    lines: Counter[RowKey] = Counter()
    for point in reader.points(namespace, "raw", experiment):
        key = _row_key(point)
        lines[key] += 1
        cells.update(Cell(key, field, value) for field, value in point.fields.items())
    nonfinite = 0
    for point in reader.points(namespace, "events", "nonfinite"):
        if point.tags.get("experiment") == experiment:
            nonfinite += 1
            cells.add(Cell(_row_key(point), point.tags["metric"], point.tags["kind"]))
    doubled = sum(count - 1 for count in lines.values())
    return Cells(frozenset(cells), nonfinite, doubled)


def compare(logged: Cells, stored: Cells) -> Ledger:
    """The account of both sides. A row counts as stored when all its finite values are."""
    missing = logged.cells - stored.cells
    rows = {cell.row for cell in logged.cells}
    incomplete = {cell.row for cell in missing if not isinstance(cell.value, str)}
    return Ledger(
        logged=len(rows),
        stored=len(rows) - len(incomplete),
        nonfinite=stored.nonfinite,
        missing=len(missing),
        unexpected=len(stored.cells - logged.cells),
        doubled=stored.doubled,
    )


def by_run(cells: Cells) -> Mapping[str, Mapping[str, Mapping[int, FieldValue]]]:
    """The values by run, field and step, to be summed up for people."""
    found: dict[str, dict[str, dict[int, FieldValue]]] = {}
    for cell in cells.cells:
        run = found.setdefault(cell.row.run, {})
        run.setdefault(cell.field, {})[cell.row.step] = cell.value
    return found


def _row_key(point: StoredPoint) -> RowKey:
    step = point.fields.get("step")
    if not isinstance(step, int):
        raise ValueError(f"a point of run {point.tags.get('run')!r} has no integer step")
    return RowKey(point.tags["run"], point.tags.get("rank", ""), step)


def _kind(value: float) -> str:
    if math.isnan(value):
        return "nan"
    return "inf" if value > 0 else "-inf"
