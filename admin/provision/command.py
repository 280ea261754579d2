"""`stepclock-server provision`: topics, buckets, mappings and tasks as retention.toml says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from adapters.influx.admin import InfluxAdmin
from adapters.kafka.admin import KafkaAdmin
from adapters.settings import (
    InfluxSettings,
    KafkaSettings,
    default_keys_file,
    load_retention,
    problems,
)
from admin.audit import audited
from admin.provision.plan import (
    PARTITIONS,
    Action,
    Change,
    plan_buckets,
    plan_mappings,
    plan_topics,
)
from admin.provision.plan_rollups import plan_rollups
from admin.terminal import errors, fail, plain
from schemas.log.protocols import LogUnavailable
from schemas.retention import InvalidRetention, RetentionClass
from schemas.store.protocols import StoreError
from schemas.tenants.keys import DEFAULT_NAMESPACE, InvalidKeys
from schemas.tenants.keys_file import parse

_STYLE = {Action.CREATE: "green", Action.CHANGE: "yellow", Action.KEEP: "dim"}


class NeedsConsent(Exception):
    """The plan shortens a retention, and nobody said that it may. Nothing was changed."""


def provision(
    kafka: KafkaAdmin,
    influx: InfluxAdmin,
    classes: Mapping[str, RetentionClass],
    namespaces: Iterable[str],
    *,
    partitions: int = PARTITIONS,
    dry_run: bool = False,
    yes: bool = False,
    console: Console,
) -> list[Change]:
    """Show the plan, then carry it out; a second call finds nothing to do.

    Returns the plan. dry_run: show it only. yes: retention may become shorter. An error on
    the way leaves what was done; call again.

    Raises NeedsConsent, LogUnavailable, StoreError.
    """
    spaces = list(dict.fromkeys(namespaces))
    plan = [
        *plan_topics(kafka, classes, partitions),
        *plan_buckets(influx, classes, spaces),
        *plan_mappings(influx, spaces),
        *plan_rollups(influx, classes, spaces),
    ]
    _show(plan, console)
    to_do = [change for change in plan if change.apply is not None]
    shortened = [change.name for change in to_do if change.shortens]
    if not to_do:
        console.print("nothing to do")
    elif dry_run:
        console.print(f"{len(to_do)} to do; nothing was changed (--dry-run)")
    elif shortened and not yes:
        raise NeedsConsent(
            f"data would be deleted sooner in {', '.join(shortened)}; nothing was changed; "
            "say --yes if that is meant"
        )
    else:
        for change in to_do:
            assert change.apply is not None
            facts = {"what": change.what, "name": change.name, "detail": change.detail}
            try:
                change.apply()
            except (LogUnavailable, StoreError):
                audited(f"provision.{change.action.value}", "failed", **facts)
                raise
            audited(f"provision.{change.action.value}", "done", **facts)
        console.print(f"{len(to_do)} done")
    return plan


def provision_command(
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Namespace to make buckets for, besides {DEFAULT_NAMESPACE}; repeat it."
        ),
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            envvar="STEPCLOCK_KEYS_FILE",
            help="keys.toml whose namespaces get buckets; default: the one in the data folder, "
            "if there is one.",
        ),
    ] = None,
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions of new topics; they can't be changed later.")
    ] = PARTITIONS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Retention may become shorter.")] = False,
) -> None:
    """Make topics, buckets, mappings and rollup tasks, or change them to what retention.toml says.

    It can be repeated at any time. Exit code 1: Kafka or InfluxDB is away, or a retention
    would become shorter and --yes is missing.

    Example: stepclock-server provision --namespace vision --dry-run
    """
    try:
        kafka_at, influx_at = KafkaSettings(), InfluxSettings()
        classes = load_retention(kafka_at.retention_file)
        namespaces = [DEFAULT_NAMESPACE, *(namespace or ()), *_namespaces_of(keys_file)]
    except ValidationError as exc:
        fail("; ".join(map(": ".join, problems(exc))), code=2)
    except (InvalidRetention, InvalidKeys, OSError) as exc:
        fail(str(exc), code=2)
    if not influx_at.influx.token:
        fail("STEPCLOCK_INFLUX_TOKEN is not set: provision needs an all-access token", code=2)
    try:
        with KafkaAdmin(kafka_at.kafka) as kafka, InfluxAdmin(influx_at.influx) as influx:
            provision(
                kafka,
                influx,
                classes,
                namespaces,
                partitions=partitions,
                dry_run=dry_run,
                yes=yes,
                console=Console(highlight=False),
            )
    except NeedsConsent as exc:
        fail(str(exc), code=1)
    except LogUnavailable as exc:
        fail(f"Kafka at {kafka_at.kafka_bootstrap_servers}: {exc}", code=1)
    except StoreError as exc:
        fail(f"InfluxDB at {influx_at.influx_url}: {exc}", code=1)


def _namespaces_of(keys_file: Path | None) -> list[str]:
    """Namespaces of a keys file, sorted; none of one that is yet to be made. Raises InvalidKeys."""
    path = keys_file or default_keys_file()
    if not path.exists():
        if keys_file is not None:
            text = f"warning: {path} does not exist: no namespaces from it"
            errors().print(plain(text, style="yellow"))
        return []
    return sorted({record.tenant.namespace for record in parse(path.read_text("utf-8")).values()})


def _show(plan: Iterable[Change], console: Console) -> None:
    table = Table("what", "name", "plan", "detail")
    for change in plan:
        style = "red" if change.shortens else _STYLE[change.action]
        table.add_row(change.what, change.name, change.action.value, change.detail, style=style)
    console.print(table)
