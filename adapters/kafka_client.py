"""The kafka-python clients that everything here is built from, with the settings that survived.

One border in five files: only `adapters/kafka_*.py` know this library, and only this one
imports it; publisher, source, reader and admin take their clients and error classes from
here, and `adapters.kafka` is where others import them from.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from ssl import SSLWantReadError, SSLWantWriteError
from typing import Any

from adapters.kafka_connection import KafkaConnection
from schemas.log import LogUnavailable, TopicPartition

with warnings.catch_warnings():
    # kafka-python reads its version through a deprecated function of importlib.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka
    import kafka.admin
    import kafka.consumer.subscription_state
    import kafka.coordinator.assignors.roundrobin
    import kafka.errors
    import kafka.future
    import kafka.net.compat
    import kafka.net.inet
    import kafka.net.manager
    import kafka.net.selector
    import kafka.net.transport

errors = kafka.errors
LibraryFuture = kafka.future.Future
LibraryListener = kafka.consumer.subscription_state.AsyncConsumerRebalanceListener
ConfigResource = kafka.admin.ConfigResource
OffsetSpec = kafka.admin.OffsetSpec

#: Reconnect within a second of a broker's return, however long it was away.
_RECONNECT_MAX_MS = 1000

#: Errors that pass by themselves, or once the group has settled: the same call may succeed.
PASSING = (
    errors.RetriableError,
    errors.BrokerNotAvailableError,
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.RebalanceInProgressError,
    errors.UnknownMemberIdError,
)

_LOGIN_REFUSED = (errors.SaslAuthenticationFailedError, errors.UnsupportedSaslMechanismError)


class Producer(kafka.KafkaProducer):  # type: ignore[misc]  # the library has no types
    """A producer that leaves the library's loggers alone when it is collected."""

    def __del__(self) -> None:
        """Do nothing: the inherited one silences its module's logger in the whole process.

        Nothing leaks by it: whoever builds a producer here closes it.
        """


class _ClosingSockets(kafka.net.inet.KafkaNetSocket):  # type: ignore[misc]
    """Direct connections; a socket that could not connect is closed.

    The library leaves it to the garbage collector: a file descriptor for each attempt while a
    broker is away. It chooses among classes like this one by the scheme of `proxy_url`.
    """

    SCHEMES = ("direct",)

    async def sock_connect(self, net: Any, sock: socket, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().sock_connect(net, sock, *args, **kwargs)
        except BaseException:
            sock.close()
            raise


class _HandshakeFailed(kafka.errors.KafkaConnectionError):  # type: ignore[misc]
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
                raise _HandshakeFailed(f"TLS handshake failed: {exc}") from exc
            raise
        return transport

    async def _connect(self, node: Any, conn: Any, **options: Any) -> None:
        await super()._connect(node, conn, **options)
        # What the broker says of our login tells more than a later try that ran out of time.
        if not isinstance(self.failure, _LOGIN_REFUSED):
            self.failure = conn.init_future.exception or self.failure


def to_library(partition: TopicPartition) -> Any:
    """The library's name for a partition."""
    return kafka.TopicPartition(partition.topic, partition.partition)


def from_library(partition: Any) -> TopicPartition:
    """Our name for a partition of the library."""
    return TopicPartition(partition.topic, partition.partition)


def to_commit(next_offset: int) -> Any:
    """What the library commits; it takes -1, not None, for an unknown leader epoch."""
    return kafka.structs.OffsetAndMetadata(next_offset, "", -1)


@contextmanager
def unavailable_if_passing(doing: str) -> Iterator[None]:
    """Raise LogUnavailable for errors that pass; let the others through, to crash."""
    try:
        yield
    except PASSING as exc:
        raise LogUnavailable(f"{doing}: {exc}") from exc


@contextmanager
def unavailable_if_any(doing: str) -> Iterator[None]:
    """Raise LogUnavailable for every error of the library."""
    try:
        yield
    except errors.KafkaError as exc:
        raise LogUnavailable(f"{doing}: {exc}") from exc


def connect_producer(
    servers: KafkaConnection | str, *, timeout_s: float, max_request_bytes: int
) -> Any:
    """A producer that is connected; raises errors.KafkaError after timeout_s.

    Its own delivery timeout is out of the way (an hour): when that expires for a batch that
    was sent, the idempotent producer loses its id and never sends again. The publisher keeps
    the deadline instead, and replaces the producer.
    """
    timeout_ms = _ms(timeout_s)
    return _connect(
        Producer,
        KafkaConnection.to(servers),
        bootstrap_timeout_ms=timeout_ms,
        acks="all",
        enable_idempotence=True,
        compression_type="zstd",
        batch_size=1 << 20,
        max_request_size=max_request_bytes,
        delivery_timeout_ms=3_600_000,
        request_timeout_ms=5000,
        max_block_ms=timeout_ms,
        reconnect_backoff_max_ms=_RECONNECT_MAX_MS,
        metrics_enabled=False,
    )


def connect_consumer(servers: KafkaConnection | str, *, timeout_s: float, **config: Any) -> Any:
    """A consumer that is connected; raises errors.KafkaError after timeout_s."""
    return _connect(
        kafka.KafkaConsumer,
        KafkaConnection.to(servers),
        bootstrap_timeout_ms=_ms(timeout_s),
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        reconnect_backoff_max_ms=_RECONNECT_MAX_MS,
        partition_assignment_strategy=[
            # Deals the partitions of all topics round together. The default deals each topic
            # by itself: beyond as many members as one topic has partitions, the rest idle.
            kafka.coordinator.assignors.roundrobin.RoundRobinPartitionAssignor
        ],
        metrics_enabled=False,
        **config,
    )


def connect_admin(servers: KafkaConnection | str, *, timeout_s: float) -> Any:
    """An admin client that is connected; raises errors.KafkaError after timeout_s."""
    return _connect(
        kafka.KafkaAdminClient,
        KafkaConnection.to(servers),
        bootstrap_timeout_ms=_ms(timeout_s),
        request_timeout_ms=_ms(timeout_s),
        reconnect_backoff_max_ms=_RECONNECT_MAX_MS,
    )


def _connect(make: Callable[..., Any], to: KafkaConnection, **config: Any) -> Any:
    """Build a client. A constructor that fails would leave its thread and sockets behind."""
    networks: list[Any] = []

    def network(**kwargs: Any) -> Any:
        net = kafka.net.selector.NetworkSelector(**kwargs)
        networks.append(kafka.net.compat.KafkaNetClient(net, _Connections(net, **kwargs)))
        return networks[-1]

    try:
        return make(
            bootstrap_servers=to.bootstrap_servers,
            security_protocol=to.security_protocol,
            sasl_mechanism=to.sasl_mechanism if to.uses_sasl else None,
            sasl_plain_username=to.sasl_username,
            sasl_plain_password=to.sasl_password,
            ssl_context=to.tls_context() if to.uses_tls else None,
            kafka_client=network,
            proxy_url="direct://",
            **config,
        )
    except BaseException as exc:
        failures = [built._manager.failure for built in networks]  # noqa: SLF001
        for built in networks:
            built.close()
        if isinstance(exc, errors.KafkaError) and failures and failures[-1] is not None:
            raise errors.KafkaConnectionError(_meaning(failures[-1], to)) from exc
        raise


def _meaning(failure: BaseException, to: KafkaConnection) -> str:
    """Why no broker of `to` could be used, and which setting to look at."""
    if isinstance(failure, errors.SaslAuthenticationFailedError):
        return (
            f"Kafka does not take user {to.sasl_username!r} with this password: check "
            "STEPCLOCK_KAFKA_SASL_USERNAME and STEPCLOCK_KAFKA_SASL_PASSWORD"
        )
    if isinstance(failure, errors.UnsupportedSaslMechanismError):
        return f"{failure}: check STEPCLOCK_KAFKA_SASL_MECHANISM"
    if isinstance(failure, _HandshakeFailed):
        return (
            f"{failure}: check STEPCLOCK_KAFKA_TLS_CA_FILE, and whether this listener speaks "
            f"STEPCLOCK_KAFKA_SECURITY_PROTOCOL={to.security_protocol}"
        )
    return (
        f"can't connect to {to.bootstrap_servers}: {failure}: check "
        "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS, and whether this listener speaks "
        f"STEPCLOCK_KAFKA_SECURITY_PROTOCOL={to.security_protocol}"
    )


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
