"""``python -m tests.structure``: what a move of files left as it was."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tests.structure.comparison import Comparison, Difference, Side
from tests.structure.figures import Figures
from tests.structure.mapping import Mapping, id_of
from tests.structure.mutants.catalogue import Catalogue
from tests.structure.mutants.choice import chosen
from tests.structure.mutants.experiment import Experiment, Result
from tests.structure.mutants.sandbox import Sandbox
from tests.structure.mutants.table import read, write
from tests.structure.revision import NoSuchRevision, Revision
from tests.structure.units import BENCH, PRODUCT, TESTS, Definitions, units_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Before = Annotated[str, typer.Argument(help="A revision of git, such as main or fd1903a.")]
After = Annotated[str, typer.Argument(help="The revision after the move, such as HEAD.")]


@app.command(epilog="Example: python -m tests.structure functions main HEAD")
def functions(before: Before, after: After) -> None:
    """Compare every function, class body and constant of product and bench.

    Equal are two that have the same qualified name and the same code, docstrings, comments and
    names of our modules apart, in whatever file they are; and the names in them must lead to
    equal definitions. Exit code 1: something differs.
    """
    started = time.monotonic()
    sides = [units_of(Revision.read(name), (*PRODUCT, *BENCH)) for name in (before, after)]
    found = Comparison.of(*(Side(units, Definitions(units)) for units in sides))
    for difference in found.differences:
        print(difference, end="\n\n")
    print(
        f"equal: {found.equal['function']} functions, {found.equal['class']} class bodies, "
        f"{found.equal['statement']} other statements; different: {len(found.differences)} "
        f"({time.monotonic() - started:.0f} s)"
    )
    raise typer.Exit(bool(found.differences))


@app.command(
    "tests", epilog="Example: python -m tests.structure tests main HEAD --table build/tests.tsv"
)
def mapped(
    before: Before,
    after: After,
    table: Annotated[Path | None, typer.Option(help="Write old and new ids as TSV.")] = None,
) -> None:
    """Map each test to what it is called after the move, by file, class and function.

    Nothing is collected, so no service is needed. Exit code 1: a test is lost, stands twice, or
    has another body, or a fixture, a rig or a constant of the tests differs.
    """
    folders = (*PRODUCT, *BENCH, *TESTS)
    found = Mapping.of(*(units_of(Revision.read(name), folders) for name in (before, after)))
    rows = found.table()
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("".join(f"{old}\t{new}\n" for old, new in rows))
    for row in rows:
        print(" -> ".join(row))
    for difference in found.helpers.differences:
        print(f"\nhelper, {difference}")
    for title, units in (("lost", found.lost), ("doubled", found.doubled), ("new", found.new)):
        for unit in units:
            print(f"{title}: {id_of(unit)}")
    for old, new in found.renamed:
        print(f"renamed: {id_of(old)} -> {id_of(new)}")
    for old, new in found.changed:
        print(f"\nbody changed, {Difference(old, new)}")
    for difference in found.misled:
        print(f"\n{difference}")
    print(
        f"\ntests: {len(rows)} mapped, of these {len(found.changed)} with a changed body, "
        f"{len(found.misled)} with names that lead elsewhere and {len(found.renamed)} renamed; "
        f"{len(found.lost)} lost, {len(found.doubled)} doubled, "
        f"{len(found.new)} new\n"
        f"helpers: {found.helpers.equal.total()} equal, {len(found.helpers.differences)} different"
    )
    raise typer.Exit(not found.holds)


@app.command(epilog="Example: python -m tests.structure report main HEAD")
def report(
    revisions: Annotated[list[str], typer.Argument(help="A column of figures for each.")],
    *,
    lists: Annotated[bool, typer.Option(help="List what the last one's counts are of.")] = True,
) -> None:
    """Count files by folder, small files, shared names of classes, copied passages, statements."""
    columns = [Figures(Revision.read(name)) for name in revisions]
    rows = list(dict.fromkeys(title for column in columns for title in column.rows))
    table = [["", *revisions]]
    table += [[title, *(one.rows.get(title, "-") for one in columns)] for title in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    for title, found in columns[-1].lists.items() if lists else ():
        print(f"\n{title}, {revisions[-1]}: {len(found)}", *found, sep="\n  ")


@app.command(
    epilog="Examples: python -m tests.structure mutants main --seed 1 --count 40 --table "
    "build/mutants.tsv, and python -m tests.structure mutants HEAD --replay build/mutants.tsv"
)
def mutants(
    revision: Annotated[str, typer.Argument(help="The revision to make mistakes in.")],
    *,
    seed: Annotated[int, typer.Option(help="The same seed chooses the same mutants.")] = 1,
    count: Annotated[int, typer.Option(help="Mutants to find that a test notices.")] = 40,
    table: Annotated[Path | None, typer.Option(help="Write the results as TSV.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Run the mutants of this table instead of choosing.")
    ] = None,
) -> None:
    """Make small mistakes in a temporary copy, one at a time, and see whether a test fails.

    Chosen are mutants of gateway, worker and client, in turn, until tests have noticed `count`;
    only those stand in the table. A replay fails with exit code 1 if one that was killed is not
    killed now. "function gone" is for a person: carry it over by hand.
    """
    catalogue = Catalogue(Revision.read(revision))
    results: list[Result] = []
    with Sandbox(catalogue.revision) as sandbox:
        experiment = Experiment(catalogue, sandbox)
        if replay is not None:
            known = read(replay)
            for number, old in enumerate(known, 1):
                results.append(experiment.replay(old.mutant, old.test))
                _tell(number, results[-1])
                if table is not None:
                    write(table, results)
            raise typer.Exit(_compare(known, results))
        for number, (mutant, place) in enumerate(chosen(catalogue, seed), 1):
            result = experiment.run(mutant, place)
            _tell(number, result)
            if result.outcome == "killed" and "::" in result.test:
                results.append(result)
            if table is not None:
                write(table, results)
            if len(results) == count:
                break


def _tell(number: int, one: Result) -> None:
    mutant = one.mutant
    print(
        f"{number}. {one.outcome} {mutant.package}.{mutant.function} {mutant.kind} "
        f"{mutant.ordinal} {one.place}: {mutant.original} -> {mutant.mutated}"
        + (f"\n   by {one.test}" if one.test else ""),
        flush=True,
    )


def _compare(before: list[Result], after: list[Result]) -> bool:
    """Tell what is not as it was; True if a mutant that was killed is not killed now."""
    for outcome, number in Counter(one.outcome for one in after).most_common():
        print(f"{number:4} {outcome}")
    return any(
        old.outcome == "killed" != new.outcome for old, new in zip(before, after, strict=True)
    )


def main() -> None:
    try:
        app()
    except NoSuchRevision as exc:
        raise SystemExit(f"error: no revision {exc}") from exc


if __name__ == "__main__":
    main()
