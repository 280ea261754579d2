"""Validating bodies without harm to others: in short turns, and tenants take them one by one.

What a body costs is seen only while it is validated: a good line takes some 0.3 µs, a bad one
twenty times as much. So a body is validated in turns of a few milliseconds: the first turn of a
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

from ingest.errors import GatewayError
from ingest.http.body import ClientGone, Receive

T = TypeVar("T")

#: What is done with one body: yields the lines refused so far every few milliseconds, returns
#: what became of it.
Work = Generator[int, None, T]

#: CPU seconds of one turn. What is done between two yields may exceed it.
_TURN_S = 0.003

#: Part of one core that the refusals of a tenant may take, and the seconds of rest that one
#: which was not refused for a while has ahead: an error now and then costs no waiting.
_SHARE = 0.2
_CREDIT_S = 0.25

#: Seconds that a refusal waits in its queue at most.
_LONGEST_REFUSAL_S = 5.0

#: CPU seconds that a refused request costs beside its validation: HTTP, key, answer.
_REQUEST_S = 0.0006


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """One body in its tenant's queue; without work, a request that was refused already.

    read_s: CPU that reading it took; good_s: CPU of turns that refused nothing. Both as long as
    the tenant has not rested for them. owed_s: what the last turn cost, None if it refused nothing.
    """

    work: Work[T] | None
    read_s: float = 0.0
    good_s: float = 0.0
    owed_s: float | None = None
    refused: int = 0
    done: asyncio.Future[T] | None = None

    def turn(self, cpu_s: Callable[[], float]) -> tuple[T] | None:
        """Work for one turn; the outcome once there is one. Raises what the work raises."""
        assert self.work is not None
        began_s = ended_s = cpu_s()
        refused, self.owed_s = self.refused, None
        try:
            while True:
                self.refused = next(self.work)
                ended_s = cpu_s()
                if ended_s - began_s >= _TURN_S:
                    return None
        except StopIteration as stop:
            return (stop.value,)
        except GatewayError:  # it says itself what all of it cost
            ended_s, self.refused = cpu_s(), refused
            raise
        finally:
            # Asking for CPU time costs more than a good line: what comes after the last yield is
            # left out, unless it is to be paid for.
            if self.refused > refused:
                self.owed_s = cpu_s() - began_s + self.read_s
                self.read_s = 0.0
            else:
                self.good_s += ended_s - began_s


@dataclass(slots=True)
class _Queue:
    """The bodies of one tenant that wait for a turn, and when its rest is over."""

    jobs: deque[_Job[object]] = field(default_factory=deque)
    rests_until: float = -math.inf


class ValidationQueue:
    """Gives turns to all bodies of a process. Belongs to one event loop.

    It has no bound of its own: a body that waits is counted where it was read.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._now = now
        self._cpu_s = cpu_s
        self._thread = ThreadPoolExecutor(1, "validation")
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        self._in_turn: _Job[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def run(
        self, tenant: str, work: Work[T], receive: Receive, read_s: float = 0.0, *, inline: bool
    ) -> tuple[T, float]:
        """What the work returns, and the CPU seconds of it that its tenant has not rested for.

        receive: says when the client of a body that waits is gone; the whole body was read.
        read_s: CPU that reading took, to be paid for if anything is refused. inline: the first
        turn may be on the event loop, which is cheaper than the way to the thread and back.

        Raises ClientGone, and what the work raises: a GatewayError says what it cost.
        """
        job = _Job(work, read_s)
        try:
            outcome = None
            if inline and self._is_rested(tenant):
                outcome = job.turn(self._cpu_s)
                if job.owed_s is not None:
                    self._rest(tenant, job.owed_s + _REQUEST_S)
            value = outcome[0] if outcome else await self._in_turns(tenant, job, receive)
        except GatewayError as exc:
            exc.paced, exc.spent_s = tenant, job.read_s + job.good_s
            raise
        return value, job.read_s + job.good_s

    async def refuse(self, tenant: str, spent_s: float = 0.0) -> None:
        """Wait in the queue with the refusal of a whole request: it costs, as bad lines do.

        spent_s: CPU that finding it took, beside HTTP. One that took no more than a turn does not
        wait for longer than a few seconds: large bodies may be queued before it.
        """
        if self._is_rested(tenant):
            self._rest(tenant, spent_s + _REQUEST_S)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if spent_s > _TURN_S else _LONGEST_REFUSAL_S):
                await self._wait(tenant, _Job[None](None, owed_s=spent_s))

    def _is_rested(self, tenant: str) -> bool:
        queue = self._queues.get(tenant)
        return queue is None or (not queue.jobs and queue.rests_until <= self._now())

    def _rest(self, tenant: str, spent_s: float) -> None:
        queue = self._queues.setdefault(tenant, _Queue())
        since = max(queue.rests_until, self._now() - _CREDIT_S)
        queue.rests_until = since + spent_s * (1 / _SHARE - 1)

    async def _in_turns(self, tenant: str, job: _Job[T], receive: Receive) -> T:
        """Wait until the work is done, or the client is gone."""
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

    async def _wait(self, tenant: str, job: _Job[T]) -> T:
        job.done = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(tenant, _Queue())
        queue.jobs.append(job)  # type: ignore[arg-type]  # whatever its outcome is
        self._next()
        try:
            return await job.done
        except asyncio.CancelledError:
            # Whoever leaves takes the body along; from its turn it is let go behind it.
            if job is not self._in_turn and job in queue.jobs:
                queue.jobs.remove(job)  # type: ignore[arg-type]
            raise

    def _next(self) -> None:
        """Give the thread to the first tenant that waits and is rested, or wait until one is."""
        if self._in_turn is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now, wake_at = self._now(), math.inf
        for tenant, queue in list(self._queues.items()):
            self._let_refusals_go(tenant, queue, now)
            if queue.jobs and queue.rests_until > now:
                wake_at = min(wake_at, queue.rests_until)
            elif queue.jobs:
                self._give_turn(tenant, queue)
                return
            elif queue.rests_until <= now - _CREDIT_S:
                del self._queues[tenant]
        if wake_at < math.inf:
            self._timer = asyncio.get_running_loop().call_later(wake_at - now, self._next)

    def _let_refusals_go(self, tenant: str, queue: _Queue, now: float) -> None:
        """Take what needs no turn from the front of a queue, as far as its tenant is rested."""
        while queue.jobs:
            job = queue.jobs[0]
            assert job.done is not None
            if not job.done.done():  # else nobody waits for it any more
                if job.work is not None or queue.rests_until > now:
                    return
                job.done.set_result(None)
                self._rest(tenant, (job.owed_s or 0.0) + _REQUEST_S)
            queue.jobs.popleft()

    def _give_turn(self, tenant: str, queue: _Queue) -> None:
        job = self._in_turn = queue.jobs[0]
        loop = asyncio.get_running_loop()
        try:
            turn = self._thread.submit(job.turn, self._cpu_s)
        except RuntimeError as exc:  # the system has no thread to give: this body fails, no other
            turn = Future()
            turn.set_exception(exc)
        turn.add_done_callback(
            lambda done: loop.call_soon_threadsafe(self._turned, tenant, queue, done)
        )

    def _turned(self, tenant: str, queue: _Queue, turn: Future[tuple[object] | None]) -> None:
        self._in_turn = None
        self._queues.move_to_end(tenant)  # behind those that came meanwhile
        job = queue.jobs[0]
        assert job.done is not None
        error = turn.exception()
        outcome = None if error else turn.result()
        if job.owed_s is not None:
            self._rest(tenant, job.owed_s + (_REQUEST_S if outcome else 0.0))
        if error or outcome:
            queue.jobs.popleft()
            if not job.done.done():
                if error:
                    job.done.set_exception(error)
                elif outcome:
                    job.done.set_result(outcome[0])
        self._next()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
