"""The first key: a server without a keys file makes one key and keeps it for its user.

The key stands in `credentials.toml` in the user's config folder, mode 0600, where clients on
the same machine look for it. It is never printed or logged.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import platformdirs
import tomli_w

from schemas.tenants.keys import id_of, new_key, record_of
from schemas.tenants.keys_file import dump
from telemetry import audit

_log = logging.getLogger("stepclock.gateway")

_TENANT = "default"


class NoKeys(Exception):
    """There is no keys file, and making one by ourselves would not be safe."""


def credentials_path() -> Path:
    """Where clients on this machine find the key (XDG config home)."""
    return platformdirs.user_config_path("stepclock") / "credentials.toml"


def keys_file(configured: Path | None, data_dir: Path, host: str) -> Path:
    """The keys file of a server: the configured one, or the data folder's, which may be missing.

    Raises NoKeys for a missing one that a server may not make by itself: one that is configured,
    or that of a server that others can reach.
    """
    path = configured or data_dir / "keys.toml"
    if path.exists():
        return path
    if configured is not None:
        raise NoKeys(
            f"{path} does not exist; make it with "
            f"'stepclock-server keys create --tenant NAME --keys-file {path}'"
        )
    if not _is_loopback(host):
        raise NoKeys(
            f"{path} does not exist, and none is generated for a server that listens on {host}; "
            "make a key with 'stepclock-server keys create --tenant NAME', or listen on 127.0.0.1"
        )
    return path


def ensure_keys(configured: Path | None, data_dir: Path, host: str) -> Path:
    """The keys file of a server, made with one key if it is missing. Raises NoKeys."""
    path = keys_file(configured, data_dir, host)
    if path.exists():
        return path
    now = datetime.now(UTC).replace(microsecond=0)
    key = _known_key()
    if key is None:
        key, record = new_key(_TENANT, created=now)
        write_private(credentials_path(), tomli_w.dumps({"key": key}))
    else:
        record = record_of(key, _TENANT, created=now)
    write_private(path, dump([record]))
    audit.record("key.create", actor=audit.os_user(), outcome="done", key=record.id, file=path)
    _log.info("made %s with one key; the key stands in %s", path, credentials_path())
    return path


def _known_key() -> str | None:
    """The key that an earlier server left: another server of this user takes the same one."""
    try:
        key = tomllib.loads(credentials_path().read_text("utf-8")).get("key")
    except (OSError, ValueError, RecursionError):  # no file, no text, no TOML
        return None
    return key if isinstance(key, str) and id_of(key) else None


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically by one that only its owner may read (0600).

    It outlives a crash of the machine from the return on. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the disk may still have the old file under this name
    finally:
        os.close(folder)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
