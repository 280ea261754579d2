"""`stepclock export`: a run by step, as CSV or Parquet."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from stepclock.cli.options import Failed, add_gateway_options, new_parser, settings_of
from stepclock.cli.reads import Reads, RunPoint
from stepclock.cli.terminal import printable

_EXAMPLES = """\
  stepclock export r12 --csv > r12.csv
  stepclock export r12 --experiment resnet50 --csv r12.csv
  stepclock export r12 --parquet r12.parquet"""

#: Rows of one group of a Parquet file.
_GROUP = 10_000


def add_command(commands: Any) -> None:
    """Add it to the command line."""
    parser = new_parser(
        commands, "export", "write a run by step: a row a step, a column a metric", _EXAMPLES
    )
    parser.add_argument("name", metavar="RUN", help="the run, or how its name begins")
    parser.add_argument("--experiment", metavar="NAME", help="the experiment that it belongs to")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--csv", metavar="FILE", nargs="?", const="-", default="-", help="CSV; without FILE: here"
    )
    form.add_argument("--parquet", metavar="FILE", help="Parquet; needs stepclock[parquet]")
    add_gateway_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.parquet is not None:
        _pyarrow()  # before anything is read
    reads = Reads(settings_of(args))
    run = reads.find(args.name, args.experiment)
    table = Table(reads.points(run))
    try:
        if not table.metrics:
            raise Failed(f"{run.run} of {run.experiment} has nothing by step")
        if args.parquet is not None:
            with _whole(args.parquet) as path:
                rows = write_parquet(table, path)
        elif args.csv != "-":
            with _whole(args.csv) as path, path.open("w", encoding="utf-8", newline="") as file:
                rows = write_csv(table, file)
        else:
            rows = write_csv(table, sys.stdout)
    except OSError as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        raise Failed(f"it can't be written: {exc}") from exc
    finally:
        table.close()
        reads.close()
    told = f"{run.run} of {run.experiment}: {rows:,} rows, {len(table.metrics):,} metrics"
    sys.stderr.write(printable(told) + "\n")
    return 0


class Table:
    """Points brought into rows: by step, then by rank, in a file that ends with it.

    Where an attempt began, what earlier ones have from that step on is left out: one run is one
    curve. metrics: names, sorted. ranks: whether there are several.
    """

    def __init__(self, points: Iterable[RunPoint]) -> None:
        try:
            import sqlite3
        except ImportError as exc:
            raise Failed("this Python was built without sqlite3, which export needs") from exc
        self._rows = sqlite3.connect("")  # in memory as long as it is small, then on disk
        self._rows.execute("CREATE TABLE point (step, rank, attempt, metrics)")
        names: dict[str, None] = {}

        def read() -> Iterator[tuple[int, int, int, str]]:
            for point in points:
                names.update(dict.fromkeys(point.values))
                yield point.step, point.rank, point.attempt, json.dumps(point.values)

        try:
            self._rows.executemany("INSERT INTO point VALUES (?, ?, ?, ?)", read())
            self._cut_attempts()
        except BaseException:
            self.close()
            raise
        self.metrics = sorted(names.keys() - {"step"})
        (ranks,) = self._rows.execute("SELECT count(DISTINCT rank) FROM point").fetchone()
        self.ranks = ranks > 1

    def rows(self) -> Iterator[tuple[int, int, dict[str, float]]]:
        """Step, rank and values of each row."""
        found = self._rows.execute(
            "SELECT step, rank, metrics FROM point ORDER BY step, rank, attempt, rowid"
        )
        for (step, rank), group in groupby(found, key=lambda row: (row[0], row[1])):
            values: dict[str, float] = {}
            for _, _, text in group:
                values.update(json.loads(text))
            yield step, rank, values

    def close(self) -> None:
        """Remove the file."""
        self._rows.close()

    def _cut_attempts(self) -> None:
        firsts = self._rows.execute(
            "SELECT attempt, min(step) FROM point GROUP BY attempt ORDER BY attempt DESC"
        ).fetchall()
        cut = None
        for attempt, first in firsts:
            if cut is not None:
                self._rows.execute(
                    "DELETE FROM point WHERE attempt = ? AND step >= ?", (attempt, cut)
                )
            cut = first if cut is None else min(cut, first)


def write_csv(table: Table, file: TextIO) -> int:
    """Write it; how many rows. What a step does not have is an empty cell."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["step", *(["rank"] if table.ranks else []), *table.metrics])
    count = 0
    for step, rank, values in table.rows():
        cells: list[Any] = [step, *([rank] if table.ranks else [])]
        cells += [repr(values[name]) if name in values else "" for name in table.metrics]
        writer.writerow(cells)
        count += 1
    return count


def write_parquet(table: Table, path: Path) -> int:
    """Write it; how many rows. What a step does not have is null, a NaN is NaN."""
    pyarrow, parquet = _pyarrow()
    whole = ["step", *(["rank"] if table.ranks else [])]
    schema = pyarrow.schema(
        [
            *((name, pyarrow.int64()) for name in whole),
            *((name, pyarrow.float64()) for name in table.metrics),
        ]
    )
    count = 0
    with parquet.ParquetWriter(str(path), schema) as writer:
        for rows in _groups(table):
            columns: list[Sequence[Any]] = [[step for step, _, _ in rows]]
            if table.ranks:
                columns.append([rank for _, rank, _ in rows])
            columns += [[values.get(name) for _, _, values in rows] for name in table.metrics]
            arrays = [pyarrow.array(c, type=f.type) for c, f in zip(columns, schema)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            count += len(rows)
    return count


def _groups(table: Table) -> Iterator[list[tuple[int, int, dict[str, float]]]]:
    group = []
    for row in table.rows():
        group.append(row)
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group


def _pyarrow() -> tuple[Any, Any]:
    """The library and its part for Parquet. Raises Failed with what to install."""
    try:
        import pyarrow  # noqa: ICN001 -- named as it is installed
        import pyarrow.parquet
    except ImportError as exc:
        raise Failed(
            "Parquet needs pyarrow, which is not installed: pip install 'stepclock[parquet]'"
        ) from exc
    return pyarrow, pyarrow.parquet


@contextmanager
def _whole(name: str) -> Iterator[Path]:
    """A file beside the one that is wanted, which takes its place once it is whole."""
    path = Path(name)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
