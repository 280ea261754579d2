"""`serve` whose event loop is watched: ``python -m bench.isolation.ticking_serve``.

It is the same server with one more route and one more task, which wakes up each millisecond.
"""

from __future__ import annotations

import asyncio
from time import perf_counter, thread_time

from embedded import serve
from embedded.settings import ServeSettings
from ingest.app import Dependencies, Gateway, create_app
from ingest.settings import HttpSettings

TICK_S = 0.001


class Ticker:
    """How long the event loop has not come round, at worst, since it was last asked."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._stall_s = self._cpu_s = 0.0

    async def take(self) -> tuple[float, float]:
        """The longest stall since the last call, and the most CPU between two ticks, in seconds.

        CPU of the loop's own thread, which does not grow with what else the machine does. The
        first call begins to watch.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._tick())
        taken = self._stall_s, self._cpu_s
        self._stall_s = self._cpu_s = 0.0
        return taken

    async def _tick(self) -> None:
        before_s, cpu_before_s = perf_counter(), thread_time()
        while True:
            await asyncio.sleep(TICK_S)
            now_s, cpu_now_s = perf_counter(), thread_time()
            self._stall_s = max(self._stall_s, now_s - before_s - TICK_S)
            self._cpu_s = max(self._cpu_s, cpu_now_s - cpu_before_s)
            before_s, cpu_before_s = now_s, cpu_now_s


def _create_app(settings: HttpSettings, on: Dependencies) -> Gateway:
    app = create_app(settings, on)
    app.add_api_route("/stall", Ticker().take)
    return app


if __name__ == "__main__":
    serve.create_app = _create_app  # type: ignore[attr-defined]
    raise SystemExit(serve.run(ServeSettings()))
