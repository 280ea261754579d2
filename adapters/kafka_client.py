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
from typing import Any

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


def connect_producer(bootstrap_servers: str, *, timeout_s: float, max_request_bytes: int) -> Any:
    """A producer that is connected; raises errors.KafkaError after timeout_s.

    Its own delivery timeout is out of the way (an hour): when that expires for a batch that
    was sent, the idempotent producer loses its id and never sends again. The publisher keeps
    the deadline instead, and replaces the producer.
    """
    timeout_ms = _ms(timeout_s)
    return _connect(
        Producer,
        bootstrap_servers=bootstrap_servers,
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


def connect_consumer(bootstrap_servers: str, *, timeout_s: float, **config: Any) -> Any:
    """A consumer that is connected; raises errors.KafkaError after timeout_s."""
    return _connect(
        kafka.KafkaConsumer,
        bootstrap_servers=bootstrap_servers,
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


def connect_admin(bootstrap_servers: str, *, timeout_s: float) -> Any:
    """An admin client that is connected; raises errors.KafkaError after timeout_s."""
    return _connect(
        kafka.KafkaAdminClient,
        bootstrap_servers=bootstrap_servers,
        bootstrap_timeout_ms=_ms(timeout_s),
        request_timeout_ms=_ms(timeout_s),
        reconnect_backoff_max_ms=_RECONNECT_MAX_MS,
    )


def _connect(make: Callable[..., Any], **config: Any) -> Any:
    """Build a client. A constructor that fails would leave its thread and sockets behind."""
    networks: list[Any] = []

    def network(**kwargs: Any) -> Any:
        networks.append(kafka.net.compat.KafkaNetClient(**kwargs))
        return networks[-1]

    try:
        return make(kafka_client=network, proxy_url="direct://", **config)
    except BaseException:
        for built in networks:
            built.close()
        raise


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
