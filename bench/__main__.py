"""``python -m bench``: all figures in one report, or one part of it."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from bench import report
from bench.budgets import budgets
from bench.consumer.drain import Stalled
from bench.lab import machine
from bench.lab.influx import WriteFailed
from bench.options import changed, options
from bench.parts import PARTS, README, Part
from bench.report import Page
from demo.gateway import ReadFailed
from native.process import StartFailed
from native.step import PreparationFailed
from schemas.log.protocols import LogUnavailable

#: Width of the tables where standard output is no terminal.
_COLUMNS = 130

#: What can go wrong with the services that are measured: no figures then.
FAILURES = (
    ConnectionError,
    LogUnavailable,
    PreparationFailed,
    ReadFailed,
    Stalled,
    StartFailed,
    WriteFailed,
    machine.UnsupportedMachine,
)

_HELP = (
    "Figures of the pipeline, measured on this machine with services of their own.\n\n"
    "Without a command: every part that bench/README.md reports, one after the other, and its "
    "section there is replaced as soon as it is measured. Exit code 1: a claim did not hold."
)

_progress = Console(stderr=True, highlight=False)


def build(parts: Sequence[Part[Any]], page: Path) -> typer.Typer:
    """The command line of these parts, with their report in a page."""
    order = [part.name for part in parts]
    app = typer.Typer(
        name="python -m bench",
        add_completion=False,
        pretty_exceptions_enable=False,
        help=_HELP,
        epilog="Example: python -m bench gateway --seconds 5 --write",
    )

    @app.callback(invoke_without_command=True)
    def everything(
        context: typer.Context,
        write: Annotated[bool, typer.Option(help="Replace the figures in bench/README.md.")] = True,
    ) -> None:
        """Measure everything unless one part is named."""
        if context.invoked_subcommand is None:
            runs = [(part, part.plan) for part in parts if part.reported]
            _measure(runs, Page(page, order) if write else None)

    app.command("budgets", epilog="Example: python -m bench budgets --write")(_budgets)
    for part in parts:
        app.command(part.name, help=part.shows, epilog=f"Example: python -m bench {part.name}")(
            _command(part, Page(page, order))
        )
    return app


def _command(part: Part[Any], page: Page) -> Callable[..., None]:
    def command(*, write: bool, **values: Any) -> None:
        _measure([(part, changed(part.plan, values))], page if write else None)

    flag = typer.Option(help="Replace the figures of this part in bench/README.md.")
    write = inspect.Parameter(
        "write",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, flag],
    )
    # typer makes options of what the signature says.
    command.__signature__ = inspect.Signature([*options(part.plan), write])  # type: ignore[attr-defined]
    return command


def _budgets(
    write: Annotated[
        bool, typer.Option("--write", help="Renew bench/budgets/budgets.toml.")
    ] = False,
) -> None:
    """Instructions of hot functions and memory of a request, within 10 % of budgets.toml.

    Takes half a minute; needs valgrind. Exit code 1: something costs more, or less, than the file
    says. Without valgrind, or with another Python than the file's, it is skipped; with CI set it
    fails.
    """
    try:
        allowed = {} if write else budgets.load()
        measured = budgets.measure()
    except (budgets.Unmeasurable, budgets.OtherPython) as exc:
        strict = write or bool(os.environ.get("CI"))
        _tell(f"{'error' if strict else 'skipped'}: {exc}")
        raise typer.Exit(1 if strict else 0) from exc
    if write:
        budgets.write(measured)
        _tell(f"written: {budgets.FILE}")
        allowed = measured
    section = budgets.compare(measured, allowed)
    report.show(section, Console())
    raise typer.Exit(1 if section.failures else 0)


def _measure(runs: Sequence[tuple[Part[Any], Any]], page: Page | None) -> NoReturn:
    """Run parts one after the other, each with a folder of its own; show and keep each at once."""
    signal.signal(signal.SIGTERM, _terminate)
    output = Console() if sys.stdout.isatty() else Console(width=_COLUMNS)
    failed = False
    try:
        machine.require_linux()
        for number, (part, plan) in enumerate(runs, 1):
            if len(runs) > 1:
                _tell(f"part {number} of {len(runs)}: {part.name}")
            load = machine.load_average()
            with tempfile.TemporaryDirectory(prefix="stepclock-bench-") as folder:
                section = part.measure(Path(folder), plan, tell=_tell)
            report.show(section, output)
            failed = failed or bool(section.failures)
            if page is not None:
                page.write(part.name, section, machine.description(), machine.load_note(load))
                _tell(f"figures of {part.name} written to {page.path}")
    except KeyboardInterrupt:
        _tell("interrupted; every process of the benchmark was ended")
        raise typer.Exit(130) from None
    except FAILURES as exc:
        _progress.print(f"error: {exc}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from exc
    raise typer.Exit(1 if failed else 0)


def _tell(text: str) -> None:
    _progress.print(text, markup=False, soft_wrap=True)


def _terminate(number: int, _frame: FrameType | None) -> None:
    """Leave on SIGTERM as on Ctrl-C, so that no process stays behind."""
    sys.exit(128 + number)


app = build(PARTS, README)

if __name__ == "__main__":
    app()
