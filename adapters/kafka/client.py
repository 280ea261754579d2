"""The kafka-python clients that everything here is built from, with the settings that survived.

One border: only `adapters.kafka` knows this library, and only this file and, below it,
`adapters.kafka.patches` import it; publisher, source, reader and admin take their clients and
error classes from here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from adapters.kafka.connection import KafkaConnection
from adapters.kafka.patches import compression
from adapters.kafka.patches.network import DIRECT, HandshakeFailed, KafkaNetwork
from schemas.log.protocols import LogUnavailable, Record, TopicPartition

with warnings.catch_warnings():
    # kafka-python reads its version through a deprecated function of importlib.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka
    import kafka.admin
    import kafka.consumer.subscription_state
    import kafka.coordinator.assignors.roundrobin
    import kafka.errors
    import kafka.future

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
    compression.install()
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
    networks: list[KafkaNetwork] = []

    def network(**kwargs: Any) -> Any:
        networks.append(KafkaNetwork(**kwargs))
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
            proxy_url=DIRECT,
            **config,
        )
    except BaseException as exc:
        for built in networks:
            built.close()
        failure = networks[-1].failure if networks else None
        if isinstance(exc, errors.KafkaError) and failure is not None:
            raise errors.KafkaConnectionError(_meaning(failure, to)) from exc
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
    if isinstance(failure, HandshakeFailed):
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


def to_record(found: Any) -> Record:
    """Our record. Kafka knows absent values; to us, who never send one, they are empty."""
    return Record(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        value=b"" if found.value is None else bytes(found.value),
        headers=tuple((n, b"" if v is None else bytes(v)) for n, v in found.headers),
        timestamp_ms=found.timestamp,
    )
