"""keys.toml: read and written back the same, or refused by InvalidKeys."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import schemas.tenants.keys_file
from schemas.tenants.keys import InvalidKeys
from schemas.tenants.keys_file import dump, parse

TOKENS = (
    *(b"[tenants.a]\n", b"[keys.k1]\n", b'tenant = "a"\n', b'role = "read"\n', b"rate = 5\n"),
    *(b"burst = 9\n", b'namespace = "lab"\n', b'sha256 = "' + b"ab" * 32 + b'"\n'),
    *(b"revoked = true\n", b"expires = 2027-01-31T00:00:00Z\n", b"created = 1979-05-27\n"),
    *(b"[" * 9, b"{a=" * 9, b"9" * 50, b"0x", b"1e5", b"[[keys]]\n", b'"""', b"inf"),
)


def check(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        keys = parse(text)
    except InvalidKeys as exc:
        assert str(exc)
        return
    for key_id, record in keys.items():
        assert record.id == key_id
        if record.expires is not None:  # what authentication asks
            assert (record.expires <= datetime.now(UTC)) in {True, False}
            assert record.expires.isoformat()
    said = tomllib.loads(text).get("keys", {})
    assert all(said[key_id]["tenant"] == record.tenant.name for key_id, record in keys.items())
    assert parse(dump(keys.values())) == keys
    whole, schemas.tenants.keys_file._PIECE_CHARS = schemas.tenants.keys_file._PIECE_CHARS, 40
    try:
        assert parse(text) == keys  # as a large file is read, cut where tables begin
    finally:
        schemas.tenants.keys_file._PIECE_CHARS = whole
