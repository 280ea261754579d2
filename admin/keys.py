"""`stepclock-server keys create|list|revoke`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapters.settings import default_keys_file
from admin.audit import audited
from admin.terminal import errors, fail, plain
from ingest.keys.credentials import write_private
from schemas.tenants.keys import DEFAULT_NAMESPACE, InvalidKeys, KeyRecord, Role, Tenant, new_key
from schemas.tenants.keys_file import dump, parse

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke keys.")

KeysFile = Annotated[
    Path | None,
    typer.Option(
        "--keys-file",
        envvar="STEPCLOCK_KEYS_FILE",
        help="keys.toml to read and write; default: the one in the data folder.",
    ),
]


@app.command(epilog="Example: stepclock-server keys create --tenant vision --rate 50000")
def create(
    tenant: Annotated[str, typer.Option(help="Who is charged; made if it does not exist.")],
    namespace: Annotated[
        str | None, typer.Option(help=f"Namespace of a new tenant; default {DEFAULT_NAMESPACE}.")
    ] = None,
    rate: Annotated[int | None, typer.Option(help="Limit of the tenant in points/s.")] = None,
    burst: Annotated[int | None, typer.Option(help="Burst of the tenant in points.")] = None,
    series_per_hour: Annotated[
        int | None, typer.Option(help="Limit of the tenant in new series an hour.")
    ] = None,
    dry_run: Annotated[
        bool | None,
        typer.Option(
            "--dry-run/--no-dry-run", help="Limits of the tenant are counted and logged only."
        ),
    ] = None,
    role: Annotated[Role, typer.Option(help="write may also read.")] = Role.WRITE,
    days: Annotated[int | None, typer.Option(min=1, help="Days until the key expires.")] = None,
    keys_file: KeysFile = None,
) -> None:
    """Make a key. It is the last line of standard output and can't be shown again."""
    path = _path(keys_file)
    records = _read(path)
    known = next((r.tenant for r in records.values() if r.tenant.name == tenant), Tenant(tenant))
    if (
        namespace is not None
        and known.namespace != namespace
        and any(r.tenant.name == tenant for r in records.values())
    ):
        fail(f"tenant {tenant!r} has namespace {known.namespace!r}; it can't be changed", code=2)
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        key, record = new_key(
            tenant,
            namespace=namespace or known.namespace,
            rate=rate if rate is not None else known.rate,
            burst=burst if burst is not None else known.burst,
            series_per_hour=(
                series_per_hour if series_per_hour is not None else known.series_per_hour
            ),
            dry_run=dry_run if dry_run is not None else known.dry_run,
            role=role,
            created=now,
            expires=None if days is None else now + timedelta(days=days),
        )
    except InvalidKeys as exc:
        fail(str(exc), code=2)
    others = [
        dataclasses.replace(r, tenant=record.tenant) if r.tenant.name == tenant else r
        for r in records.values()
    ]
    write_private(path, dump([*others, record]))
    audited(
        "key.create",
        "done",
        key=record.id,
        tenant=tenant,
        namespace=record.tenant.namespace,
        role=role.value,
        rate=record.tenant.rate,
        expires=None if record.expires is None else record.expires.isoformat(),
        file=path,
    )
    errors().print(
        plain(f"key {record.id} of tenant {tenant} written to {path}; keep it, it is shown once:")
    )
    typer.echo(key)


@app.command("list", epilog="Example: stepclock-server keys list")
def list_keys(keys_file: KeysFile = None) -> None:
    """Keys by id, without secrets."""
    table = Table("tenant", "namespace", "role", "rate/s, burst", "series/h", "created")
    table.add_column("id", no_wrap=True)  # what `revoke` needs is never cut
    table.add_column("state", no_wrap=True)
    now = datetime.now(UTC)
    for record in _read(_path(keys_file)).values():
        expired = record.expires is not None and record.expires <= now
        state = "revoked" if record.revoked else "expired" if expired else "valid"
        table.add_row(
            record.tenant.name,
            record.tenant.namespace,
            record.role.value,
            f"{record.tenant.rate or 'default'}, {record.tenant.burst or 'default'}"
            + (" (dry run)" if record.tenant.dry_run else ""),
            str(record.tenant.series_per_hour or "default"),
            record.created.date().isoformat() if record.created else "",
            record.id,
            state,
        )
    Console().print(table)


@app.command(epilog="Example: stepclock-server keys revoke 3fa2b81c09de")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.")],
    keys_file: KeysFile = None,
) -> None:
    """Make a key invalid; running gateways notice within a second."""
    path = _path(keys_file)
    records = dict(_read(path))
    if key_id not in records:
        fail(f"no key {key_id!r} in {path}; see 'stepclock-server keys list'", code=2)
    records[key_id] = dataclasses.replace(records[key_id], revoked=True)
    write_private(path, dump(records.values()))
    audited("key.revoke", "done", key=key_id, tenant=records[key_id].tenant.name, file=path)
    errors().print(f"key {key_id} is revoked")


def _path(keys_file: Path | None) -> Path:
    return keys_file or default_keys_file()


def _read(path: Path) -> Mapping[str, KeyRecord]:
    if not path.exists():
        return {}
    try:
        return parse(path.read_text("utf-8"))
    except InvalidKeys as exc:
        fail(f"{path}: {exc}", code=2)
