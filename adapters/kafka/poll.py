"""Runs a consumer's poll so that its rebalance callbacks reach the thread that asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from enum import Enum, auto
from queue import SimpleQueue
from typing import Any

from adapters.kafka.client import LibraryFuture, LibraryListener


class PartitionChange(Enum):
    """What a rebalance did to partitions."""

    ASSIGNED = auto()
    REVOKED = auto()
    LOST = auto()


def forget_used_up(consumer: Any) -> None:
    """Do before each poll of a consumer whose partitions are paused and resumed.

    What was fetched of a partition before it was paused comes back, once it is resumed, where no
    other partition's records are in line. The library leaves those that are used up standing
    there, and then the resumed partition would give nothing for ever.
    """
    fetcher = consumer._fetcher  # noqa: SLF001  there is no public way
    if not fetcher._next_partition_records:  # noqa: SLF001
        fetcher._next_partition_records = None  # noqa: SLF001


class PollThread:
    """A thread that polls on demand, beside the one that asked and serves the callbacks.

    The library's network thread goes on meanwhile: it waits for a callback as a coroutine, so
    that heartbeats are sent and a commit from within the callback is answered.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._asked: SimpleQueue[int | None] = SimpleQueue()
        self._answers: SimpleQueue[_Handover | _Result] = SimpleQueue()
        #: What the consumer must subscribe with.
        self.listener = _Listener(self._answers.put)
        # A daemon: whatever the library waits for, it must not keep the process alive.
        threading.Thread(target=self._run, name="kafka-poll", daemon=True).start()

    def poll(
        self, timeout_s: float, on_change: Callable[[PartitionChange, Collection[Any]], None]
    ) -> dict[Any, list[Any]]:
        """The consumer's poll, on_change called on this thread. Raises what either raises."""
        self._asked.put(int(timeout_s * 1000))
        failure: BaseException | None = None
        while True:
            answer = self._answers.get()
            if isinstance(answer, _Result):
                break
            try:
                on_change(answer.change, answer.partitions)
            except Exception as exc:  # noqa: BLE001  raised below, once the library has returned
                failure = failure or exc
            finally:
                self._go_on(answer)
        if failure is not None:
            raise failure
        if answer.error is not None:
            raise answer.error
        return answer.records

    def close(self) -> None:
        """End the thread after the poll it is in; later callbacks are not handed over."""
        self.listener.closed = True
        self._asked.put(None)

    def _run(self) -> None:
        coordinator = self._consumer._coordinator  # noqa: SLF001  there is no public way
        while (timeout_ms := self._asked.get()) is not None:
            # A poll whose time is up leaves a join in flight for the next one to finish. Where
            # new metadata was the reason to join, the library has forgotten it by then, waits
            # for the join no more, and sends no heartbeats: out of the group for good.
            if coordinator.rebalance_in_progress():
                coordinator.request_rejoin()
            forget_used_up(self._consumer)
            try:
                self._answers.put(_Result(self._consumer.poll(timeout_ms=timeout_ms), None))
            except BaseException as exc:  # noqa: BLE001  raised on the thread that asked
                self._answers.put(_Result({}, exc))

    def _go_on(self, handover: _Handover) -> None:
        # A future of the library wakes its loop only from the loop's own thread.
        self._consumer._net.call_soon_threadsafe(  # noqa: SLF001  there is no public way
            lambda: handover.served.success(None)
        )


class _Result:
    def __init__(self, records: dict[Any, list[Any]], error: BaseException | None) -> None:
        self.records = records
        self.error = error


class _Handover:
    def __init__(self, change: PartitionChange, partitions: Collection[Any]) -> None:
        self.change = change
        self.partitions = partitions
        self.served = LibraryFuture()


class _Listener(LibraryListener):  # type: ignore[misc]  # the library has no types
    """Waits, as a coroutine on the network thread, for the caller to have served a callback."""

    def __init__(self, hand_over: Callable[[_Handover], None]) -> None:
        self._hand_over = hand_over
        self.closed = False

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        await self._serve(PartitionChange.ASSIGNED, assigned)

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        await self._serve(PartitionChange.REVOKED, revoked)

    async def on_partitions_lost(self, lost: Collection[Any]) -> None:
        await self._serve(PartitionChange.LOST, lost)

    async def _serve(self, change: PartitionChange, partitions: Collection[Any]) -> None:
        if partitions and not self.closed:
            handover = _Handover(change, partitions)
            self._hand_over(handover)
            await handover.served
