"""What each answer of the server, and each way of not answering, comes to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from adapters.influx.admin import InfluxAdmin
from adapters.influx.connection import InfluxConnection
from adapters.influx.influxql_answers import stored_points
from adapters.influx.reader import InfluxReader
from adapters.influx.writer import InfluxWriter
from schemas.line_protocol.precision import Precision
from schemas.store.protocols import (
    LinesRefused,
    SeriesQuery,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    WriteTooLarge,
)


class Server(ThreadingHTTPServer):
    """Answers every request with what `answer` says, and keeps what it was asked."""

    daemon_threads = True
    status = 204
    headers: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
    body = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, status: int, message: str | bytes = "", **headers: str) -> None:
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(message, bytes):
            self.body = message
        else:
            self.body = json.dumps({"code": "some code", "message": message}).encode()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        if self.server.status != 204:
            self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        if self.server.status != 204:
            self.wfile.write(self.server.body)

    do_GET = do_POST = handle_one  # noqa: N815 - the base looks for these

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def writer(server: Server) -> Iterator[InfluxWriter]:
    writer = InfluxWriter(InfluxConnection(server.url, "secret", "acme"), timeout_s=5.0)
    yield writer
    writer.close()


@pytest.fixture
def reader(server: Server) -> Iterator[InfluxReader]:
    reader = InfluxReader(InfluxConnection(server.url, "secret", "acme"), timeout_s=5.0)
    yield reader
    reader.close()


def write(writer: InfluxWriter) -> None:
    writer.write("vision", "raw", b"e a=1 1\ne a=2 2", Precision.MS)


def error_of(writer: InfluxWriter) -> StoreError:
    with pytest.raises(StoreError) as caught:
        write(writer)
    return caught.value


def test_lines_go_as_they_are_in_one_plain_request(server: Server, writer: InfluxWriter) -> None:
    write(writer)
    ((method, path, headers, body),) = server.requests
    assert (method, body) == ("POST", b"e a=1 1\ne a=2 2")
    assert path == "/api/v2/write?org=acme&bucket=vision%2Fraw&precision=ms"
    assert headers["Authorization"] == "Token secret"
    assert headers.get("Content-Encoding", "identity") == "identity"


def test_400_stored_nothing(server: Server, writer: InfluxWriter) -> None:
    server.answer(400, "unable to parse 'e a=': missing field value")
    error = error_of(writer)
    assert isinstance(error, LinesRefused)
    assert (error.stored_others, error.dropped) == (False, None)
    assert "missing field value" in str(error)


@pytest.mark.parametrize(
    ("message", "dropped"),
    [
        ("partial write: field type conflict: … dropped=3", 3),
        ("partial write: dropped 1 points outside retention … dropped=1 for database: x", 1),
        ("a measurement called dropped=7 … dropped=2", 2),
        ("no number", None),
    ],
)
def test_422_stored_the_others(
    server: Server, writer: InfluxWriter, message: str, dropped: int | None
) -> None:
    server.answer(422, message)
    error = error_of(writer)
    assert isinstance(error, LinesRefused)
    assert (error.stored_others, error.dropped) == (True, dropped)


def test_413_is_too_large(server: Server, writer: InfluxWriter) -> None:
    server.answer(413, "too large")
    assert isinstance(error_of(writer), WriteTooLarge)


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_what_is_wrong_with_us_is_a_misconfiguration(
    server: Server, writer: InfluxWriter, status: int
) -> None:
    server.answer(status, "not for you")
    assert isinstance(error_of(writer), StoreMisconfigured)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_unavailable_with_the_servers_own_delay(
    server: Server, writer: InfluxWriter, status: int
) -> None:
    server.answer(status, "later", Retry_After="17")
    error = error_of(writer)
    assert isinstance(error, StoreUnavailable)
    assert error.retry_after_s == 17.0


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "", "soon"])
def test_a_retry_after_that_is_no_number_of_seconds_is_left_out(
    server: Server, writer: InfluxWriter, value: str
) -> None:
    server.answer(503, "later", Retry_After=value)
    error = error_of(writer)
    assert isinstance(error, StoreUnavailable)
    assert error.retry_after_s is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>bad gateway</html>",
        b"\xff\xfe",
        b"[]",
        b'{"message": null}',
        b'{"message": 7}',
        b'{"message": {"text": "bad gateway"}}',
        b'{"message": "\\ud800"}',
    ],
)
def test_an_answer_that_is_not_influxdbs_is_judged_by_its_status(
    server: Server, writer: InfluxWriter, body: bytes
) -> None:
    server.answer(502, body)
    error = error_of(writer)
    assert isinstance(error, StoreUnavailable)
    str(error).encode()  # as a dead letter holds it


@pytest.mark.parametrize("value", ["1795277400", "9" * 400])
def test_a_retry_after_that_would_rest_for_ever_is_cut_to_an_hour(
    server: Server, writer: InfluxWriter, value: str
) -> None:
    server.answer(503, "later", Retry_After=value)
    error = error_of(writer)
    assert isinstance(error, StoreUnavailable)
    assert error.retry_after_s == 3600


def test_a_message_is_cut(server: Server, writer: InfluxWriter) -> None:
    server.answer(400, "x" * 1_000_000)
    assert len(str(error_of(writer))) < 1100


def test_a_failed_write_is_not_repeated_here(server: Server, writer: InfluxWriter) -> None:
    server.answer(503, "later", Retry_After="0")
    error_of(writer)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "suspicious"),
    [(500, True), (502, True), (408, False), (429, False), (503, False), (504, False)],
)
def test_only_a_500_and_a_proxys_word_for_a_lost_connection_may_be_the_lines_doing(
    server: Server, writer: InfluxWriter, status: int, suspicious: bool
) -> None:
    server.answer(status, "…")
    error = error_of(writer)
    assert isinstance(error, StoreUnavailable)
    assert error.may_be_the_lines is suspicious


def test_a_refused_connection_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    writer = InfluxWriter(InfluxConnection(f"http://127.0.0.1:{port}", "t", "o"))
    error = error_of(writer)
    assert isinstance(error, StoreUnavailable)
    assert error.may_be_the_lines is False
    assert error.late is False
    with pytest.raises(StoreUnavailable):
        writer.ping()
    writer.close()


def test_silence_is_unavailable_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        writer = InfluxWriter(
            InfluxConnection(f"http://127.0.0.1:{silent.getsockname()[1]}", "t", "o"), timeout_s=0.2
        )
        error = error_of(writer)
        assert isinstance(error, StoreUnavailable)
        assert error.may_be_the_lines is False
        assert error.late is True
        writer.close()


@pytest.mark.parametrize(("status", "late"), [(408, True), (504, True), (503, False), (500, False)])
def test_a_proxy_may_say_as_well_that_it_took_too_long(
    server: Server, writer: InfluxWriter, status: int, late: bool
) -> None:
    server.answer(status, "…")
    error = error_of(writer)
    assert isinstance(error, StoreUnavailable)
    assert error.late is late


def test_a_connection_that_is_cut_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)

        thread = threading.Thread(target=hang_up)
        thread.start()
        writer = InfluxWriter(
            InfluxConnection(f"http://127.0.0.1:{listener.getsockname()[1]}", "t", "o")
        )
        error = error_of(writer)
        assert isinstance(error, StoreUnavailable)
        assert error.may_be_the_lines is True
        writer.close()
        thread.join()


def test_a_url_that_cannot_be_is_a_misconfiguration() -> None:
    writer = InfluxWriter(InfluxConnection("http://:nonsense:1", "t", "o"))
    assert isinstance(error_of(writer), StoreMisconfigured)
    writer.close()


# -- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
def test_a_reader_knows_one_error_only(server: Server, reader: InfluxReader, status: int) -> None:
    server.answer(status, "no", Retry_After="3")
    questions = [
        lambda: reader.experiments("n"),
        lambda: reader.runs("n", "e"),
        lambda: reader.series(SeriesQuery("n", "e", "m")),
        lambda: list(reader.points("n", "raw", "e")),
        reader.ping,
    ]
    for question in questions:
        with pytest.raises(StoreUnavailable):
            question()


def test_an_error_within_a_200_is_an_error(server: Server, reader: InfluxReader) -> None:
    policies = {"columns": ["name"], "values": [["raw"], ["steps"]]}
    server.answer(
        200, json.dumps({"results": [{"error": "out of memory", "series": [policies]}]}).encode()
    )
    with pytest.raises(StoreUnavailable, match="out of memory"):
        reader.experiments("n")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"results":[{"ser'])
def test_an_answer_that_is_no_json_is_unavailable(
    server: Server, reader: InfluxReader, body: bytes
) -> None:
    server.answer(200, body)
    with pytest.raises(StoreUnavailable):
        reader.experiments("n")


def test_names_are_quoted_in_queries(server: Server, reader: InfluxReader) -> None:
    server.answer(200, b'{"results":[]}')
    reader.series(SeriesQuery("n", 'a"b\\c\nd', "m", runs=("it's", "x' OR 'y")))
    body = server.requests[0][3].decode()
    (q,) = parse_qs(body)["q"]
    assert '"a\\"b\\\\c\\nd"' in q
    assert "(\"run\" = 'it\\'s' OR \"run\" = 'x\\' OR \\'y')" in q


def test_administration_that_is_refused_is_a_misconfiguration(server: Server) -> None:
    with InfluxAdmin(InfluxConnection(server.url, "t", "o")) as admin:
        for status in (400, 401, 403, 404, 422):
            server.answer(status, "no")
            with pytest.raises(StoreMisconfigured):
                admin.buckets()
        server.answer(500, "later")
        with pytest.raises(StoreUnavailable):
            admin.buckets()


def test_a_field_that_came_after_the_question_is_left_out() -> None:
    table = {
        "name": "e",
        "tags": {"run": "r", "rank": ""},
        "columns": ["time", "a", "new"],
        "values": [["1", "2", "3"], ["2", None, "3"]],
    }
    (point,) = stored_points(table, {"a": "float"})
    assert (point.time_ns, dict(point.tags), dict(point.fields)) == (1, {"run": "r"}, {"a": 2.0})
