"""Series by number: the ids that stand in the file for measurements, tags and fields."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Series remembered; beyond that the memory starts over and ids are read from the file again.
#: A series with steps counts twice, once for each clock: so 100,000 of them have room, as many
#: as the parser remembers. Each costs half a kilobyte.
_MAX_SERIES = 200_000

Tags = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a measurement. It keeps the kind of its first value for ever."""

    id: int
    kind: str


@dataclass(slots=True)
class Measurement:
    """A measurement of one namespace and class, and the fields that it has."""

    id: int
    fields: dict[bytes, Field] = field(default_factory=dict)

    def field(self, connection: sqlite3.Connection, name: bytes, kind: str) -> Field:
        """The field of that name; a new one gets the kind."""
        found = self.fields.get(name)
        if found is None:
            row_id = connection.execute(
                "INSERT INTO field (measurement_id, name, kind) VALUES (?, ?, ?)",
                (self.id, name.decode(), kind),
            ).lastrowid
            assert row_id is not None
            found = self.fields[name] = Field(row_id, kind)
        return found


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """A measurement with one set of tags."""

    id: int
    measurement: Measurement


class SeriesIds:
    """Finds and makes ids, and remembers them. Used within the writer's transaction.

    Whatever undoes a transaction, or deletes series, must `forget`.
    """

    def __init__(self) -> None:
        self._measurements: dict[tuple[str, str, bytes], Measurement] = {}
        self._series: dict[tuple[str, str, bytes, Tags], StoredSeries] = {}

    def forget(self) -> None:
        """Read everything from the file again."""
        self._measurements.clear()
        self._series.clear()

    def series(
        self,
        connection: sqlite3.Connection,
        namespace: str,
        retention_class: str,
        name: bytes,
        tags: Tags,
    ) -> StoredSeries:
        """The series of a measurement with these tags, in whatever order they come."""
        key = (namespace, retention_class, name, tags)
        found = self._series.get(key)
        if found is None:
            measurement = self._measurement(connection, namespace, retention_class, name)
            if len(self._series) >= _MAX_SERIES:
                self._series.clear()
            found = StoredSeries(_series_id(connection, measurement.id, tags), measurement)
            self._series[key] = found
        return found

    def _measurement(
        self, connection: sqlite3.Connection, namespace: str, retention_class: str, name: bytes
    ) -> Measurement:
        key = (namespace, retention_class, name)
        found = self._measurements.get(key)
        if found is None:
            row = (namespace, retention_class, name.decode())
            connection.execute(
                "INSERT OR IGNORE INTO measurement (namespace, class, name) VALUES (?, ?, ?)", row
            )
            (measurement_id,) = connection.execute(
                "SELECT id FROM measurement WHERE namespace = ? AND class = ? AND name = ?", row
            ).fetchone()
            fields = connection.execute(
                "SELECT name, id, kind FROM field WHERE measurement_id = ?", (measurement_id,)
            )
            found = Measurement(
                measurement_id,
                {field_name.encode(): Field(row_id, kind) for field_name, row_id, kind in fields},
            )
            self._measurements[key] = found
        return found


def _series_id(connection: sqlite3.Connection, measurement_id: int, tags: Tags) -> int:
    texts = dict(sorted((key.decode(), value.decode()) for key, value in tags))
    row = (measurement_id, encode_tags(texts), texts.get("run"))
    connection.execute(
        "INSERT OR IGNORE INTO series (measurement_id, tags, run) VALUES (?, ?, ?)", row
    )
    (series_id,) = connection.execute(
        "SELECT id FROM series WHERE measurement_id = ? AND tags = ?", row[:2]
    ).fetchone()
    assert isinstance(series_id, int)
    return series_id


def encode_tags(tags: dict[str, str]) -> str:
    """Tags, in the order of their keys, as the file holds them."""
    return json.dumps(tags, ensure_ascii=False, separators=(",", ":"))


def decode_tags(text: str) -> dict[str, str]:
    """The tags that a text of the file stands for."""
    tags: dict[str, str] = json.loads(text)
    return tags
