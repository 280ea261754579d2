"""The bounded queue between a job and the thread that empties it."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from typing import Any, Callable

#: Seconds that all calls together wait for a drain that takes nothing, as on a disk that hangs.
PATIENCE_S = 5.0

_NAP_S = 0.002

#: What an item and each of its values take in memory, roughly, in bytes.
_ITEM_BYTES = 384
_VALUE_BYTES = 64
_LEAST_WIDTH = 16


class Buffer:
    """Items in order. Half full, it holds up whoever puts more, so that nothing is lost.

    Of a drain that takes nothing for PATIENCE_S of such waiting nobody expects anything until
    it does: then nobody waits, and a full buffer gives up the oldest, and knows how many rows.

    No lock is taken: `put` may be called by threads, and by signal handlers that interrupt
    another `put`. `take` and `wait` are for one thread.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._max_bytes = max_bytes
        self._now = now
        self._sleep = sleep
        self._patience_s = PATIENCE_S
        self._items: deque[tuple[int, int, Any]] = deque()
        self._append = self._items.append
        self._numbers = itertools.count(1)
        # Free while the drain has a reason to look. A bare lock may be released by anyone, in
        # the middle of anything; an Event, set by a handler that interrupts a set, waits for ever.
        self._reason = threading.Lock()
        self._reason.acquire()
        #: Rows that were put, up to the last one that was taken.
        self.put_rows = 0
        self._taken_rows = 0
        self._widest_taken = _LEAST_WIDTH
        self._widest = 0
        self._capacity = 0
        self._half = 0
        self._reckon_with(_LEAST_WIDTH)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Any, width: int, *, row: bool = False) -> None:
        """Append an item that holds `width` values. row: it counts as one."""
        if width > self._widest:
            self._reckon_with(width)
        if len(self._items) >= self._half:
            self._make_room()
        number = next(self._numbers) if row else 0
        self._append((number, width, item))

    def take(self, limit: int) -> list[Any]:
        """The oldest items, so many at most, and no more than a small part of the capacity."""
        self._patience_s = PATIENCE_S
        items = self._items
        taken = []
        widest = self._widest_taken
        for _ in range(min(limit, len(items), max(1, self._capacity // 32))):
            try:
                number, width, item = items.popleft()
            except IndexError:  # given up by a put meanwhile
                break
            # Threads may have appended in another order than that of the numbers.
            if number:
                self.put_rows = max(self.put_rows, number)
                self._taken_rows += 1
            widest = max(widest, width)
            taken.append(item)
        if items:
            self._widest_taken = widest
        else:  # none that is as wide as earlier ones waits any more
            self._widest_taken = _LEAST_WIDTH
            self._reckon_with(widest)
        return taken

    def wait(self, within_s: float) -> None:
        """Return in time, or at once when it is half full or somebody says `wake`."""
        self._reason.acquire(timeout=within_s)

    def wake(self) -> None:
        """Let `wait` return."""
        with contextlib.suppress(RuntimeError):  # it is free already
            self._reason.release()

    @property
    def dropped(self) -> int:
        """Rows that were given up; those that wait are not."""
        return max(0, self.put_rows - self._taken_rows)

    def _reckon_with(self, width: int) -> None:
        """Make room for as many items of so many values as the bytes allow."""
        self._widest = width
        self._capacity = max(16, self._max_bytes // (_ITEM_BYTES + _VALUE_BYTES * width))
        self._half = self._capacity // 2

    def _make_room(self) -> None:
        # Until there is room for many: few long waits leave more time to both than many short.
        enough = self._half - self._capacity // 16
        self.wake()
        while len(self._items) > enough and self._patience_s > 0:
            began = self._now()
            self._sleep(_NAP_S)
            self._patience_s -= self._now() - began
        if len(self._items) >= self._capacity:
            with contextlib.suppress(IndexError):  # emptied meanwhile
                self._items.popleft()
