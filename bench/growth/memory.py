"""What one object of ours costs by the number of series, each in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import process_time

from bench.consumer.disk import step_blocks
from bench.lab.machine import rss_mib
from embedded.store.store import SqliteStore
from ingest.limits.dry_run import DryRun
from ingest.limits.series_limit import Mode, SeriesLimiter
from schemas.admission.admission import Part
from schemas.line_protocol.precision import Precision
from schemas.tenants.keys import new_key

_BODY_LINES = 1_000
_LEAST_LINES = 100_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Of the last round over all series, which were all seen before: µs of CPU a line; and MiB."""

    line_us: float
    held_mib: float


def in_a_process(measure: Callable[[int], Cost], series: int) -> Cost:
    """Run one of the functions below where nobody has left memory behind."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, series).result()


def steps_view(series: int) -> Cost:
    """The worker's view by step."""
    render = step_blocks()
    return _rounds(series, render)


def series_limit(series: int) -> Cost:
    """The gateway's count of new series."""
    limiter = SeriesLimiter(Mode.OBSERVE, 10**9, DryRun(everybody=False), learn_s=0.0)
    tenant = new_key("bench")[1].tenant

    def charge(lines: bytes) -> None:
        part = Part(lines, _BODY_LINES, Precision.MS, multiline=False)
        limiter.charge(tenant, limiter.of([part]))

    return _rounds(series, charge)


def embedded_store(series: int) -> Cost:
    """The embedded store, both clocks, in transactions of 5,000 lines as the worker makes them."""
    with tempfile.TemporaryDirectory(prefix="stepclock-bench-") as folder:
        store = SqliteStore(Path(folder) / "store.db")
        waiting: list[bytes] = []

        def write(lines: bytes) -> None:
            waiting.append(lines)
            if len(waiting) == 5:
                store.write("bench", "raw", b"\n".join(waiting), Precision.MS)
                waiting.clear()

        found = _rounds(series, write)
        store.close()
        return found


def bodies(series: int, first_step: int, lines: int, epoch_ms: int) -> Iterator[bytes]:
    """Bodies in which each line is of the next series; another step once each had its turn."""
    for first in range(0, lines, _BODY_LINES):
        yield "\n".join(
            f"metric,project=p,run=r{n % series} train/loss={n * 2654435761 % 1_000_003 / 1e6},"
            f"step={first_step + n // series}i {epoch_ms + first_step + n // series}"
            for n in range(first, first + _BODY_LINES)
        ).encode()


def _rounds(series: int, take: Callable[[bytes], object]) -> Cost:
    """One round in which all series are new, and one in which none is."""
    epoch_ms = time.time_ns() // 1_000_000 - 3_600_000
    lines = max(_LEAST_LINES, series)
    gc.collect()
    before = rss_mib(os.getpid())
    for body in bodies(series, 0, lines, epoch_ms):
        take(body)
    held = rss_mib(os.getpid()) - before
    spent = 0.0
    for body in bodies(series, lines // series, lines, epoch_ms):
        began = process_time()
        take(body)
        spent += process_time() - began
    return Cost(spent / lines * 1e6, max(held, 0.1))
