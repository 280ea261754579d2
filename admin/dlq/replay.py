"""`stepclock-server dlq replay`: refused lines back into the log, for the view that lacks them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from admin.audit import audited
from admin.context import DataDir, EmbeddedLog, KafkaLog, KafkaServers, choose, ingest_topics
from admin.dlq.letter_filter import ByNamespace, ByReason, ByTenant, LetterFilter, Since, Until
from admin.dlq.letters import FileLetters, FoundLetter, TopicLetters, Unreadable
from admin.dlq.replay_block import BadLine, examine
from admin.terminal import agreed, errors, fail, plain
from schemas.log.block import encode_headers
from schemas.log.protocols import LogUnavailable, Publisher, RecordRefused

#: Bytes sent before their acknowledgements are awaited, and how long they may take.
_WINDOW_BYTES = 2 * 1024 * 1024
_ACK_S = 30.0

#: Bad lines that are named; the others are counted.
_MAX_NAMED = 100

#: Reason, tenant, and the view, or "all".
Group = tuple[str, str, str]


@dataclass(slots=True)
class ReplayPlan:
    """What a replay sends: letters and lines by group, and what it can't send."""

    letters: Counter[Group] = field(default_factory=Counter)
    lines: Counter[Group] = field(default_factory=Counter)
    topics: set[str] = field(default_factory=set)
    bad: list[BadLine] = field(default_factory=list)
    bad_total: int = 0
    unreadable: int = 0

    def refuse(self, bad: Iterable[BadLine]) -> None:
        """Count bad lines; keep the first of them by name."""
        for one in bad:
            self.bad_total += 1
            if len(self.bad) < _MAX_NAMED:
                self.bad.append(one)


@dataclass(frozen=True, slots=True)
class Replay:
    """Letters on their way back: where they come from, which are meant, and where they may go.

    topics: those that carry an ingest class. views: those that the log's workers write.
    """

    source: TopicLetters | FileLetters
    matches: Callable[[FoundLetter], bool]
    topics: Collection[str]
    views: Collection[str]

    def plan(self) -> ReplayPlan:
        """Read everything and send nothing. Raises LogUnavailable, RecordRefused, OSError."""
        plan = ReplayPlan()
        for one in self.source:
            if isinstance(one, Unreadable):
                plan.unreadable += 1
                if isinstance(self.source, FileLetters):
                    plan.refuse([BadLine(one.where, one.reason)])
            elif self.matches(one):
                examined = examine(one, self.topics, self.views, received_ns=0)
                plan.refuse(examined.bad)
                for block in examined.blocks:
                    plan.lines[_group(one, block.view)] += block.points
                    plan.topics.add(one.letter.topic)
                if examined.blocks:
                    plan.letters[_group(one, examined.blocks[0].view)] += 1
        return plan

    def send(
        self,
        publisher: Publisher,
        sent: Counter[Group],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Append the good lines; `sent` counts those that the log holds, also on an error.

        Raises LogUnavailable, RecordRefused, OSError; doing it again overwrites the points.
        """
        window: list[tuple[Future[int], Group, int]] = []
        window_bytes = 0
        for one in self.source:
            if isinstance(one, Unreadable) or not self.matches(one):
                continue
            examined = examine(one, self.topics, self.views, received_ns=now_ns())
            topic = one.letter.topic
            for block in examined.blocks:
                partition = one.letter.partition % publisher.partition_count(topic)
                future = publisher.send(topic, partition, block.lines, encode_headers(block))
                window.append((future, _group(one, block.view), block.points))
                window_bytes += len(block.lines)
            if window_bytes >= _WINDOW_BYTES:
                _wait(window, sent)
                window, window_bytes = [], 0
        _wait(window, sent)


def replay_command(
    source: Annotated[
        Path | None,
        typer.Option("--from", help="File of `dlq export`, mended or not; default: the log."),
    ] = None,
    reason: ByReason = None,
    tenant: ByTenant = None,
    namespace: ByNamespace = None,
    since: Since = None,
    until: Until = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Send the good lines although others are bad.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    kafka: KafkaServers = None,
    data_dir: DataDir = None,
) -> None:
    """Send dead letters again, each to the view that refused it; the workers write them.

    First mend what refused them, or the lines: export, edit, replay --from. Every line is
    checked before anything is sent. A replay is remembered nowhere: the letters stay in the
    topic until it forgets them, and repeating a replay overwrites the same points. What is
    refused again becomes a new dead letter: see `dlq list --since 5m`. Lines that bring the store
    down are left out unless --reason poison or --from asks for them.
    """
    log = choose(kafka, data_dir)
    replay = Replay(
        TopicLetters(log.reader()) if source is None else FileLetters(source),
        LetterFilter(reason, tenant, namespace, since, until, poison=source is not None),
        ingest_topics(),
        log.views,
    )
    try:
        plan = replay.plan()
    except (LogUnavailable, RecordRefused, OSError) as exc:
        fail(f"{log.name if source is None else source}: {exc}")
    _show(plan)
    if plan.bad_total and not skip_bad:
        fail("nothing was sent; mend these lines, or say --skip-bad to leave them out")
    if not plan.lines:
        errors().print("nothing to send")
    elif dry_run:
        errors().print("nothing was sent (--dry-run)")
    elif yes or agreed("Send them?", "nothing was sent"):
        _send(replay, log, plan)
    else:
        errors().print("nothing was sent")


def _send(replay: Replay, log: KafkaLog | EmbeddedLog, plan: ReplayPlan) -> None:
    sent: Counter[Group] = Counter()
    try:
        with log.publishing(plan.topics) as publisher:
            replay.send(publisher, sent)
    except (LogUnavailable, RecordRefused, OSError) as exc:
        _say_sent(sent, log, "failed")
        fail(f"{log.name}: {exc}; the rest was not sent, repeating all of it does no harm")
    except KeyboardInterrupt:
        _say_sent(sent, log, "interrupted")
        raise
    _say_sent(sent, log, "done")


def _wait(window: Iterable[tuple[Future[int], Group, int]], sent: Counter[Group]) -> None:
    deadline = time.monotonic() + _ACK_S
    for future, group, points in window:
        try:
            future.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeout as exc:
            raise LogUnavailable(f"no acknowledgement within {_ACK_S:g} s") from exc
        sent[group] += points


def _group(one: FoundLetter, view: str | None) -> Group:
    return one.letter.reason.value, one.letter.tenant, view or "all"


def _show(plan: ReplayPlan) -> None:
    if plan.lines:
        table = Table("reason", "tenant", "to view", "letters", "lines")
        for group in sorted(plan.lines):
            row = (*group, str(plan.letters[group]), str(plan.lines[group]))
            table.add_row(*map(plain, row))
        Console().print(table)
    for bad in islice(plan.bad, _MAX_NAMED):
        errors().print(plain(f"bad: {bad.where}: {bad.reason}"))
    if plan.bad_total > len(plan.bad):
        errors().print(f"and {plan.bad_total - len(plan.bad)} more that are bad")
    if plan.unreadable:
        errors().print(f"{plan.unreadable} records or rows are no readable dead letters")


def _say_sent(sent: Counter[Group], log: KafkaLog | EmbeddedLog, outcome: str) -> None:
    for (reason, tenant, view), lines in sorted(sent.items()):
        errors().print(plain(f"sent {lines} lines of {tenant}, {reason}, to view {view}"))
        facts = {"tenant": tenant, "reason": reason, "view": view, "lines": lines}
        audited("dlq.replay", outcome, log=log.name, **facts)
    if not sent:
        errors().print("the log has acknowledged nothing")
        audited("dlq.replay", outcome, log=log.name, lines=0)
