from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from tests.structure.mutants.catalogue import Mutant
from tests.structure.mutants.experiment import Result

_MUTANT = [field.name for field in fields(Mutant)]
_COLUMNS = [*_MUTANT, "place", "outcome", "test"]


def write(path: Path, results: Iterable[Result]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, _COLUMNS, dialect="excel-tab", lineterminator="\n")
        rows.writeheader()
        for one in results:
            rest = {"place": one.place, "outcome": one.outcome, "test": one.test}
            rows.writerow({**asdict(one.mutant), **rest})


def read(path: Path) -> list[Result]:
    with path.open(newline="") as file:
        return [_result(row) for row in csv.DictReader(file, dialect="excel-tab")]


def _result(row: dict[str, str]) -> Result:
    texts = {name: row[name] for name in _MUTANT if name != "ordinal"}
    mutant = Mutant(ordinal=int(row["ordinal"]), **texts)
    return Result(mutant, row["place"], row["outcome"], row["test"])
