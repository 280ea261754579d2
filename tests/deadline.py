"""Waiting in tests: for a condition, with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.01


def eventually(condition: Callable[[], bool], within_s: float = 20.0) -> bool:
    """Whether the condition comes true in time; asked every 10 ms."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
