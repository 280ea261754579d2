"""`stepclock-server dlq list|show|export|replay`: what was refused, why, and the way back."""

from __future__ import annotations

import heapq
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.table import Table

from admin.context import DataDir, KafkaServers, choose
from admin.dlq.letter_filter import ByNamespace, ByReason, ByTenant, LetterFilter, Since, Until
from admin.dlq.letters import FoundLetter, TopicLetters, Unreadable, found, id_of, to_row
from admin.dlq.replay import replay_command
from admin.terminal import errors, fail, plain
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, Reader, RecordRefused

app = typer.Typer(no_args_is_help=True, help="Look at dead letters, and send them again.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@dataclass(frozen=True, slots=True)
class Listing:
    """The newest letters, how many match in all, and how many records can't be read."""

    letters: list[FoundLetter]
    matching: int
    unreadable: int


def newest(reader: Reader, matches: Callable[[FoundLetter], bool], limit: int) -> Listing:
    """The newest `limit` letters that match, newest first; holds no more than those.

    Raises LogUnavailable, RecordRefused if there is no such topic.
    """
    matching = unreadable = 0

    def matching_letters() -> Iterator[FoundLetter]:
        nonlocal matching, unreadable
        for one in TopicLetters(reader):
            if isinstance(one, Unreadable):
                unreadable += 1
            elif matches(one):
                matching += 1
                yield one

    letters = heapq.nlargest(limit, matching_letters(), key=lambda one: one.written)
    return Listing(letters, matching, unreadable)


def find(reader: Reader, letter_id: str) -> FoundLetter | None:
    """The letter of this id; None if the log does not hold it (any more).

    Raises ValueError for a letter that can't be read, LogUnavailable, RecordRefused.
    """
    for record in reader.read(DEAD_LETTER_TOPIC):
        if id_of(record) == letter_id:
            one = found(record)
            if isinstance(one, Unreadable):
                raise ValueError(one.reason)
            return one
    return None


@app.command("list", epilog="Example: stepclock-server dlq list --reason refused --since 2h")
def list_letters(
    reason: ByReason = None,
    tenant: ByTenant = None,
    namespace: ByNamespace = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 50,
    as_json: AsJson = False,
    kafka: KafkaServers = None,
    data_dir: DataDir = None,
) -> None:
    """The newest dead letters first. The same refusal may be there twice after a crash."""
    log = choose(kafka, data_dir)
    matches = LetterFilter(reason, tenant, namespace, since, until)
    try:
        listing = newest(log.reader(), matches, limit)
    except (LogUnavailable, RecordRefused) as exc:
        fail(f"{log.name}: {exc}")
    if as_json:
        for one in listing.letters:
            typer.echo(json.dumps(one.as_dict()))
    else:
        Console().print(_table(listing.letters))
        errors().print(f"{len(listing.letters)} of {listing.matching} matching letters")
    _say_unreadable(listing.unreadable)


@app.command(epilog="Example: stepclock-server dlq show stepclock.dlq/0/17 > refused.lp")
def show(
    letter_id: Annotated[str, typer.Argument(help="Id of the letter, as `dlq list` prints it.")],
    as_json: AsJson = False,
    kafka: KafkaServers = None,
    data_dir: DataDir = None,
) -> None:
    """Reason and origin on standard error, the refused lines, byte for byte, on standard output."""
    log = choose(kafka, data_dir)
    try:
        one = find(log.reader(), letter_id)
    except (LogUnavailable, RecordRefused, ValueError) as exc:
        fail(f"{log.name}: {exc}")
    if one is None:
        fail(f"no dead letter {letter_id!r}; see 'stepclock-server dlq list'")
    if as_json:
        text = one.letter.lines.decode(errors="backslashreplace")
        typer.echo(json.dumps(one.as_dict() | {"lines": text}))
        return
    for name, value in one.as_dict().items():
        errors().print(plain(f"{name + ':':<12} {value}"))
    if sys.stdout.isatty():
        for line in one.letter.lines.decode(errors="backslashreplace").split("\n"):
            Console().print(plain(line))
    else:
        sys.stdout.buffer.write(one.letter.lines + b"\n")


@app.command(epilog="Example: stepclock-server dlq export --reason refused --to refused.jsonl")
def export(
    to: Annotated[Path | None, typer.Option(help="File to make; default: standard output.")] = None,
    reason: ByReason = None,
    tenant: ByTenant = None,
    namespace: ByNamespace = None,
    since: Since = None,
    until: Until = None,
    kafka: KafkaServers = None,
    data_dir: DataDir = None,
) -> None:
    """Write dead letters as JSON Lines, to be mended by hand and given to `dlq replay --from`.

    The refused lines stand in `lines`, or in `lines_base64` where they are not UTF-8. An
    existing file is not overwritten.
    """
    matches = LetterFilter(reason, tenant, namespace, since, until)
    log = choose(kafka, data_dir)
    written = unreadable = 0
    try:
        letters = TopicLetters(log.reader())
        with _new_file(to) as file:
            for one in letters:
                if isinstance(one, Unreadable):
                    unreadable += 1
                elif matches(one):
                    written += 1
                    file.write(to_row(one) + "\n")
    except FileExistsError:
        fail(f"{to} exists already; it is not overwritten", code=2)
    except BrokenPipeError:
        raise  # whoever read standard output has seen enough
    except (LogUnavailable, RecordRefused) as exc:
        fail(f"{log.name}: {exc}")
    except OSError as exc:
        fail(str(exc))
    errors().print(plain(f"{written} letters written to {to or 'standard output'}"))
    _say_unreadable(unreadable)


app.command(
    "replay",
    epilog="Example: stepclock-server dlq replay --from mended.jsonl --dry-run",
)(replay_command)


@contextmanager
def _new_file(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there only once all of it is. Raises OSError."""
    if path is None:
        yield sys.stdout
        return
    if path.exists():
        raise FileExistsError(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("x", encoding="utf-8") as file:
            yield file
        os.link(draft, path)  # unlike a rename, it fails if the name is taken by now
    finally:
        draft.unlink(missing_ok=True)


def _say_unreadable(count: int) -> None:
    if count:
        errors().print(f"{count} records in the topic are no readable dead letters")


def _table(letters: list[FoundLetter]) -> Table:
    table = Table("id", "written", "reason", "tenant", "namespace", "view", "lines", "detail")
    for one in letters:
        letter = one.letter
        cells = (
            one.id,
            f"{one.written:%Y-%m-%d %H:%M:%S}",
            letter.reason.value,
            letter.tenant,
            letter.namespace,
            letter.view,
            str(one.line_count),
            letter.detail,
        )
        table.add_row(*map(plain, cells))
    return table
