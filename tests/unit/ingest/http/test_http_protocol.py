"""One connection's protocol on a transport in memory and a clock that only the test moves."""

import asyncio
import logging
import re
import resource

import pytest
import uvicorn
from uvicorn.server import ServerState

from ingest.http.bounds import REFUSED_POLITELY, ConnectionBounds
from ingest.http.protocol import BoundedHttpProtocol
from ingest.http.server import HttpServer
from ingest.settings import HttpSettings

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
BOUNDS = ConnectionBounds(max_connections=3)


class Transport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.written = b""
        self.eof = self.closed = self.aborted = False
        self.reading = True

    def write(self, data):
        assert not self.eof
        self.written += data

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.eof = True

    def close(self):
        self.closed = True

    def abort(self):
        self.closed = self.aborted = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    @property
    def statuses(self):
        return [int(status) for status in re.findall(rb"HTTP/1.1 (\d{3}) ", self.written)]


class App:
    """Answers 204 behind the whole body once told to; with `early` at once, without reading."""

    def __init__(self):
        self.go = asyncio.Event()
        self.go.set()
        self.early = False
        self.bodies = []

    async def __call__(self, scope, receive, send):
        body = b""
        while not self.early:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.bodies.append(None)
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        await self.go.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Rig:
    def __init__(self, bounds=BOUNDS):
        self.s = 1000.0
        self.app = App()
        self.bounds = bounds
        self.config = uvicorn.Config(self.app, ws="none", access_log=False, log_config=None)
        self.state = ServerState()

    def connect(self, app_state=None):
        protocol = BoundedHttpProtocol(
            self.config,
            self.state,
            {} if app_state is None else app_state,
            asyncio.get_running_loop(),
            bounds=self.bounds,
            now=lambda: self.s,
        )
        transport = Transport()
        protocol.connection_made(transport)
        return protocol, transport

    def passes(self, seconds):
        """Let time pass, with a sweep each second."""
        for _ in range(int(seconds)):
            self.s += 1
            for connection in list(self.state.connections):
                connection.expire(self.s)


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def scenario(test):
    def run():
        async def body():
            await test(Rig())

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


@scenario
async def test_a_connection_over_the_bound_is_told_when_to_come_back(rig):
    inside = [rig.connect()[1] for _ in range(3)]
    _, outside = rig.connect()
    assert outside.statuses == [503]
    assert b"\r\nretry-after: 5\r\n" in outside.written
    assert outside.eof
    assert not any(transport.written or transport.eof for transport in inside)
    rig.passes(3)
    assert outside.closed


@scenario
async def test_far_over_the_bound_connections_are_dropped(rig):
    transports = [rig.connect()[1] for _ in range(3 + REFUSED_POLITELY + 1)]
    assert [transport.aborted for transport in transports[-2:]] == [False, True]


@scenario
async def test_headers_must_be_here_in_time_however_they_dribble(rig):
    protocol, transport = rig.connect()
    for byte in GET[:9]:
        protocol.data_received(bytes([byte]))
        rig.passes(1)
    assert transport.written == b""
    rig.passes(2)
    assert transport.statuses == [408]
    protocol.data_received(GET[9:])
    await settle()
    assert transport.statuses == [408], "what comes later is discarded"


@scenario
async def test_a_connection_that_says_nothing_is_closed_without_a_word(rig):
    protocol, transport = rig.connect()
    protocol.data_received(b"\r\n")
    rig.passes(11)
    assert (transport.closed, transport.written) == (True, b"")


@scenario
async def test_between_requests_a_connection_may_rest_and_blank_lines_do_not_prolong_it(rig):
    protocol, transport = rig.connect()
    protocol.data_received(GET)
    await settle()
    rig.passes(70)
    protocol.data_received(b"\r\n")
    assert not transport.closed
    rig.passes(6)
    assert transport.closed
    assert transport.statuses == [204]


@scenario
async def test_a_body_may_be_slow_but_not_stand_still(rig):
    protocol, transport = rig.connect()
    protocol.data_received(POST)
    for _ in range(9):
        await settle()
        rig.passes(29)
        protocol.data_received(b"x")
    assert not transport.closed
    rig.passes(31)
    assert transport.closed
    protocol.connection_lost(None)
    await settle()
    assert rig.app.bodies == [None]


@scenario
async def test_after_an_early_answer_the_rest_of_the_body_goes_by_for_a_while_only(rig):
    rig.app.early = True
    protocol, transport = rig.connect()
    protocol.data_received(POST)
    await settle()
    assert transport.statuses == [204]
    for _ in range(9):
        rig.passes(4)
        if not transport.closed:
            protocol.data_received(b"x")
    assert transport.closed


@scenario
async def test_an_early_last_answer_lingers_until_the_client_has_had_time_to_read(rig):
    rig.app.early = True
    protocol, transport = rig.connect()
    protocol.data_received(POST.replace(b"Host: x", b"Connection: close"))
    await settle()
    assert (transport.statuses, transport.eof, transport.closed) == ([204], True, False)
    protocol.data_received(b"x" * 10)
    rig.passes(3)
    assert transport.closed


@scenario
async def test_a_last_answer_behind_the_whole_request_closes_at_once(rig):
    protocol, transport = rig.connect()
    protocol.data_received(GET.replace(b"Host: x", b"Connection: close"))
    await settle()
    assert (transport.statuses, transport.closed) == ([204], True)


@scenario
async def test_the_clients_time_does_not_run_while_we_make_the_answer(rig):
    rig.app.go.clear()
    protocol, transport = rig.connect()
    protocol.data_received(GET)
    await settle()
    rig.passes(1000)
    rig.app.go.set()
    await settle()
    assert (transport.statuses, transport.closed) == ([204], False)


@scenario
async def test_the_clients_time_does_not_run_while_we_do_not_read(rig):
    protocol, transport = rig.connect()
    protocol.data_received(POST)
    protocol.flow.pause_reading()
    rig.passes(100)
    assert not transport.closed


@scenario
async def test_a_client_that_does_not_read_its_answers_is_cut_off(rig):
    protocol, transport = rig.connect()
    protocol.pause_writing()
    protocol.data_received(GET)
    await settle()
    rig.passes(31)
    assert transport.aborted
    protocol.connection_lost(None)
    await settle()


@scenario
async def test_a_client_that_reads_again_is_kept(rig):
    protocol, transport = rig.connect()
    protocol.data_received(GET)
    protocol.pause_writing()
    await settle()
    rig.passes(20)
    protocol.resume_writing()
    await settle()
    rig.passes(20)
    assert (transport.statuses, transport.closed) == ([204], False)


@scenario
async def test_a_close_that_can_not_flush_is_forced(rig):
    _, transport = rig.connect()
    rig.passes(11)
    assert (transport.closed, transport.aborted) == (True, False)
    rig.passes(3)
    assert transport.aborted


@scenario
async def test_an_answer_to_garbage_does_not_overtake_that_of_the_request_before(rig):
    rig.app.go.clear()
    protocol, transport = rig.connect()
    protocol.data_received(GET + b"garbage\r\n")
    await settle()
    assert transport.written == b""
    rig.app.go.set()
    await settle()
    assert transport.statuses == [204]
    assert b"connection: close" in transport.written
    rig.passes(3)
    assert transport.closed


@scenario
async def test_a_broken_body_behind_an_unanswered_request_gets_no_answer(rig):
    rig.app.go.clear()
    protocol, transport = rig.connect()
    protocol.data_received(GET + b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert (transport.written, transport.closed) == (b"", True)


@scenario
async def test_a_request_that_breaks_off_in_its_body_is_answered_and_taken_from_the_route(rig):
    protocol, transport = rig.connect()
    protocol.data_received(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    await settle()
    assert transport.statuses == [400]
    assert rig.app.bodies == [None]


@pytest.mark.parametrize("cut", [1, 30, 75, 100, 130])
def test_an_upgrade_that_is_asked_for_does_not_swallow_the_body(cut):
    request = (
        b"POST / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAA\r\nContent-Length: 10\r\n\r\n0123456789"
    )

    async def body():
        rig = Rig()
        protocol, transport = rig.connect()
        protocol.data_received(request[:cut])
        protocol.data_received(request[cut:])
        await settle()
        assert rig.app.bodies == [b"0123456789"]
        assert (transport.statuses, transport.closed) == ([204], True)

    asyncio.run(body())


@scenario
async def test_headers_of_exactly_the_bound_are_read_and_one_byte_more_is_not(rig):
    for size, status in ((BOUNDS.max_header_bytes, 204), (BOUNDS.max_header_bytes + 1, 431)):
        protocol, transport = rig.connect()
        head = b"GET / HTTP/1.1\r\nX: " + b"x" * (size - 1) + b"\r\n\r\n"
        for at in range(0, len(head), 20_000):
            protocol.data_received(head[at : at + 20_000])
        await settle()
        assert transport.statuses == [status]


@scenario
async def test_a_large_body_does_not_count_as_headers_of_the_next_request(rig):
    protocol, transport = rig.connect()
    size = 4 * BOUNDS.max_header_bytes
    protocol.data_received(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
    await settle()
    protocol.data_received(b"x" * size + GET[:5])
    await settle()
    protocol.data_received(GET[5:])
    await settle()
    assert transport.statuses == [204, 204]


@scenario
async def test_a_fault_of_ours_is_a_500_and_is_logged(rig):
    class Broken(dict):
        def copy(self):
            raise ZeroDivisionError

    logged = []
    handler = logging.Handler()
    handler.emit = logged.append
    logging.getLogger("stepclock.gateway").addHandler(handler)
    try:
        protocol, transport = rig.connect(Broken())
        protocol.data_received(GET)
    finally:
        logging.getLogger("stepclock.gateway").removeHandler(handler)
    assert transport.statuses == [500]
    assert logged[0].exc_info[0] is ZeroDivisionError


def test_the_bounds_come_from_the_settings():
    settings = HttpSettings(
        max_connections=1,
        max_request_line_bytes=256,
        max_headers=8,
        max_header_bytes=1024,
        header_timeout_s=2,
        body_timeout_s=3,
    )
    assert ConnectionBounds.of(settings) == ConnectionBounds(1, 256, 8, 1024, 2, 3)
    assert ConnectionBounds.of(HttpSettings()) == ConnectionBounds()


@pytest.mark.parametrize(
    ("soft", "hard", "raised_to", "connections"),
    [
        (1024, 10**6, 10_512, 10_000),
        (1024, -1, 10_512, 10_000),
        (20_000, 20_000, None, 10_000),
        (-1, -1, None, 10_000),
        (1024, 4096, 4096, 3584),
        (100, 100, 100, 1),
    ],
)
def test_connections_are_as_many_as_open_files_allow(
    monkeypatch, soft, hard, raised_to, connections
):
    set_to = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    assert ConnectionBounds().within_file_limit().max_connections == connections
    assert set_to == ([] if raised_to is None else [(raised_to, hard)])


def test_a_full_server_says_so_once_and_sweeps_its_connections(caplog):
    async def body():
        rig = Rig(ConnectionBounds(max_connections=2))
        rig.s = -1000.0
        server = HttpServer(rig.config, lambda _: None, ConnectionBounds(max_connections=2))
        rig.state = server.server_state
        _, first = rig.connect()
        rig.connect()
        with caplog.at_level(logging.INFO, "stepclock.gateway"):
            for _ in range(3):
                assert not await server.on_tick(0)
            server.server_state.connections.pop()
            await server.on_tick(10)
        assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
        assert first.closed, "by the clock of the server its time is long over"

    asyncio.run(body())
