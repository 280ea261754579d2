"""`stepclock-server demo`: train real models, send every step, prove that nothing was lost."""

from __future__ import annotations

import importlib.util
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from adapters.influx.connection import InfluxConnection
from admin.terminal import errors, fail
from demo.backends import Backends

_EXTRA = {
    "numpy": "numpy",
    "sklearn": "scikit-learn",
    "plotext": "plotext",
    "stepclock": "stepclock",
}

#: Width of the report where standard output is no terminal.
_REPORT_COLUMNS = 110


def demo_command(
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds that the models train, about.")
    ] = 25.0,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="On Kafka and InfluxDB as processes on this machine, two gateways and two "
            "consumers, one of which is killed midway. The first time these are prepared.",
        ),
    ] = False,
    kafka: Annotated[
        str | None,
        typer.Option(help="Like --real, on Kafka of your own: host:port[,…]; with --influx."),
    ] = None,
    influx: Annotated[
        str | None,
        typer.Option(help="Like --real, on InfluxDB 2 of your own: http://host:port."),
    ] = None,
    token: Annotated[
        str,
        typer.Option(
            envvar="STEPCLOCK_INFLUX_TOKEN",
            show_envvar=True,
            help="All-access token of that InfluxDB; other users see it on a command line.",
        ),
    ] = "",
    org: Annotated[
        str, typer.Option(envvar="STEPCLOCK_INFLUX_ORG", help="Its organisation.")
    ] = "stepclock",
    keep: Annotated[
        Path | None,
        typer.Option(help="New folder that keeps databases, ledgers and logs; default: none."),
    ] = None,
) -> None:
    """Train small models on real data and stream every step's metrics through the pipeline.

    Ends with each run's receipt, and with the ledger: what the trainers wrote down before they
    logged it against what the store holds. Exit code 1 if anything is missing in either.
    """
    missing = [name for module, name in _EXTRA.items() if not importlib.util.find_spec(module)]
    if missing:
        fail(
            f"the demo needs {', '.join(missing)}: "
            "in a checkout pip install -e '.[demo]' -e ./client",
            code=2,
        )
    if (kafka is None) != (influx is None):
        fail("--kafka and --influx go together: name both or neither", code=2)
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        fail(f"--keep {keep}: name a folder that is new or empty", code=2)
    # Imported late: numpy and plotext are an extra, which the other commands do without.
    from demo.show import DemoFailed, show  # noqa: PLC0415

    backends = Backends(kafka, InfluxConnection(influx, token, org)) if kafka and influx else None
    output = Console() if sys.stdout.isatty() else Console(width=_REPORT_COLUMNS)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with _folder(keep) as folder:
            outcome = show(
                folder,
                seconds=seconds,
                real=real,
                backends=backends,
                output=output,
                screen=Console(stderr=True),
            )
    except KeyboardInterrupt:
        errors().print("interrupted; every process of the demo was ended")
        raise typer.Exit(130) from None
    except DemoFailed as exc:
        errors().print(f"error: {exc}", style="red", markup=False)
        raise typer.Exit(1) from exc
    ledger = outcome.ledger
    if ledger.unexpected or ledger.doubled:
        errors().print(
            f"error: {ledger.unexpected} values that nobody logged, {ledger.doubled} lines doubled",
            style="red",
        )
    typer.echo(str(ledger))
    if not outcome.clean:
        raise typer.Exit(1)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder for all files of the demo, removed at the end unless it is to be kept."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="stepclock-demo-") as name:
        yield Path(name)


def _terminate(number: int, _frame: FrameType | None) -> None:
    """Leave on SIGTERM as on Ctrl-C, so that no process stays behind."""
    sys.exit(128 + number)
