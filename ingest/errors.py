"""What a gateway answers when it does not take a request: one class for each reaction.

The class carries the decision (status, code, Retry-After, log level). `response` is the one
place where an error becomes HTTP; handlers raise and build no status by hand.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import ClassVar

from telemetry.audit import Sparing

_log = logging.getLogger("stepclock.gateway")

#: Each key and reason once a minute: whoever tries keys fills no disk.
_refusals = Sparing(60.0)


class GatewayError(Exception):
    """Root. `message` is for the client: what is wrong and what to change."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal error"
    log_level: ClassVar[int] = logging.ERROR

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = dict(headers or {})
        #: CPU seconds that it took to find, where that is much: its tenant rests for it.
        self.spent_s = 0.0
        #: The tenant that waits for this answer (`ValidationQueue.refuse`); None: it comes at once.
        self.paced: str | None = None

    def body(self) -> dict[str, object]:
        """Members of the answer beside code and message."""
        return {}


class BadRequest(GatewayError):
    """The request can't be read; sending it again does not help."""

    status = 400
    code = "invalid"
    log_level = logging.DEBUG


class InputRefused(BadRequest):
    """Lines or rows were refused; the others, if any, are durable already.

    members: of the answer, beside code and message.
    """

    def __init__(
        self, message: str, members: Mapping[str, object], receipt: str | None = None
    ) -> None:
        super().__init__(message, headers={} if receipt is None else {"Stepclock-Receipt": receipt})
        self._members = members

    def body(self) -> dict[str, object]:
        """Every refusal up to the limit, and how many there were."""
        return dict(self._members)


class AccessRefused(GatewayError):
    """Root of the two that the audit tells of: by whom, as far as that is known, and why."""

    log_level = logging.DEBUG

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        actor: str = "unknown",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, headers=headers)
        self.reason = reason
        self.actor = actor


class Unauthorized(AccessRefused):
    """No key, or none that is valid. actor: only a key whose id the keys file has."""

    status = 401
    code = "unauthorized"

    def __init__(self, message: str, *, reason: str, actor: str = "unknown") -> None:
        challenge = {"WWW-Authenticate": 'Bearer realm="stepclock"'}
        super().__init__(message, reason=reason, actor=actor, headers=challenge)


class Forbidden(AccessRefused):
    """The key is valid and may not do this."""

    status = 403
    code = "forbidden"


class NotFound(GatewayError):
    """No such retention class."""

    status = 404
    code = "not found"
    log_level = logging.DEBUG


class WrongMethod(GatewayError):
    """The route exists, and answers other methods."""

    status = 405
    code = "method not allowed"
    log_level = logging.DEBUG


class BodyTooLarge(GatewayError):
    """The body exceeds a limit, as sent or decompressed: send it in smaller parts."""

    status = 413
    code = "request too large"
    log_level = logging.DEBUG


class BodyStalled(GatewayError):
    """The body stopped coming; nothing was taken."""

    status = 408
    code = "request timeout"
    log_level = logging.DEBUG

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Connection": "close"})


class UnsupportedEncoding(GatewayError):
    """A Content-Encoding that we do not read."""

    status = 415
    code = "unsupported media type"
    log_level = logging.DEBUG


class RetryLater(GatewayError):
    """Root of the two that carry Retry-After in whole seconds (RFC 9110, 10.2.3)."""

    def __init__(
        self, message: str, retry_after_s: float, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, headers=headers)
        # Rounded up: whoever comes back then is let in. influxdb-client reads int only.
        self.retry_after_s = max(1, math.ceil(retry_after_s))
        self.headers["Retry-After"] = str(self.retry_after_s)


class RateLimited(RetryLater):
    """The tenant sent more points than its limit; nothing of the request was taken."""

    status = 429
    code = "too many requests"
    log_level = logging.DEBUG


class Unavailable(RetryLater):
    """The log is away or our buffers are full. Points may still land; repeating is harmless."""

    status = 503
    code = "unavailable"
    log_level = logging.DEBUG  # an outage is said once by the supervisor, and counted


class HeadersStalled(GatewayError):
    """The headers did not come in time; the connection ends."""

    status = 408
    code = "request timeout"
    log_level = logging.DEBUG


class TargetTooLong(GatewayError):
    """The request line is longer than is read; the connection ends."""

    status = 414
    code = "uri too long"
    log_level = logging.DEBUG


class HeadersTooLarge(GatewayError):
    """The headers are more, or larger, than are read; the connection ends."""

    status = 431
    code = "request header fields too large"
    log_level = logging.DEBUG


class TooManyConnections(RetryLater):
    """There are as many connections as there may be. The server says once that it is full."""

    status = 503
    code = "unavailable"
    log_level = logging.DEBUG


class Internal(GatewayError):
    """A fault of ours; what was acknowledged is safe."""


#: How an error is said to the clients of a way in: Content-Type and body of the answer.
#: instance: the path that was asked.
Dialect = Callable[[GatewayError, str], tuple[bytes, bytes]]


def influx(error: GatewayError, instance: str) -> tuple[bytes, bytes]:  # noqa: ARG001
    """As InfluxDB 2 says it: {code, message}."""
    document = {"code": error.code, "message": error.message, **error.body()}
    return b"application/json", json.dumps(document).encode()


def problem(error: GatewayError, instance: str) -> tuple[bytes, bytes]:
    """As RFC 9457 says it."""
    document = {
        "type": "about:blank",
        "title": error.code,
        "status": error.status,
        "detail": error.message,
        "instance": instance,
        **error.body(),
    }
    return b"application/problem+json", json.dumps(document).encode()


def response(
    error: GatewayError, dialect: Dialect, instance: str
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body that say the error in a dialect, logged once."""
    _log.log(error.log_level, "%s: %d %s", instance, error.status, error.message)
    if isinstance(error, AccessRefused):
        _refusals.record(
            "request",
            actor=error.actor,
            outcome="refused",
            status=error.status,
            reason=error.reason,
        )
    content_type, body = dialect(error, instance)
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    return error.status, headers, body
