"""A run: what a training job holds in its hands."""

from __future__ import annotations

import logging
import operator
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from stepclock import process
from stepclock.engine import Engine, at_end_of_worker, is_sent
from stepclock.identity import Identity, stream_name
from stepclock.receipt import Receipt, Stats
from stepclock.record.rows import problems
from stepclock.record.scalars import PLAIN, snapshot, width
from stepclock.record.state import config_lines, event_line
from stepclock.settings import Settings
from stepclock.spool.stream import Stream

_log = logging.getLogger("stepclock")

_now_ns = time.time_ns
_is_plain = PLAIN.issuperset


class StepclockError(Exception):
    """Only with strict=True: something that otherwise would be counted and told."""


class Run:
    """Made by `init`. Its methods raise nothing, unless strict, and their waiting is bounded.

    engine: what stands behind it in this process; None for a run that is disabled, and for a
    worker process that has logged nothing yet. Safe for threads, signal handlers and forks.
    """

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        *,
        tags: Mapping[str, str],
        config: Mapping[str, Any],
        parent: str | None = None,
    ) -> None:
        """parent: the stream of the process that this one works for, if it does."""
        self.engine: Engine | None = None
        self._identity = identity
        self._settings = settings
        self._tags = dict(tags)
        self._parent = parent
        self._failure = ""
        self._receipt: Receipt | None = None
        self._complained: set[str] = set()
        self._broken = False
        self._unrecorded = 0
        self._enabled = settings.mode != "disabled" and (
            settings.ranks == "all" or identity.rank == 0
        )
        process.add(self)
        if self._enabled and parent is None:
            try:
                self._start()
            except Exception as exc:
                self._enabled = False
                self._broken = True
                self._complain(f"the run is not recorded: {exc!r}")
            else:
                self.configure(config)

    @property
    def id(self) -> str:
        """The run's name, the tag `run`."""
        return self._identity.run

    @property
    def experiment(self) -> str:
        """The experiment's name, the measurement."""
        return self._identity.experiment

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return self._identity.rank

    @property
    def attempt(self) -> int:
        """How often the job was started before."""
        return self._identity.attempt

    @property
    def folder(self) -> Path | None:
        """Where rows lie until they are acknowledged."""
        return None if self.engine is None else self.engine.writer.folder

    @property
    def finish_timeout(self) -> float:
        """Seconds that `finish` takes at most unless it is told otherwise."""
        return self._settings.finish_timeout

    def log(
        self,
        metrics: Mapping[str, Any],
        step: int | None = None,
        *,
        time_ns: int | None = None,
    ) -> None:
        """Hand over the metrics of one step; without one, of the step behind the largest.

        Numbers of any kind; nested mappings become `outer/inner`. Two calls of one step make
        one point. time_ns: Unix time at which it was measured, if not now. Waits only while
        half of max_memory is full, and if the spool takes nothing, `PATIENCE_S` in all.
        """
        engine = self.engine
        if engine is None or self._receipt is not None:
            engine = self._reopened()
            if engine is None:
                return
        try:
            values = dict(metrics)
            count = len(values)
            if not _is_plain(map(type, values.values())):
                count = width(snapshot(values))
            if time_ns is not None:
                time_ns = operator.index(time_ns)
            if self._settings.strict:
                problems(values, step)
        except Exception as exc:
            kind = type(metrics)
            known = hasattr(kind, "items")
            why = exc if known else f"it takes names with their numbers, not {kind.__name__}"
            self._complain(f"log: {why}")
            return
        if time_ns is None:
            engine.buffer.put((_now_ns(), step, values, False), count, row=True)
        else:
            engine.buffer.put((time_ns, step, values, True), count, row=True)

    def log_many(self, rows: Iterable[tuple[int | None, Mapping[str, Any]]]) -> None:
        """Hand over many steps at once: (step, metrics) each."""
        for step, metrics in rows:
            self.log(metrics, step)

    def event(self, name: str, text: str = "", step: int | None = None, **tags: Any) -> None:
        """Tell of something that happened; `checkpoint` has a place of its own on dashboards."""
        named = {key: str(value) for key, value in tags.items()}
        self._tell(lambda: [event_line(self._identity, name, text, step, named, _now_ns())])

    def configure(self, config: Mapping[str, Any]) -> None:
        """Tell hyperparameters, or anything that holds for the whole run; the last word counts."""
        config = dict(config)
        self._tell(lambda: list(config_lines(self._identity, config, self._started_ns())))

    def stats(self) -> Stats:
        """Where everything is at this moment."""
        return Stats() if self.engine is None else self.engine.stats()

    def flush(self, timeout: float | None = None) -> bool:
        """Whether all that was logged is acknowledged in time; offline: is in the spool."""
        if self.engine is None or self._receipt is not None:
            return True
        done = self.engine.flush(self._bound(timeout))
        self._raise_problems(self.engine)
        return done

    def finish(self, status: str = "auto", timeout: float | None = None) -> Receipt:
        """End the run and say what became of all of it. Takes no longer than the timeout.

        status: finished, failed, preempted; auto: what it looks like. timeout: seconds; none:
        the setting finish_timeout.
        """
        if self._receipt is not None:
            return self._receipt
        process.discard(self)
        engine = self.engine
        state, reason = self._state(status)
        # What is logged from now on is told to be too late.
        lost = self._unrecorded
        self._receipt = Receipt(run=self.id, state=state, logged=lost, rows_dropped=lost)
        if engine is not None:
            try:
                engine.stop(state, reason, self._bound(timeout))
            finally:  # Ctrl-C ends the waiting, and no more than that
                self._receipt = engine.receipt(state)
                self._conclude(engine, self._receipt)
        return self._receipt

    def __repr__(self) -> str:
        told = f"<stepclock run {self.id} of {self.experiment}, attempt {self.attempt}"
        if self._receipt is not None:
            return f"{told}, {self._receipt.state}>"
        if not self._enabled:
            return f"{told}, not recorded>"
        where = self._settings.endpoint if self._settings.mode == "online" else "spool only"
        return f"{told}, {where}>"

    def __enter__(self) -> Run:  # noqa: PYI034 -- typing.Self came with Python 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.on_failure(error)
        self.finish()

    def __reduce__(self) -> Any:
        """Sent to another process, a run is there a worker of this one."""
        self.expect_workers()
        parent = self._parent if self.engine is None else self.engine.stream.name
        return _worker, (self._identity, self._settings, self._tags, parent)

    def on_failure(self, error: BaseException) -> None:
        """An exception ends the block or the program: the run failed, unless it says otherwise."""
        if isinstance(error, SystemExit) and not error.code:
            return
        self._failure = f"{type(error).__name__}: {error}"[:1000].removesuffix(": ")
        if self._settings.capture == "full":
            from stepclock.record.tags import traceback_of

            self._failure = traceback_of(error)

    def on_forked(self) -> None:
        """In a forked child: own nothing of the parent, start anew with the first call."""
        engine = self.engine
        if engine is None:
            return
        self.engine = None
        self._parent = engine.stream.name
        engine.abandon()

    def expect_workers(self) -> None:
        """Other processes may log into this run from now on."""
        if self.engine is not None and self.engine.sender is not None:
            self.engine.sender.expect_children()

    def _start(self) -> Engine:
        identity, settings = self._identity, self._settings
        now_ns = time.time_ns()
        if self._parent is None:
            name = stream_name(identity, now_ns)
        else:
            name = f"{self._parent}.w{os.getpid()}-{now_ns & 0xFFFFFFFF:08x}"
        self.engine = Engine(
            Stream.of(name, now_ns, identity, settings.endpoint),
            identity,
            self._tags,
            settings,
            worker=self._parent is not None,
        )
        return self.engine

    def _reopened(self) -> Engine | None:
        """The engine of a worker process, from its first call on; None if the run takes no more."""
        if not self._enabled:
            self._unrecorded += self._broken
            return None
        if self._receipt is not None:
            self._complain("the run is finished, what is logged now is not kept")
            return None
        try:
            engine = self._start()
        except Exception as exc:
            self._enabled = False
            self._complain(f"a worker's rows are not kept: {exc!r}")
            return None
        at_end_of_worker(self.finish)
        return engine

    def _tell(self, lines_of: Callable[[], Sequence[str]]) -> None:
        """Hand over lines of class events."""
        engine = self.engine
        if engine is None or self._receipt is not None:
            engine = self._reopened()
            if engine is None:
                return
        try:
            lines = lines_of()
        except Exception as exc:
            self._complain(f"not stored: {exc!r}")
            return
        if lines:
            engine.buffer.put(("events", lines), len(lines))

    def _started_ns(self) -> int:
        return self.engine.stream.start_ns if self.engine is not None else _now_ns()

    def _state(self, status: str) -> tuple[str, str]:
        if status != "auto":
            return status, self._failure
        preempted = self.engine.drain.preempted if self.engine is not None else None
        if preempted is not None:
            return "preempted", preempted
        return ("failed", self._failure) if self._failure else ("finished", "")

    def _conclude(self, engine: Engine, receipt: Receipt) -> None:
        """Remove the spool, or say where the rest is."""
        if self._parent is not None:
            if self._settings.mode == "online" and not is_sent(engine.writer.folder):
                self._tell_where()
            return
        if engine.sender is not None and not receipt.unsent and not receipt.unsettled:
            engine.remove()
        if receipt.missing:
            _log.warning("stepclock: %s", receipt)
        else:
            import shlex

            process.say(
                f"stepclock: {receipt}, at {engine.stream.endpoint}; "
                f"look at it with: stepclock tail {shlex.quote(receipt.run)}"
            )
        if receipt.unsent or (engine.sender is not None and engine.sender.leftovers.left):
            self._tell_where()
        if self._settings.strict and (receipt.refused or receipt.dead or receipt.dropped):
            raise StepclockError(str(receipt))
        self._raise_problems(engine)

    def _tell_where(self) -> None:
        _log.warning(
            "stepclock: what is not sent waits in the spool; send it with: stepclock sync %s",
            self._settings.spool_dir,
        )

    def _bound(self, timeout: float | None) -> float:
        return self._settings.finish_timeout if timeout is None else max(0.0, timeout)

    def _complain(self, message: str) -> None:
        if self._settings.strict:
            raise StepclockError(message)
        if message not in self._complained and len(self._complained) < 100:
            self._complained.add(message)
            _log.warning("stepclock: %s", message)

    def _raise_problems(self, engine: Engine) -> None:
        if self._settings.strict and engine.drain.problems:
            raise StepclockError("; ".join(engine.drain.problems))


def _worker(
    identity: Identity, settings: Settings, tags: dict[str, str], parent: str | None
) -> Run:
    """A run in a process that works for another one's."""
    return Run(identity, settings, tags=tags, config={}, parent=parent or "")
