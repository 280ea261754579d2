"""What is mended in kafka-python's network, without a broker: on a pair of sockets."""

from __future__ import annotations

import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

from adapters.kafka.client import errors
from adapters.kafka.patches import compression
from adapters.kafka.patches.network import KafkaNetwork, _TcpTransport


@pytest.fixture
def network():
    network = KafkaNetwork(bootstrap_servers="127.0.0.1:1")
    yield network
    network.close()


@pytest.fixture
def ends(network):
    """A transport, and the socket that a broker would have."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport = _TcpTransport(network._net, ours)
    with ours, theirs:
        yield transport, theirs


class Busy:
    """A connection with as many requests in flight as it may have."""

    connected = True
    paused = frozenset({"max_in_flight"})


def test_producer_sleeps_while_its_connection_takes_no_more_requests(network):
    network._manager._conns["busy"] = Busy()
    assert not network.is_ready("busy")
    assert network.connection_delay("busy") >= 10
    del network._manager._conns["busy"]
    assert network.connection_delay("busy") == 0


def test_many_wake_ups_are_one_and_the_next_poll_can_be_woken_again(network):
    for _ in range(2):
        for _ in range(10):
            network.wakeup()
        assert network._net._wakeup_r.recv(100) == b"\x00"
        network.poll(timeout_ms=0)


def test_poll_ends_when_another_thread_wakes_it(network):
    network.poll(timeout_ms=0)
    polling = threading.Thread(target=network.poll, kwargs={"timeout_ms": 30_000})
    polling.start()
    # Each wake-up that comes before the poll has begun counts for it as well.
    network.wakeup()
    polling.join(10)
    assert not polling.is_alive()


def test_request_is_sent_in_the_round_in_which_it_was_made(network, ends):
    transport, theirs = ends
    transport.write(b"request")
    network.poll(timeout_ms=0)
    theirs.settimeout(10)
    assert theirs.recv(100) == b"request"


def test_request_larger_than_the_sockets_buffer_arrives_whole(network, ends):
    transport, theirs = ends
    sent = random.Random(1).randbytes(4_000_000)
    transport.write(sent)
    with ThreadPoolExecutor(1) as reader:
        found = reader.submit(read_exactly, theirs, len(sent))
        while not found.done():
            network.poll(timeout_ms=10)
    assert found.result() == sent


def read_exactly(sock, count):
    found = bytearray()
    while len(found) < count:
        found += sock.recv(100_000)
    return bytes(found)


def test_what_comes_with_the_end_of_a_connection_is_read_before_the_end(ends):
    transport, theirs = ends
    theirs.sendall(b"refused")
    theirs.close()
    assert transport._sock_recv() == (b"refused", None)
    data, error = transport._sock_recv()
    assert data == b""
    assert isinstance(error, errors.KafkaConnectionError)


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 150_000])
def test_answers_of_every_size_are_read_whole(ends, size):
    transport, theirs = ends
    answer = bytes(size)
    with ThreadPoolExecutor(1) as writer:
        sent = writer.submit(theirs.sendall, answer)
        found = b""
        while len(found) < size:
            data, error = transport._sock_recv()
            assert error is None
            found += data
        sent.result()
    assert found == answer
    assert transport._sock_recv() == (b"", None)


def test_batches_of_several_threads_are_compressed_each_by_itself():
    batches = [random.Random(seed).randbytes(1000) * 20 for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        frames = list(threads.map(compression.compress, batches * 20))
    decompressor = zstandard.ZstdDecompressor()
    assert [decompressor.decompress(frame) for frame in frames] == batches * 20
