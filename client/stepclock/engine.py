"""What stands behind a run in one process: spool, drain and, if it sends, sender."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Callable

from stepclock.identity import Identity
from stepclock.journal.journal import totals_of
from stepclock.journal.tally import Totals
from stepclock.receipt import Receipt, Stats
from stepclock.record.buffer import Buffer
from stepclock.record.drain import Drain
from stepclock.record.observer import Observer
from stepclock.record.state import config_lines
from stepclock.send.sender import Sender
from stepclock.settings import Settings
from stepclock.spool.segment import is_locked, remove
from stepclock.spool.stream import Stream
from stepclock.spool.writer import SpoolWriter

_log = logging.getLogger("stepclock")

#: Seconds that the end of a run may take without a word.
_PATIENCE_S = 3.0


class Engine:
    """Starts its threads when it is made. Raises RuntimeError where no thread can be had.

    worker: the process works for a run of another one, which sends for it and tells its state.
    """

    def __init__(
        self,
        stream: Stream,
        identity: Identity,
        tags: Mapping[str, str],
        settings: Settings,
        *,
        worker: bool,
    ) -> None:
        if not worker:
            _import_all(settings)
        self.stream = stream
        self.buffer = Buffer(settings.max_memory)
        self.writer = SpoolWriter(
            stream,
            Path(settings.spool_dir) / stream.name,
            max_bytes=settings.max_spool,
            max_memory=settings.max_memory,
        )
        self.drain = Drain(
            identity,
            tags,
            self.buffer,
            self.writer,
            settings,
            announce=not worker,
        )
        self.sender = None
        if settings.mode == "online" and not worker:
            self.sender = Sender(stream, self.writer, settings)
            self.writer.before_publish = self.sender.relock
        # Not before all locks are held: else another process might begin to send it.
        self.writer.publish()
        self.observer = None
        if not worker:
            self.observer = Observer(
                self.buffer,
                lambda: list(_surroundings(identity, settings, stream.start_ns)),
                _sampler(identity) if settings.system_interval and _samples() else None,
                settings.system_interval,
            )
        self.durability = None
        if settings.fsync:
            from stepclock.spool.durable import Durability

            self.durability = Durability(self.writer.folder, settings.fsync)
        for each in (self.drain, self.sender, self.observer, self.durability):
            if each is not None:
                each.thread.start()

    @property
    def rows_dropped(self) -> int:
        """Rows that were given up before they became lines."""
        return self.buffer.dropped + self.drain.failed_rows

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that the threads took so far."""
        threads = (self.drain, self.sender, self.observer, self.durability)
        return sum(each.cpu_s for each in threads if each is not None)

    def flush(self, within_s: float) -> bool:
        """Whether all that was put by now is acknowledged in time; if nobody sends, spooled."""
        deadline = time.monotonic() + within_s
        if not self.drain.wait_for_turn(within_s):
            return False
        if self.sender is None:
            return self.writer.fault is None
        left = max(0.0, deadline - time.monotonic())
        goal = self.writer.lines
        self.sender.hurry(left)
        done = self.sender.wait_until(lambda: self.answered >= goal, left)
        self.sender.calm()
        return done

    def stop(self, state: str, reason: str, within_s: float) -> None:
        """Write the last state, and send and settle as much as is possible in time."""
        deadline = time.monotonic() + within_s
        if self.observer is not None:
            self.observer.stop(min(2.0, within_s / 4))
        self.drain.ending = state, reason
        self.drain.stop()
        self.drain.thread.join(max(0.0, deadline - time.monotonic()))
        if self.durability is not None:
            self.durability.stop()
        if self.sender is not None:
            self._send_all(self.sender, deadline)
        if self.durability is not None:
            self.durability.thread.join(max(0.0, deadline - time.monotonic()))

    def _send_all(self, sender: Sender, deadline: float) -> None:
        left = max(0.0, deadline - time.monotonic())
        sender.leftovers.look_again()
        sender.hurry(left)
        if not sender.wait_until(self._all_settled, min(left, _PATIENCE_S)) and left > _PATIENCE_S:
            left -= _PATIENCE_S
            _log.warning(
                "stepclock: waiting for the gateway, %.0f s more at most; Ctrl-C ends it, and what "
                "is not sent stays in the spool",
                left,
            )
            sender.wait_until(self._all_settled, left)
        sender.stop()
        # One that waits for an answer is left alone: it ends with the process.
        sender.thread.join(1.0 if sender.idle else 0.1)

    def _all_settled(self) -> bool:
        assert self.sender is not None
        return self.sender.idle and self.answered >= self.writer.lines

    @property
    def answered(self) -> int:
        """Own lines that the gateway has answered for, or that are not there any more."""
        assert self.sender is not None
        totals = self.sender.own_totals
        return totals.acknowledged + totals.refused + max(totals.lost, self.writer.dropped_lines)

    @property
    def logged(self) -> int:
        """Rows that were handed over, up to the last one that the drain took."""
        return self.buffer.put_rows

    def stats(self) -> Stats:
        """Where everything is at this moment."""
        sender = self.sender
        totals = sender.totals if sender else Totals()
        return Stats(
            logged=self.logged + len(self.buffer),
            queued=len(self.buffer),
            spooled=self.writer.lines,
            acknowledged=totals.acknowledged,
            stored=totals.stored,
            refused=totals.refused,
            dropped=self.writer.dropped_lines,
            rows_dropped=self.rows_dropped,
            ignored=self.drain.encoder.ignored,
            requests=totals.requests,
            limited=sender.limited if sender else 0,
            recovered=sender.recovered if sender else 0,
            retry_after_s=sender.retry_after_s if sender else 0.0,
            cpu_s=self.cpu_s,
            last_error=sender.last_error if sender else "",
        )

    def receipt(self, state: str) -> Receipt:
        """What became of everything, after `stop`."""
        writer, sender = self.writer, self.sender
        lines = writer.lines
        totals = Totals()
        if sender is not None:
            totals = sender.totals
            lines += totals.cut - sender.own_totals.cut  # those of worker processes
        else:
            totals = totals_of(writer.folder)  # somebody may have synced it
        dropped = max(writer.dropped_lines, totals.lost)
        if totals.acknowledged + totals.refused + dropped < lines:
            dropped += writer.memory_lines  # they end with the process
        return Receipt(
            run=self.stream.run,
            state=state,
            folder=str(writer.folder),
            logged=self.logged,
            lines=lines,
            stored=totals.stored,
            refused=totals.refused,
            dead=totals.dead,
            dropped=dropped,
            unsent=max(0, lines - totals.acknowledged - totals.refused - dropped),
            unsettled=totals.acknowledged - totals.stored - totals.dead,
            rows_dropped=self.rows_dropped,
            ignored=self.drain.encoder.ignored,
            recovered=sender.recovered if sender is not None else 0,
        )

    def remove(self) -> None:
        """Remove the spool of a stream of which nothing is left to send."""
        with contextlib.suppress(OSError):
            remove(self.writer.folder)

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        self.writer.abandon()
        if self.sender is not None:
            self.sender.abandon()


def _import_all(settings: Settings) -> None:
    """Import here what the threads need: a child forked while they import could wait for ever."""
    import stepclock.record.tags

    if settings.system_interval:
        import stepclock.record.system  # noqa: F401
    if settings.mode == "online":
        import gzip  # noqa: F401
        import http.client  # noqa: F401

        if settings.endpoint.startswith("https"):
            import ssl  # noqa: F401


def _surroundings(identity: Identity, settings: Settings, time_ns: int) -> Iterator[str]:
    from stepclock.record.tags import surroundings

    return config_lines(identity, surroundings(full=settings.capture == "full"), time_ns)


def _sampler(identity: Identity) -> Callable[[], list[str]]:
    from stepclock.record.system import Sampler

    return Sampler(identity).lines


def _samples() -> bool:
    """Whether this process samples its machine: the first one there."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def is_sent(folder: Path) -> bool:
    """Whether the process lives that sends for this worker process, or for the one above it."""
    name = folder.name
    while ".w" in name:
        name = name.rpartition(".w")[0]
        if is_locked(folder.with_name(name) / "sender.lock"):
            return True
    return False


def at_end_of_worker(callback: Callable[[], object]) -> None:
    """Have it called when a process of `multiprocessing` ends, which is without atexit."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, callback, exitpriority=10)
