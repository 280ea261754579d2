"""Who did what, and whether it was allowed: one line each, by the logger `stepclock.audit`.

A line is `action=… actor=… outcome=…` and what else is known, in key=value form with JSON
strings where a value has more than letters and digits. Keys appear by their id. These lines
are printed whatever the level of the log is.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pwd
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from schemas.tenants.keys import without_secrets

LOGGER = "stepclock.audit"

_log = logging.getLogger(LOGGER)

_PLAIN = re.compile(r"[\w.,:/@+-]+", re.ASCII)
_MAX_VALUE_CHARS = 200


def record(action: str, *, actor: str, outcome: str, **facts: object) -> str:
    """Write one line, and return it. Facts that are None are left out."""
    values = {"action": action, "actor": actor, "outcome": outcome, **facts}
    line = " ".join(f"{name}={_said(value)}" for name, value in values.items() if value is not None)
    _log.info("%s", line)
    return line


def os_user() -> str:
    """Who runs this process, by the operating system and not by the environment."""
    try:
        return f"os:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"os:{os.getuid()}"


def file_handler(path: Path) -> logging.StreamHandler[TextIO]:
    """Appends lines to a file that, if it is made here, only its owner reads. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    stream: TextIO = os.fdopen(descriptor, "a", encoding="utf-8")
    handler = logging.StreamHandler(stream)
    formatter = logging.Formatter("%(asctime)sZ %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    return handler


class Sparing:
    """Says the same thing at most once in every_s; the next line says how often it was.

    Nobody can flood the log: beyond max_kinds different things nothing new is said until some
    are older than every_s.
    """

    def __init__(
        self,
        every_s: float,
        *,
        max_kinds: int = 10_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = every_s
        self._max_kinds = max_kinds
        self._now = now
        #: By kind: when it was last said, and how often it has happened since.
        self._said: dict[tuple[object, ...], tuple[float, int]] = {}

    def record(self, action: str, *, actor: str, outcome: str, **facts: object) -> None:
        """Write the line, or count it."""
        kind = (action, actor, outcome, *facts.values())
        now = self._now()
        at, unsaid = self._said.get(kind, (-math.inf, 0))
        if now - at < self._every_s:
            self._said[kind] = (at, unsaid + 1)
            return
        if kind not in self._said and len(self._said) >= self._max_kinds:
            self._said = {k: v for k, v in self._said.items() if now - v[0] < self._every_s}
            if len(self._said) >= self._max_kinds:
                return
        self._said[kind] = (now, 0)
        record(action, actor=actor, outcome=outcome, **facts, times=unsaid + 1)


def _said(value: object) -> str:
    text = without_secrets(str(value))
    if len(text) > _MAX_VALUE_CHARS:
        text = text[:_MAX_VALUE_CHARS] + "…"
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
