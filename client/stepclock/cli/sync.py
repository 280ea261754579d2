"""`stepclock sync`: send what a spool holds, also while jobs write to it."""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path
from typing import Any

from stepclock.cli.options import (
    Misused,
    add_gateway_options,
    new_parser,
    settings_of,
    token_of,
)
from stepclock.cli.terminal import Terminal, printable, size
from stepclock.send.sync import SyncResult, sync

#: Seconds between two looks at a spool to which jobs write.
_LOOK_S = 1.0

#: Seconds between two words about the progress, on a terminal and elsewhere.
_DRAW_S, _TELL_S = 0.5, 10.0

_EXAMPLES = """\
  stepclock sync
  stepclock sync /scratch/spool -j 8
  stepclock sync /scratch/spool --live --endpoint https://metrics.example:8787"""


def add_command(commands: Any) -> None:
    """Add it to the command line."""
    parser = new_parser(
        commands,
        "sync",
        "send what a spool holds; harmless to repeat, exit code 1 if something is left",
        _EXAMPLES,
    )
    parser.add_argument(
        "dir",
        metavar="DIR",
        nargs="?",
        help="spool, or the folder of one stream; else STEPCLOCK_SPOOL_DIR or your own spool",
    )
    parser.add_argument(
        "--live", action="store_true", help="go on until no job writes to it any more"
    )
    parser.add_argument(
        "-j", "--jobs", type=int, default=4, metavar="N", help="streams at a time (default: 4)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds without progress after which a stream is left (default: 60)",
    )
    add_gateway_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.jobs < 1:
        raise Misused("-j must be 1 or more")
    settings = settings_of(args, args.dir)
    spool = Path(settings.spool_dir)
    if args.dir is not None and not spool.is_dir():
        raise Misused(f"{spool} is no folder")
    terminal = Terminal(secret=settings.token)
    account = Account(spool, terminal)
    arguments = {
        "endpoint": args.endpoint,
        "token": token_of(args),
        "ca_file": args.ca_file,
        "jobs": args.jobs,
        "timeout": args.timeout,
    }
    progress = ProgressThread(account, _DRAW_S if terminal.live else _TELL_S)
    progress.start()
    try:
        while True:
            sync(spool, progress=account.take, watch=account.watch, **arguments)
            if not (args.live and account.live):
                break
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        progress.stop()
        account.conclude()
        terminal.say("stopped; what was not sent is in the spool, sync again to go on")
        raise
    progress.stop()
    return account.conclude()


class Account:
    """What became of the streams so far, told as it comes. Used by several threads."""

    def __init__(self, spool: Path, terminal: Terminal) -> None:
        self._spool = spool
        self._terminal = terminal
        self._lock = threading.Lock()
        self._results: dict[str, SyncResult] = {}  # the newest of each stream
        self._sent: dict[str, int] = {}  # lines, over all passes
        self._sending: dict[str, int] = {}  # lines, in the pass under way

    def watch(self, stream: str, lines: int) -> None:
        """A stream got an answer; lines: sent since its pass began."""
        with self._lock:
            self._sending[stream] = lines

    def take(self, result: SyncResult) -> None:
        """A stream is done for now."""
        with self._lock:
            self._sending.pop(result.stream, None)
            self._sent[result.stream] = self._sent.get(result.stream, 0) + result.sent
            before = self._results.get(result.stream)
            self._results[result.stream] = result
            if before is None or (before.live and not result.live):
                self._terminal.say(_described(result))

    @property
    def live(self) -> bool:
        """Whether a job writes to a stream that is for us to send."""
        return any(each.live and not each.busy for each in self._results.values())

    def tell(self) -> None:
        """Say how far it is; drawn over on a terminal."""
        waiting = _segment_bytes(self._spool)
        with self._lock:
            lines = sum(self._sent.values()) + sum(self._sending.values())
            told = f"{lines:,} lines sent, {size(waiting)} in the spool, {len(self._results)} "
            told += f"streams done, {len(self._sending)} under way"
            if self._terminal.live:
                self._terminal.draw([told[: self._terminal.size[0] - 1]])
            else:
                self._terminal.say(told)

    def conclude(self) -> int:
        """Print the summary; the exit code."""
        results = list(self._results.values())
        say, paint = self._terminal.say, self._terminal.paint
        if not results:
            say(f"nothing to send in {self._spool}")
            return 0
        lines = sum(self._sent.values()) + sum(self._sending.values())
        say(f"{len(results)} streams, {lines:,} lines sent")
        code = 0
        for name, what in (
            ("left", "lines are not sent, they stay in the spool"),
            ("unsettled", "lines are in the server's log, and not yet known to be stored"),
            ("refused", f"lines were refused, with reasons in {self._spool}/*/refused.jsonl"),
            ("lost", "lines are not in the spool any more, or damaged there"),
        ):
            count = sum(getattr(each, name) for each in results)
            if count:
                say(paint(f"{count:,} {what}", "red"))
                code = 1
        for error in sorted({each.error for each in results if each.error}):
            say(printable(error))
            code = 1
        busy = sum(each.busy for each in results)
        if busy:
            say(f"{busy} streams are sent by their own runs")
        if code:
            say("'stepclock doctor' says more of the way to the server")
        return code


class ProgressThread(threading.Thread):
    """Tells of an account's progress until it is stopped."""

    def __init__(self, account: Account, every_s: float) -> None:
        super().__init__(name="stepclock-progress", daemon=True)
        self._account = account
        self._every_s = every_s
        self._stopped = threading.Event()

    def run(self) -> None:
        """The thread."""
        while not self._stopped.wait(self._every_s):
            self._account.tell()

    def stop(self) -> None:
        """No line comes after this."""
        self._stopped.set()
        self.join()


def _described(result: SyncResult) -> str:
    told = f"{result.experiment} {result.run}: "
    if result.busy:
        return printable(f"{told}its own run sends it")
    told += f"{result.sent:,} lines sent" + (", its job still writes" if result.live else "")
    for name in ("left", "unsettled", "refused", "lost"):
        count = getattr(result, name)
        if count:
            told += f", {count:,} {name}"
    return printable(told)


def _segment_bytes(spool: Path) -> int:
    """What lies in a spool, or in the folder of one stream, in bytes."""
    try:
        return sum(_size(path) for pattern in ("*.seg", "*/*.seg") for path in spool.glob(pattern))
    except OSError:  # a folder that is gone by now
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # acknowledged meanwhile
        return 0
