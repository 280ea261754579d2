"""An event loop whose clock jumps to the next timer: hours of waiting take no time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

EPOCH_NS = 1_700_000_000 * 10**9


class VirtualLoop(asyncio.SelectorEventLoop):
    """Deterministic: what is ready runs in order, and threads are timers that run their work.

    `thread_s` says how long a piece of work in a thread takes. Whatever callbacks raise, and
    futures that are resolved twice, stand in `errors`.
    """

    def __init__(self, *, start_s: float, thread_s: Callable[[], float] = lambda: 0.0) -> None:
        self._now_s = start_s
        self._thread_s = thread_s
        self.errors: list[dict[str, object]] = []
        super().__init__()
        # A timer whose moment it is must be due, which rounding would deny a finer clock.
        self._clock_resolution = 1e-6
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self._now_s

    def time_ns(self) -> int:
        """Unix time."""
        return EPOCH_NS + int(self._now_s * 1e9)

    def run_in_executor(self, executor, func, *args):
        del executor
        done = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as exc:  # noqa: BLE001 - as an executor does
                if not done.done():
                    done.set_exception(exc)
            else:
                if not done.done():
                    done.set_result(result)

        self.call_later(self._thread_s(), work)
        return done

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(self._scheduled)._scheduled = False
        if not self._ready:
            assert self._scheduled, "nothing is ready and nothing will be: everybody waits"
            self._now_s = max(self._now_s, self._scheduled[0]._when)
        super()._run_once()

    def abandon(self) -> None:
        """The process is dead: nothing of it runs any more, not even what cleans up."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False
        self._ready.clear()
        self._scheduled.clear()
        self.close()
