"""Token buckets in Redis, shared by all gateways: the border to redis-py.

A charge is one call of one Lua script, which Redis runs alone, so no two gateways can take the
same points. Charges that come while an answer is awaited travel together in one pipeline.
The time is the server's: with the gateways' clocks a bucket would be refilled by whoever's
clock is ahead. Levels are whole millionths of a point and times whole microseconds, which a
Lua number (a double) holds exactly for bursts of up to 9 x 10^9 points.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from schemas.tenants.shared_buckets import Charged, SharedBucketsAway

_UNIT = 10**6  # millionths of a point; 1 µs at 1 point/s adds exactly one

#: Charges of one pipeline: Redis runs some 100 of them in a millisecond.
_MAX_TOGETHER = 128

_KEY = "stepclock:bucket:"

# points below 0 are a refund. A full bucket is no key at all; others go a minute after they
# would be full. The answer: whether the charge was taken, and the level behind it.
_SCRIPT = """
local rate, burst, points = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local full = burst * 1000000
local level, at = full, now
local state = redis.call('HMGET', KEYS[1], 'level', 'at', 'rate', 'burst')
if state[1] then
  level, at = tonumber(state[1]), tonumber(state[2])
  local was_full = tonumber(state[4]) * 1000000
  if now > at then
    level = math.min(level + (now - at) * tonumber(state[3]), was_full)
    at = now
  end
  level = level + full - was_full  -- under another limit, what was used stays used
end
local taken = 0
if points < 0 then
  level = math.min(level - points * 1000000, full)
elseif level >= math.min(points, burst) * 1000000 then
  level = level - points * 1000000
  taken = 1
end
if level >= full then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'level', level, 'at', at, 'rate', rate, 'burst', burst)
  redis.call('PEXPIRE', KEYS[1], math.ceil((full - level) / rate / 1000) + 60000)
end
return {taken, level}
"""


class _Call:
    """One run of the script. Made in the event loop that waits for its answer."""

    __slots__ = ("answer", "arguments", "key")

    def __init__(self, key: str, arguments: tuple[int | str, ...]) -> None:
        self.key = key
        self.arguments = arguments
        self.answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()


class RedisBuckets:
    """Implements `schemas.tenants.shared_buckets.SharedBuckets`.

    timeout_s: what one call may take in all, connecting included. now_us: instead of the
    server's time.
    """

    def __init__(
        self, url: str, *, timeout_s: float, now_us: Callable[[], int] | None = None
    ) -> None:
        self._timeout_s = timeout_s
        self._now_us = now_us
        self._redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # A second try would take as long again; the caller has another way to go on.
            retry=Retry(NoBackoff(), 0),
        )
        self._sha = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
        self._waiting: deque[_Call] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def charge(self, name: str, rate: int, burst: int, points: int) -> Charged:
        """Charge a bucket; see the protocol."""
        taken, level = await self._run(name, rate, burst, points)
        needed = min(points, burst) * _UNIT
        return Charged(
            wait_s=0.0 if taken else _wait_s(needed - level, rate),
            debt_s=0.0 if level >= _UNIT else _wait_s(_UNIT - level, rate),
            remaining=max(0, level // _UNIT),
        )

    async def refund(self, name: str, rate: int, burst: int, points: int) -> None:
        """Give points back; see the protocol."""
        if points:
            await self._run(name, rate, burst, -points)

    async def ping(self) -> None:
        """Ask whether the server answers; see the protocol."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._redis.ping()
        except (RedisError, OSError, TimeoutError) as exc:
            raise _away(exc) from exc

    async def close(self) -> None:
        """Close the connections."""
        if self._sending is not None:
            self._sending.cancel()
        await self._redis.aclose()

    async def _run(self, name: str, rate: int, burst: int, points: int) -> tuple[int, int]:
        now = "" if self._now_us is None else self._now_us()
        call = _Call(_KEY + name, (rate, burst, points, now))
        self._waiting.append(call)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call.answer
        except (RedisError, OSError, TimeoutError) as exc:
            raise _away(exc) from exc

    async def _send(self) -> None:
        """Send what waits, together, until nothing waits any more."""
        while self._waiting:
            group: list[_Call] = []
            while self._waiting and len(group) < _MAX_TOGETHER:
                call = self._waiting.popleft()
                if not call.answer.done():  # else nobody waits for it any more
                    group.append(call)
            try:
                answers = await self._execute(group)
                if any(isinstance(answer, NoScriptError) for answer in answers):
                    await self._redis.script_load(_SCRIPT)  # none of them ran
                    answers = await self._execute(group)
            except (RedisError, OSError) as exc:
                answers = [exc] * len(group)
            for call, answer in zip(group, answers, strict=True):
                if call.answer.done():
                    continue
                if isinstance(answer, Exception):
                    call.answer.set_exception(answer)
                else:
                    call.answer.set_result(answer)

    async def _execute(self, group: Sequence[_Call]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for call in group:
                pipeline.evalsha(self._sha, 1, call.key, *call.arguments)
            return await pipeline.execute(raise_on_error=False)


def _away(exc: Exception) -> SharedBucketsAway:
    # Never the URL: it may hold a password.
    return SharedBucketsAway(str(exc) or "no answer in time")


def _wait_s(missing: int, rate: int) -> float:
    return -(-missing // rate) / 1e6  # rounded up
