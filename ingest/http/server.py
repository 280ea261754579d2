"""Running the application: the socket, uvicorn, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from fastapi import FastAPI

from ingest.http import memory
from ingest.http.bounds import ConnectionBounds
from ingest.http.protocol import BoundedHttpProtocol
from ingest.http.tls import TlsListener
from telemetry import metrics
from telemetry.probe_server import write_address

_log = logging.getLogger("stepclock.gateway")


class CannotListen(OSError):
    """The address can't be had; the message says what to change."""


class HttpServer(uvicorn.Server):
    """uvicorn that tells when it listens, and ends without raising the signal again."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[HttpServer], None],
        bounds: ConnectionBounds,
        on_stopping: Callable[[], None] = lambda: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_stopping = on_stopping
        self._bounds = bounds
        self._tls = tls
        self._full = False
        self.stopped_by: signal.Signals | None = None
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        if self._tls is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            self.servers += [self._tls_listener(listener) for listener in sockets or []]
        if self.started:
            self._on_started(self)

    def _tls_listener(self, listener: socket.socket) -> asyncio.Server:
        def protocol() -> asyncio.Protocol:
            return self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )

        assert self._tls is not None
        connections = self.server_state.connections
        made = TlsListener(listener, self._tls, protocol, connections, self._bounds, self._fail)
        return cast("asyncio.Server", made)  # uvicorn closes it and waits for that, no more

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and let nobody wait longer than for an answer."""
        self._on_stopping()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Each second, end the connections whose clients have had their time."""
        if counter % 10 == 0:
            connections = list(self.server_state.connections)
            metrics.CONNECTIONS.set(len(connections))
            self._tell_if_full(len(connections))
            now = time.monotonic()
            for connection in connections:
                if isinstance(connection, BoundedHttpProtocol):
                    connection.expire(now)
        return await super().on_tick(counter)

    def _tell_if_full(self, connections: int) -> None:
        full = connections >= self._bounds.max_connections
        if full and not self._full:
            _log.warning("%d connections are open: new ones get 503", connections)
        elif self._full and not full:
            _log.info("there is room for connections again")
        self._full = full

    def _fail(self) -> None:
        self.failed = True
        self.stop()

    def stop(self) -> None:
        """Stop taking connections and drain. Safe to call from any thread."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop taking connections and drain; a second SIGINT ends at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        if self.should_exit and number is signal.SIGINT:
            self.force_exit = True
        self.stopped_by = number
        self.stop()


def run_http(
    app: FastAPI,
    host: str,
    port: int,
    *,
    address_file: Path | None,
    drain_s: float,
    bounds: ConnectionBounds,
    tls: ssl.SSLContext | None = None,
    on_started: Callable[[HttpServer], None] = lambda _: None,
) -> int:
    """Serve until SIGTERM (0) or SIGINT (130); 1 if the application did not start.

    With tls the server speaks https only. on_started gets the server once it listens, to stop
    it from another thread by `stop`. Raises CannotListen if the address can't be had.
    """
    bounds = bounds.within_file_limit()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        raise CannotListen(
            f"can't listen on {host} port {port}: {exc.strerror or exc}; "
            "choose another with --port (STEPCLOCK_PORT), 0 takes a free one"
        ) from exc
    with listener:
        scheme = "http" if tls is None else "https"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=cast("type[asyncio.Protocol]", partial(BoundedHttpProtocol, bounds=bounds)),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(drain_s) + 1,
        )

        def started(server: HttpServer) -> None:
            memory.settle()
            _log.info("listening on %s", url)
            if address_file is not None:
                write_address(address_file, url)
            on_started(server)

        server = HttpServer(config, started, bounds, app.state.settlement.stop_waiting, tls)
        server.run(sockets=[listener])
    if not server.started or server.failed or app.state.lifecycle.failed:
        return 1  # the log says why
    return 130 if server.stopped_by is signal.SIGINT else 0
