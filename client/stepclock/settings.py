"""Settings of the client: arguments win over STEPCLOCK_* variables, those over the key's file."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stepclock.endpoint import check_endpoint, is_loopback

_log = logging.getLogger("stepclock")

_MIB = 1024 * 1024

#: What a header can carry; keys are made of it.
_TOKEN = re.compile(r"[!-~]+")

#: The values that are taken, for settings that are a word.
_WORDS = {
    "mode": ("online", "offline", "disabled"),
    "ranks": ("zero", "all"),
    "capture": ("basic", "full"),
}

#: Truth as people write it into variables.
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

#: Variables that are read, and are no setting.
_BESIDE = frozenset({"TOKEN_FILE", "RUN_ID", "ATTEMPT"})

# What was told in this process: a job may read its settings more than once.
_told: set[str] = set()


@dataclass(frozen=True)
class Settings:
    """One run's settings.

    endpoint: base URL of the gateway. token: its key. ca_file: PEM file of the authorities that
    may sign its certificate; unset: the system's. mode: `online` sends, `offline` keeps all in
    the spool until it is synced, `disabled` does nothing. ranks: whether rank `zero` alone or
    `all` log. spool_dir: where rows lie until they are acknowledged. flush_interval: seconds
    after which a row is in the spool. fsync: seconds between two times that the disk is made to
    have it, 0 to leave that to the system. send_interval: seconds between two requests while little
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
    fsync: float = 0.0
    send_interval: float = 1.0
    max_memory: int = 64 * _MIB
    max_spool: int = 2048 * _MIB
    system_interval: float = 15.0
    heartbeat_interval: float = 30.0
    finish_timeout: float = 30.0
    capture: str = "basic"
    strict: bool = False

    @classmethod
    def resolve(
        cls,
        given: Mapping[str, Any],
        environ: Mapping[str, str] = os.environ,
        *,
        forgiving: bool = True,
    ) -> Settings:
        """The settings; `given` None or no text means not given.

        Raises ValueError for an argument that can't be. A variable that can't be is told and
        left out, since it must not end a job; not forgiving: it raises, too.
        """
        values: dict[str, Any] = {}
        for each in fields(cls):
            argument = given.get(each.name)
            if argument is not None and argument != "":
                values[each.name] = _checked(each.name, argument, type(each.default))
                continue
            variable = f"STEPCLOCK_{each.name.upper()}"
            text = environ.get(variable)
            if text:
                try:
                    values[each.name] = _checked(each.name, text, type(each.default))
                except ValueError as exc:
                    if not forgiving:
                        raise ValueError(f"{variable}: {exc}") from None
                    _tell(f"{variable} is left out: {exc}")
        _tell_typos(environ)
        endpoint = values.get("endpoint", cls.endpoint)
        if values.get("token") is None:
            values["token"] = _token_of(endpoint, environ)
        if not values.get("spool_dir"):
            values["spool_dir"] = str(default_spool_dir(environ))
        return cls(**values)


def nearest(word: str, among: Iterable[str]) -> str | None:
    """What a word was meant to be; None if nothing is as near as a slip of the finger."""
    from difflib import get_close_matches  # seldom needed

    return next(iter(get_close_matches(word, sorted(among), 1, 0.8)), None)


def _tell(message: str) -> None:
    """Warn, once a process."""
    if message not in _told:
        _told.add(message)
        _log.warning("stepclock: %s", message)


def _tell_typos(environ: Mapping[str, str]) -> None:
    """Tell of variables that look like a setting's; those of servers and others look like none."""
    known = {each.name.upper() for each in fields(Settings)} | _BESIDE
    for variable in environ:
        if variable.startswith("STEPCLOCK_") and variable[10:] not in known:
            meant = nearest(variable[10:], known)
            if meant:
                _tell(f"nothing reads {variable}; did you mean STEPCLOCK_{meant}?")


def _checked(name: str, value: Any, kind: type) -> Any:
    """The value as its setting has it. Raises ValueError."""
    if kind is bool:
        try:
            return _TRUTH[str(value).lower()]
        except KeyError:
            raise ValueError(f"{name} must be true or false, not {value!r}") from None
    if kind in (int, float):
        return _number(name, value, kind)
    text = str(value).strip()
    words = _WORDS.get(name)
    if words is not None:
        if text not in words:
            raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}")
        return text
    if name == "endpoint":
        return check_endpoint(text)
    if name == "token":
        return _token(text)
    return str(_whole(text))


def _number(name: str, value: Any, kind: type) -> float:
    try:
        number: float = kind(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if not 0 <= number < float("inf"):
        unit = "a whole number of bytes" if kind is int else "a number of seconds"
        raise ValueError(f"{name} must be {unit}, not {value!r}")
    if name == "flush_interval":
        return min(max(number, 0.01), 0.5)  # a signal leaves little more than that
    if name == "send_interval" or (name == "fsync" and number):
        return max(number, 0.01)
    return number


def _token(text: str) -> str:
    """The key. Raises ValueError for what no header can carry, and shows none of it."""
    if not _TOKEN.fullmatch(text):
        raise ValueError("the key holds characters that no key has: look at where it comes from")
    return text


def _whole(path: str) -> Path:
    """The path from the root: a job may change its folder later."""
    try:
        return Path(path).expanduser().absolute()
    except (OSError, RuntimeError):  # no such folder any more, no such user
        return Path(path)


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
    try:
        home = Path(environ["HOME"]) if environ.get("HOME") else Path("~").expanduser()
    except RuntimeError:  # a container's user that has no name
        home = Path("/")
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    return home / below_home


def _token_of(endpoint: str, environ: Mapping[str, str]) -> str | None:
    """The key from STEPCLOCK_TOKEN_FILE, or this machine's own for a server on this machine."""
    named = environ.get("STEPCLOCK_TOKEN_FILE")
    try:
        if named:
            return _token(_whole(named).read_text("utf-8").strip())
        # A server elsewhere is never shown the key of the one here.
        if is_loopback(urlsplit(endpoint).hostname or ""):
            text = credentials_path(environ).read_text("utf-8")
            found = re.search(r'^key\s*=\s*"([!#-\[\]-~]+)"', text, re.MULTILINE)
            return found[1] if found else None
    except (OSError, ValueError) as exc:
        if named:
            reason = "it is no text" if isinstance(exc, UnicodeDecodeError) else exc
            _tell(f"STEPCLOCK_TOKEN_FILE can't be used: {reason}")
    return None
