"""Clients that obey Retry-After, and what their answers say about a limit."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter
from typing import NamedTuple

from bench.lab.connection import Connection


class Event(NamedTuple):
    """One answer: when its request was sent (perf_counter), how long it took, its status.

    retry: the request was the first after a wait that a 429 had asked for.
    """

    sent_at: float
    took_s: float
    status: int
    retry: bool


@dataclass(slots=True)
class Record:
    """The answers of all connections of one tenant, in the order in which they were answered.

    waits: how often each Retry-After was asked for. unreadable: values of Retry-After on a
    429 that are no whole number of seconds.
    """

    events: list[Event] = field(default_factory=list)
    waits: Counter[int] = field(default_factory=Counter)
    unreadable: Counter[bytes] = field(default_factory=Counter)


async def send_patiently(
    connection: Connection, requests: Sequence[bytes], until: float, record: Record
) -> None:
    """Send one request after the other until the given time (perf_counter).

    After a 429 or 503 the same request goes again once Retry-After is over, and not before.
    """
    for request in cycle(requests):
        retry = False
        while True:
            sent_at = perf_counter()
            if sent_at >= until:
                return
            answer = await connection.send(request)
            now = perf_counter()
            record.events.append(Event(sent_at, now - sent_at, answer.status, retry))
            if answer.status not in (429, 503):
                break
            try:
                wait_s = answer.wait_s()
            except ValueError:
                record.unreadable[answer.retry_after] += 1
                wait_s = 1
            record.waits[wait_s] += 1
            retry = True
            await asyncio.sleep(min(wait_s, max(0.0, until - now)))


async def send_steadily(
    connection: Connection, requests: Sequence[bytes], every_s: float, record: Record
) -> None:
    """Send a request every `every_s` seconds until cancelled; never repeat one."""
    due = perf_counter()
    for request in cycle(requests):
        await asyncio.sleep(max(0.0, due - perf_counter()))
        sent_at = perf_counter()
        answer = await connection.send(request)
        now = perf_counter()
        record.events.append(Event(sent_at, now - sent_at, answer.status, retry=False))
        due = max(due + every_s, now)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a limit was kept. Points, seconds.

    burst: what was taken before the first 429, less what the rate had added until then.
    accepted: points taken in the window, which begins with the first 429. retries: requests
    sent again after Retry-After; admitted: those of them that were then taken.
    """

    burst: float
    window_s: float
    accepted: int
    refusals: int
    retries: int
    admitted: int

    @property
    def points_per_s(self) -> float:
        """What was let in during the window."""
        return self.accepted / self.window_s


class NeverRefused(Exception):
    """The clients never reached the limit, so nothing can be said about it."""


def first_refusal(record: Record) -> float | None:
    """When the first request that got a 429 was sent: the burst is spent. None if none was.

    By the time of sending, not of the answer: a request is charged when it comes, and one
    that is taken is answered much later than one that is refused.
    """
    return min((event.sent_at for event in record.events if event.status == 429), default=None)


def judge(record: Record, *, began: float, rate: int, points: int, window_s: float) -> Verdict:
    """Read the verdict from the answers. points: those of one request. Raises NeverRefused."""
    spent_at = first_refusal(record)
    if spent_at is None:
        raise NeverRefused("not one 429: the clients are slower than the limit")
    before = sum(event.status == 204 for event in record.events if event.sent_at < spent_at)
    until = spent_at + window_s
    window = [event for event in record.events if spent_at <= event.sent_at < until]
    retries = [event for event in window if event.retry]
    return Verdict(
        burst=before * points - (spent_at - began) * rate,
        window_s=window_s,
        accepted=points * sum(event.status == 204 for event in window),
        refusals=sum(event.status == 429 for event in window),
        retries=len(retries),
        admitted=sum(event.status == 204 for event in retries),
    )
