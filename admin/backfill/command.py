"""`stepclock-server backfill`: what Kafka still holds, written into the store again."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.table import Table

from admin.audit import audited
from admin.backfill.choice import Choice, ViewName
from admin.backfill.progress import Pace, shown
from admin.backfill.run import Backfill, CountingWriter
from admin.context import InfluxUrl, KafkaLog, KafkaServers, chosen_settings, ingest_topics
from admin.dlq.letter_filter import moment
from admin.dlq.letters import FoundLetter, TopicLetters
from admin.dlq.refusals import Refusals, place_of
from admin.terminal import agreed, errors, fail, plain
from consumers.errors import ConsumerStopped
from consumers.records.selection import Place
from consumers.settings import ConsumerSettings
from schemas.line_protocol.codec import split
from schemas.log.dead_letter import Reason
from schemas.log.protocols import LogUnavailable, Reader, RecordRefused, TopicPartition
from schemas.log.ranges import LogRange, RangeSource
from schemas.store.protocols import LineWriter
from telemetry.logs import configure
from telemetry.stop_signals import StopSignals


def backfill_command(
    view: Annotated[
        ViewName | None, typer.Option("--view", help="Only by wall time, or only by step.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            parser=moment,
            metavar="TIME",
            help="What was written to Kafka then or later: ISO (UTC), or 7d, 2h ago. Default: all.",
        ),
    ] = None,
    retention_class: Annotated[
        list[str] | None, typer.Option("--class", help="Only of this class. May be repeated.")
    ] = None,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Only of this namespace. May be repeated.")
    ] = None,
    experiment: Annotated[
        list[str] | None, typer.Option(help="Only of this experiment. May be repeated.")
    ] = None,
    run: Annotated[list[str] | None, typer.Option(help="Only this run. May be repeated.")] = None,
    refused: Annotated[
        Path | None,
        typer.Option(help="File to make for lines that are refused, as `dlq replay` takes it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read it all, count what would be written.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    kafka: KafkaServers = None,
    influx: InfluxUrl = None,
) -> None:
    """Write points that Kafka still holds into InfluxDB again, up to where Kafka ends now.

    Points overwrite themselves, so it can be repeated, and runs beside the workers: it belongs
    to no consumer group, and commits nothing. It waits while Kafka or InfluxDB is away. Ctrl-C
    ends it with the command that goes on. Give it the settings of the consumers.

    The time of --from is the record's: when the gateway wrote it, not when a point was measured.
    Lines that are refused once more are counted and make no new dead letters; those that brought
    the store down (poison) are left out. `serve` needs no backfill: without its store.db it reads
    its log again by itself.

    Exit code 1: it did not come to its end, or something was refused that is no dead letter yet.
    """
    try:
        _backfill(
            Choice(
                view,
                since,
                tuple(retention_class or ()),
                tuple(namespace or ()),
                tuple(experiment or ()),
                tuple(run or ()),
            ),
            chosen_settings(ConsumerSettings, kafka_bootstrap_servers=kafka, influx_url=influx),
            refused,
            dry_run=dry_run,
            yes=yes,
        )
    except KeyboardInterrupt:  # before it began, or after its end
        raise typer.Exit(130) from None


def _backfill(
    choice: Choice, settings: ConsumerSettings, refused: Path | None, *, dry_run: bool, yes: bool
) -> None:
    from adapters.kafka.admin import KafkaAdmin  # noqa: PLC0415 - loaded where it is used
    from adapters.kafka.range import KafkaRange  # noqa: PLC0415 - loaded where it is used

    log = KafkaLog(settings.kafka)
    views = choice.views(settings.volatile_tags)
    topics = choice.topics(ingest_topics(), views)
    try:
        with KafkaAdmin(settings.kafka) as admin:
            ranges = admin.ranges_since(topics, choice.since_ms)
        poison = poisoned(log.reader(), topics)
    except (LogUnavailable, RecordRefused) as exc:
        fail(f"{log.name}: {exc}")
    _show_plan(topics, ranges)
    if not any(range_.records for range_ in ranges.values()):
        errors().print("nothing to write: no such record is left")
        return
    names = " and ".join(view.name for view in views)
    question = f"Write them into {names} of InfluxDB at {settings.influx_url}?"
    if not (dry_run or yes or agreed(question, "nothing was written")):
        errors().print("nothing was written")
        return

    def source(on_end: Callable[[], None]) -> RangeSource:
        return KafkaRange(settings.kafka, ranges, on_end)

    counting = CountingWriter()
    with (
        _new_file(None if dry_run else refused) as file,
        closing(counting if dry_run else _writer(settings)) as writer,
        StopSignals() as signals,
    ):
        work = Backfill(
            source,
            writer,
            Refusals(file),
            selection=choice.selection(views, poison),
            views=views,
            settings=settings,
            stop=signals.stop,
        )
        stopped = _run(work, settings.log_level)
    new = _new_refusals(work.refusals, log)
    _show_outcome(work, new, counting)
    finished = work.progress.finished
    if not dry_run:
        audited(
            "backfill",
            "done" if finished else "interrupted" if stopped is None else "failed",
            log=log.name,
            store=settings.influx_url,
            command=choice.again(0),
            records=work.progress.settled,
            points=work.points,
            refused=work.refusals.total,
        )
    if stopped is not None:
        errors().print(plain(f"error: {stopped}", style="red"))
    if not finished:
        errors().print(plain(f"go on with: {choice.again(work.progress.resume_ms())}"))
        raise typer.Exit(signals.exit_code or 1)
    raise typer.Exit(1 if new or work.progress.deleted else 0)


def _writer(settings: ConsumerSettings) -> LineWriter:
    from adapters.influx.writer import InfluxWriter  # noqa: PLC0415 - loaded where it is used

    if not settings.influx.token:
        fail("STEPCLOCK_INFLUX_TOKEN is not set: InfluxDB would refuse every write", code=2)
    return InfluxWriter(settings.influx, timeout_s=settings.influx_timeout_s)


def poisoned(reader: Reader, topics: Collection[str]) -> Mapping[Place, Collection[bytes]]:
    """Lines of these topics that brought the store down, as the dead letters say.

    Raises LogUnavailable, RecordRefused.
    """
    found: defaultdict[Place, set[bytes]] = defaultdict(set)
    for one in TopicLetters(reader):
        letter = one.letter if isinstance(one, FoundLetter) else None
        if letter is not None and letter.reason is Reason.POISON and letter.topic in topics:
            found[place_of(letter)].update(line for _, line in split(letter.lines))
    return found


def _run(work: Backfill, log_level: str) -> str | None:
    """Work to the end, or until told to stop; what went wrong."""
    pace = Pace(lambda: (work.progress.settled, work.points), work.progress.total)
    handlers = logging.getLogger().handlers
    before = handlers[:]
    try:
        with shown(errors(), pace, work.progress.total):
            configure(log_level)  # here, so that its lines stand above the bar
            work.run()
    except (ConsumerStopped, OSError) as exc:
        return str(exc)
    finally:
        handlers[:] = before
    return None


def _new_refusals(refusals: Refusals, log: KafkaLog) -> int:
    """How many refused lines are no dead letters yet; all of them if nobody can tell."""
    if not refusals.total:
        return 0
    try:
        return refusals.new(TopicLetters(log.reader()))
    except (LogUnavailable, RecordRefused) as exc:
        errors().print(
            plain(f"the dead letters can't be read, so all refused lines are new: {exc}")
        )
        return refusals.total


@contextmanager
def _new_file(path: Path | None) -> Iterator[TextIO | None]:
    """A file that was not there; it goes again if nothing was written to it."""
    if path is None:
        yield None
        return
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        fail(f"{path} exists already; it is not overwritten", code=2)
    with file:
        yield file
    if not path.stat().st_size:
        path.unlink()


def _show_plan(topics: Sequence[str], ranges: Mapping[TopicPartition, LogRange]) -> None:
    table = Table("topic", "records", "the first of them written")
    for topic in topics:
        of_topic = [range_ for partition, range_ in ranges.items() if partition.topic == topic]
        firsts = [range_.first_ms for range_ in of_topic if range_.records and range_.first_ms]
        first = _time(min(firsts)) if firsts else ""
        table.add_row(topic, f"{sum(range_.records for range_ in of_topic):,}", first)
        if any(range_.cut for range_ in of_topic):
            errors().print(f"{topic}: retention has deleted what was written before {first}")
    Console().print(table)


def _show_outcome(work: Backfill, new: int, counting: CountingWriter) -> None:
    refusals = work.refusals
    if counting.lines:
        table = Table("would be written to", "lines")
        for (namespace, retention_class), lines in sorted(counting.lines.items()):
            table.add_row(plain(f"{namespace}/{retention_class}"), f"{lines:,}")
        Console().print(table)
    for group, lines in sorted(refusals.lines.items()):
        reason, view, namespace = group
        errors().print(
            plain(f"{reason}: {lines:,} lines in view {view} of {namespace}, the first: ")
            + plain(refusals.details[group])
        )
    if work.progress.deleted:
        errors().print(f"retention deleted {work.progress.deleted:,} records before they were read")
    print(  # noqa: T201 - for programs as well
        f"backfill: records={work.progress.settled} of={work.progress.total} points={work.points} "
        f"refused={refusals.total} new={new} left_out={work.selection.left_out} "
        f"deleted={work.progress.deleted}"
    )


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
