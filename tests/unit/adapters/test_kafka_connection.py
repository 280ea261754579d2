"""Connecting to what is no broker: it ends in time, and names the setting to look at."""

import socket
import time
from pathlib import Path

import pytest

from adapters.kafka.admin import KafkaAdmin
from adapters.kafka.client import connect_admin, connect_consumer, connect_producer, errors
from adapters.kafka.connection import KafkaConnection
from native.ports import free_ports
from schemas.log.protocols import LogUnavailable

CONNECTS = {
    "admin": lambda at: connect_admin(at, timeout_s=0.5),
    "consumer": lambda at: connect_consumer(at, timeout_s=0.5),
    "producer": lambda at: connect_producer(at, timeout_s=0.5, max_request_bytes=1000),
}


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("connect", CONNECTS.values(), ids=CONNECTS)
def test_a_broker_that_never_answers_does_not_hold_a_client_for_ever(connect, protocol):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        servers = f"127.0.0.1:{deaf.getsockname()[1]}"
        at = KafkaConnection(servers, protocol, sasl_username="u", sasl_password="hush")
        files = open_files()
        began = time.monotonic()
        with pytest.raises(errors.KafkaError) as caught:
            connect(at)
        assert time.monotonic() - began < 20.0
        assert f"STEPCLOCK_KAFKA_SECURITY_PROTOCOL={protocol}" in str(caught.value)
        assert "hush" not in str(caught.value)
        assert open_files() <= files


def test_a_port_where_nobody_listens_is_named():
    (port,) = free_ports(1)
    with pytest.raises(LogUnavailable, match="STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS"):
        KafkaAdmin(f"127.0.0.1:{port}", timeout_s=0.5).broker_count()
