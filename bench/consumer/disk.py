"""Bytes on disk: of files and folders, and of InfluxDB as it stands and once it has compacted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from adapters.influx.admin import InfluxAdmin
from adapters.influx.connection import InfluxConnection
from bench.consumer.drain import Stalled
from bench.lab.influx import DirectWriter
from consumers.settings import ConsumerSettings
from consumers.views import StepsView
from native import influxd
from native.influxd import InfluxDB
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block
from schemas.retention import DEFAULT_CLASS, STEP_CLASS

_DAY_S = 86_400
_KEEP_S = 90 * _DAY_S
_STEP_SHARD_S = 36_500 * _DAY_S
_STAT_BLOCK_BYTES = 512  # whatever the file system's own blocks are
_QUIET_S = 4.0
_TIMEOUT_S = 60.0

#: As a quiet database does after hours: snapshots to files after a second, compacts after two.
_EAGER = (
    "--storage-cache-snapshot-write-cold-duration=1s",
    "--storage-compact-full-write-cold-duration=2s",
)


@dataclass(frozen=True, slots=True)
class InfluxSize:
    """Bytes of write-ahead log and files, just written, and of files once compacted.

    stored: points in each class, counted by a query.
    """

    written: int
    compacted: int
    stored: Sequence[int]


def bytes_of(path: Path) -> int:
    """Bytes that a file, or all files in a folder, take on the disk: holes take none."""
    blocks = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        try:
            blocks += file.stat().st_blocks if file.is_file() else 0
        except FileNotFoundError:
            continue  # compacted away meanwhile
    return blocks * _STAT_BLOCK_BYTES


def step_blocks() -> Callable[[bytes], bytes]:
    """What turns lines of class raw into those by step, as the worker does."""
    view = StepsView(ConsumerSettings.model_fields["volatile_tags"].default)

    def render(lines: bytes) -> bytes:
        block = Block("bench", "bench", Precision.MS, lines.count(b"\n") + 1, 0, lines)
        return view.render(block, DEFAULT_CLASS, Precision.MS)

    return render


def size_in_influxdb(folder: Path, bodies: Iterable[bytes], *, steps: bool) -> InfluxSize:
    """Write bodies to a new database, by step too if asked, and compact it.

    Raises StartFailed, WriteFailed, Stalled.
    """
    with (
        influxd.start(folder, options=_EAGER) as database,
        DirectWriter(database) as writer,
    ):
        make_buckets(database, "bench")
        by_step = step_blocks()
        for lines in bodies:
            writer.write(f"bench/{DEFAULT_CLASS}", lines, Precision.MS)
            if steps:
                writer.write(f"bench/{STEP_CLASS}", by_step(lines), Precision.MS)
        written = engine_bytes(folder)
        _until_compacted(folder)
        classes = (DEFAULT_CLASS, STEP_CLASS) if steps else (DEFAULT_CLASS,)
        stored = [writer.count("bench", name, "metric", "train/loss") for name in classes]
        return InfluxSize(written, engine_bytes(folder), stored)


def make_buckets(database: InfluxDB, namespace: str) -> None:
    """The buckets of a namespace that hold points by wall time and by step."""
    with InfluxAdmin(InfluxConnection(database.url, database.token, database.org)) as admin:
        admin.create_bucket(f"{namespace}/{DEFAULT_CLASS}", _KEEP_S, None)
        admin.create_bucket(f"{namespace}/{STEP_CLASS}", None, _STEP_SHARD_S)


def engine_bytes(folder: Path) -> int:
    """Write-ahead log, files and index of the database in a folder."""
    return bytes_of(folder / "engine")


def _until_compacted(folder: Path) -> None:
    """Wait until the write-ahead log is empty and the files have not changed for a while."""
    began = changed_at = perf_counter()
    seen = -1
    while perf_counter() - changed_at < _QUIET_S or bytes_of(folder / "engine" / "wal") > 4096:
        if perf_counter() - began > _TIMEOUT_S:
            raise Stalled(f"InfluxDB did not compact within {_TIMEOUT_S:g} s")
        found = engine_bytes(folder)
        if found != seen:
            seen, changed_at = found, perf_counter()
        time.sleep(0.2)
