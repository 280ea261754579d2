"""API keys and tenants, and the file that holds them (keys.toml).

A key is ``sk_<id>_<secret>``; the file holds its SHA-256 only. A key belongs to a tenant; a
tenant has a namespace and a limit, which all its keys share.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import tomli_w

DEFAULT_NAMESPACE = "stepclock"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
#: A whole key, wherever it stands.
_KEY = re.compile(r"\bsk_([0-9a-f]+)_[A-Za-z0-9_-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: Limits of a tenant that are whole numbers, and what they count.
_LIMITS = {"rate": "points", "burst": "points", "series_per_hour": "series"}

_HEADER = "# Keys of Stepclock. Secrets are not here, only their SHA-256.\n"

_PIECE_CHARS = 256 * 1024


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
    _check_tenant(charged)
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


def parse(text: str) -> Mapping[str, KeyRecord]:
    """Records of a keys.toml by key id. Raises InvalidKeys.

    A large file is parsed piece by piece: as one, 100,000 tenants would take 300 MB.
    """
    # ValueError and RecursionError: numbers too long and nests too deep as well.
    try:
        return _records(map(_document, _pieces(text)))
    except (ValueError, RecursionError):
        pass  # perhaps a piece that ends within a string of several lines
    try:
        return _records([_document(text)])
    except (ValueError, RecursionError) as exc:
        raise InvalidKeys(f"not valid TOML: {exc}") from exc


def dump(records: Iterable[KeyRecord]) -> str:
    """The keys.toml of these records, such that `parse` gives them back."""
    tenants: dict[str, dict[str, object]] = {}
    keys: dict[str, dict[str, object]] = {}
    for record in records:
        tenant: dict[str, object] = {"namespace": record.tenant.namespace}
        for limit in _LIMITS:
            value = getattr(record.tenant, limit)
            if value is not None:
                tenant[limit] = value
        if record.tenant.dry_run:
            tenant["dry_run"] = True
        tenants[record.tenant.name] = tenant
        key: dict[str, object] = {
            "tenant": record.tenant.name,
            "sha256": record.sha256,
            "role": record.role.value,
        }
        if record.created is not None:
            key["created"] = record.created
        if record.expires is not None:
            key["expires"] = record.expires
        if record.revoked:
            key["revoked"] = True
        keys[record.id] = key
    return _HEADER + tomli_w.dumps({"tenants": tenants, "keys": keys})


def _records(documents: Iterable[Mapping[str, Mapping[str, object]]]) -> dict[str, KeyRecord]:
    tenants: dict[str, Tenant] = {}
    records: dict[str, KeyRecord] = {}
    early: list[tuple[str, object]] = []  # keys that stand before their tenants
    for document in documents:
        for name, table in document["tenants"].items():
            if name in tenants:
                raise InvalidKeys(f"tenants.{name} is there twice")
            tenants[name] = _parse_tenant(name, table)
        for key_id, table in document["keys"].items():
            if isinstance(table, dict) and str(table.get("tenant")) not in tenants:
                early.append((key_id, table))
                continue
            if key_id in records:
                raise InvalidKeys(f"keys.{key_id} is there twice")
            records[key_id] = _parse_key(key_id, table, tenants)
    for key_id, table in early:
        if key_id in records:
            raise InvalidKeys(f"keys.{key_id} is there twice")
        records[key_id] = _parse_key(key_id, table, tenants)
    return records


def _pieces(text: str) -> Iterator[str]:
    """The text, cut where a table begins."""
    start = 0
    while len(text) - start > _PIECE_CHARS:
        cut = text.rfind("\n[", start, start + _PIECE_CHARS) + 1
        if cut <= start:
            break
        yield text[start:cut]
        start = cut
    yield text[start:]


def _document(text: str) -> dict[str, dict[str, object]]:
    document = tomllib.loads(text)
    unknown = set(document) - {"tenants", "keys"}
    if unknown:
        raise InvalidKeys(f"unknown table {min(unknown)!r}: expected [tenants.NAME] and [keys.ID]")
    for name in ("tenants", "keys"):
        if not isinstance(document.setdefault(name, {}), dict):
            raise InvalidKeys(f"{name} is not a table")
    return document


def _parse_tenant(name: str, table: object) -> Tenant:
    entry = _table(f"tenants.{name}", table, {"namespace", "dry_run", *_LIMITS})
    namespace = entry.get("namespace", DEFAULT_NAMESPACE)
    if not isinstance(namespace, str):
        raise InvalidKeys(f"tenants.{name}: namespace must be a string")
    limits: dict[str, int | None] = {}
    for field, unit in _LIMITS.items():
        value = entry.get(field)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise InvalidKeys(f"tenants.{name}: {field} must be a whole number of {unit}")
        limits[field] = value
    dry_run = entry.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise InvalidKeys(f"tenants.{name}: dry_run must be true or false")
    tenant = Tenant(name, namespace, dry_run=dry_run, **limits)
    _check_tenant(tenant)
    return tenant


def _parse_key(key_id: str, table: object, tenants: Mapping[str, Tenant]) -> KeyRecord:
    where = f"keys.{key_id}"
    entry = _table(where, table, {"tenant", "sha256", "role", "created", "expires", "revoked"})
    name = entry.get("tenant")
    tenant = tenants.get(name) if isinstance(name, str) else None
    if tenant is None:
        raise InvalidKeys(f"{where}: tenant {name!r} has no [tenants.…] table")
    sha256 = entry.get("sha256")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise InvalidKeys(f"{where}: sha256 must be 64 hexadecimal digits")
    try:
        role = Role(str(entry.get("role", Role.WRITE.value)))
    except ValueError:
        raise InvalidKeys(f'{where}: role must be "write" or "read"') from None
    revoked = entry.get("revoked", False)
    if not isinstance(revoked, bool):
        raise InvalidKeys(f"{where}: revoked must be true or false")
    return KeyRecord(
        key_id,
        sha256,
        tenant,
        role,
        _time(where, "created", entry),
        _time(where, "expires", entry),
        revoked,
    )


def _table(where: str, table: object, known: set[str]) -> Mapping[str, object]:
    if not isinstance(table, dict):
        raise InvalidKeys(f"{where} is not a table")
    unknown = set(table) - known
    if unknown:
        raise InvalidKeys(f"{where}: unknown key {min(unknown)!r}; known: {sorted(known)}")
    return table


def _time(where: str, field: str, entry: Mapping[str, object]) -> datetime | None:
    value = entry.get(field)
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidKeys(f"{where}: {field} must be a time such as 2027-01-31T00:00:00Z")
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _check_tenant(tenant: Tenant) -> None:
    for what, name in (("tenant", tenant.name), ("namespace", tenant.namespace)):
        if not _NAME.fullmatch(name):
            raise InvalidKeys(
                f"{what} {name!r}: use up to 63 letters, digits and ._-, a letter or digit first"
            )
    for what in _LIMITS:
        limit = getattr(tenant, what)
        if limit is not None and limit < 1:
            raise InvalidKeys(f"tenant {tenant.name!r}: {what} must be at least 1")
