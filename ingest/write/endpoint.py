"""A plain ASGI endpoint of a write route: turns errors into HTTP, counts and times."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from ingest import errors
from ingest.errors import GatewayError, Internal
from ingest.http.body import ClientGone
from ingest.write.pipeline import Decoder, WritePipeline
from telemetry import metrics

_log = logging.getLogger("stepclock.gateway")


class Endpoint:
    """Whatever happens in the pipeline, the client gets exactly one answer and it is counted."""

    def __init__(
        self,
        route: str,
        decoder: Decoder,
        pipeline: WritePipeline,
        *,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._route = route
        self._decoder = decoder
        self._pipeline = pipeline
        self._now = now
        self._seconds = metrics.REQUEST_SECONDS.labels(route)
        self._answered = metrics.REQUESTS.labels(route, "204")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        started = self._now()
        try:
            status, headers, body = await self._pipeline.write(self._decoder, scope, receive)
        except GatewayError as exc:
            if exc.paced is not None:
                _let_go(exc)
                await self._pipeline.pace(exc.paced, exc.spent_s)
            status, headers, body = errors.response(exc, self._decoder.dialect, self._route)
        except ClientGone:
            metrics.REQUESTS.labels(self._route, "gone").inc()
            return
        except Exception:  # noqa: BLE001 - the border: the client gets an answer, the log the trace
            _log.exception("%s failed", self._route)
            fault = Internal("the gateway failed; send the same again later")
            status, headers, body = errors.response(fault, self._decoder.dialect, self._route)
        self._seconds.observe(self._now() - started)
        if status == 204:
            self._answered.inc()
        else:
            metrics.REQUESTS.labels(self._route, str(status)).inc()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _let_go(error: BaseException | None) -> None:
    """Clear the frames of an error and its causes, which keep the body in memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
