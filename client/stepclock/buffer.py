"""The bounded queue between a job and the thread that empties it."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from typing import Any

#: What an item and each of its values take in memory, roughly, in bytes.
_ITEM_BYTES = 384
_VALUE_BYTES = 64


class Buffer:
    """Items in order; full, it gives up the oldest, and knows how many rows.

    No lock is taken: `put` may be called by threads, and by signal handlers that interrupt
    another `put`. `take` is for one thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: deque[tuple[int, Any]] = deque()
        self._append = self._items.append
        self._numbers = itertools.count(1)
        #: Rows that were put, up to the last one that was taken.
        self.put_rows = 0
        self._taken_rows = 0
        self._widest = 0
        self._capacity = 0
        self.widen(16)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Any, width: int, *, row: bool = False) -> None:
        """Append an item that holds `width` values. row: it counts as one."""
        if width > self._widest:
            self.widen(width)
        if len(self._items) >= self._capacity:
            with contextlib.suppress(IndexError):  # emptied meanwhile
                self._items.popleft()
        number = next(self._numbers) if row else 0
        self._append((number, item))

    def take(self) -> list[Any]:
        """All items that are there now."""
        items = self._items
        taken = []
        for _ in range(len(items)):
            try:
                number, item = items.popleft()
            except IndexError:  # given up by a put meanwhile
                break
            # Threads may have appended in another order than that of the numbers.
            if number:
                self.put_rows = max(self.put_rows, number)
                self._taken_rows += 1
            taken.append(item)
        return taken

    @property
    def dropped(self) -> int:
        """Rows that were given up; those that wait are not."""
        return max(0, self.put_rows - self._taken_rows)

    def widen(self, width: int) -> None:
        """Reckon with items of so many values."""
        self._widest = width
        self._capacity = max(16, self._max_bytes // (_ITEM_BYTES + _VALUE_BYTES * width))
