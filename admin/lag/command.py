"""`stepclock-server lag`: how far the consumers are behind, where that leads, what would help."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from adapters.settings import PREFIX
from admin.context import DataDir, EmbeddedLog, KafkaServers, choose, ingest_topics
from admin.lag.figures import EmbeddedFigures, KafkaFigures
from admin.lag.report import Look, PartitionFigures, Report, duration, report
from admin.terminal import errors, fail, plain
from consumers.settings import ConsumerSettings
from schemas.log.protocols import LogUnavailable, TopicPartition

#: A cluster that has just begun needs a moment to know its groups.
_PATIENCE_S = 5.0
_AGAIN_S = 0.5

_GROUP = ConsumerSettings.model_fields["consumer_group"].default


def lag_command(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    every_s: Annotated[
        float, typer.Option("--every", min=0.2, help="Seconds between two looks.")
    ] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each look.")] = False,
    group: Annotated[
        str, typer.Option(envvar=PREFIX + "CONSUMER_GROUP", help="Group of the consumers.")
    ] = _GROUP,
    kafka: KafkaServers = None,
    data_dir: DataDir = None,
) -> None:
    """Records that wait for the consumers, by partition, with rates, forecast and advice.

    Looks twice, since rates need two looks. A record is a block of many points. Exit code 1:
    the log is away or lacks a topic; with --watch that ends only the first look.
    """
    log = choose(kafka, data_dir)
    topics = ingest_topics()
    figures = (
        EmbeddedFigures(log.path, log.store_path, topics)
        if isinstance(log, EmbeddedLog)
        else KafkaFigures(log.connection, group, topics)
    )
    with closing(figures):
        first = _first_look(figures, log.name)
        if watch and not as_json:
            _watch(figures, first, every_s)
            return
        for found in _reports(figures, first, every_s, patient=watch):
            if as_json:
                typer.echo(json.dumps(as_dict(found)))
            else:
                Console().print(show(found))
            if not watch:
                return


def as_dict(found: Report) -> dict[str, object]:
    """What --json prints."""
    rates = found.rates
    return {
        "at": _utc(found.now.at_ms),
        "lag": found.now.lag,
        "members": found.now.members,
        "produced_per_s": None if rates is None else round(rates.produced, 3),
        "settled_per_s": None if rates is None else round(rates.settled, 3),
        "forecast": found.forecast,
        "retention_left_h": found.retention_left_h,
        "advice": list(found.advice),
        "partitions": [
            {
                "topic": partition.topic,
                "partition": partition.partition,
                "start": figures.start,
                "end": figures.end,
                "committed": figures.next_offset,
                "lag": figures.lag,
                "oldest_unsettled": None if figures.oldest_ms is None else _utc(figures.oldest_ms),
            }
            for partition, figures in found.now.partitions.items()
        ],
    }


def show(found: Report) -> RenderableType:
    """A row for each topic and for each of its partitions that waits, then what follows."""
    now, rates = found.now, found.rates
    table = Table("topic", "partition", "end", "committed", "lag", "oldest unsettled")
    for topic in sorted({partition.topic for partition in now.partitions}):
        ours = {p: f for p, f in now.partitions.items() if p.topic == topic}
        total = sum(figures.lag for figures in ours.values())
        table.add_row(plain(topic), f"all {len(ours)}", "", "", str(total), "", style="bold")
        for partition, figures in ours.items():
            if figures.lag or figures.lost:
                table.add_row(*_row(partition, figures, now.at_ms))
    lines = [found.forecast]
    if rates is not None:
        lines[0] += (
            f" (in {rates.produced:.4g}/s, settled {rates.settled:.4g}/s, "
            f"over {rates.over_s:.1f} s)"
        )
    if now.members is not None:
        lines.append(f"{now.members} consumers in the group")
    if found.retention_left_h is not None:
        left = duration(found.retention_left_h * 3600)
        lines.append(f"{left} until the log may delete unsettled records, if none is settled")
    lines += [f"→ {advice}" for advice in found.advice]
    return Group(table, *map(plain, lines))


def _row(partition: TopicPartition, figures: PartitionFigures, at_ms: int) -> tuple[str, ...]:
    committed = "nothing yet" if figures.next_offset is None else str(figures.next_offset)
    age = "" if figures.oldest_ms is None else duration((at_ms - figures.oldest_ms) / 1000)
    return ("", str(partition.partition), str(figures.end), committed, str(figures.lag), age)


def _first_look(figures: KafkaFigures | EmbeddedFigures, name: str) -> Look:
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return figures.look()
        except LogUnavailable as exc:
            if time.monotonic() >= give_up_at:
                fail(f"{name}: {exc}")
        time.sleep(_AGAIN_S)


def _reports(
    figures: KafkaFigures | EmbeddedFigures, before: Look, every_s: float, *, patient: bool
) -> Iterator[Report]:
    """A report each every_s. patient: looks that fail are said and passed over."""
    while True:
        time.sleep(every_s)
        try:
            now = figures.look()
        except LogUnavailable as exc:
            if not patient:
                fail(str(exc))
            errors().print(plain(f"{datetime.now(UTC):%H:%M:%S} {exc}"))
            continue
        yield report(now, before)
        before = now


def _watch(figures: KafkaFigures | EmbeddedFigures, first: Look, every_s: float) -> None:
    console = Console()
    if not console.is_terminal:
        for found in _reports(figures, first, every_s, patient=True):
            console.print(show(found))
        return
    with Live(show(report(first, None)), console=console, auto_refresh=False) as live:
        for found in _reports(figures, first, every_s, patient=True):
            live.update(show(found), refresh=True)


def _utc(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
