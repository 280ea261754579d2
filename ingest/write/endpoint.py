"""A plain ASGI endpoint: runs a route's answer, turns errors into HTTP, counts and times."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from ingest import errors
from ingest.errors import Dialect, GatewayError, Internal
from ingest.http.body import ClientGone
from telemetry import metrics

_log = logging.getLogger("stepclock.gateway")

#: Status, headers, body.
Response = tuple[int, list[tuple[bytes, bytes]], bytes]


class Endpoint:
    """Whatever happens in `answer`, the client gets exactly one answer and it is counted.

    pace: waits for as long as a tenant rests before it hears of a refusal (`Judge.refuse`).
    """

    def __init__(
        self,
        route: str,
        dialect: Dialect,
        answer: Callable[[Scope, Receive], Awaitable[Response]],
        pace: Callable[[str, float], Awaitable[None]],
        *,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._route = route
        self._dialect = dialect
        self._answer = answer
        self._pace = pace
        self._now = now
        self._seconds = metrics.REQUEST_SECONDS.labels(route)
        self._answered = metrics.REQUESTS.labels(route, "204")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        started = self._now()
        try:
            status, headers, body = await self._answer(scope, receive)
        except GatewayError as exc:
            if exc.paced is not None:
                # The error holds on to where it was raised, and so to the body: that must not
                # wait with it.
                traceback.clear_frames(exc.__traceback__)
                await self._pace(exc.paced, exc.spent_s)
            status, headers, body = errors.response(exc, self._dialect, self._route)
        except ClientGone:
            metrics.REQUESTS.labels(self._route, "gone").inc()
            return
        except Exception:  # noqa: BLE001 - the border: the client gets an answer, the log the trace
            _log.exception("%s failed", self._route)
            fault = Internal("the gateway failed; send the same again later")
            status, headers, body = errors.response(fault, self._dialect, self._route)
        self._seconds.observe(self._now() - started)
        if status == 204:
            self._answered.inc()
        else:
            metrics.REQUESTS.labels(self._route, str(status)).inc()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
