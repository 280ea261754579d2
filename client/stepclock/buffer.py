"""The bounded queue between a job and the thread that empties it."""

from __future__ import annotations

from collections import deque
from typing import Any

#: What a row and each of its values take in memory, roughly, in bytes.
_ROW_BYTES = 320
_VALUE_BYTES = 64


class Buffer:
    """Items in order; full, it gives up the oldest and counts them.

    No lock is taken: `put` may be called by threads and by signal handlers that interrupt
    another `put`.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: deque[Any] = deque()
        self._append = self._items.append
        self._widest = 0
        self._capacity = 0
        #: Items that were given up.
        self.dropped = 0
        self.widen(16)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Any, width: int) -> None:
        """Append an item that holds `width` values."""
        if width > self._widest:
            self.widen(width)
        if len(self._items) >= self._capacity:
            self._give_up_one()
        self._append(item)

    def take(self) -> list[Any]:
        """All items that are there now."""
        items = self._items
        taken = []
        for _ in range(len(items)):
            try:
                taken.append(items.popleft())
            except IndexError:  # given up by a put meanwhile
                break
        return taken

    def widen(self, width: int) -> None:
        """Reckon with items of so many values."""
        self._widest = width
        self._capacity = max(16, self._max_bytes // (_ROW_BYTES + _VALUE_BYTES * width))

    def _give_up_one(self) -> None:
        try:
            self._items.popleft()
        except IndexError:  # emptied meanwhile
            return
        self.dropped += 1
