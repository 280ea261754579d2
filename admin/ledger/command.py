"""`stepclock-server ledger`: what was delivered against what the store holds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapters.settings import load_retention
from admin.context import InfluxUrl, StoreDir, reading
from admin.ledger.account import RunAccount, StoredRow, account
from admin.terminal import errors, fail, plain
from consumers.settings import WorkerSettings
from schemas.retention import DEFAULT_CLASS, RESERVED, STEP_CLASS, InvalidRetention, RetentionClass
from schemas.store import delivery
from schemas.store.delivery import DeliveryRecord
from schemas.store.protocols import StoredPoint, StoreReader, StoreUnavailable
from schemas.tenants.keys import DEFAULT_NAMESPACE

#: What expires within this is not compared any more: stores delete by whole shards.
_MARGIN_NS = 24 * 3600 * 10**9

#: Measurements of class events that belong to runs.
_EVENTS = sorted(RESERVED - {delivery.MEASUREMENT})


def ledger_command(
    run: Annotated[str | None, typer.Argument(help="One run; without it, every run.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Only runs of this experiment.")] = None,
    namespace: Annotated[str, typer.Option(help="Namespace.")] = DEFAULT_NAMESPACE,
    influx: InfluxUrl = None,
    data_dir: StoreDir = None,
) -> None:
    """Compare what was delivered with what is stored; name what is missing, and where.

    Counts lines of runs whose client names its streams (headers Stepclock-Stream, -Sequence,
    -Start, -Experiment, -Run). Exit code 1: something is missing, or the store is away.
    """
    try:
        settings = WorkerSettings()
        retention = load_retention(settings.retention_file)
    except (InvalidRetention, OSError, ValueError) as exc:
        fail(str(exc), code=2)
    with reading(influx, data_dir) as (name, reader):
        try:
            with errors().status("reading deliveries …") as status:
                accounts = []
                for one in accounts_of(
                    reader,
                    namespace,
                    retention,
                    settings.volatile_tags,
                    run=run,
                    experiment=experiment,
                    now_ns=time.time_ns(),
                ):
                    accounts.append(one)
                    status.update(plain(f"{len(accounts)} runs compared, the last {one.run}"))
        except StoreUnavailable as exc:
            fail(f"{name}: {exc}")
    if not accounts:
        if run is not None:
            fail(f"{name}: no deliveries of run {run} are recorded")
        errors().print(plain(f"{name}: no client has named its stream yet; see docs/delivery.md"))
    _show(accounts)
    if any(one.findings for one in accounts):
        raise typer.Exit(1)


def accounts_of(
    reader: StoreReader,
    namespace: str,
    retention: Mapping[str, RetentionClass],
    volatile_tags: Collection[str],
    *,
    run: str | None,
    experiment: str | None,
    now_ns: int,
) -> Iterator[RunAccount]:
    """The accounts, by experiment and run; one run at a time is held in memory.

    Deliveries are read before the points: what is stored meanwhile can't look like a loss.
    Raises StoreUnavailable.
    """
    by_run: dict[tuple[str, str], list[DeliveryRecord]] = defaultdict(list)
    for point in reader.points(namespace, delivery.CLASS, delivery.MEASUREMENT, run):
        try:
            record = delivery.decode(point)
        except ValueError:
            continue  # InfluxDB shows a point while it is being written, field by field
        if experiment is None or record.experiment == experiment:
            by_run[record.experiment, record.run].append(record)
    oldest_ns = {
        name: now_ns - found.keep_s * 10**9 + _MARGIN_NS
        for name, found in retention.items()
        if found.keep_s is not None
    }
    volatile = frozenset(volatile_tags)
    for (experiment_name, run_name), deliveries in sorted(by_run.items()):
        if not (experiment_name and run_name):  # nothing tells which points are meant
            yield account(deliveries, {}, [], oldest_ns)
            continue
        of_run = (experiment_name, run_name)
        rows = {
            DEFAULT_CLASS: _rows(reader.points(namespace, DEFAULT_CLASS, *of_run), volatile),
            delivery.CLASS: [
                row
                for measurement in _EVENTS
                for row in _rows(
                    (
                        point
                        for point in reader.points(namespace, delivery.CLASS, measurement, run_name)
                        if point.tags.get("experiment") == experiment_name
                    ),
                    volatile,
                )
            ],
        }
        found = account(deliveries, rows, _steps(reader, namespace, of_run, volatile), oldest_ns)
        if found.findings:
            # Points of a run that goes on may have stood in one view and not yet in the other.
            steps = _steps(reader, namespace, of_run, volatile)
            found = account(deliveries, rows, steps, oldest_ns)
        yield found


def _steps(
    reader: StoreReader, namespace: str, of_run: tuple[str, str], volatile: frozenset[str]
) -> list[StoredRow]:
    return _rows(reader.points(namespace, STEP_CLASS, *of_run), volatile)


def _rows(points: Iterable[StoredPoint], volatile: frozenset[str]) -> list[StoredRow]:
    return [_row(point, volatile) for point in points]


def _row(point: StoredPoint, volatile: frozenset[str]) -> StoredRow:
    step = point.fields.get("step")
    return StoredRow(
        point.time_ns,
        step if type(step) is int else None,
        frozenset(tag for tag in point.tags.items() if tag[0] not in volatile),
    )


def _show(accounts: list[RunAccount]) -> None:
    output = Console(highlight=False)
    table = Table("experiment", "run", "streams", "delivered", "dead", "stored", "findings")
    for one in accounts:
        table.add_row(
            plain(one.experiment),
            plain(one.run),
            *(f"{n:,}" for n in (one.streams, one.delivered, one.dead, one.stored)),
            str(len(one.findings)),
            style="red" if one.findings else "",
        )
    output.print(table)
    for one in accounts:
        for finding in one.findings:
            stream = f", stream {finding.stream}" if finding.stream else ""
            output.print(
                plain(f"{one.experiment} run {one.run}{stream}: {finding.what}"), soft_wrap=True
            )
    print(  # noqa: T201 - for programs as well
        f"ledger: runs={len(accounts)} delivered={sum(a.delivered for a in accounts)} "
        f"dead={sum(a.dead for a in accounts)} stored={sum(a.stored for a in accounts)} "
        f"findings={sum(len(a.findings) for a in accounts)}"
    )
