"""One producer of kafka-python, and a deadline on every record it was given."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from adapters.kafka.client import errors
from schemas.log.protocols import Headers, LogUnavailable, RecordRefused

_log = logging.getLogger("stepclock.kafka")


@dataclass(frozen=True, slots=True)
class _InFlight:
    future: Future[int]
    deadline_s: float
    size_bytes: int


class KafkaLine:
    """Sends by one producer until that has failed once; then it is broken, for good.

    A failed record costs the producer because the library may never send again after it, and
    because the order of what follows would be in doubt. Safe to call from any thread.
    """

    def __init__(
        self,
        producer: Any,
        *,
        ack_deadline_s: float,
        max_in_flight_bytes: int,
        now: Callable[[], float],
    ) -> None:
        self._producer = producer
        self._ack_deadline_s = ack_deadline_s
        self._max_in_flight_bytes = max_in_flight_bytes
        self._now = now
        self._changed = threading.Condition()
        self._in_flight: dict[int, _InFlight] = {}  # in the order of their deadlines
        self._in_flight_bytes = 0
        self._sent = 0
        self._broken = False

    @property
    def broken(self) -> bool:
        """Whether every send fails from now on."""
        return self._broken

    def send(
        self,
        where: tuple[str, int],
        value: bytes,
        headers: Headers,
        size_bytes: int,
        future: Future[int],
    ) -> None:
        """Append one record to a topic's partition; the future says what came of it."""
        with self._changed:
            if self._broken:
                refusal = "Kafka is away"
            elif self._in_flight_bytes + size_bytes > self._max_in_flight_bytes:
                refusal = "too many bytes wait for Kafka's acknowledgement"
            else:
                refusal = ""
                self._sent += 1
                number = self._sent
                deadline_s = self._now() + self._ack_deadline_s
                self._in_flight[number] = _InFlight(future, deadline_s, size_bytes)
                self._in_flight_bytes += size_bytes
        if refusal:
            future.set_exception(LogUnavailable(refusal))
            return
        topic, partition = where
        try:
            acknowledgement = self._producer.send(
                topic, value=value, headers=list(headers), partition=partition
            )
        except (errors.KafkaError, ValueError) as exc:
            # ValueError: its metadata has lost the topic or the partition; a new producer asks.
            self._fail(number, exc)
        except BaseException:
            self._take(number)
            raise
        else:
            acknowledgement.add_callback(lambda found: self._settle(number, found.offset))
            acknowledgement.add_errback(lambda exc: self._fail(number, exc))

    def fail_overdue(self) -> None:
        """Fail the records whose deadline has passed."""
        now_s = self._now()
        overdue = []
        with self._changed:
            for number, sent in self._in_flight.items():
                if sent.deadline_s > now_s:
                    break
                overdue.append(number)
        for number in overdue:
            self._fail(number, errors.KafkaTimeoutError("the acknowledgement is overdue"))

    def wait_until_idle(self, timeout_s: float) -> None:
        """Wait up to timeout_s for every acknowledgement; no longer once it is broken."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight or self._broken, timeout_s)

    def end(self, reason: str) -> None:
        """Fail what is in flight and end the producer, without waiting for it."""
        with self._changed:
            self._broken = True
            numbers = list(self._in_flight)
        for number in numbers:
            sent = self._take(number)
            if sent is not None:
                sent.future.set_exception(LogUnavailable(reason))
        threading.Thread(target=self._end, name="kafka-producer-end", daemon=True).start()

    def _end(self) -> None:
        # close() waits for records in flight, and with some left it raises and leaves the
        # sender thread running. force_close drops them, and then close() has nothing to do.
        sender = self._producer._sender  # noqa: SLF001  there is no public way
        sender.force_close()
        sender.join(10.0)
        try:
            self._producer.close(timeout=1.0)
        except errors.KafkaError:
            _log.warning("a Kafka producer did not end in time", exc_info=True)

    def _settle(self, number: int, offset: int) -> None:
        sent = self._take(number)
        if sent is not None:
            sent.future.set_result(offset)

    def _fail(self, number: int, error: Exception) -> None:
        sent = self._take(number)
        if sent is None:
            return
        with self._changed:
            first = not self._broken
            self._broken = True
            self._changed.notify_all()
        if first:
            _log.warning("Kafka did not take a record, the producer must be replaced: %s", error)
        if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
            sent.future.set_exception(RecordRefused(f"Kafka: {error}"))
        else:
            sent.future.set_exception(LogUnavailable(f"Kafka: {error}"))

    def _take(self, number: int) -> _InFlight | None:
        """Whoever takes a record out settles its future: the broker, the deadline or end."""
        with self._changed:
            sent = self._in_flight.pop(number, None)
            if sent is not None:
                self._in_flight_bytes -= sent.size_bytes
                if not self._in_flight:
                    self._changed.notify_all()
        return sent
