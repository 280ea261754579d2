"""The thread between the job and the spool: it empties the buffer every 100 ms."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable

from stepclock.identity import Identity
from stepclock.record.buffer import Buffer
from stepclock.record.rows import RowEncoder
from stepclock.record.state import state_line
from stepclock.settings import Settings
from stepclock.spool.chunk import MAX_LINES
from stepclock.spool.writer import SpoolWriter

_log = logging.getLogger("stepclock")

# Of lines, after which the thread lets the job go on: encoding them takes about 0.4 ms.
_TURN_CHARACTERS = 16 * 1024

_TELL_AGAIN_S = 60.0


class Drain:
    """Takes what is in the buffer, makes lines of it, writes them to the spool.

    announce: whether lines of `run_state` are written; a worker process of a run writes none.
    """

    def __init__(
        self,
        identity: Identity,
        tags: Mapping[str, str],
        buffer: Buffer,
        writer: SpoolWriter,
        settings: Settings,
        *,
        announce: bool,
        now_ns: Callable[[], int] = time.time_ns,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._buffer = buffer
        self._writer = writer
        self._settings = settings
        self._announce = announce
        self._now_ns = now_ns
        self._now = now
        self.encoder = RowEncoder(identity, tags, self._report)
        #: Problems, in strict mode raised by the run.
        self.problems: list[str] = []
        #: Rows that were lost by a fault of ours.
        self.failed_rows = 0
        #: Turns that began so far: what was logged before one began is in the spool at its end.
        self.begun = 0
        self.turns = 0
        #: Seconds of CPU that the thread took, as of its last turn.
        self.cpu_s = 0.0
        #: Set by whoever ends the run: the last state, and why.
        self.ending: tuple[str, str] | None = None
        #: Set from a signal handler: the signal's name. A line says so in the next turn.
        self.preempted: str | None = None
        self._preempted_told = False
        self._first_step_told: int | None = None
        self._word = "running", ""
        self._next_heartbeat = 0.0
        self._told_at: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self.thread = threading.Thread(target=self._run, name="stepclock-drain", daemon=True)

    def turn(self) -> None:
        """Bring everything that was put before now into the spool."""
        self.begun += 1
        try:
            self._writer.check()
        except Exception:
            self._warn("fault", "the spool can't be looked at", exc_info=True)
        left = len(self._buffer)
        # A part at a time, so that what waits, as items or as lines, keeps to its bound.
        while left > 0 and (items := self._buffer.take(min(left, MAX_LINES))):
            left -= len(items)
            try:
                self._encode(items)
            except Exception as exc:
                # Whatever it is, the job must not feel it; what it cost is counted.
                self.failed_rows += len(items)
                self._warn("fault", f"rows were lost: {exc!r}", exc_info=True)
        try:
            self._tell_state()
        except Exception:
            self._warn("fault", "the state is not told", exc_info=True)
        self.turns = self.begun
        fault = self._writer.fault
        if fault is not None:
            where = "set STEPCLOCK_SPOOL_DIR to a folder that takes them"
            self._warn("disk", f"the spool can't be written, rows wait in memory: {fault}; {where}")

    def stop(self) -> None:
        """End the thread after one more turn."""
        self._stopped = True
        self._buffer.wake()

    def hurry(self) -> None:
        """Take the next turn now."""
        self._buffer.wake()

    def wait_for_turn(self, within_s: float) -> bool:
        """Whether all that was put by now is in the spool in time."""
        goal = self.begun + 1
        self.hurry()
        with self._changed:
            return self._changed.wait_for(
                lambda: self.turns >= goal or not self.thread.is_alive(), within_s
            )

    def pause_s(self, took_s: float) -> float:
        """Seconds until the next turn, so that a row of now is in the spool in time.

        took_s: what the last turn took, and the next one will. A twentieth is for the timer.
        """
        interval_s = self._settings.flush_interval
        return max(interval_s / 2, 0.95 * interval_s - 2 * took_s)

    def _encode(self, items: list[Any]) -> None:
        encoder, writer = self.encoder, self._writer
        failed = encoder.failed
        rows = 0
        for item in items:
            if len(item) == 2:
                writer.write(item[0], item[1], 0)
                continue
            time_ns, step, values, exact = item
            rows += encoder.add(time_ns, step, values, exact=exact)
        raw: list[str] = []
        events: list[str] = []
        characters = 0
        for raw_lines, event_lines in encoder.take():
            raw += raw_lines
            events += event_lines
            characters += len(raw_lines[-1])
            if characters >= _TURN_CHARACTERS:
                characters = 0
                time.sleep(0)  # the job may have the interpreter in between
        self.failed_rows += encoder.failed - failed
        if raw:
            writer.write("raw", raw, rows)
        if events:
            writer.write("events", events, 0)

    def _tell_state(self) -> None:
        if not self._announce:
            return
        now = self._now()
        last = self._stopped and self.ending is not None
        # Whoever clears away what an earlier attempt logged from here on waits for the first step.
        began = self._first_step_told is None and self.encoder.first_step is not None
        if now >= self._next_heartbeat:
            self._tell(now, "running", "")
        elif began and not last:
            self._write_state(*self._word)
        if self.preempted is not None and not self._preempted_told:
            self._preempted_told = True
            self._tell(now, "preempted", self.preempted)
        elif self._stopped and self.ending is not None:
            self._write_state(*self.ending)

    def _tell(self, now: float, state: str, reason: str) -> None:
        """Write a state. It holds until the next heartbeat: a preempted job may go on."""
        self._next_heartbeat = now + max(1.0, self._settings.heartbeat_interval)
        self._word = state, reason
        self._write_state(state, reason)

    def _write_state(self, state: str, reason: str) -> None:
        first, last = self.encoder.first_step, self.encoder.last_step
        self._first_step_told = first
        line = state_line(self._identity, state, self._now_ns(), first, last, reason)
        self._writer.write("events", [line], 0)

    def _report(self, name: str, reason: str) -> None:
        self.problems.append(f"{name!r}: {reason}")
        _log.warning("stepclock: %r is not stored: %s", name, reason)

    def _warn(self, about: str, message: str, *, exc_info: bool = False) -> None:
        now = self._now()
        if now - self._told_at.get(about, -_TELL_AGAIN_S) >= _TELL_AGAIN_S:
            self._told_at[about] = now
            _log.warning("stepclock: %s", message, exc_info=exc_info)

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stopped
            began = self._now()
            self.turn()
            self.cpu_s = time.thread_time()
            with self._changed:
                self._changed.notify_all()
            if not stopped:
                self._buffer.wait(self.pause_s(self._now() - began))
        self._writer.close()
        with self._changed:
            self._changed.notify_all()
