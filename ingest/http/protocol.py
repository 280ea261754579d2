"""HTTP/1.1 within bounds: what a connection may send before anybody knows who it is.

uvicorn's own protocol bounds neither the size nor the number of headers, nor the time that
they take, nor how many requests are sent ahead of their answers, nor how many connections
there are. No timer is set for any of it: `expire` is called once a second for each connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from ingest import errors
from ingest.errors import (
    BadRequest,
    GatewayError,
    HeadersStalled,
    HeadersTooLarge,
    Internal,
    TargetTooLong,
    TooManyConnections,
)
from ingest.http.bounds import REFUSED_POLITELY, ConnectionBounds
from telemetry import metrics

_log = logging.getLogger("stepclock.gateway")

#: Seconds that a client gets to read the last answer while what it still sends is discarded.
#: Closed at once, with bytes unread, the connection would be reset and the answer lost.
_LINGER_S = 2.0

#: Requests that may wait on a connection for the answers of earlier ones.
_MAX_PIPELINED = 16


class _Reading(Enum):
    """What the next byte belongs to."""

    NOTHING_YET = 0  # between two requests
    HEAD = 1
    BODY = 2


# Asked for with each header: a global is found faster than a member of an Enum.
_NOTHING_YET, _HEAD, _BODY = _Reading


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. An error of the protocol is answered in InfluxDB's shape, and ends it.

    An answer never overtakes that of an earlier request on the same connection: where one is
    still due, it is the last, and the faulty request gets none.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: ConnectionBounds,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = bounds
        self._now = now
        self._reading = _NOTHING_YET
        # What comes is discarded; the answers that are due are still given.
        self._deaf = False
        self._lingering = False
        # When the last bytes came, how many they were, and how many since a request began,
        # counted in whole reads.
        self._read_at = now()
        self._read_bytes = 0
        self._request_bytes = 0
        # Bytes since the parser last reported a request's start, its headers or some body: a
        # header that does not end, a trailer, line ends before a request.
        self._stuck_bytes = 0
        self._progress = 0
        self._due = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or tell the client that there are too many."""
        super().connection_made(transport)
        self._due = self._read_at + self._bounds.header_timeout_s
        excess = len(self.connections) - self._bounds.max_connections
        if excess > REFUSED_POLITELY:
            transport.abort()
        elif excess > 0:
            self._refuse(
                TooManyConnections("the gateway has as many connections as it may; come back", 5)
            )

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the connection has been given up."""
        if self._deaf:
            return
        self._read_at = self._now()
        self._read_bytes = len(data)
        self._request_bytes += len(data)
        progress = self._progress
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # The offset is that of the body, which the parser takes for the other protocol.
            self._parse_again(data[exc.args[0] :])
            return
        except httptools.HttpParserError as exc:
            self._refuse(_meaning(exc))
            return
        if self._progress != progress:
            self._stuck_bytes = 0
            return
        self._stuck_bytes += len(data)
        if self._stuck_bytes > self._bounds.max_header_bytes:
            self._refuse(self._headers_too_large())

    def on_message_begin(self) -> None:
        """A request begins: its headers must be here in time."""
        super().on_message_begin()
        self._progress += 1
        self._request_bytes = self._read_bytes
        self._reading = _HEAD
        self._due = self._read_at + self._bounds.header_timeout_s

    def on_url(self, url: bytes) -> None:
        """Gather the target. Raises TargetTooLong."""
        self.url += url
        if len(self.url) > self._bounds.max_request_line_bytes:
            raise TargetTooLong(
                f"the request line is over {self._bounds.max_request_line_bytes} bytes; "
                "send the key as a header and data in the body"
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """Gather a header; trailers are left out (RFC 9110, 6.5.1)."""
        if self._reading is not _HEAD:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the request, or put it behind the earlier ones. Raises GatewayError."""
        bounds = self._bounds
        if len(self.headers) > bounds.max_headers or (
            self._request_bytes > bounds.max_header_bytes
            and sum(len(n) + len(v) for n, v in self.headers) > bounds.max_header_bytes
        ):
            raise self._headers_too_large()
        if not self.url.isascii() or not self.url.startswith((b"/", b"http")):
            raise BadRequest("the request's target must be a path in ASCII that begins with /")
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise BadRequest(f"over {_MAX_PIPELINED} requests wait for earlier answers")
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise BadRequest("this is no proxy")
            return
        super().on_headers_complete()
        self._progress += 1
        self._reading = _BODY
        self._due = self._read_at + bounds.body_timeout_s
        if not self.cycle.keep_alive:
            self.cycle.transport = _LastAnswer(self)

    def on_body(self, body: bytes) -> None:
        """Hand over a part of the body; after an early answer it only goes by, for a while."""
        self._progress += 1
        if not self.cycle.response_complete:
            self._due = self._read_at + self._bounds.body_timeout_s
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here; what takes time now is the answer."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._progress += 1
        self._reading = _NOTHING_YET
        if self.cycle.response_complete:
            self._due = self._read_at + self._bounds.keep_alive_s
        elif self.flow.write_paused:
            self._due = self._read_at + self._bounds.body_timeout_s
        else:
            self._due = math.inf

    def _parse_again(self, rest: bytes) -> None:
        """Read a request that asks for an upgrade as the plain one that it is (RFC 9110, 7.8).

        The parser would leave its body out, and an empty body would be acknowledged: Java's
        HttpClient and ``curl --http2`` ask for h2c with every POST.
        """
        head = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = (token.strip().lower() for token in value.split(b","))
                head.append(b"connection: " + b",".join(t for t in tokens if t != b"upgrade"))
            elif name != b"upgrade":
                head.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join([*head, b"", rest]))

    def on_response_complete(self) -> None:
        """Go on with the next request that waits, if the connection does."""
        self.server_state.total_requests += 1
        if self._lingering:
            return
        now = self._now()
        if self.transport.is_closing():
            self._due = now + self._bounds.body_timeout_s
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._reading is _BODY:
            self._due = now + self._bounds.body_timeout_s
        elif self._reading is _NOTHING_YET:
            self._due = now + self._bounds.keep_alive_s

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        super().pause_writing()
        self._due = self._now() + self._bounds.body_timeout_s

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._reading is not _NOTHING_YET or self._lingering:
            return
        if self.transport.is_closing():
            self._due = self._now() + self._bounds.body_timeout_s
        elif self.cycle is None or self.cycle.response_complete:
            self._due = self._now() + self._bounds.keep_alive_s
        else:
            self._due = math.inf

    def shutdown(self) -> None:
        """The server ends: nobody calls `expire` any more."""
        if self._lingering:
            self.transport.close()
        else:
            super().shutdown()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whoever has said everything may still read: the answer that is due is its last."""
        nothing_due = self.cycle is None or self.cycle.response_complete
        if nothing_due or self._reading is not _NOTHING_YET or self.scheme == "https":
            return False  # with TLS, asyncio ends both directions at once
        self._end_with(self.cycle)
        return True

    def expire(self, now: float) -> None:
        """End the connection if its client has had its time."""
        if now < self._due:
            return
        self._due = now + _LINGER_S
        if self.transport.is_closing() or self.flow.write_paused:
            self.transport.abort()
        elif self.flow.read_paused and not self._deaf:
            self._due = now + self._bounds.body_timeout_s  # it is we who do not read
        elif self._reading is _HEAD and not self._deaf:
            self._refuse(
                HeadersStalled(f"no whole headers within {self._bounds.header_timeout_s:g} s")
            )
        else:
            self.transport.close()

    def linger(self) -> None:
        """Close once the client has seen the last answer, which has been written."""
        if self.transport.is_closing() or self._lingering:
            return
        if self._reading is _NOTHING_YET and not self._deaf:
            self.transport.close()
            return
        self._deaf = self._lingering = True
        self._due = self._now() + _LINGER_S
        self.pipeline.clear()
        self.flow.resume_reading()
        if self.transport.can_write_eof():  # TLS has no half-closed connection
            self.transport.write_eof()

    def _refuse(self, error: GatewayError) -> None:
        """Answer the request that is being read, and end the connection."""
        self._deaf = True
        if self.cycle is not None and not self.cycle.response_complete:
            if self._reading is not _BODY:
                self._end_with(self.cycle)
                return
            if self.pipeline:
                self.transport.close()  # an earlier answer is due, and this request is queued
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        status, headers, body = errors.response(error, errors.influx, "connection")
        metrics.REQUESTS.labels("connection", str(status)).inc()
        headers = [*self.server_state.default_headers, *headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))
        self.linger()

    def _end_with(self, cycle: RequestResponseCycle) -> None:
        """Let this answer be the connection's last."""
        self._deaf = True
        self._due = math.inf
        cycle.keep_alive = False
        cycle.transport = _LastAnswer(self)

    def _headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"at most {self._bounds.max_headers} headers and {self._bounds.max_header_bytes} "
            "bytes of them are read"
        )


class _LastAnswer(asyncio.Transport):
    """A connection's transport for its last answer: closing it lingers."""

    def __init__(self, protocol: BoundedHttpProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        self._protocol.linger()


def _meaning(error: httptools.HttpParserError) -> GatewayError:
    """What to answer to an error of the parser or of our callbacks."""
    if not isinstance(error, httptools.HttpParserCallbackError):
        return BadRequest(f"this is not an HTTP/1.1 request: {error}")
    cause = error.__context__
    if isinstance(cause, GatewayError):
        return cause
    if isinstance(cause, httptools.HttpParserInvalidURLError):
        return BadRequest("the request's target can't be read")
    _log.error("reading a request failed", exc_info=cause)
    return Internal("the gateway failed; send the same again later")
