"""Settings of the client: arguments win over STEPCLOCK_* variables, those over the key's file."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

_log = logging.getLogger("stepclock")

_MIB = 1024 * 1024

_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")

#: The values that are taken, for settings that are a word.
_WORDS = {
    "mode": ("online", "offline", "disabled"),
    "ranks": ("zero", "all"),
    "capture": ("basic", "full"),
}


@dataclass(frozen=True)
class Settings:
    """One run's settings.

    endpoint: base URL of the gateway. token: its key. ca_file: PEM file of the authorities that
    may sign its certificate; unset: the system's. mode: `online` sends, `offline` keeps all in
    the spool until it is synced, `disabled` does nothing. ranks: whether rank `zero` alone or
    `all` log. spool_dir: where rows lie until they are acknowledged. flush_interval: seconds
    after which a row is in the spool. send_interval: seconds between two requests while little
    comes. max_memory: bytes of rows that wait in memory. max_spool: bytes of the spool on disk;
    beyond it the oldest rows are dropped and counted. system_interval: seconds between two
    samples of the machine, 0 for none. heartbeat_interval: seconds between two lines that say
    that the run lives. finish_timeout: seconds that `finish` may take. capture: `full` also
    records the command line, and the traceback of a failure. strict: mistakes raise, for tests.
    """

    endpoint: str = "http://127.0.0.1:8787"
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    mode: str = "online"
    ranks: str = "zero"
    spool_dir: str = ""
    flush_interval: float = 0.1
    send_interval: float = 1.0
    max_memory: int = 64 * _MIB
    max_spool: int = 2048 * _MIB
    system_interval: float = 15.0
    heartbeat_interval: float = 30.0
    finish_timeout: float = 30.0
    capture: str = "basic"
    strict: bool = False

    @classmethod
    def resolve(cls, given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings; `given` None means not given.

        Raises ValueError for an argument that can't be; a variable that can't be is told and
        left out, since it must not end a job.
        """
        values: dict[str, Any] = {}
        for each in fields(cls):
            argument = given.get(each.name)
            if argument is not None:
                values[each.name] = _checked(each.name, argument, type(each.default))
                continue
            variable = f"STEPCLOCK_{each.name.upper()}"
            text = environ.get(variable)
            if text:
                try:
                    values[each.name] = _checked(each.name, text, type(each.default))
                except ValueError as exc:
                    _log.warning("%s is left out: %s", variable, exc)
        endpoint = values.get("endpoint", cls.endpoint)
        if values.get("token") is None:
            values["token"] = _token_of(endpoint, environ)
        if not values.get("spool_dir"):
            values["spool_dir"] = str(default_spool_dir(environ))
        return cls(**values)


def _checked(name: str, value: Any, kind: type) -> Any:
    """The value as its setting has it. Raises ValueError."""
    if kind is bool:
        return str(value).lower() in {"1", "true", "yes"}
    convert: Callable[[Any], Any] = kind if kind in (int, float) else str
    try:
        value = convert(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {kind.__name__}, not {value!r}") from None
    words = _WORDS.get(name)
    if words is not None and value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}")
    if kind in (int, float) and not 0 <= value < float("inf"):
        raise ValueError(f"{name} must not be below 0")
    if name == "flush_interval":
        value = min(max(value, 0.01), 0.5)  # a signal leaves little more than that
    if name == "send_interval":
        value = max(value, 0.01)
    if name == "endpoint":
        value = value.rstrip("/")
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"endpoint must be like https://host:port, not {value!r}")
    return value


def default_spool_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where spools lie unless STEPCLOCK_SPOOL_DIR says: the user's state folder, which stays."""
    return _user_dir(environ, "XDG_STATE_HOME", ".local/state") / "stepclock" / "spool"


def credentials_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where a server on this machine leaves its first key (0600)."""
    return _user_dir(environ, "XDG_CONFIG_HOME", ".config") / "stepclock" / "credentials.toml"


def _user_dir(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    given = environ.get(variable, "")
    if Path(given).is_absolute():
        return Path(given)
    home = Path(environ["HOME"]) if environ.get("HOME") else Path("~").expanduser()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    return home / below_home


def _token_of(endpoint: str, environ: Mapping[str, str]) -> str | None:
    """The key from STEPCLOCK_TOKEN_FILE, or this machine's own for a server on this machine."""
    named = environ.get("STEPCLOCK_TOKEN_FILE")
    try:
        if named:
            return Path(named).read_text("utf-8").strip() or None
        # A server elsewhere is never shown the key of the one here.
        if _LOOPBACK.fullmatch(urlsplit(endpoint).hostname or ""):
            text = credentials_path(environ).read_text("utf-8")
            found = re.search(r'^key\s*=\s*"([^"\\]+)"', text, re.MULTILINE)
            return found[1] if found else None
    except (OSError, UnicodeDecodeError) as exc:
        if named:
            _log.warning("STEPCLOCK_TOKEN_FILE can't be read: %s", exc)
    return None
