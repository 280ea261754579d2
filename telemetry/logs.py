"""Log lines: one line an event, time in UTC, key=value behind the message; never a payload."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from schemas.tenants.keys import without_secrets
from telemetry import audit


class _WithoutKeys(logging.Formatter):
    """Clients put keys into paths, buckets and whatever else a message repeats."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def configure(level: str, audit_file: Path | None = None) -> None:
    """Send our log lines and those of libraries to standard error. Called once a process.

    Lines of the audit go there whatever the level, and to audit_file as well. Raises OSError
    if that can't be written.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = _WithoutKeys(
        "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    auditor = logging.getLogger(audit.LOGGER)
    auditor.setLevel("INFO")
    auditor.handlers[:] = [] if audit_file is None else [audit.file_handler(audit_file)]
    # uvicorn says at level INFO of "uvicorn.error" what our own lines say.
    logging.getLogger("uvicorn").setLevel("WARNING")
    # kafka-python prints several ERROR lines for each try to reconnect; our own lines say it once.
    logging.getLogger("kafka").setLevel("CRITICAL")
