"""``python -m bench``: all figures in one report, or one part of it."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from bench import (
    blocks,
    consumer,
    gateway,
    gateway_kill,
    isolation,
    machine,
    rate_limit,
    rebalance,
    report,
    scaling,
)
from bench.drain import Stalled
from bench.influx import WriteFailed
from bench.report import Section
from native.process import StartFailed
from native.step import PreparationFailed
from schemas.log import LogUnavailable

README = Path(__file__).with_name("README.md")

#: Width of the tables where standard output is no terminal.
_COLUMNS = 130

app = typer.Typer(
    name="python -m bench",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Figures of the pipeline, measured on this machine with services of their own."
    "\n\nWithout a command: rate-limit, gateway and consumer, in less than eight minutes, and the "
    "figures in bench/README.md are replaced. Exit code 1: a claim did not hold.",
    epilog="Example: python -m bench gateway --seconds 5 --shape 1000",
)
#: What can go wrong with the services that are measured: no figures then.
_FAILURES = (
    ConnectionError,
    LogUnavailable,
    PreparationFailed,
    Stalled,
    StartFailed,
    WriteFailed,
    machine.UnsupportedMachine,
)

_progress = Console(stderr=True, highlight=False)

Seconds = Annotated[float, typer.Option(min=1, help="Seconds of each measurement.")]
Rounds = Annotated[int, typer.Option(min=1, help="Repetitions, the shapes taking turns.")]


@app.callback(invoke_without_command=True)
def everything(
    context: typer.Context,
    write: Annotated[bool, typer.Option(help="Replace the figures in bench/README.md.")] = True,
) -> None:
    """Measure everything unless one part is named."""
    if context.invoked_subcommand is not None:
        return
    before = machine.load_average()
    sections = _measure(
        lambda folder: rate_limit.measure(
            folder, seconds=rate_limit.SECONDS, kafka=False, tell=_tell
        ),
        lambda folder: gateway.measure(folder, gateway.Plan(), tell=_tell),
        lambda folder: consumer.measure(folder, consumer.Plan(), tell=_tell),
    )
    if write:
        introduction = [*machine.description(), machine.load_note(before)]
        report.write(README, report.markdown(introduction, sections))
        _tell(f"figures written to {README}")
    _exit(sections)


@app.command("rate-limit", epilog="Example: python -m bench rate-limit --kafka")
def rate_limit_command(
    seconds: Seconds = rate_limit.SECONDS,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="The gateway with Kafka, not the embedded server.")
    ] = False,
) -> None:
    """Prove that a limit of points/s is kept within 5 %, over 1 and over 64 connections.

    Exit code 1 if it is not, or if another tenant is refused meanwhile.
    """
    _exit(
        _measure(
            lambda folder: rate_limit.measure(folder, seconds=seconds, kafka=kafka, tell=_tell)
        )
    )


@app.command("isolation", epilog="Example: python -m bench isolation --seconds 30")
def isolation_command(seconds: Seconds = isolation.SECONDS) -> None:
    """Latency of a modest tenant alone, and beside one that sends nothing but trouble.

    Not part of the whole: about two minutes. Exit code 1 if p99 until stored doubles.
    """
    _exit(_measure(lambda folder: isolation.measure(folder, seconds=seconds, tell=_tell)))


@app.command("gateway", epilog="Example: python -m bench gateway --shape 1 --shape 1000")
def gateway_command(
    seconds: Seconds = gateway.Plan.seconds,
    rounds: Rounds = gateway.Plan.rounds,
    connections: Annotated[
        int, typer.Option(min=1, max=1000, help="Keep-alive connections.")
    ] = gateway.Plan.connections,
    shape: Annotated[
        list[int] | None, typer.Option(min=1, help="Lines of a body; repeat it.")
    ] = None,
) -> None:
    """Points/s and CPU of one gateway process in front of Kafka; nothing may be lost."""
    plan = gateway.Plan(seconds, rounds, connections, tuple(shape or gateway.Plan.shapes))
    _exit(_measure(lambda folder: gateway.measure(folder, plan, tell=_tell)))


@app.command("consumer", epilog="Example: python -m bench consumer --points 1000000 --rounds 1")
def consumer_command(
    points: Annotated[
        int,
        typer.Option(
            min=blocks.SMALLEST, help=f"Points of each drain; a multiple of {blocks.SMALLEST:,}."
        ),
    ] = consumer.Plan.points,
    rounds: Rounds = consumer.Plan.rounds,
) -> None:
    """Points/s and CPU of one worker from Kafka to InfluxDB, against writing directly."""
    if points % blocks.SMALLEST:
        raise typer.BadParameter(
            f"must be a multiple of {blocks.SMALLEST:,}", param_hint="--points"
        )
    plan = consumer.Plan(points, rounds)
    _exit(_measure(lambda folder: consumer.measure(folder, plan, tell=_tell)))


@app.command("gateway-kill", epilog="Example: python -m bench gateway-kill --points 300000")
def gateway_kill_command(
    points: Annotated[
        int, typer.Option(min=1, help="Points; a multiple of 30,000.")
    ] = gateway_kill.Plan.points,
) -> None:
    """Kill a gateway with -9 at full speed: no acknowledged point may be missing."""
    plan = gateway_kill.Plan(points)
    if points % plan.smallest:
        raise typer.BadParameter(f"must be a multiple of {plan.smallest:,}", param_hint="--points")
    _exit(_measure(lambda folder: gateway_kill.measure(folder, plan, tell=_tell)))


@app.command("scaling", epilog="Example: python -m bench scaling --rounds 1 --seconds 5")
def scaling_command(
    seconds: Seconds = scaling.Plan.seconds, rounds: Rounds = scaling.Plan.rounds
) -> None:
    """Points/s of 1, 2 and 4 consumers in front of a database that answers 200 ms late."""
    plan = scaling.Plan(seconds=seconds, rounds=rounds)
    _exit(_measure(lambda folder: scaling.measure(folder, plan, tell=_tell)))


@app.command("rebalance", epilog="Example: python -m bench rebalance --rounds 1")
def rebalance_command(rounds: Rounds = rebalance.Plan.rounds) -> None:
    """How long commits stand still while a consumer joins, leaves, or is killed."""
    plan = rebalance.Plan(rounds=rounds)
    _exit(_measure(lambda folder: rebalance.measure(folder, plan, tell=_tell)))


def _measure(*parts: Callable[[Path], Section]) -> list[Section]:
    """Run the parts one after the other, each with a folder of its own, and show them."""
    signal.signal(signal.SIGTERM, _terminate)
    output = Console() if sys.stdout.isatty() else Console(width=_COLUMNS)
    sections = []
    try:
        machine.require_linux()
        for part in parts:
            with tempfile.TemporaryDirectory(prefix="stepclock-bench-") as folder:
                section = part(Path(folder))
            report.show(section, output)
            sections.append(section)
    except KeyboardInterrupt:
        _tell("interrupted; every process of the benchmark was ended")
        raise typer.Exit(130) from None
    except _FAILURES as exc:
        _progress.print(f"error: {exc}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from exc
    return sections


def _exit(sections: list[Section]) -> None:
    raise typer.Exit(1 if any(section.failures for section in sections) else 0)


def _tell(text: str) -> None:
    _progress.print(text, markup=False, soft_wrap=True)


def _terminate(number: int, _frame: FrameType | None) -> None:
    """Leave on SIGTERM as on Ctrl-C, so that no process stays behind."""
    sys.exit(128 + number)


if __name__ == "__main__":
    app()
