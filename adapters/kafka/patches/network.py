"""kafka-python's network below its clients, mended where it held or hid something.

It left sockets open that could not connect, waited for ever for a TLS handshake, threw away
what came together with the end of a connection, and did not say why it could not connect. A
producer spun on a busy connection, and each of its requests cost more rounds of its loop, and
more system calls, than it needed: each lets the interpreter lock go, and waits to get it back
(`bench/profiles/publisher.txt`).
"""

from __future__ import annotations

import time
import warnings
from socket import socket
from ssl import SSLWantReadError, SSLWantWriteError
from typing import Any

with warnings.catch_warnings():
    # kafka-python reads its version through a deprecated function of importlib.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka.errors
    import kafka.net.compat
    import kafka.net.inet
    import kafka.net.manager
    import kafka.net.selector
    import kafka.net.transport

#: The `proxy_url` by which the library chooses the sockets below.
DIRECT = "direct://"

#: How long a producer may sleep while a connection takes no more requests; an answer wakes it.
_PAUSE_MS = 100.0

#: Read at once: more than any answer to a producer, and few reads for what a consumer fetches.
_READ_BYTES = 64 * 1024

_LOGIN_REFUSED = (
    kafka.errors.SaslAuthenticationFailedError,
    kafka.errors.UnsupportedSaslMechanismError,
)


class _ClosingSockets(kafka.net.inet.KafkaNetSocket):  # type: ignore[misc]
    """Direct connections; a socket that could not connect is closed.

    The library leaves it to the garbage collector: a file descriptor for each attempt while a
    broker is away. It chooses among classes like this one by the scheme of `proxy_url`.
    """

    SCHEMES = (DIRECT.removesuffix("://"),)

    async def sock_connect(self, net: Any, sock: socket, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().sock_connect(net, sock, *args, **kwargs)
        except BaseException:
            sock.close()
            raise


class HandshakeFailed(kafka.errors.KafkaConnectionError):  # type: ignore[misc]
    """TLS could not be agreed upon."""


class _ReadsToTheEnd:
    """Takes what came together with the end of a connection; the library throws it away.

    That is how a broker says that it does not take a login.
    """

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        data, error = super()._sock_recv()  # type: ignore[misc]
        return data, None if data else error


class _SendsAtOnce:
    """Sends, and waits for the socket only while that takes no more.

    The library waits first, which is one more round of the producer's loop for each request.
    """

    _sock: Any  # None once it is closed

    async def _write_to_sock(self) -> None:
        if self._sock is not None:
            _sent, error = self._sock_send()  # type: ignore[attr-defined]
            self.last_write = time.monotonic()  # the library closes connections that are idle
            if error:
                self._writing = False
                self.abort(error=error)  # type: ignore[attr-defined]
                return
        await super()._write_to_sock()  # type: ignore[misc]


class _TcpTransport(_SendsAtOnce, kafka.net.transport.KafkaTCPTransport):  # type: ignore[misc]
    """Plain TCP, read in large pieces: the library reads 4 KiB at a time, and once in vain.

    What comes together with the end of a connection is kept here as well.
    """

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        pieces = []
        try:
            while piece := self._sock.recv(_READ_BYTES):
                pieces.append(piece)
                if len(piece) < _READ_BYTES:
                    break
            else:
                if not pieces:
                    return b"", kafka.errors.KafkaConnectionError("socket disconnected")
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            if not pieces:
                return b"", kafka.errors.KafkaConnectionError(exc)
        return b"".join(pieces), None


class _TlsTransport(
    _ReadsToTheEnd,
    _SendsAtOnce,
    kafka.net.transport.KafkaSSLTransport,  # type: ignore[misc]
):
    """TLS whose handshake ends in time; the library's waits for ever for a frozen broker."""

    timeout_at: float | None = None

    async def handshake(self) -> None:
        while True:
            try:
                self._sock.do_handshake()
            except SSLWantReadError:
                await self._net.wait_read(self._sock, timeout_at=self.timeout_at)
            except SSLWantWriteError:
                await self._net.wait_write(self._sock, timeout_at=self.timeout_at)
            else:
                return


class _Connections(kafka.net.manager.KafkaConnectionManager):  # type: ignore[misc]
    """Remembers why connecting failed: the library only says that it ran out of time."""

    failure: BaseException | None = None

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        sock = await kafka.net.inet.create_connection(
            self._net,
            node.host,
            node.port,
            self.config["socket_options"],
            proxy_url=self.config["proxy_url"],
            timeout_at=timeout_at,
        )
        if not self.ssl_enabled:
            return _TcpTransport(self._net, sock, host=node.host)
        context = self.config["ssl_context"]
        transport = _TlsTransport(self._net, sock, host=node.host, ssl_context=context)
        transport.timeout_at = timeout_at
        try:
            await transport.handshake()
        except BaseException as exc:
            transport.close()
            if isinstance(exc, Exception):
                raise HandshakeFailed(f"TLS handshake failed: {exc}") from exc
            raise
        return transport

    async def _connect(self, node: Any, conn: Any, **options: Any) -> None:
        await super()._connect(node, conn, **options)
        # What the broker says of our login tells more than a later try that ran out of time.
        if not isinstance(self.failure, _LOGIN_REFUSED):
            self.failure = conn.init_future.exception or self.failure


class KafkaNetwork(kafka.net.compat.KafkaNetClient):  # type: ignore[misc]
    """What a client of the library is given as its network."""

    def __init__(self, **config: Any) -> None:
        net = kafka.net.selector.NetworkSelector(**config)
        self._connections = _Connections(net, **config)
        self._woken = False
        super().__init__(net, self._connections)

    def connection_delay(self, node_id: int) -> float:
        """How long to leave a broker alone that takes no request now, in ms for a producer.

        The library says 0 of a connection with as many requests in flight as it may have, and
        the producer spins until one of them is answered.
        """
        if self.connected(node_id):
            return _PAUSE_MS
        return float(super().connection_delay(node_id))

    def poll(self, timeout_ms: float | None = None, future: Any = None) -> None:
        """Wait for something to do, and do it."""
        self._woken = False
        super().poll(timeout_ms=timeout_ms, future=future)
        self._woken = False

    def wakeup(self) -> None:
        """End a poll, from any thread. Many calls cost one: the poll looks at everything then.

        Producers alone call it; consumers and admin clients wake the loop below, in a thread.
        """
        if not self._woken:
            self._woken = True
            super().wakeup()

    @property
    def failure(self) -> BaseException | None:
        """Why the last connection that failed did so."""
        return self._connections.failure
