"""What happens to the process that runs belong to: signals, a fork, an exception, its end.

SIGTERM and SIGUSR1 mean that a scheduler takes the machine away: the run is `preempted`. The
handler takes no lock and waits for none: it leaves a note for the drain's thread, looks at
counters for a moment, and then does what would have been done without it.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Callable, Protocol

from stepclock.engine import Engine
from stepclock.receipt import Receipt

_log = logging.getLogger("stepclock")

#: Seconds that the last rows get to reach the spool, and then the gateway, before the end.
_SPOOL_S = 1.0
_SEND_S = 3.0

_POLL_S = 0.01


class ActiveRun(Protocol):
    """As much of a run as its process has to do with."""

    engine: Engine | None

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def finish_timeout(self) -> float:
        """Seconds that `finish` takes at most by itself."""

    def finish(self, *, timeout: float | None = None) -> Receipt:
        """End it, in so many seconds."""

    def on_failure(self, error: BaseException) -> None:
        """An exception ends the program."""

    def on_forked(self) -> None:
        """It is in a forked child now."""

    def expect_workers(self) -> None:
        """Children may log into it."""


_runs: set[ActiveRun] = set()
_previous: dict[int, Callable[[int, FrameType | None], Any] | int] = {}
_noting: list[bool] = []


def active_runs() -> list[ActiveRun]:
    """The runs of this process that are not finished."""
    return list(_runs)


def add(run: ActiveRun) -> None:
    """Look after a run from now on."""
    if not _noting:
        _noting.append(True)
        _note_failures()
    _runs.add(run)


def discard(run: ActiveRun) -> None:
    """A run is finished."""
    _runs.discard(run)


def say(message: str) -> None:
    """Tell good news: to the log, or, where nobody has set one up, to a person at a terminal."""
    stderr = sys.stderr
    if _log.hasHandlers():
        _log.info(message)
    elif stderr is not None and stderr.isatty():
        stderr.write(f"{message}\n")


def handle_signals() -> None:
    """Note signals from now on; in the main thread only, and not those that are ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGUSR1"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        current = signal.getsignal(number)
        if current is not _handle and current is not None and current is not signal.SIG_IGN:
            _previous[number] = current
            signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    engines = [run.engine for run in active_runs() if run.engine is not None]
    for engine in engines:
        engine.drain.preempted = signal.Signals(number).name
    previous = _previous.get(number)
    if callable(previous):
        previous(number, frame)
        return
    # Nobody else cares: the process ends here, as it would have.
    goals = [(engine.drain, engine.drain.begun + 1) for engine in engines]
    _poll(lambda: all(drain.turns >= goal for drain, goal in goals), _SPOOL_S)
    senders = [engine.sender for engine in engines if engine.sender is not None]
    for sender in senders:
        sender.rush(_SEND_S)
    _poll(lambda: all(sender.caught_up for sender in senders), _SEND_S)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _poll(condition: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _finish_all() -> None:
    began = time.monotonic()
    for run in active_runs():
        try:
            # All of them together take no longer than one would.
            run.finish(timeout=max(0.5, run.finish_timeout - (time.monotonic() - began)))
        except KeyboardInterrupt:  # it has been told, and the process ends
            continue
        except Exception:
            _log.exception("stepclock: a run could not be finished")


def _in_forked_child() -> None:
    for run in active_runs():
        run.on_forked()


def _in_forking_parent() -> None:
    for run in active_runs():
        run.expect_workers()


def _note_failures() -> None:
    """An exception that ends the program makes its runs `failed`."""
    previous = sys.excepthook

    def note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        for run in active_runs():
            run.on_failure(error)
        previous(kind, error, trace)

    sys.excepthook = note


atexit.register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child, after_in_parent=_in_forking_parent)
