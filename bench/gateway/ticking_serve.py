"""`stepclock-server serve` whose event loop is watched: ``python -m bench.gateway.ticking_serve``.

It is the same server with one more route and one more task, which wakes up each millisecond.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from fastapi import FastAPI

from embedded import serve
from embedded.settings import ServeSettings
from ingest.app import Dependencies, create_app
from ingest.settings import HttpSettings

TICK_S = 0.001


class Ticker:
    """How long the event loop has not come round, at worst, since it was last asked."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._longest_s = 0.0

    async def take(self) -> float:
        """The longest stall in seconds since the last call; the first call begins to watch."""
        if self._task is None:
            self._task = asyncio.create_task(self._tick())
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s

    async def _tick(self) -> None:
        before = perf_counter()
        while True:
            await asyncio.sleep(TICK_S)
            now = perf_counter()
            self._longest_s = max(self._longest_s, now - before - TICK_S)
            before = now


def _create_app(settings: HttpSettings, on: Dependencies) -> FastAPI:
    app = create_app(settings, on)
    app.add_api_route("/stall", Ticker().take)
    return app


if __name__ == "__main__":
    serve.create_app = _create_app  # type: ignore[attr-defined]
    raise SystemExit(serve.run(ServeSettings()))
