"""The stores that share one contract, each in a namespace of its own, and a model of a point."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from adapters.influx.admin import InfluxAdmin
from adapters.influx.attempts import InfluxAttempts
from adapters.influx.connection import InfluxConnection
from adapters.influx.reader import InfluxReader
from adapters.influx.writer import InfluxWriter
from embedded.store.store import SqliteStore
from schemas import retention
from schemas.line_protocol.codec import Line, encode, encode_string, parse, split
from schemas.line_protocol.precision import Precision
from schemas.store.attempts import AttemptStore
from schemas.store.protocols import FieldValue, LineWriter, StoreReader
from tests.fakes.memory_store import MemoryStore
from tests.services import Influx

CLASSES = retention.parse(retention.default_text())
VOLATILE = (b"node", b"host", b"pod", b"slurm_job_id")
MS = 1_000_000

#: An hour ago: every class keeps it.
RECENT_NS = (time.time_ns() // 10**9 - 3600) * 10**9


class Store(Protocol):
    """A store, and how lines come to it in production: by wall time and by step."""

    writer: LineWriter
    reader: StoreReader
    attempts: AttemptStore

    def namespace(self) -> str:
        """A namespace that nobody else uses."""
        ...

    def ensure(self, namespace: str) -> None:
        """Make that namespace, unless it is there."""
        ...

    def write(self, namespace: str, lines: bytes) -> None:
        """Write lines (times in ns) to class raw and, those with a step, to class steps."""
        ...

    def close(self) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.writer = self.reader = self.attempts = MemoryStore()

    def namespace(self) -> str:
        return fresh_name()

    def ensure(self, namespace: str) -> None: ...

    def write(self, namespace: str, lines: bytes) -> None:
        write_both(self.writer, namespace, lines)

    def close(self) -> None:
        self.writer.close()


class InSqlite:
    def __init__(self, folder: Path) -> None:
        self.writer = self.reader = self.attempts = SqliteStore(folder / "store.db")

    def namespace(self) -> str:
        return fresh_name()

    def ensure(self, namespace: str) -> None: ...

    def write(self, namespace: str, lines: bytes) -> None:
        self.writer.write(namespace, "raw", lines, Precision.NS)

    def close(self) -> None:
        self.writer.close()


class InInflux:
    def __init__(self, influx: Influx) -> None:
        at = InfluxConnection(influx.url, influx.token, influx.org)
        self.writer = InfluxWriter(at)
        self.reader = InfluxReader(at)
        self.attempts = InfluxAttempts(at)
        self._admin = InfluxAdmin(at)

    def namespace(self) -> str:
        namespace = fresh_name()
        self.ensure(namespace)
        return namespace

    def ensure(self, namespace: str) -> None:
        there = self._admin.buckets()
        for found in CLASSES.values():
            if found.bucket(namespace) not in there:
                self._admin.create_bucket(found.bucket(namespace), found.keep_s, found.shard_s)

    def write(self, namespace: str, lines: bytes) -> None:
        write_both(self.writer, namespace, lines)

    def close(self) -> None:
        self.writer.close()
        self.reader.close()
        self.attempts.close()
        self._admin.close()


def fresh_name() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


def write_both(writer: LineWriter, namespace: str, lines: bytes) -> None:
    writer.write(namespace, "raw", lines, Precision.NS)
    steps = [line for line in (by_step(text) for _n, text in split(lines)) if line is not None]
    if steps:
        writer.write(namespace, "steps", b"\n".join(steps), Precision.MS)


def by_step(text: bytes) -> bytes | None:
    """The line as class steps holds it; None without a step."""
    line = parse(text)
    step = dict(line.fields).get(b"step")
    if step is None:
        return None
    tags = tuple(tag for tag in line.tags if tag[0] not in VOLATILE)
    return encode(replace(line, tags=tags, time=int(step[:-1])))


@dataclass(frozen=True)
class Sample:
    """A point as a test means it."""

    experiment: str
    tags: Mapping[str, str]
    fields: Mapping[str, FieldValue]
    time_ns: int

    @property
    def line(self) -> bytes:
        return encode(
            Line(
                self.experiment.encode(),
                tuple((key.encode(), value.encode()) for key, value in self.tags.items()),
                tuple((name.encode(), token(value)) for name, value in self.fields.items()),
                self.time_ns,
            )
        )


def lines_of(samples: list[Sample]) -> bytes:
    return b"\n".join(sample.line for sample in samples)


def token(value: FieldValue) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, str):
        return encode_string(value)
    return b"%di" % value if isinstance(value, int) else repr(value).encode()
