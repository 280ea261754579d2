"""kafka-python's network below its clients, mended where it held or hid something.

It left sockets open that could not connect, waited for ever for a TLS handshake, threw away
what came together with the end of a connection, and did not say why it could not connect.
"""

from __future__ import annotations

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


class _TcpTransport(_ReadsToTheEnd, kafka.net.transport.KafkaTCPTransport):  # type: ignore[misc]
    """Plain TCP."""


class _TlsTransport(_ReadsToTheEnd, kafka.net.transport.KafkaSSLTransport):  # type: ignore[misc]
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


class Network(kafka.net.compat.KafkaNetClient):  # type: ignore[misc]
    """What a client of the library is given as its network."""

    def __init__(self, **config: Any) -> None:
        net = kafka.net.selector.NetworkSelector(**config)
        self._connections = _Connections(net, **config)
        super().__init__(net, self._connections)

    @property
    def failure(self) -> BaseException | None:
        """Why the last connection that failed did so."""
        return self._connections.failure
