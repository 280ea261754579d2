"""The file that holds keys and tenants, keys.toml: to records and back."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

import tomli_w

from schemas.tenants.keys import (
    DEFAULT_NAMESPACE,
    LIMITS,
    InvalidKeys,
    KeyRecord,
    Role,
    Tenant,
    check_tenant,
)

_SHA256 = re.compile(r"[0-9a-f]{64}")

_HEADER = "# Keys of Stepclock. Secrets are not here, only their SHA-256.\n"

_PIECE_CHARS = 256 * 1024


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


def namespaces(text: str) -> list[str]:
    """Namespaces of a keys.toml, sorted, the default one always. Raises InvalidKeys."""
    found = {record.tenant.namespace for record in parse(text).values()}
    return sorted({DEFAULT_NAMESPACE, *found})


def dump(records: Iterable[KeyRecord]) -> str:
    """The keys.toml of these records, such that `parse` gives them back."""
    tenants: dict[str, dict[str, object]] = {}
    keys: dict[str, dict[str, object]] = {}
    for record in records:
        tenant: dict[str, object] = {"namespace": record.tenant.namespace}
        for limit in LIMITS:
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
    entry = _table(f"tenants.{name}", table, {"namespace", "dry_run", *LIMITS})
    namespace = entry.get("namespace", DEFAULT_NAMESPACE)
    if not isinstance(namespace, str):
        raise InvalidKeys(f"tenants.{name}: namespace must be a string")
    limits: dict[str, int | None] = {}
    for field, unit in LIMITS.items():
        value = entry.get(field)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise InvalidKeys(f"tenants.{name}: {field} must be a whole number of {unit}")
        limits[field] = value
    dry_run = entry.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise InvalidKeys(f"tenants.{name}: dry_run must be true or false")
    tenant = Tenant(name, namespace, dry_run=dry_run, **limits)
    check_tenant(tenant)
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
