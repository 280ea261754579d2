"""Log lines: one line an event, time in UTC, key=value behind the message; never a payload."""

from __future__ import annotations

import logging
import sys
import time


def configure(level: str) -> None:
    """Send our log lines and those of libraries to standard error. Called once a process."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # uvicorn says at level INFO of "uvicorn.error" what our own lines say.
    logging.getLogger("uvicorn").setLevel("WARNING")
    # kafka-python prints several ERROR lines for each try to reconnect; our own lines say it once.
    logging.getLogger("kafka").setLevel("CRITICAL")
