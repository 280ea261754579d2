"""A run: what a training job holds in its hands."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from stepclock import signals
from stepclock.buffer import Buffer
from stepclock.drain import Drain
from stepclock.identity import Identity, identify, stream_name
from stepclock.journal import Totals
from stepclock.receipt import Receipt, Stats
from stepclock.rows import MAX_STEP, RowEncoder
from stepclock.scalars import PLAIN, snapshot
from stepclock.sender import Sender, remove
from stepclock.settings import Settings
from stepclock.spool import SpoolWriter, Stream
from stepclock.state import config_lines, event_line

_log = logging.getLogger("stepclock")

_now_ns = time.time_ns
_is_plain = PLAIN.issuperset


class StepclockError(Exception):
    """Only with strict=True: something that otherwise would be counted and told."""


class Run:
    """Made by `stepclock.init`. Its methods raise nothing (unless strict) and never block long.

    id: the run's name, the tag `run`. folder: its spool. Safe for threads, signal handlers and
    forked processes.
    """

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        *,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        parent: str | None = None,
    ) -> None:
        """parent: the stream of the process that this one works for."""
        self._identity = identity
        self._settings = settings
        self._tags = {str(key): str(value) for key, value in (tags or {}).items()}
        self._strict = settings.strict
        self._worker = parent is not None
        self._parent = parent
        self._logged = 0
        self._failure = ""
        self._receipt: Receipt | None = None
        self._enabled = settings.mode != "disabled" and (
            settings.ranks == "all" or identity.rank == 0
        )
        self._closed = not self._enabled
        self._buffer = Buffer(settings.max_memory)
        self._drain: Drain | None = None
        self._sender: Sender | None = None
        self._config = dict(config or {})
        if self._enabled and not self._worker:
            self._start()
        _runs.add(self)

    @property
    def id(self) -> str:
        """The run's name."""
        return self._identity.run

    @property
    def experiment(self) -> str:
        """The experiment's name."""
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
    def folder(self) -> Path:
        """Where rows lie until they are acknowledged."""
        return self._writer.folder if self._drain else Path(self._settings.spool_dir)

    def log(
        self,
        metrics: Mapping[str, Any],
        step: int | None = None,
        *,
        time_ns: int | None = None,
    ) -> None:
        """Hand over the metrics of one step; without one, of the step behind the largest.

        Numbers of any kind; nested mappings become `outer/inner`. Two calls of one step make
        one point. time_ns: when it was measured, if not now.
        """
        if self._closed or self._drain is None:
            if not self._reopen():
                return
        try:
            values = dict(metrics)
            if not _is_plain(map(type, values.values())):
                snapshot(values)
            if self._strict:
                self._check(values, step)
        except Exception as exc:
            self._complain(f"log: {exc!r}")
            return
        self._logged += 1
        if time_ns is None:
            self._buffer.put((_now_ns(), step, values, False), len(values))
        else:
            self._buffer.put((time_ns, step, values, True), len(values))

    def log_many(self, rows: Iterable[tuple[int | None, Mapping[str, Any]]]) -> None:
        """Hand over many steps at once: (step, metrics) each."""
        for step, metrics in rows:
            self.log(metrics, step)

    def event(self, name: str, text: str = "", step: int | None = None, **tags: str) -> None:
        """Tell of something that happened; `checkpoint` has a place of its own on dashboards."""
        if self._closed or self._drain is None:
            if not self._reopen():
                return
        try:
            named = {key: str(value) for key, value in tags.items()}
            line = event_line(self._identity, name, text, step, named, _now_ns())
        except Exception as exc:
            self._complain(f"event: {exc!r}")
            return
        self._buffer.put(("events", [line]), 1)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Tell hyperparameters, or anything that holds for the whole run; the last one counts."""
        if self._closed or self._drain is None:
            if not self._reopen():
                return
        try:
            lines = list(config_lines(self._identity, config, self._stream.start_ns))
        except Exception as exc:
            self._complain(f"configure: {exc!r}")
            return
        if lines:
            self._buffer.put(("events", lines), len(lines))

    def stats(self) -> Stats:
        """Where everything is at this moment."""
        drain, sender = self._drain, self._sender
        totals = sender.totals if sender else None
        return Stats(
            logged=self._logged,
            queued=len(self._buffer),
            spooled=self._writer.lines if drain else 0,
            acknowledged=totals.acknowledged if totals else 0,
            stored=totals.stored if totals else 0,
            refused=totals.refused if totals else 0,
            dropped=self._writer.dropped_lines if drain else 0,
            rows_dropped=self._rows_dropped(),
            ignored=drain.encoder.ignored if drain else 0,
            requests=totals.requests if totals else 0,
            limited=sender.limited if sender else 0,
            retry_after_s=sender.retry_after_s if sender else 0.0,
            last_error=sender.last_error if sender else "",
        )

    def flush(self, timeout: float | None = None) -> bool:
        """Whether all that was logged is acknowledged in time; offline: is in the spool."""
        drain, sender = self._drain, self._sender
        if drain is None:
            return True
        deadline = time.monotonic() + self._bound(timeout)
        if not drain.wait_for_turn(self._bound(timeout)):
            return False
        if sender is None:
            return True
        left = max(0.0, deadline - time.monotonic())
        goal = self._writer.lines
        sender.hurry(left)
        done = sender.wait_until(lambda: self._answered() >= goal, left)
        self._raise_problems()
        return done

    def finish(self, status: str = "auto", timeout: float | None = None) -> Receipt:
        """End the run and say what became of all of it. Takes no longer than the timeout.

        status: finished, failed, preempted; auto: what it looks like.
        """
        if self._receipt is not None:
            return self._receipt
        limit = self._bound(timeout)
        deadline = time.monotonic() + limit
        self._closed = True
        state, reason = self._state(status)
        drain, sender = self._drain, self._sender
        if drain is None:
            self._receipt = Receipt(self.id, 0, 0, 0, state=state)
            _runs.discard(self)
            return self._receipt
        drain.ending = state, reason
        drain.stop()
        drain.thread.join(limit)
        if sender is not None:
            left = max(0.0, deadline - time.monotonic())
            sender.hurry(left)
            sender.wait_until(lambda: sender.idle and self._answered() >= self._writer.lines, left)
            sender.stop()
            if not sender.idle:
                sender.thread.join(max(0.0, min(0.5, deadline - time.monotonic())))
            else:
                sender.thread.join(1.0)
        receipt = self._receipt = self._account(state)
        _runs.discard(self)
        self._conclude(receipt)
        return receipt

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not (isinstance(error, SystemExit) and not error.code):
            self._note_failure(error)
        self.finish()

    def __reduce__(self) -> Any:
        """Sent to another process, a run is there a worker of this one."""
        sender = self._sender
        if sender is not None:
            sender.expect_children()
        parent = self._stream.name if self._drain else None
        return _worker, (self._identity, self._settings, self._tags, parent)

    def _start(self) -> None:
        settings, identity = self._settings, self._identity
        start_ns = time.time_ns()
        name = (
            stream_name(identity, start_ns) if self._parent is None else _child_name(self._parent)
        )
        self._stream = Stream.of(name, start_ns, identity, settings.endpoint)
        self._writer = SpoolWriter(
            self._stream,
            Path(settings.spool_dir) / name,
            max_bytes=settings.max_spool,
            max_memory=settings.max_memory,
        )
        drain = Drain(
            identity,
            self._tags,
            self._buffer,
            self._writer,
            settings,
            announce=not self._worker,
            first=list if self._worker else self._first_lines,
        )
        if settings.mode == "online" and not self._worker:
            self._sender = Sender(self._stream, self._writer, settings)
            self._sender.thread.start()
        drain.thread.start()
        self._drain = drain
        if self._worker and "multiprocessing.util" in sys.modules:
            # Such a process ends without atexit.
            sys.modules["multiprocessing.util"].Finalize(None, self.finish, exitpriority=10)

    def _first_lines(self) -> list[str]:
        """Configuration and surroundings; looked up by the drain's thread."""
        from stepclock.tags import surroundings

        about = surroundings(full=self._settings.capture == "full")
        return [
            *config_lines(self._identity, about, self._stream.start_ns),
            *config_lines(self._identity, self._config, self._stream.start_ns),
        ]

    def _reopen(self) -> bool:
        """Whether a run that has no threads has them now: a forked worker's first call."""
        if self._worker and self._enabled and self._receipt is None and self._drain is None:
            try:
                self._start()
            except Exception as exc:
                self._enabled = False
                self._complain(f"a worker's rows are not kept: {exc!r}")
                return False
            self._closed = False
            return True
        if self._receipt is not None or (self._closed and self._enabled):
            self._complain("the run is finished, what is logged now is not kept")
        return False

    def _forked(self) -> None:
        """In a forked child: own nothing of the parent, start anew with the first call."""
        drain, sender = self._drain, self._sender
        if drain is None or self._receipt is not None:
            return
        self._worker = True
        self._parent = self._stream.name
        self._buffer = Buffer(self._settings.max_memory)
        self._drain = self._sender = None
        self._logged = 0
        self._writer.abandon()
        if sender is not None:
            sender.abandon()

    def _rows_dropped(self) -> int:
        failed = self._drain.failed_rows if self._drain else 0
        return self._buffer.dropped + failed

    def _answered(self) -> int:
        """Own lines that the gateway has answered for, or that are not there any more."""
        sender = self._sender
        assert sender is not None
        totals = sender.own_totals
        lost = max(totals.lost, self._writer.dropped_lines)
        return totals.acknowledged + totals.refused + lost

    def _account(self, state: str) -> Receipt:
        drain, sender, writer = self._drain, self._sender, self._writer
        assert drain is not None
        lines = writer.lines
        totals = Totals()
        if sender is not None:
            totals = sender.totals
            lines += totals.cut - sender.own_totals.cut  # those of worker processes
        dropped = max(writer.dropped_lines, totals.lost)
        return Receipt(
            run=self.id,
            state=state,
            folder=str(writer.folder),
            logged=self._logged,
            lines=lines,
            stored=totals.stored,
            refused=totals.refused,
            dead=totals.dead,
            dropped=dropped,
            unsent=max(0, lines - totals.acknowledged - totals.refused - dropped),
            unsettled=totals.acknowledged - totals.stored - totals.dead,
            rows_dropped=self._rows_dropped() + len(self._buffer),
            ignored=drain.encoder.ignored,
        )

    def _conclude(self, receipt: Receipt) -> None:
        """Remove the spool, or say where the rest is."""
        if self._worker:
            return
        if self._sender is not None and not receipt.unsent and not receipt.unsettled:
            with contextlib.suppress(OSError):
                remove(self._writer.folder)
        if receipt.unsent:
            _log.warning(
                "stepclock: %d lines of run %s wait in the spool; send them with: "
                "stepclock sync %s",
                receipt.unsent,
                self.id,
                self._settings.spool_dir,
            )
        elif receipt.missing:
            _log.warning("stepclock: %s", receipt)
        if self._strict and (receipt.refused or receipt.dead or receipt.dropped):
            raise StepclockError(str(receipt))
        self._raise_problems()

    def _state(self, status: str) -> tuple[str, str]:
        drain = self._drain
        if status != "auto":
            return status, self._failure
        if drain is not None and drain.preempted is not None:
            return "preempted", drain.preempted
        return ("failed", self._failure) if self._failure else ("finished", "")

    def _note_failure(self, error: BaseException) -> None:
        self._failure = f"{type(error).__name__}: {error}"[:1000]
        if self._settings.capture == "full":
            import traceback

            from stepclock.tags import masked

            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self._failure = masked(text)[-8000:]

    def _bound(self, timeout: float | None) -> float:
        return self._settings.finish_timeout if timeout is None else max(0.0, timeout)

    def _check(self, values: Mapping[str, Any], step: int | None) -> None:
        """Strict: what would be told by the drain's thread is raised here."""
        found: list[str] = []
        trial = RowEncoder(
            self._identity, self._tags, lambda name, why: found.append(f"{name!r}: {why}")
        )
        if trial.add(0, step, values, exact=True):
            list(trial.take())
        if found:
            raise ValueError("; ".join(found))

    def _complain(self, message: str) -> None:
        if self._strict:
            raise StepclockError(message)
        if message not in self._complained and len(self._complained) < 100:
            self._complained.add(message)
            _log.warning("stepclock: %s", message)

    def _raise_problems(self) -> None:
        if self._strict and self._drain is not None and self._drain.problems:
            raise StepclockError("; ".join(self._drain.problems))

    _complained: set[str] = set()


_runs: weakref.WeakSet[Run] = weakref.WeakSet()


def _worker(
    identity: Identity, settings: Settings, tags: dict[str, str], parent: str | None
) -> Run:
    """A run in a process that works for another one's."""
    return Run(identity, settings, tags=tags, parent=parent or "")


def _child_name(parent: str) -> str:
    return f"{parent}.w{os.getpid()}-{time.time_ns() & 0xFFFFFF:06x}"


def active_runs() -> list[Run]:
    """The runs of this process that are not finished."""
    return list(_runs)


def _finish_all() -> None:
    for run in active_runs():
        try:
            run.finish()
        except Exception:
            _log.exception("stepclock: a run could not be finished")


def _forked_child() -> None:
    for run in active_runs():
        run._forked()


def _forked_parent() -> None:
    for run in active_runs():
        sender = run._sender
        if sender is not None:
            sender.expect_children()


atexit.register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked_child, after_in_parent=_forked_parent)


def init(
    experiment: str,
    *,
    name: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    attempt: int | None = None,
    handle_signals: bool = True,
    **settings: Any,
) -> Run:
    """Begin a run. Nothing is sent here, and no server can make it fail.

    name: a readable part of the run's id. run_id: the id itself; see `stepclock.identity` for
    what it is without one. tags: written with every line, for few values that do not change.
    config: hyperparameters. settings: fields of `stepclock.settings.Settings`, such as
    endpoint, token, mode, ranks. Raises ValueError for arguments that can't be.
    """
    unknown = set(settings) - set(Settings.__dataclass_fields__)
    if unknown:
        raise TypeError(f"init() has no argument {', '.join(sorted(unknown))}")
    resolved = Settings.resolve(settings)
    identity = identify(experiment, name, run_id, attempt, Path(resolved.spool_dir).parent)
    run = Run(identity, resolved, tags={k: str(v) for k, v in (tags or {}).items()}, config=config)
    if handle_signals and run._enabled:
        signals.install()
    return run


__all__ = ["MAX_STEP", "Run", "StepclockError", "init"]
