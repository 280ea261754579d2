"""Keeping refused lines: dead letters are acknowledged before anything is committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import Protocol

from consumers.errors import DeadLettersUnwritable
from consumers.writing.isolate import Rejected
from schemas.canary import TENANT as CANARIES
from schemas.log.block import MAX_BLOCK_BYTES
from schemas.log.dead_letter import DeadLetter, encode_headers
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, Publisher, RecordRefused
from telemetry.metrics import DEAD_LETTERS, tenant_label

#: Bytes sent before their acknowledgements are awaited.
_WINDOW_BYTES = 2 * 1024 * 1024


class LetterKeeper(Protocol):
    """Where refused lines go before the records that hold them are settled."""

    def write(self, letters: Iterable[DeadLetter]) -> None:
        """Return once they are kept. Raises ConsumerStopped if they can't be."""
        ...


class DeadLetters:
    """Appends dead letters to their topic and waits until the log has them."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        timeout_s: float = 30.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = publisher
        self._timeout_s = timeout_s
        self._now = now

    def write(self, letters: Iterable[DeadLetter]) -> None:
        """Return once every letter is acknowledged. At least once: a crash may repeat some.

        Raises DeadLettersUnwritable; then nothing of what they name may be committed.
        """
        pending: list[Future[int]] = []
        sent_bytes = 0
        try:
            count = self._publisher.partition_count(DEAD_LETTER_TOPIC)
            for letter in letters:
                for part in _parts(letter):
                    pending.append(
                        self._publisher.send(
                            DEAD_LETTER_TOPIC,
                            letter.partition % count,
                            part.lines,
                            encode_headers(part),
                        )
                    )
                    sent_bytes += len(part.lines)
                    if sent_bytes >= _WINDOW_BYTES:
                        self._wait(pending)
                        pending, sent_bytes = [], 0
                lines = letter.lines.count(b"\n") + 1
                DEAD_LETTERS.labels(letter.reason.value, tenant_label(letter.tenant)).inc(lines)
            self._wait(pending)
        except (LogUnavailable, RecordRefused, FutureTimeout) as exc:
            raise DeadLettersUnwritable(
                f"cannot write to topic {DEAD_LETTER_TOPIC!r}: {str(exc) or 'no answer in time'}. "
                "Nothing was committed past the refused lines; check that the topic exists "
                "(provision makes it) and that the brokers take writes, then start again"
            ) from exc

    def _wait(self, pending: Iterable[Future[int]]) -> None:
        deadline = self._now() + self._timeout_s
        for future in pending:
            future.result(timeout=max(0.0, deadline - self._now()))


def letters_of(rejected: Iterable[Rejected]) -> Iterator[DeadLetter]:
    """One letter for all lines of one record that were rejected for the same reason in one view.

    None for canaries: nobody wants them back, and that they are missing is an alert.
    """
    groups: dict[tuple[int, str, str, str], list[Rejected]] = {}
    for one in rejected:
        if one.placed.block.tenant == CANARIES:
            continue
        key = (id(one.placed), one.view, one.reason.value, one.detail)
        groups.setdefault(key, []).append(one)
    for group in groups.values():
        first = group[0]
        block = first.placed.block
        yield DeadLetter(
            lines=b"\n".join(one.original for one in group),
            reason=first.reason,
            detail=first.detail,
            tenant=block.tenant,
            namespace=block.namespace,
            view=first.view,
            precision=block.precision.value,
            topic=first.placed.partition.topic,
            partition=first.placed.partition.partition,
            offset=first.placed.offset,
        )


def _parts(letter: DeadLetter) -> Iterator[DeadLetter]:
    """Letters no larger than a block, cut at the end of a line where there is one.

    Only a record that no gateway wrote can be larger. The parts joined are the original,
    newlines included.
    """
    lines = letter.lines
    while len(lines) > MAX_BLOCK_BYTES:
        cut = lines.rfind(b"\n", 0, MAX_BLOCK_BYTES) + 1 or MAX_BLOCK_BYTES
        yield replace(letter, lines=lines[:cut])
        lines = lines[cut:]
    yield replace(letter, lines=lines)
