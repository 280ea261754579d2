"""What earlier starts of a run left in the spool: a job that was killed could not send its last.

The next start of the same run sends it, behind its own rows, to the same server alone. What
other runs left is never touched: it may belong to another key. It is told once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Callable

from stepclock.identity import run_prefix
from stepclock.send.delivery import StreamDelivery
from stepclock.send.transport import GatewayConnection
from stepclock.spool.segment import has_locks, is_locked, remove, segment_numbers
from stepclock.spool.stream import Stream

_log = logging.getLogger("stepclock")

#: Seconds between two looks into the spool: an old start may end late, other ranks may be gone.
_LOOK_S = 30.0

_SETTLE_S = 5.0
_SLOWEST_S = 16.0

#: Streams that are held at a time.
_AT_ONCE = 8

#: Folders that are looked at to count other runs.
_COUNTED = 200


class Leftovers:
    """Sends them a request at a time, from the thread that sends the run's own rows."""

    def __init__(
        self,
        own: Stream,
        spool: Path,
        gateway: GatewayConnection,
        *,
        now: Callable[[], float] = time.monotonic,
        durable: bool = False,
    ) -> None:
        """durable: as for a `StreamDelivery`."""
        self._own = own
        self._durable = durable
        self._spool = spool
        self._gateway = gateway
        self._now = now
        self._found: list[tuple[Path, Stream]] = []
        self._held: dict[str, tuple[StreamDelivery, int]] = {}  # with what was acknowledged before
        self._sent = 0
        self._began: float | None = None
        self._next_look = 0.0
        self._next_settle = 0.0
        self._not_before = 0.0
        self._pause_s = 0.0

    @property
    def sent(self) -> int:
        """Lines that the gateway took from this start."""
        held = list(self._held.values())
        return self._sent + sum(d.journal.totals.acknowledged - before for d, before in held)

    @property
    def done(self) -> bool:
        """Whether all that was found is stored."""
        return self._began is not None and not self.left

    @property
    def left(self) -> bool:
        """Whether something was found that is not stored yet."""
        return bool(self._found or self._held)

    def turn(self, *, urgent: bool) -> float:
        """One request, if one is due; seconds until the next turn."""
        now = self._now()
        if now >= self._next_look:
            self._next_look = now + _LOOK_S
            self._look(now)
        if now < self._not_before:
            return self._not_before - now
        while self._found and len(self._held) < _AT_ONCE:
            self._take(*self._found.pop(0))
        for delivery, _ in self._held.values():
            limited = delivery.limited
            pause_s = delivery.send_one()
            if pause_s is None:
                continue
            if delivery.limited > limited:
                self.slow_down()
            elif not pause_s:
                self._pause_s = 0.8 * self._pause_s if self._pause_s > 0.1 else 0.0
            pause_s = max(pause_s, self._pause_s)
            self._not_before = self._now() + pause_s
            return pause_s
        return self._settle(now, urgent=urgent)

    def slow_down(self) -> None:
        """The gateway limits us, and new rows come first."""
        self._pause_s = min(_SLOWEST_S, max(1.0, 2 * self._pause_s))

    def hurry(self) -> None:
        """Settle without waiting for more."""
        self._next_settle = 0.0

    def look_again(self) -> None:
        """Look at the next turn, whenever the last look was."""
        self._next_look = 0.0

    def close(self) -> None:
        """Leave the rest to others."""
        for delivery, _ in self._held.values():
            delivery.journal.close()

    def _settle(self, now: float, *, urgent: bool) -> float:
        if now >= self._next_settle:
            self._next_settle = now + (0.2 if urgent else 1.0 if self._found else _SETTLE_S)
            for delivery, _ in list(self._held.values()):
                if delivery.journal.unsettled:
                    delivery.settle(0.0)  # the gateway need not wait: new rows may come
                if not delivery.journal.unsettled and delivery.journal.finished():
                    self._forget(delivery)
        if self._found and len(self._held) < _AT_ONCE:
            return 0.0
        due = self._next_settle if self._held else self._next_look
        return max(0.05, due - now)

    def _look(self, now: float) -> None:
        first = self._began is None
        self._began = now if self._began is None else self._began
        others = now - self._began >= _LOOK_S  # the other ranks had their time
        found = [] if not has_locks() else list(self._left_behind(other_ranks=others))
        self._found = sorted(found, key=lambda pair: pair[1].start_ns)
        if first and self._own.rank == 0:
            self._tell_of_others()

    def _left_behind(self, *, other_ranks: bool) -> Iterator[tuple[Path, Stream]]:
        """Streams of this run of which no process lives that would send them."""
        own = self._own
        prefix = run_prefix(own.experiment, own.run)
        dead: list[tuple[Path, Stream]] = []
        living = [own.name]
        for name in _names(self._spool):
            stream = _read(self._spool / name) if name.startswith(prefix) else None
            if stream is None:
                continue
            # Locks may not reach other machines, but an attempt ends before the next begins.
            may = stream.rank == own.rank or (other_ranks and stream.attempt < own.attempt)
            if is_locked(self._spool / name / "writer.lock"):
                living.append(name)
            elif may and _is_of(stream, own) and name not in self._held:
                dead.append((self._spool / name, stream))
        for folder, stream in dead:
            # Workers of a process that lives are sent by it.
            worker = any(folder.name.startswith(f"{name}.w") for name in living)
            if folder.name != own.name and not worker and not _is_done(folder):
                yield folder, stream

    def _take(self, folder: Path, stream: Stream) -> None:
        try:
            delivery = StreamDelivery(
                folder, stream, self._gateway, now=self._now, durable=self._durable
            )
        except OSError:  # sent by another, or gone
            return
        self._held[stream.name] = delivery, delivery.journal.totals.acknowledged

    def _forget(self, delivery: StreamDelivery) -> None:
        _, before = self._held.pop(delivery.stream.name)
        self._sent += delivery.journal.totals.acknowledged - before
        remove(delivery.folder)
        delivery.journal.close()

    def _tell_of_others(self) -> None:
        runs = set()
        for name in islice(_names(self._spool), _COUNTED):
            folder = self._spool / name
            stream = _read(folder)
            if (
                stream is not None
                and not _is_of(stream, self._own)
                and segment_numbers(folder)
                and not is_locked(folder / "writer.lock")
                and not is_locked(folder / "sender.lock")
            ):
                runs.add((stream.experiment, stream.run, stream.endpoint))
        if runs:
            told = "1 other run has" if len(runs) == 1 else f"{len(runs)} other runs have"
            _log.warning(
                "stepclock: %s left rows in the spool; send them with: stepclock sync %s",
                told,
                self._spool,
            )


def _is_of(stream: Stream, own: Stream) -> bool:
    """Whether it is of the same run, and goes to the same server."""
    return (stream.experiment, stream.run, stream.endpoint) == (
        own.experiment,
        own.run,
        own.endpoint,
    )


def _is_done(folder: Path) -> bool:
    """Whether nothing is in it but what was refused, which stays."""
    left = bool(segment_numbers(folder)) or (folder / "journal.jsonl").exists()
    return not left and (folder / "refused.jsonl").exists()


def _names(spool: Path) -> list[str]:
    try:
        return sorted(os.listdir(spool))
    except OSError:
        return []


def _read(folder: Path) -> Stream | None:
    try:
        return Stream.read(folder)
    except (OSError, ValueError):  # not whole yet, or gone
        return None
