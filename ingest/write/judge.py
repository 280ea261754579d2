"""Judging bodies without harm to others: in short turns, and tenants take them one by one.

What a body costs is seen only while it is judged: a good line takes some 0.3 µs, a bad one
twenty times as much. So a body is judged in turns of a few milliseconds: the first turn of a
small one on the event loop, all others on one thread beside it. Tenants that wait take turns
(round robin). After a turn that refused lines its tenant rests for a multiple of what the turn
cost: all the refusals of a tenant take a fixed share of one core at most, however fast it sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ingest.errors import Unavailable
from ingest.http.body import ClientGone, Receive
from ingest.limits.byte_budget import ByteBudget

T = TypeVar("T")

#: Judging of one body: yields the lines refused so far now and then, returns what became of it.
Steps = Generator[int, None, T]

#: Bodies up to this size take their first turn on the event loop. Mostly that is all they need,
#: and it is cheaper than the way to the thread and back: 0.3 ms for 1,000 good lines.
_INLINE_BYTES = 256 * 1024

#: CPU seconds of one turn. A step (`schemas.admission.admission`) may exceed it.
_TURN_S = 0.003

#: Part of one core that the refusals of a tenant may take, and the seconds of rest that one
#: which was not refused for a while has ahead: an error now and then costs no waiting.
_SHARE = 0.2
_CREDIT_S = 0.25

#: Seconds that a refusal waits in line at most.
_LONGEST_REFUSAL_S = 5.0

#: CPU seconds that a refused request costs beside its judging: HTTP, key, answer.
_REQUEST_S = 0.0006


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """One body in its tenant's line; without steps, a request that was refused already.

    read_s: CPU that reading it took, as long as that is not paid for. spent_s: CPU of the last
    turn; was_bad: it refused lines.
    """

    steps: Steps[T] | None
    read_s: float = 0.0
    refused: int = 0
    spent_s: float = 0.0
    was_bad: bool = False
    done: asyncio.Future[T] | None = None

    def turn(self, cpu_s: Callable[[], float]) -> tuple[T] | None:
        """Judge for one turn; the outcome once there is one. Raises what the steps raise."""
        assert self.steps is not None
        began_s, refused = cpu_s(), self.refused
        try:
            while True:
                self.refused = next(self.steps)
                if cpu_s() - began_s >= _TURN_S:
                    return None
        except StopIteration as stop:
            return (stop.value,)
        finally:
            self.was_bad = self.refused > refused
            # Asking for CPU time costs more than a good line, so only who pays for it is asked.
            self.spent_s = 0.0
            if self.was_bad:
                self.spent_s = cpu_s() - began_s + self.read_s
                self.read_s = 0.0


@dataclass(slots=True)
class _Line:
    """The bodies of one tenant that wait for a turn, and when its rest is over."""

    jobs: deque[_Job[object]] = field(default_factory=deque)
    rests_until: float = -math.inf


class Judge:
    """Judges all bodies of a process. Belongs to one event loop.

    Bound: at most max_bytes of bodies wait; of one tenant, as ByteBudget says.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        now: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._max_bytes = max_bytes
        self._budget = ByteBudget("judging", "judging as much", max_bytes)
        self._now = now
        self._cpu_s = cpu_s
        self._thread = ThreadPoolExecutor(1, "judge")
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._in_turn: _Job[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def check(self, tenant: str, size: int) -> None:
        """Raise Unavailable if `size` more bytes of the tenant may not wait.

        What could never wait is not ours to refuse: another bound has a better answer.
        """
        self._budget.check(tenant, size if size <= self._max_bytes else 0)

    async def run(
        self, tenant: str, size: int, steps: Steps[T], receive: Receive, read_s: float = 0.0
    ) -> T:
        """What the steps return. Raises Unavailable if as many bytes wait as may, and ClientGone.

        receive: says when the client of a body that waits is gone; the whole body was read.
        read_s: CPU that this took, to be paid for if anything of it is refused.
        """
        job = _Job(steps, read_s)
        if size <= _INLINE_BYTES and self._is_rested(tenant):
            outcome = job.turn(self._cpu_s)
            if job.was_bad:
                self._rest(tenant, job.spent_s + _REQUEST_S)
            if outcome:
                return outcome[0]
        try:
            self._budget.check(tenant, size)
        except Unavailable as exc:
            exc.paced, exc.spent_s = tenant, read_s
            raise
        self._budget.take(tenant, size)
        waiting = asyncio.ensure_future(self._wait(tenant, job))
        leaving = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientGone
            return waiting.result()
        finally:
            waiting.cancel()
            leaving.cancel()
            self._budget.give_back(tenant, size)

    async def refuse(self, tenant: str, spent_s: float = 0.0) -> None:
        """Wait in line with the refusal of a whole request: it costs, as bad lines do.

        spent_s: CPU that finding it took, beside HTTP. One that took no more than a turn does not
        wait for longer than a few seconds: large bodies may be in line before it.
        """
        if self._is_rested(tenant):
            self._rest(tenant, spent_s + _REQUEST_S)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if spent_s > _TURN_S else _LONGEST_REFUSAL_S):
                await self._wait(tenant, _Job[None](None, spent_s=spent_s))

    def _is_rested(self, tenant: str) -> bool:
        line = self._lines.get(tenant)
        return line is None or (not line.jobs and line.rests_until <= self._now())

    def _rest(self, tenant: str, spent_s: float) -> None:
        line = self._lines.setdefault(tenant, _Line())
        since = max(line.rests_until, self._now() - _CREDIT_S)
        line.rests_until = since + spent_s * (1 / _SHARE - 1)

    async def _wait(self, tenant: str, job: _Job[T]) -> T:
        job.done = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(tenant, _Line())
        line.jobs.append(job)  # type: ignore[arg-type]  # whatever its outcome is
        self._next()
        try:
            return await job.done
        except asyncio.CancelledError:
            # Whoever leaves takes the body along; from its turn it is let go behind it.
            if job is not self._in_turn and job in line.jobs:
                line.jobs.remove(job)  # type: ignore[arg-type]
            raise

    def _next(self) -> None:
        """Give the thread to the first tenant in line that is rested, or wait until one is."""
        if self._in_turn is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now, wake_at = self._now(), math.inf
        for tenant, line in list(self._lines.items()):
            self._let_refusals_go(tenant, line, now)
            if line.jobs and line.rests_until > now:
                wake_at = min(wake_at, line.rests_until)
            elif line.jobs:
                self._give_turn(tenant, line)
                return
            elif line.rests_until <= now - _CREDIT_S:
                del self._lines[tenant]
        if wake_at < math.inf:
            self._timer = asyncio.get_running_loop().call_later(wake_at - now, self._next)

    def _let_refusals_go(self, tenant: str, line: _Line, now: float) -> None:
        """Take what needs no turn from the front of a line, as far as its tenant is rested."""
        while line.jobs:
            job = line.jobs[0]
            assert job.done is not None
            if not job.done.done():  # else nobody waits for it any more
                if job.steps is not None or line.rests_until > now:
                    return
                job.done.set_result(None)
                self._rest(tenant, job.spent_s + _REQUEST_S)
            line.jobs.popleft()

    def _give_turn(self, tenant: str, line: _Line) -> None:
        job = self._in_turn = line.jobs[0]
        loop = asyncio.get_running_loop()
        turn = self._thread.submit(job.turn, self._cpu_s)
        turn.add_done_callback(
            lambda done: loop.call_soon_threadsafe(self._turned, tenant, line, done)
        )

    def _turned(self, tenant: str, line: _Line, turn: Future[tuple[object] | None]) -> None:
        self._in_turn = None
        self._lines.move_to_end(tenant)  # behind those that came meanwhile
        job = line.jobs[0]
        assert job.done is not None
        error = turn.exception()
        outcome = None if error else turn.result()
        if job.was_bad:
            self._rest(tenant, job.spent_s + (_REQUEST_S if outcome else 0.0))
        if error or outcome:
            line.jobs.popleft()
            if not job.done.done():
                if error:
                    job.done.set_exception(error)
                elif outcome:
                    job.done.set_result(outcome[0])
        self._next()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
