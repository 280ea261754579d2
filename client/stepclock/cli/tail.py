"""`stepclock tail`: the last values of a run and their curves, as they come, until it ends."""

from __future__ import annotations

import argparse
import fnmatch
import time
from dataclasses import dataclass
from typing import Any, Callable

from stepclock.cli.options import Failed, Misused, add_gateway_options, new_parser, settings_of
from stepclock.cli.reads import Curve, ListedRun, Reads
from stepclock.cli.runs import COLORS
from stepclock.cli.terminal import Terminal, complain, duration, printable

_EXAMPLES = """\
  stepclock tail r12
  stepclock tail r12 --experiment resnet50 --metric 'train/*' --metric lr
  stepclock tail r12 --once | grep loss"""

#: Buckets of a curve, one a column.
_CURVE = 40

#: What is said of a run that ended.
_ENDINGS = {"finished": "has finished", "failed": "has failed", "lost": "is lost"}

#: Times that a curve is asked for again, each time nearer to its last value.
_NEARER = 4


def add_command(commands: Any) -> None:
    """Add it to the command line."""
    parser = new_parser(
        commands, "tail", "show the last values and curves of a run until it ends", _EXAMPLES
    )
    parser.add_argument("name", metavar="RUN", help="the run, or how its name begins")
    parser.add_argument("--experiment", metavar="NAME", help="the experiment that it belongs to")
    parser.add_argument(
        "--metric",
        metavar="PATTERN",
        action="append",
        help="only metrics such as 'train/*'; may be repeated",
    )
    parser.add_argument(
        "--interval", type=float, default=2.0, metavar="S", help="seconds (default: 2)"
    )
    parser.add_argument("--once", action="store_true", help="show them once")
    add_gateway_options(parser)
    parser.set_defaults(run=_run)


@dataclass(frozen=True)
class Metric:
    """Where one metric stands. last: at last_step, the mean over ranks that logged it."""

    name: str
    last_step: int
    last: float
    curve: tuple[float, ...]


def _run(args: argparse.Namespace) -> int:
    if not args.interval > 0:
        raise Misused("--interval must be above 0")
    settings = settings_of(args)
    reads = Reads(settings)
    run = reads.find(args.name, args.experiment)
    view = TailView(Terminal(secret=settings.token))
    follow(reads, run, args.metric or ["*"], view, args.interval, once=args.once)
    return 0


def follow(
    reads: Reads,
    run: ListedRun,
    patterns: list[str],
    view: TailView,
    interval_s: float,
    *,
    once: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run again and again until it has ended, and how. Raises Failed if it can't be read.

    One that ended meanwhile is looked at once more: its last rows are stored about when its state
    is, before it or behind it.
    """
    metrics = read(reads, run, patterns)
    over = run.ended
    while True:
        view.show(run, metrics)
        if once:
            return
        if over:
            view.end(run, metrics)
            return
        sleep(interval_s)
        reads.close()  # the server ends connections that rest
        try:
            newer = next(each for each in reads.runs(run.experiment) if each.run == run.run)
            if newer != run:
                metrics = read(reads, newer, patterns)
            over = run.ended and newer.ended
            run = newer
        except StopIteration:
            raise Failed(f"the run {run.run!r} is not stored any more") from None
        except Failed as exc:
            view.away(str(exc))


def read(reads: Reads, run: ListedRun, patterns: list[str]) -> list[Metric]:
    """The metrics that a run has, of those that match."""
    found = []
    for name in reads.metrics(run.experiment):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        curve = reads.curve(run, name, _CURVE)
        if curve is not None and curve.t:
            last = _last(reads, run, name, curve)
            found.append(Metric(name, last.t[-1], last.mean[-1], curve.mean))
    return found


def _last(reads: Reads, run: ListedRun, name: str, curve: Curve) -> Curve:
    """A curve whose last bucket is one step, or close to it."""
    for _ in range(_NEARER):
        if curve.count[-1] == 1:
            break
        nearer = reads.curve(run, name, 1000, curve.t[-1])
        if nearer is None or not nearer.t or nearer == curve:
            break
        curve = nearer
    return curve


class TailView:
    """A table that is drawn over on a terminal; elsewhere a line for each change."""

    def __init__(self, terminal: Terminal, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._terminal = terminal
        self._now_ns = now_ns
        self._shown: ListedRun | None = None
        self._away = ""

    def show(self, run: ListedRun, metrics: list[Metric]) -> None:
        """Show how a run stands."""
        if self._terminal.live:
            self._terminal.draw(self._table(run, metrics))
        elif run != self._shown:
            values = " ".join(f"{printable(each.name)}={each.last:.6g}" for each in metrics)
            state = f" {printable(run.state)}" if run.state else ""
            self._terminal.say(f"{printable(run.run)}{state} step={run.last_step} {values}")
        self._shown = run
        self._away = ""

    def end(self, run: ListedRun, metrics: list[Metric]) -> None:
        """Say how it ended, below what is shown."""
        line = _ending(run)
        if self._terminal.live:
            columns, _rows = self._terminal.size
            color = COLORS.get(run.state or "", "bold")
            painted = self._terminal.paint(line[: columns - 1], color)
            self._terminal.draw([*self._table(run, metrics), painted])
        else:
            self._terminal.say(line)

    def away(self, message: str) -> None:
        """It can't be read at the moment; what was shown stays."""
        if not self._terminal.live and message != self._away:
            complain(message)
        self._away = message

    def _table(self, run: ListedRun, metrics: list[Metric]) -> list[str]:
        terminal = self._terminal
        columns, rows = terminal.size
        age = duration(max(0.0, (self._now_ns() - run.last_time_ns) / 1e9))
        about = [printable(run.experiment), printable(run.run), printable(run.state or "")]
        about += [] if run.attempt is None else [f"attempt {run.attempt}"]
        about += [f"step {run.last_step}", f"{age} ago"]
        head = "  ".join(each for each in about if each)
        lines = [terminal.paint(head[: columns - 1], "bold")]
        room = max(1, rows - 4)
        shown = metrics if len(metrics) <= room else metrics[: room - 1]
        width = max((len(printable(each.name)) for each in shown), default=0)
        width = min(width, max(10, columns - 36))
        for each in shown:
            left = f"{printable(each.name)[:width]:{width}}  {each.last:>12.6g}  "
            curve = terminal.curve(each.curve, min(_CURVE, columns - 1 - len(left)))
            lines.append(left[: columns - 1] + terminal.paint(curve, "dim"))
        if len(shown) < len(metrics):
            lines.append(f"and {len(metrics) - len(shown)} more (--metric)"[: columns - 1])
        if self._away:
            lines.append(terminal.paint(printable(self._away)[: columns - 1], "red"))
        return lines


def _ending(run: ListedRun) -> str:
    line = f"{run.run} {_ENDINGS.get(run.state or '', 'has ended')}"
    return printable(f"{line}: {run.reason}" if run.reason else line)
