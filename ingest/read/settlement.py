"""What became of acknowledged blocks: for thousands who wait, one look a second.

A block is settled once the workers have committed past it, and stored if no dead letter
names it. A gateway needs no memory of requests for that: receipts name their blocks, and
every gateway sees the same offsets and dead letters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ingest.errors import Unavailable
from schemas.log import dead_letter
from schemas.log.protocols import LogUnavailable, Progress, Record, TopicPartition, topic_of
from schemas.log.receipt import BlockPosition

_log = logging.getLogger("stepclock.gateway")

_Position = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class RejectedLines:
    """What one dead letter says of a block. lines: how many the letter holds."""

    tenant: str
    topic: str
    partition: int
    offset: int
    lines: int
    view: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """stored None: dead letters of that time were forgotten here (`DeadLetterIndex`)."""

    settled: bool
    stored: bool | None
    rejected: tuple[RejectedLines, ...]


class DeadLetterIndex:
    """Dead letters by the block that they come from; the oldest are forgotten beyond a bound."""

    def __init__(self, max_letters: int) -> None:
        self._max_letters = max_letters
        self._letters: OrderedDict[_Position, list[RejectedLines]] = OrderedDict()
        self._count = 0
        # (topic, partition) -> highest offset whose letters were forgotten
        self._forgotten: dict[tuple[str, int], int] = {}

    def add(self, letter: RejectedLines) -> None:
        """Keep a letter."""
        position = (letter.topic, letter.partition, letter.offset)
        self._letters.setdefault(position, []).append(letter)
        self._count += 1
        while self._count > self._max_letters:
            (topic, partition, offset), gone = self._letters.popitem(last=False)
            self._count -= len(gone)
            known = self._forgotten.get((topic, partition), -1)
            self._forgotten[topic, partition] = max(known, offset)

    def of(self, position: _Position) -> list[RejectedLines] | None:
        """The letters of a block; None where they may have been forgotten."""
        found = self._letters.get(position)
        if found is not None:
            return found
        topic, partition, offset = position
        return None if offset <= self._forgotten.get((topic, partition), -1) else []


class Settlement:
    """Answers who waits. Belongs to one event loop; looks in a thread, at most once at a time."""

    def __init__(
        self,
        progress: Progress,
        *,
        interval_s: float = 1.0,
        max_letters: int = 100_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._interval_s = interval_s
        self._now = now
        self._committed: Mapping[TopicPartition, int] = {}
        self._dead = DeadLetterIndex(max_letters)
        self._looked_at = float("-inf")
        self._look: asyncio.Task[None] | None = None
        self._stopping = False
        self._closing = False

    def begin_look(self) -> asyncio.Task[None]:
        """The look that is under way, or else a new one.

        The first one reads every dead letter that is kept, 100,000 in a second or two: begin it
        before anyone waits for it.
        """
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_once())
            self._look.add_done_callback(_retrieve)
        return self._look

    async def verdict(self, blocks: Sequence[BlockPosition], wait_s: float) -> Verdict:
        """What is known of the blocks once they are settled, or after wait_s seconds.

        Raises Unavailable if the log can't be asked.
        """
        deadline = self._now() + wait_s
        last: dict[TopicPartition, int] = {}
        for block in blocks:
            partition = TopicPartition(topic_of(block.retention_class), block.partition)
            last[partition] = max(block.offset, last.get(partition, 0))
        while not self._settled(last):
            left_s = 0.0 if self._stopping else deadline - self._now()
            if left_s <= 0 and self._now() - self._looked_at < self._interval_s:
                break  # what is known is fresh enough
            try:
                async with asyncio.timeout(left_s if left_s > 0 else self._interval_s):
                    # Shielded: one impatient client must not end the look of the others.
                    await asyncio.shield(self.begin_look())
            except TimeoutError:
                break
            except LogUnavailable as exc:
                raise Unavailable(f"the log can't be asked: {exc}", exc.retry_after_s) from exc
        return self._known(blocks, settled=self._settled(last))

    def stop_waiting(self) -> None:
        """The server ends: whoever waits is told what the look under way brings."""
        self._stopping = True

    async def close(self) -> None:
        """End the look that is under way, and the connections."""
        self._closing = True
        if self._look is not None:
            # Not cancelled: its thread would go on, beside the one that closes.
            await asyncio.gather(self._look, return_exceptions=True)
        await asyncio.to_thread(self._progress.close)

    def _settled(self, last: Mapping[TopicPartition, int]) -> bool:
        return all(offset < self._committed.get(p, 0) for p, offset in last.items())

    def _known(self, blocks: Sequence[BlockPosition], *, settled: bool) -> Verdict:
        forgotten = False
        rejected: list[RejectedLines] = []
        for block in blocks:
            letters = self._dead.of(
                (topic_of(block.retention_class), block.partition, block.offset)
            )
            if letters is None:
                forgotten = True
            else:
                rejected += letters
        stored = None if settled and forgotten and not rejected else settled and not rejected
        return Verdict(settled, stored, tuple(rejected))

    async def _look_once(self) -> None:
        rest_s = self._looked_at + self._interval_s - self._now()
        if rest_s > 0:
            await asyncio.sleep(rest_s)
        letters: list[RejectedLines] = []
        try:
            self._committed = await asyncio.to_thread(self._ask, letters)
        finally:
            self._looked_at = self._now()
            for letter in letters:
                self._dead.add(letter)

    def _ask(self, letters: list[RejectedLines]) -> Mapping[TopicPartition, int]:
        # In this order: see schemas.log.protocols.Progress.
        committed = self._progress.committed()
        for record in self._progress.appended():
            if self._closing:
                raise LogUnavailable("the server ends")
            try:
                letters.append(_rejected(record))
            except ValueError as exc:
                _log.warning("dead letter %d/%d: %s", record.partition, record.offset, exc)
                letters += _of_another_release(record)
        return committed


def _rejected(record: Record) -> RejectedLines:
    letter = dead_letter.decode(record)
    return RejectedLines(
        letter.tenant,
        letter.topic,
        letter.partition,
        letter.offset,
        letter.lines.count(b"\n") + 1,
        letter.view,
        letter.reason.value,
        letter.detail,
    )


def _of_another_release(record: Record) -> list[RejectedLines]:
    """What a letter that can't be read names, if it names a block: that one is not stored."""
    found = dict(record.headers)
    try:
        return [
            RejectedLines(
                found["tenant"].decode(),
                found["topic"].decode(),
                int(found["partition"]),
                int(found["offset"]),
                record.value.count(b"\n") + 1,
                found.get("view", b"wall").decode(errors="replace"),
                found.get("reason", b"unknown").decode(errors="replace"),
                "the dead letter is of another release",
            )
        ]
    except (KeyError, ValueError):
        return []


def _retrieve(look: asyncio.Task[None]) -> None:
    """Everyone who waited may have left; the next look tells again what was wrong."""
    if not look.cancelled():
        look.exception()
