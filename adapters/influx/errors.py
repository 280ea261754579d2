"""What InfluxDB's refusals and its client's errors mean (influxdb-client 1.50, InfluxDB 2.7)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from influxdb_client.rest import ApiException
from urllib3.exceptions import (
    HTTPError,
    LocationValueError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from schemas.store.protocols import (
    FieldConflict,
    LinesRefused,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    WriteTooLarge,
)

#: The server repeats every bad line in its message; this much of it is kept.
_MAX_MESSAGE_CHARS = 1000

#: Longest Retry-After that is believed; some send the time at which to come back.
_MAX_RETRY_AFTER_S = 3600.0

#: "partial write: … dropped=3": the last one, because names in the message are the client's.
_DROPPED = re.compile(r"dropped=([0-9]{1,9})")

#: A name that holds a quote is cut there; then no line fits, and the search is as long as ever.
_CONFLICT = re.compile(
    r'input field \\?"(.*?)\\?" on measurement \\?"(.*?)\\?" is type ([a-z]+), already exists'
)

_TLS_HINT = "; check STEPCLOCK_INFLUX_TLS_CA_FILE, and whether STEPCLOCK_INFLUX_URL is https"


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the client and urllib3 raise within the block into a StoreError."""
    try:
        yield
    except ApiException as exc:
        headers: Mapping[str, str] = exc.headers or {}
        message = exc.message if exc.status else exc.reason
        raise store_error(exc.status or 0, message, headers.get("Retry-After")) from exc
    except SSLError as exc:
        raise StoreUnavailable(f"InfluxDB did not answer: {exc}{_TLS_HINT}") from exc
    except LocationValueError as exc:
        raise StoreMisconfigured(f"the URL of InfluxDB can't be used: {exc}") from exc
    except (HTTPError, UnicodeDecodeError) as exc:
        # The client decodes a body before it looks at the status.
        # A refused connection or a timeout says nothing of the lines; one that is lost may.
        raise StoreUnavailable(
            f"InfluxDB did not answer: {exc}",
            may_be_the_lines=isinstance(exc, ProtocolError),
            late=isinstance(exc, ReadTimeoutError),
        ) from exc


def store_error(status: int, message: object, retry_after: str | None) -> StoreError:
    """The reaction to an answer other than 2xx, decided by its status alone.

    message: text of InfluxDB's; of something else's whatever JSON holds. Status 0 is the client's
    word for a failed TLS handshake.
    """
    if status == 0:
        return StoreUnavailable(f"InfluxDB did not answer: {message!s}{_TLS_HINT}")
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    text = text.encode(errors="replace").decode()  # JSON may hold what no UTF-8 does
    said = f"InfluxDB answered {status}: {text[:_MAX_MESSAGE_CHARS]}"
    if status == 400:
        return LinesRefused(said, stored_others=False)
    if status == 422:
        dropped = _DROPPED.findall(text)
        conflict = _CONFLICT.search(text)
        return LinesRefused(
            said,
            stored_others=True,
            dropped=int(dropped[-1]) if dropped else None,
            conflict=FieldConflict(conflict[2], conflict[1], conflict[3]) if conflict else None,
            outdated="outside retention policy" in text,
        )
    if status == 413:
        return WriteTooLarge(said)
    if status in (408, 429) or status >= 500:
        return StoreUnavailable(
            said,
            retry_after_s=_seconds(retry_after),
            may_be_the_lines=status in (500, 502),  # 502: a proxy's word for a lost connection
            late=status in (408, 504),
        )
    # 401, 403, 404, and what only something else than InfluxDB answers (3xx, 405, …).
    return StoreMisconfigured(said)


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; None without one, or for the form that is a date."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdecimal()):
        return None
    return min(float(retry_after), _MAX_RETRY_AFTER_S)
