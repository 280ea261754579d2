"""Dead letters as the commands see them: in their topic, and as rows of a file.

A file of letters is JSON Lines. `lines` holds the refused lines as text where they are
UTF-8, `lines_base64` their bytes where they are not; either way they come back byte for byte.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from schemas.log.dead_letter import DeadLetter, Reason, decode
from schemas.log.protocols import DEAD_LETTER_TOPIC, Reader, Record

_TEXTS = ("tenant", "namespace", "view", "precision", "topic")


@dataclass(frozen=True, slots=True)
class FoundLetter:
    """A dead letter and its own place. id: topic/partition/offset of the letter itself.

    where: how messages name it: the id, or the place in a file.
    """

    id: str
    written: datetime
    letter: DeadLetter
    where: str = ""

    @property
    def line_count(self) -> int:
        """Lines in it, counted by newlines."""
        return self.letter.lines.count(b"\n") + 1

    def as_dict(self) -> dict[str, object]:
        """Everything but the lines."""
        letter = self.letter
        return {
            "id": self.id,
            "written": self.written.isoformat(),
            "reason": letter.reason.value,
            "detail": letter.detail,
            "tenant": letter.tenant,
            "namespace": letter.namespace,
            "view": letter.view,
            "precision": letter.precision,
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "line_count": self.line_count,
            "bytes": len(letter.lines),
        }


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record or a row that is no dead letter, and why."""

    where: str
    reason: str


class TopicLetters:
    """The letters in the log, partition by partition.

    A second pass gives what the first one gave, not what came since. Iterating raises
    LogUnavailable, RecordRefused if there is no such topic.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._ends: dict[int, int] | None = None

    def __iter__(self) -> Iterator[FoundLetter | Unreadable]:
        ends: dict[int, int] = {}
        for record in self._reader.read(DEAD_LETTER_TOPIC):
            if self._ends is not None and record.offset >= self._ends.get(record.partition, 0):
                continue
            ends[record.partition] = record.next_offset
            yield found(record)
        if self._ends is None:
            self._ends = ends


class FileLetters:
    """The letters in a file that `dlq export` wrote, as it is now. Iterating raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[FoundLetter | Unreadable]:
        with self._path.open("rb") as file:
            for number, row in enumerate(file, 1):
                if row.strip():
                    yield from_row(row, f"{self._path}:{number}")


def id_of(record: Record) -> str:
    """The id of the letter in a record."""
    return f"{record.topic}/{record.partition}/{record.offset}"


def found(record: Record) -> FoundLetter | Unreadable:
    """The letter in a record."""
    name = id_of(record)
    try:
        letter = decode(record)
    except ValueError as exc:
        return Unreadable(name, str(exc))
    written = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    return FoundLetter(name, written, letter, name)


def to_row(one: FoundLetter) -> str:
    """One line of JSON, in ASCII: no terminal obeys what a client sent."""
    row = one.as_dict()
    try:
        row["lines"] = one.letter.lines.decode()
    except UnicodeDecodeError:
        row["lines_base64"] = base64.b64encode(one.letter.lines).decode()
    return json.dumps(row)


def from_row(text: bytes, where: str) -> FoundLetter | Unreadable:
    """The letter in a row; `id`, `written`, `detail` and `offset` may be missing."""
    try:
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError("expected a JSON object")
        texts = {name: _text(row, name) for name in _TEXTS}
        letter = DeadLetter(
            lines=_lines(row),
            reason=Reason(_text(row, "reason")),
            detail=_text(row, "detail", ""),
            partition=_count(row, "partition"),
            offset=_count(row, "offset", 0),
            **texts,
        )
        written = datetime.fromisoformat(_text(row, "written", "1970-01-01T00:00:00+00:00"))
        if written.tzinfo is None:
            written = written.replace(tzinfo=UTC)
        return FoundLetter(_text(row, "id", where), written, letter, where)
    except (ValueError, RecursionError) as exc:
        return Unreadable(where, str(exc))


def _lines(row: Mapping[str, object]) -> bytes:
    if ("lines" in row) == ("lines_base64" in row):
        raise ValueError("expected either 'lines' or 'lines_base64'")
    if "lines" in row:
        return _text(row, "lines").encode()
    return base64.b64decode(_text(row, "lines_base64"), validate=True)


def _text(row: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be a text")
    value.encode()  # half a surrogate pair can't be sent
    return value


def _count(row: Mapping[str, object], name: str, default: int | None = None) -> int:
    value = row.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name!r} must be a whole number from 0")
    return value
