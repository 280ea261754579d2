"""Sends what a spool folder holds: idempotent, and also beside runs that still write to it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from stepclock.send.delivery import StreamDelivery
from stepclock.send.transport import GatewayConnection
from stepclock.settings import Settings
from stepclock.spool.segment import is_locked, remove, segment_numbers
from stepclock.spool.stream import Stream


@dataclass(frozen=True)
class SyncResult:
    """What became of one stream, in lines.

    sent: acknowledged now. stored: known to be in the store. unsettled: acknowledged, and not
    known to be there. refused: by the gateway, kept in the folder. lost: not in the spool any
    more, or damaged there. left: not sent, see `error`. busy: the stream's own run sends it.
    live: its run still writes to it.
    """

    stream: str
    experiment: str
    run: str
    sent: int = 0
    stored: int = 0
    unsettled: int = 0
    refused: int = 0
    lost: int = 0
    left: int = 0
    busy: bool = False
    live: bool = False
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do for what was there."""
        return not self.left and not self.error and not self.lost


def streams(spool_dir: str | Path) -> Iterator[tuple[Path, Stream]]:
    """The streams of a spool folder, or the one whose folder it is, the oldest first."""
    root = Path(spool_dir)
    found = []
    folders = [root] if (root / "stream.json").exists() else _folders(root)
    for folder in folders:
        try:
            found.append((folder, Stream.read(folder)))
        except (OSError, ValueError):
            continue
    yield from sorted(found, key=lambda pair: pair[1].start_ns)


def _folders(root: Path) -> list[Path]:
    try:
        return [root / name for name in os.listdir(root)]
    except OSError:
        return []


def _unreadable(root: Path) -> Iterator[Path]:
    """Folders that hold lines and do not say whose."""
    for folder in [root, *_folders(root)]:
        if segment_numbers(folder) and not is_locked(folder / "writer.lock"):
            try:
                Stream.read(folder)
            except (OSError, ValueError):
                yield folder


def sync(
    spool_dir: str | Path | None = None,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    ca_file: str | None = None,
    jobs: int = 4,
    timeout: float = 60.0,
    settle: bool = True,
    progress: Callable[[SyncResult], None] | None = None,
    watch: Callable[[str, int], None] | None = None,
) -> list[SyncResult]:
    """Send what the spool holds; the oldest stream first, `jobs` at a time.

    spool_dir: a spool, or the folder of one stream; none: the user's own. endpoint: where to;
    none: STEPCLOCK_ENDPOINT, or where each run would have sent it. timeout: seconds without an
    answer that takes anything, after which a stream is left for the next time. settle: also
    wait until the store has it. progress: called with each result as it comes, from any thread.
    watch: likewise with a stream's name and its lines sent so far, after each request.
    """
    settings = Settings.resolve(
        {"endpoint": endpoint, "token": token, "ca_file": ca_file, "spool_dir": spool_dir}
    )
    chosen = endpoint or os.environ.get("STEPCLOCK_ENDPOINT")
    todo = list(streams(settings.spool_dir))
    results: list[SyncResult | None] = [None] * len(todo)
    numbers = iter(range(len(todo)))
    turn = threading.Lock()

    def work() -> None:
        while True:
            with turn:
                index = next(numbers, None)
            if index is None:
                return
            folder, stream = todo[index]
            where = chosen or stream.endpoint
            key = token or Settings.resolve({"endpoint": where}).token
            gateway = GatewayConnection(where, key, settings.ca_file)
            try:
                result = sync_stream(
                    folder, stream, gateway, timeout=timeout, settle=settle, watch=watch
                )
            finally:
                gateway.close()
            results[index] = result
            if progress is not None:
                progress(result)

    for folder in _unreadable(Path(settings.spool_dir)):
        result = SyncResult(folder.name, "?", "?", error=f"{folder}/stream.json is damaged")
        results.append(result)
        if progress is not None:
            progress(result)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(todo)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [result for result in results if result is not None]


def sync_stream(
    folder: Path,
    stream: Stream,
    gateway: GatewayConnection,
    *,
    timeout: float = 60.0,
    settle: bool = True,
    watch: Callable[[str, int], None] | None = None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> SyncResult:
    """Send one stream until nothing is left, or nothing was taken for `timeout` seconds."""
    names = (stream.name, stream.experiment, stream.run)
    try:
        delivery = StreamDelivery(folder, stream, gateway, now=now)
    except OSError as exc:
        if folder.exists() and is_locked(folder / "sender.lock"):
            return SyncResult(*names, busy=True, live=True)
        return SyncResult(*names, error=str(exc) if folder.exists() else "")
    journal = delivery.journal
    before = journal.totals.acknowledged
    try:
        deadline = now() + timeout
        while (wait_s := delivery.send_one()) is not None and now() + wait_s < deadline:
            if watch is not None:
                watch(stream.name, journal.totals.acknowledged - before)
            if wait_s:
                sleep(wait_s)
            else:
                deadline = now() + timeout
        waiting = journal.waiting
        while settle and not waiting and journal.unsettled and now() < deadline:
            if not delivery.settle(min(5.0, deadline - now())):
                sleep(0.05)
        live = is_locked(folder / "writer.lock")
        totals = journal.totals
        result = SyncResult(
            *names,
            sent=totals.acknowledged - before,
            stored=totals.stored,
            unsettled=sum(lines for _, lines in journal.unsettled.values()),
            refused=totals.refused,
            lost=totals.lost,
            left=journal.left if waiting else 0,
            live=live,
            error=(delivery.last_error or "no answer in time") if waiting else journal.doubt,
        )
        if not live and not waiting and not (settle and journal.unsettled):
            remove(folder)
    except OSError as exc:
        sent = journal.totals.acknowledged - before
        return SyncResult(*names, sent=sent, error=f"the spool can't be read: {exc}")
    finally:
        journal.close()
    return result
