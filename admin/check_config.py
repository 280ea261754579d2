"""`stepclock-server check-config`: what the processes would refuse at their start, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.table import Table

from adapters.influx.admin import InfluxAdmin
from adapters.kafka.admin import KafkaAdmin
from adapters.settings import PREFIX, CommonSettings, load_retention, problems, unknown_variables
from admin.context import SETTINGS_OF
from admin.provision.plan import Action, Change, plan_buckets, plan_mappings, plan_topics
from admin.provision.plan_rollups import plan_rollups
from admin.terminal import plain
from consumers.settings import ConsumerSettings
from ingest.keys.credentials import NoKeys, keys_file
from ingest.settings import GatewaySettings, HttpSettings
from schemas.log.protocols import LogUnavailable
from schemas.retention import InvalidRetention, RetentionClass, format_duration
from schemas.store.protocols import StoreError
from schemas.tenants.keys import DEFAULT_NAMESPACE, InvalidKeys, KeyRecord, Role
from schemas.tenants.keys_file import parse


class CheckState(StrEnum):
    """How a check ended. WARNING: it works, and is hardly meant."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"  # a process would refuse to start
    AWAY = "away"  # the configuration can be used, what it points to can't
    MISSING = "missing"  # provision would make it


_STYLE = {CheckState.OK: "green", CheckState.WARNING: "yellow"}


@dataclass(frozen=True, slots=True)
class ConfigCheck:
    """One row of the table."""

    what: str
    state: CheckState
    detail: str


def exit_code(findings: Iterable[ConfigCheck]) -> int:
    """2 if a process would refuse to start, 1 if it would lack something, else 0."""
    states = {finding.state for finding in findings}
    if CheckState.WRONG in states:
        return 2
    return 1 if states & {CheckState.AWAY, CheckState.MISSING} else 0


def check_files(environ: Mapping[str, str]) -> Iterator[ConfigCheck]:
    """Settings of every process, unknown variables, retention file and keys file."""
    valid = {}
    for command, model in SETTINGS_OF.items():
        wrong = list(_check_settings(command, model))
        yield from wrong
        if not wrong:
            valid[command] = model()
            yield ConfigCheck(f"settings of {command}", CheckState.OK, "can be used")
    for variable, near in unknown_variables(environ, SETTINGS_OF.values()):
        hint = f"; did you mean {near}?" if near else ""
        yield ConfigCheck(variable, CheckState.WARNING, f"is not a setting{hint}")
    settings = next((s for s in valid.values() if isinstance(s, HttpSettings)), None)
    if settings is not None:
        yield _check_retention(settings.retention_file)
        yield from _check_keys(settings, datetime.now(UTC))


def check_services(settings: ConsumerSettings, keys: Path) -> Iterator[ConfigCheck]:
    """Whether Kafka and InfluxDB answer and hold what the classes and namespaces need.

    Raises InvalidRetention, InvalidKeys, OSError for files that check_files names.
    """
    classes = load_retention(settings.retention_file)
    records = parse(keys.read_text("utf-8")) if keys.exists() else {}
    namespaces = sorted({DEFAULT_NAMESPACE, *(r.tenant.namespace for r in records.values())})
    with KafkaAdmin(settings.kafka) as kafka:
        servers = settings.kafka_bootstrap_servers
        yield from _check_plan("Kafka", servers, lambda: list(plan_topics(kafka, classes)))
    if not settings.influx.token:
        yield ConfigCheck("InfluxDB", CheckState.WRONG, f"{PREFIX}INFLUX_TOKEN is not set")
        return
    with InfluxAdmin(settings.influx) as influx:
        yield from _check_plan(
            "InfluxDB",
            settings.influx_url,
            lambda: [
                *plan_buckets(influx, classes, namespaces),
                *plan_mappings(influx, namespaces),
                *plan_rollups(influx, classes, namespaces),
            ],
        )


def check_config_command(
    connect: Annotated[
        bool, typer.Option("--connect", help="Also ask Kafka and InfluxDB; changes nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for warnings too, as in CI.")
    ] = False,
) -> None:
    """Check settings, keys file and retention file before a process is started with them.

    Exit code 0: all of it can be used; 2: a process would refuse to start; 1: with --connect,
    Kafka or InfluxDB is away or lacks something that `provision` makes.
    """
    findings = list(check_files(os.environ))
    if connect and exit_code(findings) == 0:
        http = GatewaySettings()
        path = keys_file(http.keys_file, http.data_dir, http.host)
        findings += check_services(ConsumerSettings(), path)
    elif connect:
        findings.append(
            ConfigCheck("services", CheckState.WARNING, "not asked: first mend the rest")
        )
    table = Table("what", "state", "detail")
    for finding in findings:
        style = _STYLE.get(finding.state, "red")
        cells = (finding.what, finding.state.value, finding.detail)
        table.add_row(*map(plain, cells), style=style)
    Console().print(table)
    code = exit_code(findings)
    if code == 0 and strict and any(f.state is CheckState.WARNING for f in findings):
        code = 1
    raise typer.Exit(code)


def _check_settings(command: str, model: type[CommonSettings]) -> Iterator[ConfigCheck]:
    """What is wrong with a process's settings, without the values: one may be a secret."""
    try:
        model()
    except ValidationError as exc:
        for name, wrong in problems(exc):
            yield ConfigCheck(name, CheckState.WRONG, f"{wrong} ({command})")
    except SettingsError as exc:
        yield ConfigCheck(f"settings of {command}", CheckState.WRONG, str(exc))
    except (OSError, UnicodeDecodeError) as exc:
        yield ConfigCheck(f"settings of {command}", CheckState.WRONG, f"a secret's file: {exc}")


def _check_retention(path: Path | None) -> ConfigCheck:
    what = "retention file"
    try:
        classes = load_retention(path)
    except (InvalidRetention, OSError, UnicodeDecodeError) as exc:
        return ConfigCheck(what, CheckState.WRONG, str(exc))
    return ConfigCheck(
        what, CheckState.OK, f"{path or 'the one that ships'}: {_of_classes(classes)}"
    )


def _of_classes(classes: Mapping[str, RetentionClass]) -> str:
    return ", ".join(f"{c.name} {format_duration(c.keep_s)}" for c in classes.values())


def _check_keys(settings: HttpSettings, now: datetime) -> Iterator[ConfigCheck]:
    what = "keys file"
    try:
        path = keys_file(settings.keys_file, settings.data_dir, settings.host)
    except NoKeys as exc:
        yield ConfigCheck(what, CheckState.WRONG, str(exc))
        return
    if not path.exists():
        yield ConfigCheck(what, CheckState.OK, f"{path} is made with one key at the first start")
        return
    try:
        records = parse(path.read_text("utf-8"))
    except (InvalidKeys, OSError, UnicodeDecodeError) as exc:
        yield ConfigCheck(what, CheckState.WRONG, f"{path}: {exc}")
        return
    usable = [r for r in records.values() if _usable(r, now)]
    tenants = {record.tenant.name for record in records.values()}
    yield ConfigCheck(
        what,
        CheckState.OK,
        f"{path}: {len(usable)} usable of {len(records)} keys, {len(tenants)} tenants",
    )
    if not any(record.role is Role.WRITE for record in usable):
        yield ConfigCheck(what, CheckState.WARNING, "no key may write: every write gets 401 or 403")
    if path.stat().st_mode & 0o022:
        yield ConfigCheck(
            what, CheckState.WARNING, "others may change it, and so let themselves in"
        )


def _usable(record: KeyRecord, now: datetime) -> bool:
    return not record.revoked and (record.expires is None or record.expires > now)


def _check_plan(what: str, where: str, plan: Callable[[], list[Change]]) -> Iterator[ConfigCheck]:
    """What provisioning would do is what is missing."""
    try:
        changes = plan()
    except (LogUnavailable, StoreError) as exc:
        yield ConfigCheck(what, CheckState.AWAY, f"{where}: {exc}")
        return
    yield ConfigCheck(what, CheckState.OK, f"{where} answers")
    for change in changes:
        if change.action is Action.KEEP:
            yield ConfigCheck(f"{change.what} {change.name}", CheckState.OK, change.detail)
            continue
        missing = change.action is Action.CREATE
        yield ConfigCheck(
            f"{change.what} {change.name}",
            CheckState.MISSING if missing else CheckState.WARNING,
            f"{'is missing' if missing else change.detail}: run 'stepclock-server provision'",
        )
