from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from native.proxy import Proxy
from tests.deadline import eventually

HOST = "127.0.0.1"
PATIENCE_S = 5.0


class Echo:
    """Answers every byte with itself, and remembers how many it got."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.clients: list[socket.socket] = []
        self.listener = socket.create_server((HOST, 0))
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.clients.append(client)
            self.threads.append(threading.Thread(target=self.answer, args=(client,)))
            self.threads[-1].start()

    def answer(self, client: socket.socket) -> None:
        with client:
            try:
                while chunk := client.recv(65536):
                    self.received += chunk
                    client.sendall(chunk)
            except OSError:
                return

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(HOST, echo.port) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection((HOST, proxy.port), timeout=PATIENCE_S))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def receive(connection: socket.socket, size: int) -> bytes:
    with connection.makefile("rb") as answers:
        return answers.read(size)


def ask(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    return receive(connection, len(request))


def is_silent(connection: socket.socket, seconds: float = 0.1) -> bool:
    connection.settimeout(seconds)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(PATIENCE_S)
    return False


def test_a_proxy_passes_both_ways_and_counts(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    assert ask(connect(), b"one") == b"one"
    assert ask(connect(), b"three") == b"three"
    assert (proxy.connections, proxy.open_connections) == (2, 2)
    assert (proxy.request_bytes, proxy.answer_bytes) == (8, 8)


def test_a_proxy_passes_more_than_fits_into_its_buffers(
    connect: Callable[[], socket.socket],
) -> None:
    connection = connect()
    payload = bytes(range(256)) * 32_768
    sender = threading.Thread(target=connection.sendall, args=(payload,))
    sender.start()
    assert receive(connection, len(payload)) == payload
    sender.join()


def test_a_half_closed_connection_still_gets_its_answer(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    connection.sendall(b"last words")
    connection.shutdown(socket.SHUT_WR)
    assert receive(connection, 10) == b"last words"
    assert connection.recv(1) == b""
    assert eventually(lambda: proxy.open_connections == 0)


def test_cut_resets_open_connections(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    assert ask(connection, b"x") == b"x"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert proxy.open_connections == 0


def test_cut_refuses_new_connections(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    proxy.cut()
    with pytest.raises(ConnectionRefusedError):
        connect()


def test_a_cut_while_clients_come_forgets_none_of_them(proxy: Proxy) -> None:
    for _ in range(50):
        clients = [socket.socket() for _ in range(5)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((HOST, proxy.port))
        proxy.cut()
        for client in clients:
            client.close()
        proxy.restore()
    gc.collect()  # a connection that was forgotten is told here


def test_restore_listens_on_the_same_port_after_a_cut(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    port = proxy.port
    for _ in range(3):
        assert ask(connect(), b"before") == b"before"
        proxy.cut()
        proxy.restore()
    assert ask(connect(), b"after") == b"after"
    assert proxy.port == port


def test_the_target_sees_a_cut_too(
    proxy: Proxy, echo: Echo, connect: Callable[[], socket.socket]
) -> None:
    ask(connect(), b"x")
    proxy.cut()
    assert eventually(lambda: echo.clients[0].fileno() == -1)


def test_a_frozen_proxy_accepts_but_passes_nothing(
    proxy: Proxy, echo: Echo, connect: Callable[[], socket.socket]
) -> None:
    old = connect()
    assert ask(old, b"x") == b"x"
    proxy.freeze()
    new = connect()
    for connection in (old, new):
        connection.sendall(b"held")
        assert is_silent(connection)
    assert echo.received == b"x"


def test_what_was_frozen_arrives_once_restored(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    proxy.freeze()
    connection = connect()
    connection.sendall(b"held")
    assert is_silent(connection)
    proxy.restore()
    assert receive(connection, 4) == b"held"


def test_with_answers_frozen_the_target_still_acts(
    proxy: Proxy, echo: Echo, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    proxy.freeze(answers_only=True)
    connection.sendall(b"acted on")
    assert eventually(lambda: echo.received == b"acted on")
    assert is_silent(connection)
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_slow_holds_up_every_chunk(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    assert ask(connection, b"x") == b"x"
    proxy.slow(0.1)
    began = time.monotonic()
    assert ask(connection, b"x") == b"x"
    assert time.monotonic() - began >= 0.2  # there and back


def test_with_answers_slowed_a_large_request_is_no_later_than_a_small_one(
    proxy: Proxy, echo: Echo, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    proxy.slow(0.2, answers_only=True)
    began = time.monotonic()
    connection.sendall(bytes(500_000))  # 8 chunks, 1.6 s if each were held up
    assert eventually(lambda: len(echo.received) == 500_000, within_s=1.5)
    assert receive(connection, 1) == b"\0"
    assert time.monotonic() - began >= 0.2


def test_slow_limits_the_rate(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    proxy.slow(0.0, bytes_per_s=100_000)
    began = time.monotonic()
    assert ask(connection, bytes(20_000)) == bytes(20_000)
    assert time.monotonic() - began >= 0.2


def test_a_target_that_refuses_ends_the_client(
    proxy: Proxy, echo: Echo, connect: Callable[[], socket.socket]
) -> None:
    echo.listener.shutdown(socket.SHUT_RDWR)
    echo.listener.close()
    with pytest.raises(ConnectionResetError):
        connect().recv(1)  # the reset may come as early as the connection
    echo.listener = socket.create_server((HOST, 0))
    assert eventually(lambda: proxy.open_connections == 0)


def test_leaving_the_proxy_ends_its_connections_and_its_thread(echo: Echo) -> None:
    before = threading.active_count()
    with Proxy(HOST, echo.port) as proxy:
        connection = socket.create_connection((HOST, proxy.port), timeout=PATIENCE_S)
        assert ask(connection, b"x") == b"x"
        proxy.freeze()
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert eventually(lambda: threading.active_count() == before)
