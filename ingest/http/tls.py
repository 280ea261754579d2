"""TLS on the gateway's own port, within the same bounds as what is spoken inside it.

The event loop's own server neither counts connections whose handshake goes on nor lets us say
how long it may take, so connections are accepted here, one by one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Collection

from ingest.http.bounds import REFUSED_POLITELY, ConnectionBounds
from telemetry import metrics

_log = logging.getLogger("stepclock.gateway")

#: Seconds until the next try where no connection could be accepted.
_REST_S = 1.0


class TlsListener:
    """Accepts connections, and makes a protocol for each that has agreed on TLS in time.

    listener: a socket that listens. connections: those that have their protocol. In their
    handshake there may be as many as connections are missing from the bound, and those that
    would be told that there are too many; beyond that they are dropped without a word.
    on_failure: called once nothing can be accepted any more.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.Protocol],
        connections: Collection[object],
        bounds: ConnectionBounds,
        on_failure: Callable[[], None],
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._context = context
        self._make_protocol = make_protocol
        self._connections = connections
        self._bounds = bounds
        self._handshakes: set[asyncio.Task[None]] = set()
        self._on_failure = on_failure
        self._accepting = asyncio.create_task(self._accept())
        self._accepting.add_done_callback(self._ended)

    def close(self) -> None:
        """Accept no more; who has not agreed on TLS yet has not asked for anything either."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """Return once nothing is accepted any more."""
        await asyncio.gather(self._accepting, *self._handshakes, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("no more connections are accepted, the process ends", exc_info=error)
            self._on_failure()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        most = self._bounds.max_connections + REFUSED_POLITELY
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as exc:  # such as no more open files
                _log.error("no connection can be accepted: %s", exc)
                await asyncio.sleep(_REST_S)
                continue
            if len(self._connections) + len(self._handshakes) >= most:
                connection.close()
                continue
            task = loop.create_task(self._shake_hands(connection))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._bounds.header_timeout_s,
            )
        except OSError as exc:  # no TLS, none that we speak, too slow, or gone
            _log.debug("a TLS handshake failed: %s", exc)
            metrics.REQUESTS.labels("connection", "tls").inc()
