"""Sends rows to the gateway with the standard library only, as any training job could."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo import rows
from demo.rows import Row

_ROUTE = "/api/v1/metrics"
_TIMEOUT_S = 10.0
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 2.0

#: Answers after which the same rows may be taken later.
_PASSING = frozenset({429, 500, 502, 503, 504})


class SendingFailed(Exception):
    """The gateway will never take our rows (wrong key, wrong address), or not in time."""


@dataclass(slots=True)
class Totals:
    """What became of the rows so far. Written by the sender's thread, read by anyone."""

    accepted: int = 0
    rejected: int = 0
    requests: int = 0
    limited: int = 0  # answers 429
    limited_s: float = 0.0  # time waited because of them
    retried: int = 0  # requests sent again after a 5xx answer or a lost connection
    last_fault: str | None = None  # what the last such answer said
    first_rejection: str | None = None


class Sender:
    """A queue and a thread that empties it: what came within `batch_age_s` is one request.

    Every row is in the ledger file before it is first sent. A batch is sent until the gateway
    answers for it: a 429 is waited out as told, after a 5xx or a lost connection the same rows
    go again (their times are fixed, so they can't be stored twice). The queue is bounded; when
    it is full, `log` waits.
    """

    def __init__(
        self,
        url: str,
        key: str,
        ledger: Path,
        *,
        batch_age_s: float = 0.1,
        max_batch_rows: int = 50,
        max_queued_rows: int = 20_000,
        give_up_after_s: float = 90.0,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """give_up_after_s bounds the tries for one batch, waits included."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise SendingFailed(f"{url!r} is not an address of the form http://host:port")
        self.totals = Totals()
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=_TIMEOUT_S
        )
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._ledger = ledger.open("ab")
        self._batch_age_s = batch_age_s
        self._max_batch_rows = max_batch_rows
        self._give_up_after_s = give_up_after_s
        self._now = now
        self._sleep = sleep
        self._queue: queue.Queue[Row | None] = queue.Queue(max_queued_rows)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def log(self, row: Row) -> None:
        """Hand over one row. Raises SendingFailed once the sender has given up."""
        self._put(row)

    def finish(self) -> None:
        """Say that no more rows will come. Raises SendingFailed."""
        self._put(None)

    def wait(self, timeout_s: float) -> bool:
        """After `finish`: whether every row is answered for, waiting for it up to timeout_s.

        Raises SendingFailed.
        """
        self._thread.join(timeout_s)
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def _put(self, row: Row | None) -> None:
        while self._failure is None:
            try:
                self._queue.put(row, timeout=1.0)
            except queue.Full:
                continue
            return
        raise self._failure

    def _run(self) -> None:
        try:
            with self._ledger, contextlib.closing(self._connection):
                while batch := self._next_batch():
                    encoded = [row.encode() for row in batch]
                    rows.append(self._ledger, encoded)
                    self._deliver(b'{"rows":[' + b",".join(encoded) + b"]}", len(encoded))
        except Exception as exc:  # noqa: BLE001 -- raised again in the thread that owns us
            self._failure = exc

    def _next_batch(self) -> list[Row]:
        """The rows of the next request; none at the end."""
        first = self._queue.get()
        if first is None:
            return []
        batch = [first]
        deadline = self._now() + self._batch_age_s
        while len(batch) < self._max_batch_rows:
            try:
                row = self._queue.get(timeout=max(0.0, deadline - self._now()))
            except queue.Empty:
                break
            if row is None:
                self._queue.put(None)  # the end, to be met by the next call
                break
            batch.append(row)
        return batch

    def _deliver(self, body: bytes, row_count: int) -> None:
        """Send one batch until it is answered for. Raises SendingFailed."""
        deadline = self._now() + self._give_up_after_s
        backoff_s = _FIRST_BACKOFF_S
        while True:
            status, retry_after_s, answer = self._post(body)
            if status == 202:
                self._count(json.loads(answer))
                return
            if status not in _PASSING and status != 0:
                if status != 400:
                    raise SendingFailed(f"the gateway answered {status}: {_text(answer)}")
                self.totals.rejected += row_count
                self.totals.first_rejection = self.totals.first_rejection or _text(answer)
                return
            wait_s = backoff_s if retry_after_s is None else retry_after_s
            if self._now() + wait_s > deadline:
                raise SendingFailed(
                    f"no answer for a batch in {self._give_up_after_s:g} s, "
                    f"the last was {_fault(status, answer)}"
                )
            if status == 429:
                self.totals.limited += 1
                self.totals.limited_s += wait_s
            else:
                self.totals.retried += 1
                self.totals.last_fault = _fault(status, answer)
                backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
            self._sleep(wait_s)

    def _post(self, body: bytes) -> tuple[int, float | None, bytes]:
        """Status (0: the connection was lost), Retry-After in seconds, and body of the answer."""
        self.totals.requests += 1
        try:
            self._connection.request("POST", _ROUTE, body, self._headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as exc:
            self._connection.close()  # the next request opens a new one
            return 0, None, repr(exc).encode()
        return response.status, _seconds(response.headers.get("Retry-After")), answer

    def _count(self, answer: dict[str, object]) -> None:
        """Add up a 202: `accepted` rows, and `rejected` fields of rows by index."""
        accepted, rejected = answer["accepted"], answer["rejected"]
        if not isinstance(accepted, int) or not isinstance(rejected, list):
            raise SendingFailed(f"unexpected answer {answer!r:.200}")
        self.totals.accepted += accepted
        self.totals.rejected += len({entry["index"] for entry in rejected})
        if rejected and self.totals.first_rejection is None:
            self.totals.first_rejection = str(rejected[0])


def _fault(status: int, answer: bytes) -> str:
    return f"{status or 'a lost connection'}: {_text(answer)}"


def _text(answer: bytes) -> str:
    return answer.decode(errors="replace")[:300]


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; None for none, and for a date, which only foreign proxies send."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
