"""What commands change, said on standard error and kept where STEPCLOCK_AUDIT_FILE says."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from adapters.settings import CommonSettings
from admin.terminal import errors, plain
from telemetry import audit


def audited(action: str, outcome: str, **facts: object) -> None:
    """One line about what the user of this process did. Never fails for want of the file."""
    logger = logging.getLogger(audit.LOGGER)
    handler = None
    try:
        path = CommonSettings().audit_file
        handler = None if path is None else audit.file_handler(path)
    except (OSError, ValidationError) as exc:
        errors().print(plain(f"warning: STEPCLOCK_AUDIT_FILE can't be written: {exc}"))
    if handler is not None:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        line = audit.record(action, actor=audit.os_user(), outcome=outcome, **facts)
    finally:
        if handler is not None:
            logger.removeHandler(handler)
            handler.stream.close()
    errors().print(plain(f"audit: {line}", style="dim"))
