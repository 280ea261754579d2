"""API keys and tenants, as `schemas.tenants.keys_file` keeps them.

A key is ``sk_<id>_<secret>``; the file holds its SHA-256 only. A key belongs to a tenant; a
tenant has a namespace and a limit, which all its keys share.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

DEFAULT_NAMESPACE = "stepclock"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
#: A whole key, wherever it stands.
_KEY = re.compile(r"\bsk_([0-9a-f]+)_[A-Za-z0-9_-]+")

#: Limits of a tenant that are whole numbers, and what they count.
LIMITS = {"rate": "points", "burst": "points", "series_per_hour": "series"}


class InvalidKeys(Exception):
    """keys.toml says something that can't be; the message names the entry and the remedy."""


class Role(StrEnum):
    """What a key may do. A writer may also read its namespace."""

    WRITE = "write"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who is charged. rate in points/s and burst in points; None means the server's default.

    series_per_hour: series that are new to the gateways. dry_run: limits refuse nothing, what
    is over them is counted and logged.
    """

    name: str
    namespace: str = DEFAULT_NAMESPACE
    rate: int | None = None
    burst: int | None = None
    series_per_hour: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key as stored: everything but the secret."""

    id: str
    sha256: str
    tenant: Tenant
    role: Role = Role.WRITE
    created: datetime | None = None
    expires: datetime | None = None
    revoked: bool = False


def new_key(
    tenant: str,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    rate: int | None = None,
    burst: int | None = None,
    series_per_hour: int | None = None,
    dry_run: bool = False,
    role: Role = Role.WRITE,
    created: datetime | None = None,
    expires: datetime | None = None,
) -> tuple[str, KeyRecord]:
    """A fresh key and its record. The key itself can't be had again.

    Raises InvalidKeys for names or limits that can't be.
    """
    key = f"sk_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
    record = record_of(
        key,
        tenant,
        namespace=namespace,
        rate=rate,
        burst=burst,
        series_per_hour=series_per_hour,
        dry_run=dry_run,
        role=role,
        created=created,
        expires=expires,
    )
    return key, record


def record_of(
    key: str,
    tenant: str,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    rate: int | None = None,
    burst: int | None = None,
    series_per_hour: int | None = None,
    dry_run: bool = False,
    role: Role = Role.WRITE,
    created: datetime | None = None,
    expires: datetime | None = None,
) -> KeyRecord:
    """The record of a key that exists. Raises InvalidKeys as new_key does, and for no key."""
    charged = Tenant(tenant, namespace, rate, burst, series_per_hour, dry_run)
    check_tenant(charged)
    key_id = id_of(key)
    if key_id is None:
        raise InvalidKeys("a key has the form sk_<id>_<secret>")
    return KeyRecord(key_id, digest(key), charged, role, created, expires)


def digest(key: str) -> str:
    """SHA-256 of a whole key, in hex; 256 random bits need no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def without_secrets(text: str) -> str:
    """The text with every key in it cut down to its id."""
    return _KEY.sub(r"sk_\1_…", text)


def id_of(key: str) -> str | None:
    """The id inside a key; None if it has not the form of one."""
    parts = key.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == "sk" else None


def check_tenant(tenant: Tenant) -> None:
    """Raise InvalidKeys for names or limits that can't be."""
    for what, name in (("tenant", tenant.name), ("namespace", tenant.namespace)):
        if not _NAME.fullmatch(name):
            raise InvalidKeys(
                f"{what} {name!r}: use up to 63 letters, digits and ._-, a letter or digit first"
            )
    for what in LIMITS:
        limit = getattr(tenant, what)
        if limit is not None and limit < 1:
            raise InvalidKeys(f"tenant {tenant.name!r}: {what} must be at least 1")
