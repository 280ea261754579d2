"""SIGTERM and SIGUSR1 mean that a scheduler takes the machine away: the run is `preempted`.

A handler takes no lock and waits for none: it leaves a note for the drain's thread, looks at
counters for a moment, and then does what would have been done without it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

#: Seconds that the last rows get to reach the spool, and then the gateway, before the end.
_SPOOL_S = 1.0
_SEND_S = 3.0

_POLL_S = 0.01

_previous: dict[int, Any] = {}
_hooked = False


def install() -> None:
    """Note signals from now on; in the main thread only, and not those that are ignored."""
    _hook_failures()
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGUSR1"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        current = signal.getsignal(number)
        if current is _handle or current is None or current is signal.SIG_IGN:
            continue
        _previous[number] = current
        signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    from stepclock.run import active_runs

    name = signal.Signals(number).name
    drains = [run._drain for run in active_runs() if run._drain is not None]
    senders = [run._sender for run in active_runs() if run._sender is not None]
    for drain in drains:
        drain.preempted = name
    previous = _previous.get(number)
    if callable(previous):
        previous(number, frame)
        return
    # Nobody else cares: the process ends here, as it would have.
    goals = [(drain, drain.begun + 1) for drain in drains]
    _poll(lambda: all(drain.turns >= goal for drain, goal in goals), _SPOOL_S)
    for sender in senders:
        sender.rush(_SEND_S)
    _poll(lambda: all(sender.caught_up for sender in senders), _SEND_S)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _poll(condition: Any, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _hook_failures() -> None:
    """An exception that ends the program makes its runs `failed`."""
    global _hooked
    if _hooked:
        return
    _hooked = True
    previous = sys.excepthook

    def note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        from stepclock.run import active_runs

        for run in active_runs():
            run._note_failure(error)
        previous(kind, error, trace)

    sys.excepthook = note
